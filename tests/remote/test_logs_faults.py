"""A log at an agent: links that are cut, a killed agent, two writers, a full disk."""

from __future__ import annotations

import random
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from commands import paired, service
from hosting import Site, site, soon
from logsite import digest, disk, restored, store, write
from tcpproxy import TcpProxy, Trouble
from test_flipped_bytes import through

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.store.log import layout, segment
from secondsite.engine.store.place import OWN
from secondsite.engine.units import KIB, MIB

pytestmark = pytest.mark.timeout(120)


def test_cuts_at_random_places(there: Site, tmp_path: Path, sweep: bool) -> None:
    """Cycles go on over other connections; every point is what the disk was, and little is sent twice."""
    state, source, chance = there.host(allow="send,read"), disk(tmp_path, 6 * MIB), random.Random(60)
    digests = []
    for cycle in range(20 if sweep else 2):
        write(source, chance.randrange(4 * MIB), chance.randbytes(2 * MIB))
        kinds = [Trouble(chance.choice(["cut", "reset"]), chance.randrange(20_000, 3 * MIB)) for _ in range(2)]
        proxy, replica = through(there, state, *kinds)
        try:
            engine.replicate(source, replica, history="log", state=state)
            digests.append(digest(source))
            assert sum(proxy.sent) < (9 if cycle == 0 else 3.2) * MIB + 2 * 2 * MIB, proxy.sent
        finally:
            proxy.close()
    for number, expected in enumerate(digests, 1):
        assert restored(tmp_path, there.url(), state, str(number)) == expected
    assert engine.verify(there.root / "disk").ok


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES", MIB)


def test_a_killed_agent_keeps_what_arrived(tmp_path: Path, small_segments: None) -> None:
    """P14: the cycle goes on with the next agent on the port, and at most what was on its way is sent again."""
    source, new = disk(tmp_path, 12 * MIB), tmp_path / "root" / "vm" / OWN / "new"
    with service(tmp_path) as first:
        state = paired(tmp_path, first, "vm", allow="send,read")
        proxy = TcpProxy(first.port, delay=0.001)
        try:
            there = f"secondsite://127.0.0.1:{proxy.port}/vm"
            agent = (state / "agents.json").read_text().replace(f':{first.port}"', f':{proxy.port}"')
            (state / "agents.json").write_text(agent)
            found: list[Any] = []
            thread = threading.Thread(target=lambda: found.append(_tried(source, there, state)))
            thread.start()
            arrived = tmp_path / "root" / "vm" / "segments"
            assert soon(lambda: _bytes(arrived) > 3 * MIB and bool(list(new.iterdir())), 30)
            first.process.kill()
            first.process.wait(10)
            held, before = _bytes(arrived), sum(proxy.sent)
            assert held < 11 * MIB
            with service(tmp_path, listen=f"127.0.0.1:{first.port}"):
                thread.join(60)
                assert isinstance(found[0], engine.Replicated), found
                assert sum(proxy.sent) - before < 12 * MIB - held + 5 * MIB
                assert restored(tmp_path, there, state) == digest(source)
        finally:
            proxy.close()
    assert not list(new.iterdir())


def _tried(source: Path, replica: str, state: Path) -> Any:
    try:
        return engine.replicate(source, replica, history="log", state=state)
    except errors.Error as error:
        return error


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_of_two_writers_one_waits(there: Site, tmp_path: Path) -> None:
    state, source = there.host(allow="send,read"), disk(tmp_path)
    engine.replicate(source, there.url(), history="log", state=state)
    with store(there, state) as made:
        fence = made.fence(layout.HEAD)
        with pytest.raises(errors.Busy, match="somebody else holds it"):
            engine.replicate(source, there.url(), history="log", state=state)
        with pytest.raises(errors.Busy):
            engine.replicate(source, there.root / "disk", source_id="x", accept_source=True, state=tmp_path / "local")
        fence.release()
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(_tried(source, there.url(), state))) for _ in range(3)]
    write(source, 0, b"changed")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(one, engine.Replicated | errors.Refused) for one in results), results
    assert len(engine.points(there.url(), state=state)) == 2 and engine.verify(there.url(), state=state).ok


@pytest.mark.needs("root", "mount")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=8m", "secondsite-test", str(tmp_path / "root")), check=True)
    try:
        with site(tmp_path) as there:
            state, source = there.host(allow="send,read"), disk(tmp_path, 4 * MIB)
            engine.replicate(source, there.url(), history="log", state=state)
            write(source, 0, random.Random(9).randbytes(4 * MIB))
            with pytest.raises(errors.Full, match="No space left"):
                engine.replicate(source, there.url(), history="log", state=state)
            assert not list((there.root / "disk" / OWN / "new").iterdir())
            write(source, 0, random.Random(3).randbytes(4 * MIB))
            assert restored(tmp_path, there.url(), state) == digest(source)
    finally:
        subprocess.run(("umount", "--lazy", str(tmp_path / "root")), check=True)


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("history", ["log", "auto"])
def test_it_is_watched_over_a_link_that_is_cut(there: Site, tmp_path: Path, history: str) -> None:
    """A cycle a second; whoever does not say that it is a log is told so by the agent at each."""
    state, source = there.host(allow="send,read"), disk(tmp_path)
    engine.replicate(source, there.url(), history="log", state=state)
    proxy, replica = through(there, state, Trouble("cut", 400_000), Trouble("cut", 300_000))
    seen: list[Any] = []

    def observe(status: engine.Status) -> None:
        if status.last is not None:
            seen.append(status.last)
            if len(seen) < 4:
                write(source, len(seen) * 256 * KIB, random.Random(len(seen)).randbytes(128 * KIB))

    try:
        with pytest.raises(errors.Cancelled):
            engine.watch(
                source, replica, every=1, history=history, state=state, observe=observe, cancel=lambda: len(seen) >= 4
            )
    finally:
        proxy.close()
    assert len(seen) == 4 and [one.history for one in seen] == ["log"] * 4
    assert [one.point for one in engine.points(there.url(), state=state)][-1] == seen[-1].point
    assert restored(tmp_path, there.url(), state) == digest(source)
