"""Servers that break the NBD protocol: the client says so in one line, in bounded time and memory, and is dead then."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest

from secondsite.engine import errors
from secondsite.engine.nbd import protocol as p
from secondsite.engine.nbd.client import Connection

SIZE = 1 << 20
FLAGS = p.FLAG_HAS_FLAGS | p.FLAG_SEND_FLUSH | p.FLAG_SEND_WRITE_ZEROES
BROKEN = "breaks the NBD protocol"


class Peer:
    """The server's end of one connection, which says whatever a test wants."""

    def __init__(self, sock):
        self.sock = sock

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))

    def receive(self, length):
        data = b""
        while len(data) < length:
            part = self.sock.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def greet(self, flags=3):
        self.send(p.GREETING.pack(p.NBDMAGIC, p.IHAVEOPT, flags))
        self.receive(4)

    def option(self):
        _, option, length = p.OPTION.unpack(self.receive(p.OPTION.size))
        self.receive(length)
        return option

    def reply(self, option, kind, data=b"", length=None, magic=p.OPTION_REPLY_MAGIC):
        self.send(p.OPTION_REPLY.pack(magic, option, kind, len(data) if length is None else length), data)

    def shake(self, headers="structured"):
        """A good handshake."""
        lacking = {"simple": (p.OPT_EXTENDED_HEADERS, p.OPT_STRUCTURED_REPLY), "structured": (p.OPT_EXTENDED_HEADERS,)}
        self.greet()
        while (option := self.option()) != p.OPT_GO:
            if option in lacking.get(headers, ()):
                self.reply(option, p.REP_ERR_UNSUP)
                continue
            if option == p.OPT_SET_META_CONTEXT:
                self.reply(option, p.REP_META_CONTEXT, p.U32.pack(1) + p.CONTEXT_ALLOCATION.encode())
            self.reply(option, p.REP_ACK)
        self.reply(option, p.REP_INFO, p.REP_INFO_EXPORT.pack(p.INFO_EXPORT, SIZE, FLAGS))
        self.reply(option, p.REP_ACK)

    def request(self):
        """Command, cookie, offset and length of the next one."""
        _, _, command, cookie, offset, length = p.REQUEST.unpack(self.receive(p.REQUEST.size))
        return command, cookie, offset, length

    def simple(self, cookie, error=0, data=b""):
        self.send(p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, error, cookie), data)

    def chunk(self, cookie, kind, data=b"", flags=p.REPLY_FLAG_DONE, length=None):
        length = len(data) if length is None else length
        self.send(p.STRUCTURED_REPLY.pack(p.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, length), data)


@pytest.fixture
def against(short_dir):
    """A function: the URL of a server that has one connection, and plays a script with it."""
    threads, listeners = [], []

    def start(script):
        path = short_dir / f"hostile{len(threads)}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(20)

        def play():
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(20)
                try:
                    script(Peer(sock))
                    sock.recv(1 << 16)  # until the client has had enough
                except (EOFError, OSError):
                    pass

        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        threads.append(thread)
        listeners.append(listener)
        return f"nbd+unix:///x?socket={path}"

    yield start
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for listener in listeners:
        listener.close()


# -- the handshake ---------------------------------------------------------------------------------------------


def until(option, *said):
    """A handshake that is good up to an option, which gets other replies: (kind, data, length)."""

    def script(peer):
        peer.greet()
        while (asked := peer.option()) != option:
            peer.reply(asked, p.REP_ACK)
        for each in said:
            peer.reply(option, *each)

    return script


EXPORT_INFO = (p.REP_INFO, p.REP_INFO_EXPORT.pack(p.INFO_EXPORT, SIZE, FLAGS))
ACK = (p.REP_ACK,)


def block_info(*sizes):
    return (p.REP_INFO, p.REP_INFO_BLOCK_SIZE.pack(p.INFO_BLOCK_SIZE, *sizes))


def context(number, text):
    return (p.REP_META_CONTEXT, struct.pack(">I", number) + text)


ALLOCATION = p.CONTEXT_ALLOCATION.encode()
HANDSHAKES = {
    "nothing": (lambda peer: peer.sock.shutdown(socket.SHUT_RDWR), "closed the connection"),
    "another protocol": (lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "no NBD server"),
    "old style": (lambda peer: peer.send(struct.pack(">QQQ", p.NBDMAGIC, p.CLISERV_MAGIC, 0)), "old protocol"),
    "not fixed": (lambda peer: peer.greet(0), "fixed newstyle"),
    "wrong magic": (until(p.OPT_EXTENDED_HEADERS, (p.REP_ACK, b"", 0, 17)), BROKEN),
    "half a reply": (lambda peer: (peer.greet(), peer.option(), peer.send(b"\0" * 7), peer.sock.close()), "closed|bro"),
    "a reply of 4 GiB": (until(p.OPT_EXTENDED_HEADERS, (p.REP_ACK, b"", (1 << 32) - 1)), BROKEN),
    "another kind": (until(p.OPT_EXTENDED_HEADERS, (p.REP_SERVER, b"")), BROKEN),
    "replies without end": (until(p.OPT_GO, *[EXPORT_INFO] * 100, ACK), BROKEN),
    "no size": (until(p.OPT_GO, ACK), BROKEN),
    "half an information": (until(p.OPT_GO, (p.REP_INFO, b"\0\0\0"), ACK), BROKEN),
    "an information of one byte": (until(p.OPT_GO, (p.REP_INFO, b"\0"), ACK), BROKEN),
    "16 EiB": (until(p.OPT_GO, (p.REP_INFO, p.REP_INFO_EXPORT.pack(0, (1 << 64) - 1, FLAGS)), ACK), BROKEN),
    "blocks of 0": (until(p.OPT_GO, EXPORT_INFO, block_info(0, 4096, 1 << 25), ACK), BROKEN),
    "blocks of 3": (until(p.OPT_GO, EXPORT_INFO, block_info(3, 4096, 1 << 25), ACK), BROKEN),
    "blocks of 1 GiB": (until(p.OPT_GO, EXPORT_INFO, block_info(1 << 30, 1 << 30, 1 << 31), ACK), BROKEN),
    "largest below smallest": (until(p.OPT_GO, EXPORT_INFO, block_info(512, 4096, 256), ACK), BROKEN),
    "a context of no number": (until(p.OPT_SET_META_CONTEXT, (p.REP_META_CONTEXT, b"\0\0"), ACK), BROKEN),
    "a context unasked": (until(p.OPT_SET_META_CONTEXT, context(1, b"x:y"), ACK), BROKEN),
    "a context twice": (until(p.OPT_SET_META_CONTEXT, *[context(1, ALLOCATION)] * 2, ACK), BROKEN),
    "shutting down": (until(p.OPT_GO, (p.REP_ERR_SHUTDOWN,)), "shutting down"),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDSHAKES)
def test_handshakes(against, name):
    script, said = HANDSHAKES[name]
    with pytest.raises(errors.Unreachable, match=said) as caught:
        Connection.open(against(script), timeout=5)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_what_a_server_says_does_not_steer_the_terminal(against):
    said = b"\x1b[2J\x1b]0;owned\x07 no\nsuch \xff" + b"x" * 4000
    with pytest.raises(errors.Refused) as caught:
        Connection.open(against(until(p.OPT_GO, (p.REP_ERR_UNKNOWN, said))), timeout=5)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize("slowly", [False, True])
def test_a_silent_server_is_given_up(against, slowly):
    """Also one that sends a byte now and then."""

    def script(peer):
        greeting = p.GREETING.pack(p.NBDMAGIC, p.IHAVEOPT, 3)
        for byte in greeting if slowly else b"":
            peer.send(bytes([byte]))
            time.sleep(0.15)

    began = time.monotonic()
    with pytest.raises(errors.Unreachable, match="no answer within"):
        Connection.open(against(script), timeout=0.5)
    assert time.monotonic() - began < 3


# -- the transmission --------------------------------------------------------------------------------------------


def data_at(offset, data):
    return p.OFFSET_DATA.pack(offset) + data


def answer(headers, reply):
    """A good handshake, one request, and what a test replies to it."""

    def script(peer):
        peer.shake(headers)
        _, cookie, offset, length = peer.request()
        reply(peer, cookie, offset, length)

    return script


READS = {
    "garbage": ("simple", lambda s, c, o, n: s.send(b"\xa5" * 64)),
    "another cookie": ("simple", lambda s, c, o, n: s.simple(c + 1)),
    "structure unasked": ("simple", lambda s, c, o, n: s.chunk(c, 1, data_at(o, bytes(n)))),
    "no structure": ("structured", lambda s, c, o, n: s.simple(c, 0, bytes(n))),
    "nothing at all": ("structured", lambda s, c, o, n: s.chunk(c, p.REPLY_TYPE_NONE)),
    "a part": ("structured", lambda s, c, o, n: s.chunk(c, 1, data_at(o, bytes(n - 1)))),
    "more": ("structured", lambda s, c, o, n: s.chunk(c, 1, data_at(o, bytes(n + 1)))),
    "4 GiB of it": ("structured", lambda s, c, o, n: s.chunk(c, 1, data_at(o, b""), length=(1 << 32) - 1)),
    "elsewhere": ("structured", lambda s, c, o, n: s.chunk(c, 1, data_at(o + n, bytes(n)))),
    "before": ("structured", lambda s, c, o, n: s.chunk(c, 1, data_at(o - 1, bytes(n)))),
    "no data": ("structured", lambda s, c, o, n: s.chunk(c, 1, data_at(o, b""))),
    "twice": ("structured", lambda s, c, o, n: [s.chunk(c, 1, data_at(o, bytes(n)), flags=f) for f in (0, 1)]),
    "overlapping": ("structured", lambda s, c, o, n: [
        s.chunk(c, 1, data_at(o, bytes(n // 2 + 1)), flags=0),
        s.chunk(c, 1, data_at(o + n // 2, bytes(n // 2)))]),
    "a hole of more": ("structured", lambda s, c, o, n: s.chunk(c, 2, p.OFFSET_HOLE.pack(o, n + 1))),
    "a hole of nothing": ("structured", lambda s, c, o, n: s.chunk(c, 2, p.OFFSET_HOLE.pack(o, 0))),
    "half a hole": ("structured", lambda s, c, o, n: s.chunk(c, 2, b"\0" * 11)),
    "a status": ("structured", lambda s, c, o, n: s.chunk(c, 5, p.BLOCK_STATUS.pack(1) + p.DESCRIPTOR.pack(n, 0))),
    "an unknown sort": ("structured", lambda s, c, o, n: s.chunk(c, 77, bytes(n))),
    "a long message": ("structured", lambda s, c, o, n: s.chunk(c, 0x8001, p.ERROR.pack(5, 900) + b"x")),
    "an error of 4 GiB": ("structured", lambda s, c, o, n: s.chunk(c, 0x8001, length=(1 << 32) - 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", READS)
def test_reads(against, name):
    headers, reply = READS[name]
    client = Connection.open(against(answer(headers, reply)), timeout=5)
    around = memoryview(bytearray(b"\xee" * 12288))
    with pytest.raises(errors.Unreachable, match=BROKEN):
        client.read_into(4096, around[4096:8192])
    assert bytes(around[:4096]) == bytes(around[8192:]) == b"\xee" * 4096
    with pytest.raises(errors.Unreachable, match="the connection is dead"):
        client.read_into(0, bytearray(512))
    client.disconnect()


STATUSES = {
    "of nothing": p.BLOCK_STATUS.pack(1) + p.DESCRIPTOR.pack(0, 0),
    "without stretches": p.BLOCK_STATUS.pack(1),
    "of another context": p.BLOCK_STATUS.pack(9) + p.DESCRIPTOR.pack(512, 0),
    "of more than asked": p.BLOCK_STATUS.pack(1) + p.DESCRIPTOR.pack(4096, 0) * 2,
    "of half a stretch": p.BLOCK_STATUS.pack(1) + b"\0" * 7,
}


@pytest.mark.parametrize("name", STATUSES)
def test_statuses(against, name):
    def reply(peer, cookie, offset, length):
        peer.chunk(cookie, p.REPLY_TYPE_BLOCK_STATUS, STATUSES[name])

    client = Connection.open(against(answer("structured", reply)), timeout=5)
    with pytest.raises(errors.Unreachable, match=BROKEN):
        client.block_status(0, 4096)


def test_a_status_may_say_more_than_was_asked_but_not_past_the_end(against):
    def reply(peer, cookie, offset, length):
        peer.chunk(cookie, p.REPLY_TYPE_BLOCK_STATUS, p.BLOCK_STATUS.pack(1) + p.DESCRIPTOR.pack((1 << 32) - 1, 3))

    client = Connection.open(against(answer("structured", reply)), timeout=5)
    assert client.block_status(4096, 4096) == [(SIZE - 4096, 3)]


def test_the_end_in_the_middle_of_a_reply(against):
    def reply(peer, cookie, offset, length):
        peer.chunk(cookie, 1, data_at(offset, bytes(length // 2)), length=8 + length)
        peer.sock.shutdown(socket.SHUT_RDWR)

    client = Connection.open(against(answer("structured", reply)), timeout=5)
    with pytest.raises(errors.Unreachable, match="closed the connection"):
        client.read_into(0, bytearray(4096))
    with pytest.raises(errors.Unreachable, match="the connection is dead"):
        client.flush()


def test_extended_replies_name_their_request(against):
    def script(peer):
        peer.shake("extended")
        _, _, _, cookie, offset, length = p.EXTENDED_REQUEST.unpack(peer.receive(p.EXTENDED_REQUEST.size))
        head = (p.EXTENDED_REPLY_MAGIC, 1, 1, cookie, offset + 1, 8 + length)
        peer.send(p.EXTENDED_REPLY.pack(*head), data_at(offset, bytes(length)))

    client = Connection.open(against(script), timeout=5)
    with pytest.raises(errors.Unreachable, match=BROKEN):
        client.read_into(0, bytearray(4096))


@pytest.mark.parametrize(
    ("number", "kind"),
    [(p.ENOSPC, errors.Full), (p.EPERM, errors.Refused), (p.EIO, errors.Unreachable), (4711, errors.Unreachable)],
)
def test_after_an_error_of_a_request_the_connection_goes_on(against, number, kind):
    def reply(peer, cookie, offset, length):
        said = b"no\x1b[0m way"
        peer.chunk(cookie, p.REPLY_TYPE_ERROR, p.ERROR.pack(number, len(said)) + said)
        _, cookie, offset, length = peer.request()
        peer.chunk(cookie, 1, data_at(offset + 1, b"b" * (length - 1)), flags=0)
        peer.chunk(cookie, 1, data_at(offset, b"a"))

    data = bytearray(4096)
    with Connection.open(against(answer("structured", reply)), timeout=5) as client:
        with pytest.raises(kind) as caught:
            client.read_into(0, bytearray(4096))
        assert str(caught.value).isprintable() and "no?[0m way" in str(caught.value)
        client.read_into(0, data)
    assert data == b"a" + b"b" * 4095


def test_a_server_that_shuts_down_is_not_asked_again(against):
    def reply(peer, cookie, offset, length):
        peer.simple(cookie, p.ESHUTDOWN)

    client = Connection.open(against(answer("simple", reply)), timeout=5)
    with pytest.raises(errors.Unreachable, match="shutting down"):
        client.read_into(0, bytearray(512))
    with pytest.raises(errors.Unreachable, match="the connection is dead"):
        client.read_into(0, bytearray(512))


def test_a_server_that_does_not_take_a_write_is_given_up(against):
    client = Connection.open(against(lambda peer: (peer.shake(), time.sleep(2))), timeout=0.5)
    with pytest.raises(errors.Unreachable, match="no answer within"):
        client.write(0, bytes(SIZE))


def test_no_tls_where_it_is_wanted(against):
    def script(peer):
        peer.greet()
        peer.reply(peer.option(), p.REP_ERR_UNSUP)

    with pytest.raises(errors.Refused, match="TLS"):
        Connection.open(against(script).replace("nbd+", "nbds+"), timeout=5)


def test_bytes_that_were_sent_ahead_of_tls_are_not_believed(against):
    """Replies in the clear behind the one that starts TLS, by somebody in between, are no TLS."""

    def script(peer):
        peer.greet()
        option = peer.option()
        ahead = p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, p.OPT_EXTENDED_HEADERS, p.REP_ACK, 0)
        peer.send(p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, option, p.REP_ACK, 0), ahead)

    with pytest.raises(errors.Unreachable, match="no TLS"):
        Connection.open(against(script).replace("nbd+", "nbds+"), timeout=5)
