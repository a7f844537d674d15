"""A flipped bit on the wire: without TLS the messages' own checksums find each one, under TLS the connection ends.
And a link that delays, and lets a later connection overtake an earlier one.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hosting import Site
from tcpproxy import TcpProxy, Trouble
from transfer import BLOCK, Fault, Pair, Proxy, scribble

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.trust import agents
from secondsite.engine.units import MIB

pytestmark = pytest.mark.timeout(120)
UP, DOWN = 0, 1


@pytest.fixture
def garbled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What either side found to be no message of ours."""
    found: list[str] = []
    init = protocol.Garbled.__init__

    def told(self: protocol.Garbled, message: str, **where: Any) -> None:
        found.append(message)
        init(self, message, **where)

    monkeypatch.setattr(protocol.Garbled, "__init__", told)
    return found


def passed(first: bool) -> tuple[int, int]:
    """How many bytes go over, up and down, without a fault."""
    proxy, pair = Proxy(), small(first)
    pair.cycle(proxy, workers=1)
    return proxy.passed[UP], proxy.passed[DOWN]


def small(first: bool) -> Pair:
    """A first copy of three blocks, or two changes in them."""
    pair = Pair(MemoryImage(random.Random(1).randbytes(3 * BLOCK)))
    if not first:
        pair.cycle(workers=1)
        pair.note()
        scribble(pair.image, random.Random(2), 2)
    return pair


@pytest.mark.timeout(900)  # all of them take minutes
@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("first", [True, False])
def test_no_flipped_byte_passes_without_tls(first: bool, direction: int, garbled: list[str], sweep: bool) -> None:
    """Each byte of a transfer with --sweep, else some of them; seeded."""
    chance = random.Random(direction)
    reach = passed(first)[direction]
    places = range(reach) if sweep else sorted(chance.sample(range(reach), 30))
    for at in places:
        pair = small(first)
        proxy = Proxy(Fault("flip", at), None) if direction == UP else Proxy(None, Fault("flip", at))
        garbled.clear()
        try:
            pair.cycle(proxy, workers=1)
        except errors.Error as error:
            assert error.retryable, (at, error)
        assert garbled or proxy.passed[direction] <= at, at
        pair.check()
        pair.cycle(workers=1)  # and the next attempt brings it over, whatever the first one left
        pair.note()
        pair.check()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(2 * MIB))
    return path


def through(there: Site, state: Path, *troubles: Trouble, delay: float = 0.0) -> tuple[TcpProxy, str]:
    """A proxy before the agent, as a host knows it; and the replica's URL there."""
    proxy = TcpProxy(there.port, list(troubles), delay)
    (certificate,) = agents.find(state / "agents.json", "127.0.0.1", there.port).values()
    agents.keep(state / "agents.json", "127.0.0.1", proxy.port, certificate)
    return proxy, f"secondsite://127.0.0.1:{proxy.port}/disk"


@pytest.mark.parametrize("where", [100, 700, 2000, 3500, 10_000, MIB])
def test_under_tls_a_flipped_byte_ends_the_connection_and_is_tried_again(
    there: Site, disk: Path, garbled: list[str], where: int
) -> None:
    """In a handshake, in the first messages, in a frame."""
    state = there.host()
    engine.replicate(disk, there.url(), state=state)
    before = disk.read_bytes()
    disk.write_bytes(random.Random(2).randbytes(2 * MIB))
    proxy, url = through(there, state, Trouble("flip", where))
    told: list[str] = []
    try:
        garbled.clear()
        link = engine.Link(20, (0.05,), notify=told.append)
        done = engine.replicate(disk, url, state=state, link=link, codec="none")
    finally:
        proxy.close()
    assert len(told) == 1 or where < 3000, told  # a handshake may be repeated without a word
    assert not garbled  # TLS found it, not what is above
    assert done.generation == 2 and len(proxy.passed) == 2
    assert (there.root / "disk" / "head.raw").read_bytes() == disk.read_bytes()
    out = disk.with_suffix(".old")
    engine.restore(there.root / "disk", out, at="1")
    assert out.read_bytes() == before


def test_a_slow_link_only_takes_longer(there: Site, disk: Path) -> None:
    state = there.host()
    proxy, url = through(there, state, delay=0.01)
    try:
        done = engine.replicate(disk, url, state=state, codec="none", link=engine.Link(0))
    finally:
        proxy.close()
    assert done.attempts == 1 and (there.root / "disk" / "head.raw").read_bytes() == disk.read_bytes()


def test_a_connection_that_a_later_one_overtakes_changes_nothing(
    there: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt's bytes are held back until its sender has given up, and arrive beside the second attempt."""
    init = Connection.__init__

    def impatient(self: Connection, *args: Any, **options: Any) -> None:
        soon = {"heartbeat": 0.2, "idle": 1.0} if options.get("client") else {}
        init(self, *args, **{**options, **soon})

    monkeypatch.setattr(Connection, "__init__", impatient)
    state = there.host()
    engine.replicate(disk, there.url(), state=state)
    disk.write_bytes(random.Random(3).randbytes(2 * MIB))
    held = disk.read_bytes()
    proxy, url = through(there, state, Trouble("stall", MIB, 2.5))
    try:
        done = engine.replicate(disk, url, state=state, codec="none", link=engine.Link(20, (0.05,)))
        assert len(proxy.passed) >= 2 and done.generation == 2
        assert (there.root / "disk" / "head.raw").read_bytes() == held
        disk.write_bytes(random.Random(4).randbytes(2 * MIB))
        assert engine.replicate(disk, url, state=state).generation == 3
    finally:
        proxy.close()
    assert engine.verify(there.root / "disk").ok
    assert (there.root / "disk" / "head.raw").read_bytes() == disk.read_bytes()
