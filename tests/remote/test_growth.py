"""Several connections where the link is long or one of them slow: when they are added, and when one is left behind."""

from __future__ import annotations

import itertools
import random
import threading
import time
from pathlib import Path

import pytest
from hosting import Site, soon
from manykit import SIZE, head, known, many
from tcpproxy import TcpProxy, Trouble

from secondsite import engine
from secondsite.engine.remote.agent import spool, stream
from secondsite.engine.remote.link import lateness
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.link.connection import WINDOW
from secondsite.engine.remote.sending import connections, growth
from secondsite.engine.remote.sending.growth import Growth
from secondsite.engine.units import MIB
from secondsite.orchestration.bench.hosts.distance import distance

pytestmark = pytest.mark.timeout(120)


def test_four_are_faster_than_one_over_a_long_link(there: Site, disk: Path) -> None:
    """256 KiB in 50 ms each: one takes almost two seconds for 9 MiB."""
    disk.write_bytes(random.Random(3).randbytes(SIZE // 2 * 3))
    state, seconds = there.host("source", "one", "four"), []
    with distance(there.port, 0.05, 256 * 1024) as link:
        known(state, there.port, link.port)
        for name, count in (("one", 1), ("four", 4)):
            link.carried.clear()
            where = f"secondsite://127.0.0.1:{link.port}/{name}"
            done = engine.replicate(disk, where, state=state, link=many(count), codec="none")
            assert done.connections == count == len(link.carried) and head(there, name) == disk.read_bytes()
            assert min(link.carried) > SIZE / count / 3
            seconds.append(done.seconds)
    print(seconds)
    assert seconds[1] < seconds[0] / 1.5


def test_auto_adds_connections_where_that_pays_and_not_near_by(
    there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with acknowledgements and periods that are a sixteenth of what they are."""
    disk = tmp_path / "large.img"
    disk.write_bytes(random.Random(2).randbytes(10 * MIB))
    monkeypatch.setattr(spool, "FLUSH_BYTES", MIB // 4)
    monkeypatch.setattr(growth, "PERIOD_BYTES", MIB // 2)
    monkeypatch.setattr(growth, "PERIOD_SECONDS", 0.1)
    state = there.host("source", "near", "far")
    with distance(there.port, 0.05, 128 * 1024) as link:
        known(state, there.port, link.port)
        where = f"secondsite://127.0.0.1:{link.port}/far"
        done = engine.replicate(disk, where, state=state, link=many(None), codec="none")
        assert done.connections > 1 and head(there, "far") == disk.read_bytes()
    monkeypatch.setattr(connections, "FAR_SECONDS", 10.0)
    done = engine.replicate(disk, there.url("near"), state=state, link=many(None), codec="none")
    assert done.connections == 1 and head(there, "near") == disk.read_bytes()


def test_a_limit_holds_over_all_of_them(there: Site, disk: Path) -> None:
    began = time.monotonic()
    done = engine.replicate(disk, there.url(), state=there.host(), link=many(), limit=4 * MIB, codec="none")
    assert done.connections == 4 and head(there) == disk.read_bytes()
    assert time.monotonic() - began > SIZE / (4 * MIB) - 0.5


def test_what_brought_nothing_leaves_and_nothing_of_it_is_lost(
    there: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = itertools.chain([1, 0, 0, -1], itertools.repeat(0))
    disk.write_bytes(random.Random(3).randbytes(2 * SIZE))
    monkeypatch.setattr(spool, "FLUSH_BYTES", MIB // 4)
    monkeypatch.setattr(connections, "FAR_SECONDS", 0.0)
    monkeypatch.setattr(Growth, "durable", lambda growth, now, count, open: next(told))
    state, leaves, leave = there.host(), list[bool](), connections.Connections._leave

    def left(self: connections.Connections, call: Call) -> None:
        leave(self, call)
        leaves.append(True)

    monkeypatch.setattr(connections.Connections, "_leave", left)
    with distance(there.port, 0.03, 256 * 1024) as link:
        known(state, there.port, link.port)
        where = f"secondsite://127.0.0.1:{link.port}/disk"
        done = engine.replicate(disk, where, state=state, link=many(None), codec="none")
    assert head(there) == disk.read_bytes() and done.connections == 2 and leaves
    assert soon(lambda: not [t for t in threading.enumerate() if t.name.startswith("data ")])


def grown(rates: dict[int, float], seconds: float, *, waited: float = 1.0, most: int = 4) -> list[int]:
    """How many connections there are, period by period, where so many bring so much a second."""
    made, now, count, durable, found = Growth(most), 0.0, 1, 0.0, []
    while now < seconds:
        now, durable = now + 0.5, durable + 0.5 * rates[count]
        made.waited += 0.5 * waited
        change = made.durable(now, int(durable), count)
        if change > 0:
            made.joined()
        count += change
        found.append(count)
    return found


def test_connections_are_added_while_they_pay() -> None:
    four = {n: n * 20e6 for n in range(1, 5)}
    assert grown(four, 60)[-1] == 4
    assert set(grown({1: 20e6, 2: 20.5e6}, 50)) == {1, 2} and grown({1: 20e6, 2: 20.5e6}, 50)[-1] == 1
    again = grown({1: 20e6, 2: 21e6}, 300)
    assert 2 <= sum(b > a for a, b in itertools.pairwise(again)) <= 6  # tried again now and then, and seldom
    assert set(grown(four, 60, waited=0.3)) == {1}  # packing or the source is what takes the time
    assert grown({1: 20e6, 2: 40e6, 3: 41e6}, 50)[-1] == 2
    assert set(grown(four, 60, most=1)) == {1}


@pytest.mark.parametrize("which", [0, 2])
def test_one_slow_connection_among_fast_ones_does_not_hold_the_rest(
    there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """What it holds goes another way, where it would take longer than all before it; the control connection's too."""
    monkeypatch.setattr(lateness, "LATE_SECONDS", 1.0)
    monkeypatch.setattr(stream, "_QUIET_SECONDS", 0.5)
    disk, told, state = tmp_path / "large.img", list[str](), there.host()
    slow = Trouble("slow", 20_000 if which else 1_500_000, 3.0)  # the first message goes over the control connection
    disk.write_bytes(random.Random(2).randbytes(12 * MIB))
    proxy = TcpProxy(there.port, [slow if n == which else None for n in range(4)], 0.01)
    try:
        known(state, there.port, proxy.port)
        began, link = time.monotonic(), many(retries=2, delays=(600.0,), notify=told.append)
        where = f"secondsite://127.0.0.1:{proxy.port}/disk"
        done = engine.replicate(disk, where, state=state, link=link, codec="none")
    finally:
        proxy.close()
    assert time.monotonic() - began < 25 and done.attempts == 2 and done.connections == 1
    assert "far behind the others; tried again at once" in told[0]
    assert head(there) == disk.read_bytes() and done.again_bytes <= WINDOW


def test_how_long_a_straggler_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as all before took, 15 s at least; not while another one brings something too."""
    now = [100.0]
    monkeypatch.setattr(lateness.time, "monotonic", lambda: now[0])
    for took, waits in ((2, 15), (40, 40)):
        late = lateness.Lateness(began=now[0])
        now[0] += took
        for _ in range(100):
            now[0] += 1
            assert not late.over(False)
        late.began = now[0] - took
        assert not late.over(True)
        now[0] += waits
        assert not late.over(True)
        now[0] += 1
        assert not late.over(False) and not late.over(True)
        now[0] += waits + 102 + took
        assert late.over(True)


# -- its ends ----------------------------------------------------------------------------------------------------
