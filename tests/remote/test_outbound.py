"""`replicate` to an agent: trackers, limits, retries, what goes over twice, and on to a third site."""

from __future__ import annotations

import dataclasses
import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hosting import Site, site, soon
from tcpproxy import TcpProxy, Trouble

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.batch import Batch
from secondsite.engine.images import RawImage
from secondsite.engine.remote.agent.spool import Spool
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.sending import retry
from secondsite.engine.remote.sending.outbound import Link
from secondsite.engine.remote.trust import agents
from secondsite.engine.units import KIB, MIB

pytestmark = pytest.mark.timeout(120)
BLOCK = 64 * KIB
SIZE = 6 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def write(path: Path, block: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(block * BLOCK)
        file.write(data)


def head(there: Site, name: str = "disk") -> bytes:
    return (there.root / name / "head.raw").read_bytes()


def known(there: Site, proxy: TcpProxy, state: Path) -> None:
    """The agent, also where the proxy is."""
    (certificate,) = agents.find(state / "agents.json", "127.0.0.1", there.port).values()
    agents.keep(state / "agents.json", "127.0.0.1", proxy.port, certificate)


def soonest(**other: object) -> Link:
    return dataclasses.replace(Link(retries=20, delays=(0.05,)), **other)  # type: ignore[arg-type]


def test_a_list_of_changes_is_believed_and_the_sample_looks_beside_it(there: Site, disk: Path, tmp_path: Path) -> None:
    state = there.host()
    engine.replicate(disk, there.url(), state=state)
    write(disk, 7, b"x" * BLOCK)
    changed = tmp_path / "changed.json"
    changed.write_text(f'[{{"offset": {7 * BLOCK}, "length": {BLOCK}}}]')
    done = engine.replicate(disk, there.url(), state=state, changed=changed)
    assert (done.kind, done.tracker, done.scanned, done.read_bytes) == ("delta", "changed", False, BLOCK)
    assert done.sampled and head(there) == disk.read_bytes()
    write(disk, 9, b"y" * BLOCK)
    changed.write_text("[]")
    done = engine.replicate(disk, there.url(), state=state, changed=changed, distrust=SIZE // BLOCK)
    assert done.scanned and "did not name" in done.warnings[0] and head(there) == disk.read_bytes()


def test_a_cut_between_two_lists_does_not_lose_what_was_spooled(there: Site, disk: Path, tmp_path: Path) -> None:
    """A block that is spooled and changed back is in no list any more."""
    state = there.host()
    engine.replicate(disk, there.url(), state=state)
    was = disk.read_bytes()
    proxy = TcpProxy(there.port, [Trouble("cut", int(2.5 * MIB))])
    try:
        known(there, proxy, state)
        through = f"secondsite://127.0.0.1:{proxy.port}/disk"
        for block in range(64):
            write(disk, block, random.Random(block).randbytes(BLOCK))
        with pytest.raises(errors.Unreachable):
            engine.replicate(disk, through, state=state, link=Link(retries=0), codec="none")
        assert soon(lambda: (there.root / "disk" / "incoming.spool").exists())
        disk.write_bytes(was)
        write(disk, 80, b"z" * BLOCK)
        changed = tmp_path / "changed.json"
        changed.write_text(f'[{{"offset": {80 * BLOCK}, "length": {BLOCK}}}]')
        done = engine.replicate(disk, through, state=state, changed=changed, link=soonest())
        assert done.kind == "delta" and not done.scanned and head(there) == disk.read_bytes()
        assert engine.verify(there.root / "disk").ok
    finally:
        proxy.close()


def test_a_spool_that_was_spoiled_is_dropped_and_made_anew_at_once(
    there: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No minute of waiting mends it, and the second plan begins with nothing."""
    state, told = there.host(), list[str]()
    engine.replicate(disk, there.url(), state=state, link=soonest())
    disk.write_bytes(random.Random(9).randbytes(SIZE))
    proxy = TcpProxy(there.port, [Trouble("cut", SIZE // 2)])
    try:
        known(there, proxy, state)
        through = f"secondsite://127.0.0.1:{proxy.port}/disk"
        with pytest.raises(errors.Unreachable):
            engine.replicate(disk, through, state=state, link=Link(retries=0), codec="none")
    finally:
        proxy.close()
    assert soon(lambda: not there.agent._sessions, 30)  # or the replica is busy yet
    spooled = there.root / "disk" / "incoming.spool"
    assert soon(lambda: spooled.stat().st_size > MIB // 2)
    batches, spoiled = Spool.batches, list[bool]()

    def once(held: Spool, seed: int) -> Iterator[Batch]:
        if not spoiled:
            spoiled.append(True)
            raise errors.Damaged("a block does not have the hash that was sent", path=held.path)
        yield from batches(held, seed)

    monkeypatch.setattr(Spool, "batches", once)
    link = Link(retries=2, delays=(600.0,), notify=told.append)
    done = engine.replicate(disk, there.url(), state=state, link=link, codec="none")
    assert done.attempts == 2 and done.generation == 2 and head(there) == disk.read_bytes()
    assert len(told) == 1 and "dropped" in told[0] and told[0].endswith("; tried again at once")


@pytest.mark.parametrize("kind", ["cut", "reset", "flip"])
def test_a_link_that_breaks_again_and_again(there: Site, disk: Path, kind: str) -> None:
    state = there.host()
    chance = random.Random(kind)
    troubles = [Trouble(kind, chance.randrange(4000, int(2.5 * MIB))) for _ in range(5)]
    proxy = TcpProxy(there.port, troubles)
    told: list[str] = []
    try:
        known(there, proxy, state)
        link = soonest(notify=told.append)
        done = engine.replicate(disk, f"secondsite://127.0.0.1:{proxy.port}/disk", state=state, link=link, codec="none")
    finally:
        proxy.close()
    assert head(there) == disk.read_bytes() and len(told) >= 2 and done.attempts >= 2
    # What went over beyond the disk itself was counted, and is at most a message a cut beyond what was in flight.
    assert done.over_bytes - done.again_bytes <= SIZE * 1.02
    assert engine.verify(there.root / "disk").ok


def test_a_link_that_stalls_is_given_up_and_taken_up(
    there: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {**(Connection.__init__.__kwdefaults__ or {}), "heartbeat": 0.3, "idle": 1.5}
    monkeypatch.setattr(Connection.__init__, "__kwdefaults__", told)
    state = there.host()
    proxy = TcpProxy(there.port, [Trouble("stall", 2 * MIB, 60)])
    try:
        known(there, proxy, state)
        began = time.monotonic()
        done = engine.replicate(
            disk, f"secondsite://127.0.0.1:{proxy.port}/disk", state=state, link=soonest(), codec="none"
        )
        assert done.attempts == 2 and time.monotonic() - began < 30 and head(there) == disk.read_bytes()
    finally:
        proxy.close()


def test_an_agent_that_is_not_there_ends_it_at_once_or_is_waited_for(there: Site, disk: Path) -> None:
    state = there.host()
    there.agent.close()
    began = time.monotonic()
    with pytest.raises(errors.Unreachable):
        engine.replicate(disk, there.url(), state=state)
    assert time.monotonic() - began < 5
    told: list[str] = []
    with pytest.raises(errors.Unreachable):
        engine.replicate(disk, there.url(), state=state, link=Link(3, (0.05,), notify=told.append))
    assert len(told) == 3


def test_who_is_not_allowed_is_not_tried_again(there: Site, disk: Path) -> None:
    state = there.host("source", "other")
    told: list[str] = []
    with pytest.raises(errors.Refused):
        engine.replicate(disk, there.url(), state=state, link=Link(9, (0.05,), notify=told.append))
    assert not told


def test_a_limit_holds_and_a_calendar_is_changed_while_it_runs(there: Site, disk: Path, tmp_path: Path) -> None:
    state = there.host()
    began = time.monotonic()
    engine.replicate(disk, there.url(), state=state, limit=3 * MIB, codec="none")
    assert 1.5 < time.monotonic() - began < 6
    for block in range(96):
        write(disk, block, random.Random(block).randbytes(BLOCK))
    calendar = tmp_path / "calendar"
    calendar.write_text("100K  # by day and night\n")
    timer = threading.Timer(1.5, lambda: calendar.write_text("none\n"))
    timer.start()
    began = time.monotonic()
    try:
        engine.replicate(disk, there.url(), state=state, schedule=f"@{calendar}", codec="none")
    finally:
        timer.join()
    assert 1.4 < time.monotonic() - began < 15 and head(there) == disk.read_bytes()


@pytest.mark.parametrize("bad", ["", "noday 10M", "10M;" * 200])
def test_a_calendar_that_is_none(there: Site, disk: Path, bad: str) -> None:
    with pytest.raises(errors.Usage):
        engine.replicate(disk, there.url(), state=there.host(), schedule=bad)


@pytest.mark.parametrize("bad", ["", "x", "1,,2", "-1", "1e9", "nan"])
def test_delays_that_are_none(bad: str) -> None:
    with pytest.raises(errors.Usage):
        retry.parse_delays(bad)


def test_watching_goes_on_over_an_agent_that_restarts(there: Site, disk: Path, tmp_path: Path) -> None:
    state = there.host()
    seen: list[engine.Status] = []
    stop = threading.Event()

    def observe(now: engine.Status) -> None:
        seen.append(now)

    def run() -> None:
        with pytest.raises(errors.Cancelled):
            engine.watch(disk, there.url(), every=1, state=state, observe=observe, cancel=stop.is_set, limit=100 * MIB)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert soon(lambda: any(now.last for now in seen), 20)
        there.agent.close()
        write(disk, 3, b"q" * BLOCK)
        assert soon(lambda: seen[-1].error is not None, 20)
        from secondsite.engine.remote.agent.service import Agent
        from secondsite.engine.remote.home import Home

        with Agent(str(there.root), Home.of(there.there)) as again:
            again.listen("127.0.0.1", there.port)
            assert soon(lambda: head(there) == disk.read_bytes(), 30)
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_a_replica_goes_on_to_a_third_site_while_cycles_arrive(there: Site, disk: Path, tmp_path: Path) -> None:
    """A to B to C: what C has is a point of B, whatever comes to B meanwhile."""
    state = there.host()
    third = tmp_path / "third"
    third.mkdir()
    points = {disk.read_bytes()}
    engine.replicate(disk, there.url(), state=state)
    with site(third) as far:
        onward = far.host("b", "copy", allow="send,read")
        assert onward != state

        def arriving() -> None:
            for number in range(8):
                for block in range(0, 96, 3):
                    write(disk, block, random.Random(number * 100 + block).randbytes(BLOCK))
                points.add(disk.read_bytes())
                engine.replicate(disk, there.url(), state=state)

        with ThreadPoolExecutor(1) as pool:
            arrived = pool.submit(arriving)
            while not arrived.done():
                engine.replicate(there.root / "disk", far.url("copy"), state=onward)
                assert head(far, "copy") in points
            arrived.result()
        engine.replicate(there.root / "disk", far.url("copy"), state=onward)
        out = tmp_path / "restored.img"
        engine.restore(far.url("copy"), out, state=onward)
        assert out.read_bytes() == disk.read_bytes()


def test_a_third_sites_point_has_the_time_of_the_point_that_came(there: Site, disk: Path, tmp_path: Path) -> None:
    """R2.1, also on a medium; its age is that of the data, and an unchanged cycle makes it no younger."""
    engine.replicate(disk, there.url(), state=there.host())
    local = there.root / "disk"
    (point,) = engine.points(local)
    time.sleep(1.5)
    third, seen = tmp_path / "third", []
    third.mkdir()
    with site(third) as far:
        onward = far.host("b", "copy", allow="send,read")
        for _ in range(2):
            done = engine.replicate(local, far.url("copy"), state=onward)
            assert done.moment == point.time
        (there_too,) = engine.points(far.url("copy"), state=onward)
        assert there_too.time == point.time
        with pytest.raises(errors.Cancelled):
            engine.watch(
                local, far.url("copy"), every=1, state=onward, observe=seen.append,
                cancel=lambda: any(now.cycles for now in seen),
            )  # fmt: skip
        assert seen[-1].age > 1.5
        (age,) = re.findall(r'^secondsite_last_good_age_seconds{replica="copy"} (.*)$', far.agent.figures(), re.M)
        assert float(age) > 1.5
    medium = tmp_path / "usb"
    assert engine.export_seed(local, medium, state=tmp_path / "s").time == point.time


@pytest.mark.parametrize("rot", ["bytes", "hole"])
def test_rot_in_a_replica_does_not_go_on_to_the_third_site(
    there: Site, disk: Path, tmp_path: Path, rot: str
) -> None:
    engine.replicate(disk, there.url(), state=there.host())
    was, third = disk.read_bytes(), tmp_path / "third"
    third.mkdir()
    with site(third) as far:
        state = far.host()
        engine.replicate(there.root / "disk", far.url(), state=state)
        with RawImage(str(there.root / "disk" / "head.raw"), "rw") as file:
            if rot == "bytes":
                file.write(7 * BLOCK + 5, b"rot")
            else:
                file.zero(7 * BLOCK, 2 * BLOCK)
        with pytest.raises(errors.Damaged, match=rf"at byte {7 * BLOCK}: a block is not what its block map says"):
            engine.replicate(there.root / "disk", far.url(), state=state)
        assert head(far) == was and [point.generation for point in engine.points(far.root / "disk")] == [1]
        engine.replicate(disk, there.url(), state=there.folder / "source", resync=True)
        assert engine.replicate(there.root / "disk", far.url(), state=state).kind == "unchanged"
