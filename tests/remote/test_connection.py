"""Calls over a connection: windows, heartbeats, limits, bad peers, and ends that everybody notices."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from secondsite.engine import errors
from secondsite.engine.progress import Limiter
from secondsite.engine.remote.link import protocol as p
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.link.connection import SMALLEST_WINDOW, Connection
from secondsite.engine.remote.link.wire import Closed, Wire

pytestmark = pytest.mark.timeout(30)


class Word(msgspec.Struct, forbid_unknown_fields=True):
    text: str


def pair(**options: Any) -> tuple[Connection, Connection]:
    left, right = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(Connection, right, "client", client=False, **options)
        return Connection(left, "server", client=True, **options), other.result(10)


@pytest.fixture
def both() -> Iterator[tuple[Connection, Connection]]:
    client, server = pair()
    with client, server:
        yield client, server


def serve(server: Connection, work: Callable[[Call], None]) -> threading.Thread:
    def loop() -> None:
        try:
            while (call := server.accept()) is not None:
                with call:
                    work(call)
        except errors.Error:
            pass

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


def test_questions_and_answers(both: tuple[Connection, Connection]) -> None:
    client, server = both

    def answer(call: Call) -> None:
        if call.operation == "refuse":
            raise errors.Refused("not this", path="name")
        call.send(Word(p.decode(call.args, Word, call.peer).text.upper()), call.body)

    def swallow(call: Call) -> None:
        try:
            answer(call)
        except errors.Refused as error:
            call.fail(error)

    serve(server, swallow)
    assert [client.ask("say", Word(str(n)), Word).text for n in range(100)] == [str(n) for n in range(100)]
    with pytest.raises(errors.Refused, match="server: name: not this"):
        client.ask("refuse", Word(""), Word)
    assert client.ask("say", Word("still"), Word, b"x").text == "STILL"


def test_many_calls_from_many_threads(both: tuple[Connection, Connection]) -> None:
    client, server = both
    serve(server, lambda call: call.send(p.decode(call.args, Word, call.peer)))
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda n: client.ask("say", Word(str(n)), Word).text, range(400))
        assert list(answers) == [str(n) for n in range(400)]


def test_what_is_not_consumed_is_at_most_a_window(both: tuple[Connection, Connection]) -> None:
    client, server = both
    call = client.call("put", Word(""))
    there = server.accept(5)
    assert there is not None
    sent: list[int] = []

    def push() -> None:
        for _ in range(40):
            call.send(None, bytes(1 << 20))
            sent.append(1)

    thread = threading.Thread(target=push, daemon=True)
    thread.start()
    time.sleep(0.5)
    assert len(sent) == 15 and there._held <= client.their_window
    # The slow call holds nobody else up.
    other = client.call("say", Word("x"))
    quick = server.accept(5)
    assert quick is not None
    quick.send(Word("y"))
    assert p.decode(other.receive(5).control, Word, "").text == "y"
    for _ in range(40):
        assert len(there.receive(5).body) == 1 << 20
    thread.join(5)
    assert len(sent) == 40


def test_a_window_that_is_not_kept_ends_the_connection() -> None:
    client, server = pair(window=SMALLEST_WINDOW)
    with client, server:
        client.their_window = 1 << 30
        call = client.call("put", Word(""))
        with pytest.raises(errors.Error):
            for _ in range(100):
                call.send(None, bytes(1 << 20))
        with pytest.raises(p.Garbled, match="window"):
            while server.accept(5):
                pass


def test_limited_data_comes_in_parts_and_heartbeats_between() -> None:
    client, server = pair(heartbeat=0.05, idle=1.0)
    with client, server:
        client.limiter = Limiter(400_000)
        began = time.monotonic()
        call = client.call("put", Word(""))
        there = server.accept(5)
        assert there is not None
        data = random.Random(1).randbytes(900_000)
        thread = threading.Thread(target=lambda: call.send(Word("w"), data), daemon=True)
        thread.start()
        message = there.receive(10)
        assert message.body == data and p.decode(message.control, Word, "").text == "w"
        assert 1.5 < time.monotonic() - began < 5
        assert client.failed is None and server.failed is None
        thread.join(5)


def test_a_silent_peer_is_noticed_and_a_heartbeat_is_enough() -> None:
    client, server = pair(heartbeat=0.1, idle=0.6)
    with client, server:
        time.sleep(1.2)
        assert client.failed is None and server.failed is None
    left, right = socket.socketpair()
    hello = p.encode(p.Hello(1, 1, "silent", 1 << 24))
    right.sendall(p.pack_header(p.HELLO, 0, hello) + hello)
    with Connection(left, "silent", client=True, heartbeat=0.1, idle=0.5) as connection:
        call = connection.call("x", Word(""))
        with pytest.raises(Closed, match="nothing was heard"):
            call.receive(5)
    right.close()


@pytest.mark.parametrize("first", ["ping", "junk", "newer", "narrow", "nothing"])
def test_who_does_not_begin_with_a_good_hello(first: str) -> None:
    left, right = socket.socketpair()
    newer = p.encode(p.Hello(9, 9, "x", 1 << 24))
    narrow = p.encode(p.Hello(1, 1, "x", 100))
    right.sendall({
        "ping": p.pack_header(p.PING, 0, b""), "junk": b"GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n",
        "newer": p.pack_header(p.HELLO, 0, newer) + newer, "narrow": p.pack_header(p.HELLO, 0, narrow) + narrow,
        "nothing": b"",
    }[first])  # fmt: skip
    if first == "nothing":
        right.close()
    expected = {"newer": errors.Refused, "nothing": Closed}.get(first, p.Garbled)
    with pytest.raises(expected):
        Connection(left, "peer", client=True)
    right.close()


def _frame(kind: int, call: int, control: bytes = b"", flags: int = 0) -> bytes:
    return p.pack_header(kind, call, control, b"", flags) + control


def _credit(count: int) -> bytes:
    return _frame(p.CREDIT, 1, msgspec.msgpack.encode({"bytes": count}))


_REQUEST = p.encode(p.Request("x", msgspec.Raw(p.encode(Word("")))))


@pytest.mark.parametrize("name, data", [
    ("data of no call", _frame(p.DATA, 1)),
    ("a second hello", _frame(p.HELLO, 0, b"x")),
    ("a number of the other side", _frame(p.REQUEST, 2, _REQUEST)),
    ("a number twice", _frame(p.REQUEST, 3, _REQUEST) + _frame(p.REQUEST, 3, _REQUEST)),
    ("numbers backwards", _frame(p.REQUEST, 3, _REQUEST) + _frame(p.REQUEST, 1, _REQUEST)),
    ("a request that is none", _frame(p.REQUEST, 1, b"\xc1")),
    ("a request in parts", _frame(p.REQUEST, 1, _REQUEST, p.MORE)),
    ("data after the end", _frame(p.REQUEST, 1, _REQUEST) + _frame(p.CLOSE, 1) + _frame(p.DATA, 1)),
    ("a credit for nothing", _frame(p.REQUEST, 1, _REQUEST) + _credit(1)),
    ("a negative credit", _frame(p.REQUEST, 1, _REQUEST) + _credit(-1)),
    ("a heartbeat with a load", _frame(p.PING, 0, b"x")),
    ("too many calls", b"".join(_frame(p.REQUEST, n, _REQUEST) for n in range(1, 600, 2))),
])  # fmt: skip
def test_messages_out_of_turn_end_the_connection(name: str, data: bytes) -> None:
    left, right = socket.socketpair()
    hello = p.encode(p.Hello(1, 1, "bad", 1 << 24))
    right.sendall(_frame(p.HELLO, 0, hello) + data)
    with Connection(left, "bad", client=False) as connection, pytest.raises(p.Garbled):
        while connection.accept(5):
            pass
    right.close()


def test_seeded_rubbish_after_the_hello_never_hangs_or_escapes() -> None:
    chance = random.Random(7)
    hello = p.encode(p.Hello(1, 1, "bad", 1 << 24))
    good = [_frame(p.REQUEST, 1, _REQUEST), _frame(p.PING, 0), _frame(p.CLOSE, 1), _frame(p.REQUEST, 3, _REQUEST)]
    for _ in range(60):
        data = bytearray(b"".join(chance.choices(good, k=4)))
        for _ in range(chance.randint(0, 3)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        left, right = socket.socketpair()
        right.sendall(_frame(p.HELLO, 0, hello) + data)
        right.shutdown(socket.SHUT_WR)
        with Connection(left, "bad", client=False) as connection, pytest.raises(errors.Error):
            while connection.accept(5):
                pass
        assert type(connection.failed) in (p.Garbled, Closed)
        right.close()


def test_who_waits_is_told_when_the_other_side_dies(both: tuple[Connection, Connection]) -> None:
    client, server = both
    call = client.call("x", Word(""))
    threading.Timer(0.2, server.close).start()
    with pytest.raises(Closed):
        call.receive(5)
    with pytest.raises(Closed):
        client.call("x", Word(""))
    with pytest.raises(Closed):
        client.accept()


def test_a_message_that_meets_the_end_of_its_call_weighs_nothing_afterwards(
    both: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came when the call had been closed but was still known: what `most` is counted by went up for good."""
    client, server = both
    call = client.call("put", Word(""))
    there = server.accept(5)
    assert there is not None
    taken = threading.Event()
    take, forget = there._take, server._forget

    def taking(message: p.Message) -> None:
        take(message)
        taken.set()

    def late(number: int) -> None:
        call.send(None, bytes(1 << 20))
        assert taken.wait(10)
        forget(number)

    monkeypatch.setattr(there, "_take", taking)
    monkeypatch.setattr(server, "_forget", late)
    there.close()
    assert taken.is_set() and server._weight == 0 and not there._arrived


def test_who_sends_while_the_connection_is_let_go_of_is_told_that_it_is_closed() -> None:
    near, far = socket.socketpair()
    wire = Wire(near, "peer", 5)
    wire.release()
    with far, pytest.raises(Closed):
        wire.send(b"x")


def test_a_connection_that_was_let_go_of_keeps_no_memory_for_what_comes(both: tuple[Connection, Connection]) -> None:
    """Errors with their tracebacks hold it until the collector of cycles comes by."""
    client, server = both
    with client.call("x", Word("much")) as call:
        call.send(None, bytes(p.MAX_BODY))
        there = server.accept(5)
        assert there is not None and len(there.receive(5).body) == p.MAX_BODY and server._wire._buffers._made
    client.join()
    server.join()
    assert not server._wire._buffers._made
