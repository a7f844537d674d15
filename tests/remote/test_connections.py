"""Several connections for one transfer: they join it, carry its frames in any order, and end it where one is cut."""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import service
from hosting import Site, soon
from manykit import head, known, many
from transfer import Fault, Pair, Proxy, scribble

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.remote import hosts, talk
from secondsite.engine.remote.agent import spool
from secondsite.engine.remote.agent.stream import Stream
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.connection import WINDOW, Connection
from secondsite.engine.remote.sending.connections import Connections
from secondsite.engine.remote.sending.outbound import Link
from secondsite.engine.remote.sending.tally import Sent
from secondsite.engine.units import MIB
from secondsite.orchestration.bench.hosts.distance import distance

pytestmark = pytest.mark.timeout(120)


class Noted:
    """Which blocks each attempt's frames name, in the order in which they were taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, chance: random.Random | None = None) -> None:
        self.attempts: list[list[int]] = []
        began, took, put = spool.Spool.__init__, spool.Spool.append, Stream.put
        self._frame = spool.Spool._frame

        def begin(held: spool.Spool, *given: object, **more: object) -> None:
            self.attempts.append([])
            began(held, *given, **more)  # type: ignore[arg-type]

        def append(held: spool.Spool, data: memoryview, peer: str) -> None:
            self._note(held, memoryview(data), peer)
            took(held, data, peer)

        def later(stream: Stream, frames: memoryview, peer: str) -> None:
            if chance is not None:
                time.sleep(chance.random() / 100)
            put(stream, frames, peer)

        monkeypatch.setattr(spool.Spool, "__init__", begin)
        monkeypatch.setattr(spool.Spool, "append", append)
        monkeypatch.setattr(Stream, "put", later)

    def _note(self, held: spool.Spool, data: memoryview, peer: str) -> None:
        while len(data):
            frame = self._frame(held, data, peer)
            runs: array[int] = frame.runs
            for first, count in zip(runs[0::2], runs[1::2], strict=True):
                self.attempts[-1] += range(first, first + count)
            self.attempts[-1] += frame.blocks
            data = data[spool.fmt.FRAME_BYTES + frame.head.stored :]


def test_frames_of_four_connections_come_in_any_order_and_name_no_block_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """First copies, deltas with zeros, and attempts that are cut and gone on with."""
    noted = Noted(monkeypatch, random.Random(5))
    chance = random.Random(6)
    pair, used = Pair(MemoryImage(random.Random(1).randbytes(8 * MIB))), list[tuple[int, int]]()
    for _ in range(3):
        for cut in (chance.randrange(MIB // 4, MIB), None):
            proxies = [Proxy(Fault("cut", cut)) if cut and not number else Proxy() for number in range(3)]
            try:
                sending = pair.cycle(joined=proxies, codec=(0, 0))
            except errors.Unreachable:
                continue
            used.append((sending.connections, max(proxy.passed[0] for proxy in proxies)))
            pair.note()
        scribble(pair.image, chance, 1200)
    pair.check()
    assert not pair.unexpected and max(used)[0] == 4 and max(used)[1] > MIB // 2
    orders = [list(blocks) for blocks in noted.attempts if blocks]
    # Three that were whole, and of those that were cut each that got so far.
    assert len(orders) >= 3 and any(blocks != sorted(blocks) for blocks in orders)
    for blocks in orders:
        (_, most), *_ = Counter(blocks).most_common(1)
        assert most == 1


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.sweep(sample=3)
def test_a_cut_of_any_connection_at_any_byte(seed: int) -> None:
    """Nothing is lost, and what went over twice is at most one window, whichever connection it was."""
    chance = random.Random(seed)
    print(f"seed {seed}")
    pair, sent = Pair(MemoryImage(chance.randbytes(6 * MIB))), Sent()
    cuts = 0
    for _ in range(3):
        number, kind = chance.randrange(4), chance.choice(["cut", "flip"])
        at = chance.randrange(2 * MIB) if chance.random() < 0.7 else chance.randrange(2000)
        up = chance.random() < 0.8
        fault = Proxy(Fault(kind, at), None) if up else Proxy(None, Fault(kind, at % 600))
        proxies = [fault if place == number else Proxy() for place in range(4)]
        try:
            pair.cycle(proxies[0], sent, joined=proxies[1:], codec=(0, 0))
            pair.note()
            sent.begin()
            scribble(pair.image, chance, 800)
        except errors.Error as error:
            assert error.retryable, error
            cuts += 1
    pair.cycle(Proxy(), sent, joined=[Proxy() for _ in range(3)], codec=(0, 0))
    pair.note()
    pair.check()
    assert not pair.unexpected and sent.all_again <= cuts * WINDOW
    assert sent.bytes - sent.again <= pair.image.size * 1.02


def test_the_end_waits_for_frames_that_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the other connections come late: Finish is there long before. Nothing goes until all have joined, and
    the first one waits until another carries some, as each could carry all.
    """
    put, last, others, finished = Stream.put, list[str](), threading.Event(), threading.Event()
    begin, carry = Connections._begin, Connections._carry

    def all_joined(connections: Connections) -> None:
        begin(connections)
        soon(lambda: connections._carrying == 3)

    def after_another(connections: Connections, number: int, send: Callable[[bytes], None]) -> None:
        if number == 0:
            others.wait(20)
        carry(connections, number, send)

    def late(stream: Stream, frames: memoryview, peer: str) -> None:
        if threading.current_thread() is not serving.get(id(stream)):
            others.set()
            finished.wait(20)
            last.append("other")
        put(stream, frames, peer)

    serving: dict[int, threading.Thread] = {}
    complete = Stream.complete

    def note(stream: Stream, total: int, look: Callable[[], None]) -> None:
        last.append("finish")
        finished.set()
        complete(stream, total, look)

    made = Stream.__init__

    def create(stream: Stream, *given: object) -> None:
        made(stream, *given)  # type: ignore[arg-type]
        serving[id(stream)] = threading.current_thread()

    monkeypatch.setattr(Connections, "_begin", all_joined)
    monkeypatch.setattr(Connections, "_carry", after_another)
    monkeypatch.setattr(Stream, "__init__", create)
    monkeypatch.setattr(Stream, "put", late)
    monkeypatch.setattr(Stream, "complete", note)
    pair = Pair(MemoryImage(random.Random(1).randbytes(6 * MIB)))
    assert pair.cycle(joined=[Proxy(), Proxy()], codec=(0, 0)).connections == 3
    pair.note()
    pair.check()
    assert "finish" in last and last[-1] == "other"


# -- who may join ------------------------------------------------------------------------------------------------


def begun(connection: Connection, name: str = "disk") -> tuple[talk.State, engine.Error | object]:
    call = connection.call(talk.OPERATION, talk.Begin(name=name, source="x", source_format="raw", size=MIB))
    return protocol.decode(call.receive(10).control, talk.State, "agent"), call


def joined(connection: Connection, ticket: bytes, name: str = "disk") -> object:
    call = connection.call(talk.JOIN, talk.Join(name, ticket))
    protocol.decode(call.receive(10).control, talk.Joined, "agent")
    return call


def test_only_the_same_host_joins_with_the_ticket_and_only_while_it_runs(there: Site) -> None:
    ours, others = there.host("source", "disk", "more"), there.host("other", "disk", "more")
    with there.connect(ours) as control, there.connect(ours) as second, there.connect(others) as stranger:
        state, call = begun(control)
        assert len(state.ticket) >= 16
        with pytest.raises(errors.Refused, match="no transfer runs that this ticket is for"):
            joined(second, bytes(32))
        with pytest.raises(errors.Refused, match="no transfer runs that this ticket is for"):
            joined(second, state.ticket, "more")
        with pytest.raises(errors.Refused, match=r"not allowed|may not"):
            joined(second, state.ticket, "elsewhere")
        with pytest.raises(errors.Refused, match="is another host's"):
            joined(stranger, state.ticket)
        for _ in range(talk.MAX_CONNECTIONS - 1):
            joined(second, state.ticket)
        with pytest.raises(errors.Busy, match="8 connections carry this transfer already"):
            joined(second, state.ticket)
        call.close()  # type: ignore[attr-defined]
        assert soon(lambda: not there.agent.streams._running)
        with pytest.raises(errors.Refused, match="no transfer runs that this ticket is for"):
            joined(second, state.ticket)


def test_a_host_that_was_revoked_loses_all_of_them(there: Site) -> None:
    ours = there.host()
    with there.connect(ours) as control, there.connect(ours) as second, there.connect(ours) as third:
        state, call = begun(control)
        calls = [call, joined(second, state.ticket), joined(third, state.ticket)]
        hosts.revoke("source", state=there.there)
        for one in calls:
            with pytest.raises(errors.Refused, match="not paired with you any more"):
                one.receive(10)  # type: ignore[attr-defined]
        assert soon(lambda: all(one.failed is not None for one in (control, second, third)), 2)


@pytest.mark.parametrize("what", ["garbage", "another message", "too much", "gone"])
def test_what_one_connection_does_wrong_ends_the_transfer_and_nothing_else(there: Site, disk: Path, what: str) -> None:
    ours = there.host()
    with there.connect(ours) as control, there.connect(ours) as second:
        state, call = begun(control)
        other = joined(second, state.ticket)
        if what == "garbage":
            other.send(talk.Frames(), b"x" * 1000)  # type: ignore[attr-defined]
        elif what == "another message":
            other.send(talk.Ask("spool"))  # type: ignore[attr-defined]
        elif what == "gone":
            second.close()
        else:
            finish = talk.Finish(seal="", tracker="scan", read_bytes=0, changed_bytes=0, sent_bytes=0)
            there.agent.streams._running[state.ticket].arrived = 5
            call.send(finish)  # type: ignore[attr-defined]
        kind = errors.Unreachable if what == "gone" else errors.Damaged
        with pytest.raises(kind):
            call.receive(10)  # type: ignore[attr-defined]
    assert engine.replicate(disk, there.url(), state=ours, source_id="x", link=many()).kind == "initial"
    assert head(there) == disk.read_bytes() and not there.agent.streams._running


def test_an_agent_without_room_is_sent_to_over_one_and_says_why(there: Site, disk: Path) -> None:
    there.agent.streams._room = lambda peer: False
    done = engine.replicate(disk, there.url(), state=there.host(), link=many(2), limit=4 * MIB)
    assert done.connections == 1 and head(there) == disk.read_bytes()
    (told,) = [line for line in done.warnings if "further connection" in line]
    assert "no room" in told


def test_half_of_the_places_stay_for_who_would_not_come_in(there: Site) -> None:
    there.agent._places = ["a"] * 128 + ["b"] * 128
    assert there.agent._has_room("a")
    there.agent._places.append("a")
    assert not there.agent._has_room("a") and not there.agent._has_room("c")
    there.agent._places = []


def test_an_older_agent_gets_one_connection_and_nothing_that_it_does_not_know(
    there: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "NEWEST", 2)
    state = there.host()
    with there.connect(state) as connection:
        told, call = begun(connection)
        call.close()  # type: ignore[attr-defined]
    assert told.ticket == b"" and b"ticket" not in protocol.encode(told)
    done = engine.replicate(disk, there.url(), state=state, source_id="x", link=many())
    assert done.connections == 1 and "too old" in done.warnings[-1] and head(there) == disk.read_bytes()
    assert not engine.replicate(disk, there.url(), state=state, source_id="x", link=many(None)).warnings


@pytest.mark.parametrize("count", [0, 9, -1])
def test_a_number_of_connections_that_is_none(count: int) -> None:
    with pytest.raises(errors.Usage, match="1 to 8"):
        Link(connections=count)





def test_cancelled_while_connections_wait(there: Site, disk: Path) -> None:
    state = there.host()
    with distance(there.port, 0.2, 32 * 1024) as link:
        known(state, there.port, link.port)
        began = time.monotonic()
        with pytest.raises(errors.Cancelled):
            engine.replicate(
                disk, f"secondsite://127.0.0.1:{link.port}/disk", state=state, link=many(), codec="none",
                cancel=lambda: time.monotonic() - began > 1.2,
            )  # fmt: skip
        assert time.monotonic() - began < 3
    assert soon(lambda: not [t for t in threading.enumerate() if t.name.startswith("data ")])


def test_an_agent_is_killed_with_four_connections_open(tmp_path: Path) -> None:
    """SIGKILL at random; seeded. What is there goes on, and the end is the source byte for byte."""
    chance, sent = random.Random(11), Sent()
    disk = tmp_path / "disk.img"
    disk.write_bytes(chance.randbytes(24 * MIB))
    state, began = tmp_path / "here", time.monotonic()
    kills, port = 0, 0
    hosts.init_identity(state=state)
    for _ in range(20):
        with service(tmp_path, listen=f"127.0.0.1:{port}") as agent:
            if not port:
                key = hosts.registration_key(["vm"], state=tmp_path / "there")
                hosts.pair(f"127.0.0.1:{agent.port}", key, name="east", state=state)
                port = agent.port
            timer = threading.Timer(chance.uniform(0.3, 0.8), agent.process.kill)
            if kills < 2:
                timer.start()
            try:
                link = many(sent=sent)
                done = engine.replicate(disk, agent.url("vm"), state=state, link=link, limit=24 * MIB, codec="none")
                break
            except errors.Unreachable:
                kills += 1
            finally:
                timer.cancel()
    print(f"{kills} kills, {time.monotonic() - began:.1f} s")
    assert kills == 2 and done.connections > 1  # the last one has little to bring
    assert (tmp_path / "root" / "vm" / "head.raw").read_bytes() == disk.read_bytes()
    assert engine.verify(tmp_path / "root" / "vm").ok
    assert sent.all_again <= kills * WINDOW
