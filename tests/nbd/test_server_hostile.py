"""Clients that break the NBD protocol: each is refused or dropped, and the next one is served."""

from __future__ import annotations

import random
import socket
import struct

import pytest

from secondsite.engine.nbd import protocol as p
from secondsite.engine.nbd.client import Connection

MIB = 1 << 20


class Client:
    """A socket, and what is needed to say anything."""

    def __init__(self, served, flags=3):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(served.socket))
        assert self.receive(p.GREETING.size)[:16] == struct.pack(">QQ", p.NBDMAGIC, p.IHAVEOPT)
        if flags is not None:
            self.send(p.CLIENT_FLAGS.pack(flags))

    def send(self, data):
        self.sock.sendall(data)
        return self

    def receive(self, length):
        data = b""
        while len(data) < length:
            part = self.sock.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def option(self, option, data=b"", length=None):
        """The types of the replies to an option."""
        self.send(p.OPTION.pack(p.IHAVEOPT, option, len(data) if length is None else length) + data)
        kinds = []
        while True:
            magic, answered, kind, size = p.OPTION_REPLY.unpack(self.receive(p.OPTION_REPLY.size))
            assert (magic, answered) == (p.OPTION_REPLY_MAGIC, option)
            self.receive(size)
            kinds.append(kind)
            if kind in (p.REP_ACK,) or kind & p.REP_FLAG_ERROR:
                return kinds

    def go(self, structured=False, extended=False, contexts=()):
        if structured:
            assert self.option(p.OPT_STRUCTURED_REPLY) == [p.REP_ACK]
        if extended:
            assert self.option(p.OPT_EXTENDED_HEADERS) == [p.REP_ACK]
        if contexts:
            assert self.option(p.OPT_SET_META_CONTEXT, queries("disk", *contexts))[-1] == p.REP_ACK
        assert self.option(p.OPT_GO, name("disk") + b"\0\0")[-1] == p.REP_ACK
        return self

    def request(self, command, offset, length, flags=0, payload=b"", cookie=7):
        return self.send(p.REQUEST.pack(p.REQUEST_MAGIC, flags, command, cookie, offset, length) + payload)

    def simple(self):
        magic, error, cookie = p.SIMPLE_REPLY.unpack(self.receive(p.SIMPLE_REPLY.size))
        assert (magic, cookie) == (p.SIMPLE_REPLY_MAGIC, 7)
        return error

    def ended(self):
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True


def name(text):
    return p.U32.pack(len(text.encode())) + text.encode()


def queries(export, *texts):
    return name(export) + p.U32.pack(len(texts)) + b"".join(map(name, texts))


@pytest.fixture(autouse=True)
def still_served(served):
    """Whatever a test did, the server then serves; the data are as before unless the test wrote on purpose."""
    before = served.file.read_bytes()
    yield
    with Connection.open(served.url) as client:
        data = bytearray(served.disk.size)
        client.read_into(0, data)
    assert bytes(data) == served.file.read_bytes() == before


def test_flags_that_are_none(served):
    assert Client(served, 0xFFFFFFFF).ended()
    assert Client(served, 0).ended()


def test_garbage_in_the_handshake(served):
    chance = random.Random(5)
    for _ in range(30):
        client = Client(served, None)
        try:
            client.send(chance.randbytes(chance.randrange(1, 400)))
            client.sock.shutdown(socket.SHUT_WR)
            while client.sock.recv(4096):
                pass
        except ConnectionError:
            pass


@pytest.mark.parametrize("option", [*range(0, 14), 255, 1 << 31])
@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 4, b"\0" * 6, b"\xff" * 70_000, name("disk"), name("disk") + b"\xff\xff"]
)
def test_options_with_data_that_do_not_fit(served, option, data):
    client = Client(served)
    if option == p.OPT_EXPORT_NAME:
        client.send(p.OPTION.pack(p.IHAVEOPT, option, len(data)) + data)
        assert client.ended() == (data != b"")  # it has no reply to refuse with; no name is the default export
        return
    answer = client.option(option, data)[-1]
    fits = option == p.OPT_GO and data == bytes(6)
    if option not in (p.OPT_ABORT, p.OPT_STRUCTURED_REPLY, p.OPT_EXTENDED_HEADERS) and not fits:
        client.go().request(p.CMD_READ, 0, 512)
        assert client.simple() == 0
    elif data and not fits:
        assert answer & p.REP_FLAG_ERROR


def test_an_option_that_is_too_long_to_be_skipped(served):
    assert Client(served).send(p.OPTION.pack(p.IHAVEOPT, p.OPT_GO, 1 << 31)).ended()


def test_options_without_end(served):
    client = Client(served)
    with pytest.raises((EOFError, ConnectionError)):
        for _ in range(1000):
            client.option(p.OPT_LIST)


def test_contexts_are_bounded(served):
    client = Client(served)
    assert client.option(p.OPT_SET_META_CONTEXT, queries("disk", "base:allocation")) == [p.REP_ERR_INVALID]
    client.option(p.OPT_STRUCTURED_REPLY)
    many = ["base:allocation"] * 2000
    assert client.option(p.OPT_SET_META_CONTEXT, queries("disk", *many)) == [p.REP_META_CONTEXT, p.REP_ACK]
    assert client.option(p.OPT_SET_META_CONTEXT, queries("other", "base:allocation")) == [p.REP_ERR_UNKNOWN]
    assert client.option(p.OPT_LIST_META_CONTEXT, queries("disk", "base:")) == [p.REP_META_CONTEXT, p.REP_ACK]
    assert client.option(p.OPT_LIST_META_CONTEXT, queries("disk", "qemu:")) == [p.REP_ACK]
    assert client.option(p.OPT_STARTTLS) == [p.REP_ERR_POLICY]
    client.go().request(p.CMD_BLOCK_STATUS, 0, MIB)  # the last SET failed, so nothing is agreed on
    head = client.receive(p.STRUCTURED_REPLY.size)
    assert p.STRUCTURED_REPLY.unpack(head)[2] == p.REPLY_TYPE_ERROR


@pytest.mark.parametrize(
    ("command", "offset", "length", "error"),
    [
        (p.CMD_READ, 16 * MIB - 1, 2, p.EINVAL),
        (p.CMD_READ, 1 << 63, 512, p.EINVAL),
        (p.CMD_READ, (1 << 64) - 1, 512, p.EINVAL),
        (p.CMD_READ, 0, (1 << 32) - 1, p.EINVAL),
        (p.CMD_WRITE_ZEROES, 16 * MIB, 1, p.ENOSPC),
        (p.CMD_TRIM, 16 * MIB, 1, p.EINVAL),
        (p.CMD_CACHE, 16 * MIB, 1, p.EINVAL),
        (p.CMD_BLOCK_STATUS, 0, 512, p.EINVAL),
        (p.CMD_RESIZE, 0, 512, p.EINVAL),
        (77, 0, 512, p.EINVAL),
    ],
)
def test_requests_that_do_not_fit_are_refused_and_the_connection_goes_on(served, command, offset, length, error):
    client = Client(served).go()
    assert client.request(command, offset, length).simple() == error
    client.request(p.CMD_READ, 0, 512)
    assert client.simple() == 0 and len(client.receive(512)) == 512


def test_a_write_that_does_not_fit_is_swallowed_whole(served):
    client = Client(served).go()
    for offset in (16 * MIB - 4096, 1 << 62):
        assert client.request(p.CMD_WRITE, offset, 5 * MIB, payload=b"y" * 5 * MIB).simple() == p.ENOSPC
    assert client.request(p.CMD_WRITE, 0, 4096, 0xFFFE, payload=b"y" * 4096).simple() == p.EINVAL
    assert client.request(p.CMD_READ, 0, 0).simple() == 0


def test_a_payload_that_nobody_agreed_to_ends_the_connection(served):
    assert Client(served).go().request(p.CMD_WRITE, 0, p.MAX_PAYLOAD + 1).ended()
    assert Client(served).go().request(p.CMD_WRITE, 0, (1 << 32) - 1).ended()
    client = Client(served).go(extended=True)
    client.send(p.EXTENDED_REQUEST.pack(p.EXTENDED_REQUEST_MAGIC, p.CMD_FLAG_PAYLOAD_LEN, p.CMD_WRITE, 7, 0, 1 << 40))
    assert client.ended()


def test_extended_requests_that_do_not_fit(served):
    client = Client(served).go(extended=True, contexts=("base:allocation",))
    for command, flags, offset, length in (
        (p.CMD_READ, 0, 0, 1 << 40), (p.CMD_READ, 0, (1 << 64) - 8, 8), (p.CMD_WRITE, 0, 0, 512),
        (p.CMD_WRITE_ZEROES, 0, 0, (1 << 64) - 1), (p.CMD_BLOCK_STATUS, 0, 16 * MIB, 1),
    ):  # fmt: skip
        client.send(p.EXTENDED_REQUEST.pack(p.EXTENDED_REQUEST_MAGIC, flags, command, 7, offset, length))
        _, _, kind, cookie, _, size = p.EXTENDED_REPLY.unpack(client.receive(p.EXTENDED_REPLY.size))
        assert kind & p.REPLY_TYPE_FLAG_ERROR and cookie == 7
        client.receive(size)
    # A payload where none belongs is taken off the stream.
    client.send(
        p.EXTENDED_REQUEST.pack(p.EXTENDED_REQUEST_MAGIC, p.CMD_FLAG_PAYLOAD_LEN, p.CMD_READ, 7, 0, 512) + b"z" * 512
    )
    size = p.EXTENDED_REPLY.unpack(client.receive(p.EXTENDED_REPLY.size))[5]
    client.receive(size)
    client.send(p.EXTENDED_REQUEST.pack(p.EXTENDED_REQUEST_MAGIC, 0, p.CMD_BLOCK_STATUS, 7, 0, 16 * MIB))
    _, flags, kind, _, _, size = p.EXTENDED_REPLY.unpack(client.receive(p.EXTENDED_REPLY.size))
    assert kind == p.REPLY_TYPE_BLOCK_STATUS_EXT and flags == p.REPLY_FLAG_DONE
    found = client.receive(size)
    assert struct.unpack(">II", found[:8]) == (0, 3) and sum(struct.unpack(">6Q", found[8:])[0::2]) == 16 * MIB


def test_a_wrong_magic_ends_the_connection(served):
    client = Client(served).go()
    assert client.send(p.REQUEST.pack(1, 0, 0, 7, 0, 512)).ended()


@pytest.mark.parametrize("cut", [1, 27, 28, 29, 4000])
def test_half_a_request(served, cut):
    client = Client(served).go()
    whole = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 7, 1 << 40, 8192) + b"h" * 8192
    client.send(whole[:cut])
    client.sock.close()


def test_vanishing_in_the_middle_of_a_reply(served):
    for _ in range(10):
        client = Client(served).go()
        for _ in range(8):
            client.request(p.CMD_READ, 0, 8 * MIB)
        client.receive(100_000)
        client.sock.close()


def test_garbage_in_the_transmission(served):
    """Read-only commands and noise, seeded: the server must stand, whatever comes."""
    chance = random.Random(11)
    for turn in range(40):
        client = Client(served).go(structured=turn % 2 == 0, extended=turn % 4 == 0)
        try:
            for _ in range(chance.randrange(1, 20)):
                if chance.random() < 0.8:
                    command = chance.choice([p.CMD_READ, p.CMD_CACHE, p.CMD_BLOCK_STATUS, p.CMD_FLUSH, 9])
                    client.request(command, chance.randrange(1 << 34), chance.randrange(1 << 16), chance.randrange(32))
                else:
                    client.send(chance.randbytes(chance.randrange(1, 64)))
            client.sock.shutdown(socket.SHUT_WR)
            while client.sock.recv(1 << 16):
                pass
        except (ConnectionError, TimeoutError):
            pass
        client.sock.close()
