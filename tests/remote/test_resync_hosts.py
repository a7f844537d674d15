"""Resync between processes: stopped, killed on either side and gone on with; the commands; and after a long gap, with a
third site, only the newest state goes over (P19).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from commands import SECONDSITE, Service, paired, run, service
from hosting import site, soon

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.units import KIB, MIB

pytestmark = pytest.mark.timeout(120)
BLOCK = 64 * KIB
SIZE = 24 * MIB


class Tale:
    """A disk, its replica with two points, and a head that rotted behind the agent's back."""

    def __init__(self, folder: Path, seed: object) -> None:
        self.folder, self.chance = folder, random.Random(f"resync {seed}")
        self.disk, self.points = folder / "disk.raw", folder / "root/vm/points"
        self.disk.write_bytes(self.chance.randbytes(SIZE))
        self.head = folder / "root/vm/head.raw"
        self.kept: dict[int, bytes] = {}

    def begin(self, agent: Service) -> None:
        """The first point has blocks 0 to 199 for itself, and of those some rot."""
        self.state = paired(self.folder, agent, "vm")
        for _ in range(2):
            engine.replicate(self.disk, agent.url("vm"), state=self.state)
            self.kept[len(self.kept) + 1] = self.disk.read_bytes()
            write(self.disk, 0, self.chance.randbytes(200 * BLOCK))
        write(self.disk, 0, self.kept[2][: 200 * BLOCK])
        for block in range(10, 190):
            write(self.head, block, b"rotten")

    def resync(self, agent: Service, *options: str) -> subprocess.Popen[str]:
        book = json.loads((self.state / "agents.json").read_text())
        book["agents"] = {f"127.0.0.1:{agent.port}": next(iter(book["agents"].values()))}
        (self.state / "agents.json").write_text(json.dumps(book))
        words = ("--resync", "--state", str(self.state), "--codec", "none", "--retries", "0", "--json", *options)
        return subprocess.Popen(
            (*SECONDSITE, "replicate", str(self.disk), agent.url("vm"), *words),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def restores(self, *generations: int) -> None:
        """By the agent's own folder: these points are what they were."""
        for generation in generations:
            out = self.folder / f"out-{generation}"
            out.unlink(missing_ok=True)
            engine.restore(self.folder / "root/vm", out, at=str(generation))
            assert out.read_bytes() == self.kept[generation], f"point {generation}"


def write(path: Path, block: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(block * BLOCK)
        file.write(data)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_pauses_it_and_the_same_command_goes_on(tmp_path: Path, number: int) -> None:
    """R7.6; and R7.5 in between: it may be cancelled, and is required then."""
    tale = Tale(tmp_path, number)
    with service(tmp_path) as agent:
        tale.begin(agent)
        where, options = agent.url("vm"), ("--state", tale.state)
        spool = tale.folder / "root/vm/incoming.spool"
        sender = tale.resync(agent, "--limit", "3M")
        assert soon(lambda: spool.exists() and spool.stat().st_size > 4 * MIB, 30), sender.poll()
        sender.send_signal(number)
        _, told = sender.communicate(timeout=30)
        assert sender.returncode == 128 + number and "Traceback" not in told
        assert "pending, 100 % compared" in run("info", where, *options)
        assert "a resync is pending" in run("replicate", tale.disk, where, *options, status=errors.REFUSED)
        tale.restores(1)
        sender = tale.resync(agent)
        out, told = sender.communicate(timeout=30)
        done = json.loads(out)
        assert (sender.returncode, done["kind"], done["generation"]) == (0, "resync", 2), told
        assert done["over_bytes"] < 180 * BLOCK - 3 * MIB
        tale.restores(1, 2)
        assert "ok: point 2" in run("verify", where, *options)
        assert "resync" not in run("info", where, *options)


def test_the_command_cancels_it(tmp_path: Path) -> None:
    tale = Tale(tmp_path, "cancel")
    with service(tmp_path) as agent:
        tale.begin(agent)
        where, options = agent.url("vm"), ("--state", tale.state)
        assert "no resync is pending" in run("replicate", "--resync-cancel", where, *options)
        spool = tale.folder / "root/vm/incoming.spool"
        sender = tale.resync(agent, "--limit", "2M")
        assert soon(lambda: spool.exists() and spool.stat().st_size > MIB, 30), sender.poll()
        assert "another host sends to it" in run(
            "replicate", "--resync-cancel", where, *options, status=errors.REFUSED
        )
        sender.kill()
        sender.communicate(timeout=10)
        assert soon(lambda: cancelled(where, options), 10)
        found = json.loads(run("info", where, *options, "--json"))
        assert (found["resync"], found["compared"]) == ("required", None)
        assert "--resync mends it" in run("replicate", tale.disk, where, *options, status=errors.DAMAGED)
        tale.restores(1)
    for words in (("--resync-cancel", tale.disk, "x"), ("--resync", "x"), ()):
        run("replicate", *words, status=errors.USAGE)


def cancelled(where: str, options: tuple[str | Path, ...]) -> bool:
    try:
        return engine.cancel_resync(where, state=options[1])
    except errors.Busy:  # the agent has not noticed yet
        return False


@pytest.mark.parametrize("victim", ["agent", "sender"])
def test_killed_in_the_midst_of_it(tmp_path: Path, victim: str, sweep: bool) -> None:
    """kill -9 at random moments, the merge among them; each time the older point restores, at last all of them."""
    tale = Tale(tmp_path, victim)
    with service(tmp_path) as agent:
        tale.begin(agent)
    rounds = 40 if sweep else 2
    for number in range(rounds):
        for block in range(10, 190):
            write(tale.head, block, tale.chance.randbytes(6))
        with service(tmp_path) as agent:
            sender = tale.resync(agent, "--limit", "40M")
            killed = agent.process if victim == "agent" else sender
            time.sleep(tale.chance.uniform(0.2, 1.0))
            killed.kill()
            killed.wait(10)
            _, told = sender.communicate(timeout=60)
            assert sender.returncode in (0, errors.UNREACHABLE, -signal.SIGKILL), told
            tale.restores(1)
        with service(tmp_path) as agent:
            out, told = tale.resync(agent).communicate(timeout=60)
            assert json.loads(out)["kind"] == "resync", told
            tale.restores(1, 2)
            assert engine.verify(tmp_path / "root/vm").ok, f"round {number}"
            assert not list((tmp_path / "root/vm").glob("resync.*"))


def test_after_a_long_gap_one_delta_brings_the_newest_state(tmp_path: Path) -> None:
    """P19, also at a third site: B has every point, C gets what lies between two of them, once."""
    disk, third = tmp_path / "disk.raw", tmp_path / "third"
    disk.write_bytes(random.Random(1).randbytes(SIZE))
    third.mkdir()
    with site(tmp_path) as near, site(third) as far:
        state, onward = near.host(), far.host("b", "copy")
        engine.replicate(disk, near.url(), state=state)
        replica = near.root / "disk"
        engine.replicate(replica, far.url("copy"), state=onward)
        for number in range(30):  # the same 40 blocks each time, and one of its own
            for block in [*range(40), 50 + number]:
                write(disk, block, random.Random(number * 1000 + block).randbytes(BLOCK))
            engine.replicate(disk, near.url(), state=state, codec="none")
        done = engine.replicate(replica, far.url("copy"), state=onward, codec="none")
        assert done.generation == 2 and done.changed_bytes == 70 * BLOCK
        assert 70 * BLOCK <= done.over_bytes < 71 * BLOCK
        assert len(engine.points(replica)) == 31
        copy = far.root / "copy"
        assert (copy / "head.raw").read_bytes() == disk.read_bytes() and len(engine.points(copy)) == 2
        # The same where the source itself was cut off: it changed 30 times, and nobody heard of it.
        for number in range(30):
            for block in range(40):
                write(disk, block, random.Random(number * 1000 + block + 7).randbytes(BLOCK))
        done = engine.replicate(disk, near.url(), state=state, codec="none")
        assert done.generation == 32 and 40 * BLOCK <= done.over_bytes < 41 * BLOCK
        assert (replica / "head.raw").read_bytes() == disk.read_bytes()


def test_progress_of_both_ends_is_shown_and_cancelling_it_is_heard(tmp_path: Path) -> None:
    seen: list[engine.Progress] = []
    stop = threading.Event()
    disk = tmp_path / "disk.raw"
    disk.write_bytes(os.urandom(SIZE))
    with site(tmp_path) as there:
        state = there.host()
        engine.replicate(disk, there.url(), state=state)
        engine.replicate(disk, there.url(), state=state, resync=True, progress=seen.append)
        compared = [now for now in seen if now.stage == "compare"]
        assert compared and (compared[-1].done, compared[-1].total) == (SIZE, SIZE)
        assert [now.stage for now in seen].index("compare") < [now.stage for now in seen].index("send")
        assert "head" in {now.stage for now in seen}  # what is looked at afterwards

        def observe(now: engine.Progress) -> None:
            if now.stage == "compare":
                stop.set()

        with pytest.raises(errors.Cancelled):
            engine.replicate(disk, there.url(), state=state, resync=True, progress=observe, cancel=stop.is_set)
        assert soon(lambda: cancelled(there.url(), ("--state", state)), 10)
        assert engine.replicate(disk, there.url(), state=state).kind == "unchanged"
