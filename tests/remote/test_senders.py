"""Two hosts that send to one replica: at once, one after a failover, one that stands still in the midst of it."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from commands import SECONDSITE, run
from hosting import Site, soon

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.remote import hosts
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.units import MIB

pytestmark = pytest.mark.timeout(120)
SIZE = 12 * MIB


def image(folder: Path, name: str, seed: int) -> Path:
    path = folder / name
    path.write_bytes(random.Random(seed).randbytes(SIZE))
    return path


def send(source: Path, there: Site, state: Path, *options: str) -> subprocess.Popen[str]:
    """The command, which knows its disk by a name that the hosts share."""
    words = ("replicate", str(source), there.url(), "--state", str(state), "--source-id", "vm", "--codec", "none")
    return subprocess.Popen(
        (*SECONDSITE, *words, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def held_up(source: Path, there: Site, state: Path, *options: str) -> tuple[subprocess.Popen[str], Path]:
    """A command in the midst of a delta, where its calendar says that nothing may go on; and the calendar."""
    calendar = source.with_suffix(".calendar")
    calendar.write_text("3M\n")
    sender = send(source, there, state, "--schedule", f"@{calendar}", *options)
    assert soon(lambda: underway(there), 30)
    calendar.write_text("0\n")
    return sender, calendar


def underway(there: Site) -> bool:
    """Is a delta arriving?"""
    spool = there.root / "disk" / "incoming.spool"
    return spool.exists() and spool.stat().st_size > MIB


def head(there: Site) -> bytes:
    return (there.root / "disk" / "head.raw").read_bytes()


def test_a_second_sender_is_busy_and_waits_if_it_is_told_to(there: Site, tmp_path: Path) -> None:
    east, west = there.host("east"), there.host("west")
    ours, theirs = image(tmp_path, "ours", 1), image(tmp_path, "theirs", 2)
    engine.replicate(ours, there.url(), state=east, source_id="vm")
    image(tmp_path, "ours", 3)
    first, calendar = held_up(ours, there, east)
    hasty = send(theirs, there, west, "--retries", "0")
    patient = send(theirs, there, west, "--retries", "200", "--retry-delays", "0.2")
    _, why = hasty.communicate(timeout=60)
    assert hasty.returncode == errors.REFUSED and "another host sends to it; try again later" in why
    assert patient.stderr is not None and "another host sends to it" in patient.stderr.readline()
    calendar.write_text("none\n")
    told = [process.communicate(timeout=60) for process in (first, patient)]
    assert "delta: point 2" in told[0][0] and "delta: point 3" in told[1][0], told
    assert head(there) == theirs.read_bytes()
    out = tmp_path / "second.raw"
    engine.restore(there.root / "disk", out, at="2")
    assert out.read_bytes() == ours.read_bytes()


@pytest.mark.parametrize(("far", "given"), [(False, ("--epoch", "1")), (True, ())])
def test_after_a_failover_the_old_source_is_fenced_off_also_in_the_midst_of_a_transfer(
    there: Site, tmp_path: Path, far: bool, given: tuple[str, ...]
) -> None:
    """What it had spooled is of the old epoch, and nothing of it comes into the new one's points. Without --epoch it
    goes by the one that it last met (D9).
    """
    old, new = there.host("old"), there.host("new", "disk", allow="send,read,administer")
    ours, theirs = image(tmp_path, "ours", 1), image(tmp_path, "theirs", 2)
    engine.replicate(ours, there.url(), state=old, source_id="vm", epoch=1 if given else None)
    image(tmp_path, "ours", 3)
    refused = "is at epoch 2, this source at 1" if given else "is at epoch 2, and this source last met it at 1"
    sender, calendar = held_up(ours, there, old, *given, "--retries", "9", "--retry-delays", "0.2")
    assert engine.raise_epoch(there.url() if far else there.root / "disk", 2, state=new) == 2
    assert soon(lambda: there.agent.meter.of("disk").running == 0, 10)  # although its sender only waits
    calendar.write_text("none\n")
    said, why = sender.communicate(timeout=60)
    assert sender.returncode == errors.REFUSED and refused in why, (said, why)
    assert "delta: point 2" in run(
        "replicate", theirs, there.url(), "--state", new, "--source-id", "vm", "--epoch", "2"
    )
    assert head(there) == theirs.read_bytes()
    again = send(ours, there, old, *given, "--retries", "9", "--retry-delays", "0.2")
    _, why = again.communicate(timeout=60)
    assert again.returncode == errors.REFUSED and "tried again" not in why  # R6.3
    assert [point.generation for point in engine.points(there.root / "disk")] == [1, 2]
    assert engine.verify(there.root / "disk").ok and head(there) == theirs.read_bytes()
    for epoch in (2, None):  # once told, it is one of that epoch
        engine.replicate(ours, there.url(), state=old, source_id="vm", epoch=epoch)
        assert head(there) == ours.read_bytes()


def test_a_sender_that_stands_still_makes_way_and_comes_again(
    there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine is stopped, its connection stays open: the agent gives it up when nothing was heard of it."""
    east, west = there.host("east"), there.host("west")
    ours, theirs = image(tmp_path, "ours", 1), image(tmp_path, "theirs", 2)
    engine.replicate(ours, there.url(), state=east, source_id="vm")
    init = Connection.__init__

    def impatient(self: Connection, *args: Any, **options: Any) -> None:
        init(self, *args, **{"heartbeat": 0.3, "idle": 1.5, **options})

    monkeypatch.setattr(Connection, "__init__", impatient)  # of the agent, which runs here
    image(tmp_path, "ours", 3)
    stopped, calendar = held_up(ours, there, east, "--retries", "50", "--retry-delays", "0.2")
    try:
        stopped.send_signal(signal.SIGSTOP)
        calendar.write_text("none\n")
        other = send(theirs, there, west, "--retries", "200", "--retry-delays", "0.1")
        said, why = other.communicate(timeout=60)
        assert "delta: point 2" in said, (said, why)
        assert head(there) == theirs.read_bytes()
    finally:
        stopped.send_signal(signal.SIGCONT)
    said, why = stopped.communicate(timeout=60)
    assert "delta: point 3" in said, (said, why)
    assert head(there) == ours.read_bytes() and engine.verify(there.root / "disk").ok


def test_who_waits_with_a_heartbeat_keeps_the_replica_and_readers_get_in(there: Site, tmp_path: Path) -> None:
    """A calendar that lets nothing pass: the connection is alive, so the sender is, and nothing is taken from it."""
    east, reader = there.host("east"), there.host("reader", "disk", allow="read")
    ours = image(tmp_path, "ours", 1)
    engine.replicate(ours, there.url(), state=east, source_id="vm")
    image(tmp_path, "ours", 3)
    calendar = tmp_path / "calendar"
    calendar.write_text("6M\n")
    done = threading.Event()

    def run_it() -> None:
        engine.replicate(ours, there.url(), state=east, source_id="vm", schedule=f"@{calendar}", codec="none")
        done.set()

    sender = threading.Thread(target=run_it)
    sender.start()
    assert soon(lambda: underway(there), 20)
    calendar.write_text("0\n")
    time.sleep(1.5)
    assert not done.is_set()
    assert engine.verify(there.url(), state=reader).ok
    calendar.write_text("none\n")
    sender.join(30)
    assert done.is_set() and head(there) == ours.read_bytes()


def test_who_is_revoked_in_the_midst_of_a_transfer_learns_it_at_once_and_does_not_try_again(
    there: Site, tmp_path: Path
) -> None:
    """Also while a limit holds what it sends: the reason comes over the connection that ends then."""
    state, ours = there.host("old"), image(tmp_path, "ours", 1)
    engine.replicate(ours, there.url(), state=state, source_id="vm")
    image(tmp_path, "ours", 2)
    sender, _ = held_up(ours, there, state, "--retries", "9", "--retry-delays", "0.2")
    hosts.revoke("old", state=there.there)
    _, why = sender.communicate(timeout=20)
    assert sender.returncode == errors.REFUSED and "this host is not paired with you any more" in why, why
    assert "tried again" not in why


def test_a_sender_is_not_told_where_the_agent_keeps_its_replicas(there: Site, tmp_path: Path) -> None:
    state, ours = there.host("curious"), image(tmp_path, "ours", 1)
    engine.replicate(ours, there.url(), state=state, source_id="vm")
    with pytest.raises(errors.Refused, match=": disk: ") as refused:
        engine.replicate(ours, there.url(), state=state, source_id="another")
    assert str(tmp_path) not in str(refused.value)
    (there.root / "disk" / "replica.json").write_bytes(b"rot")
    with pytest.raises(errors.Damaged, match=r"disk/replica\.json") as damaged:
        engine.replicate(ours, there.url(), state=state, source_id="vm")
    assert str(tmp_path) not in str(damaged.value)
