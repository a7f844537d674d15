"""Everything that is parsed of what another host says: mutated at random, it is that thing or an error of ours.

Seeded. Checksums are made right again after a mutation, so that what lies behind them is reached too.
"""

from __future__ import annotations

import inspect
import random
import socket
import threading
import types
import typing
from array import array
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import pytest
from transfer import BLOCK, Fault, Pair, Proxy, scribble

from secondsite.engine import errors, kernel
from secondsite.engine.batch import Batch
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.writer import FrameBuffer
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.remote import questions, talk
from secondsite.engine.remote.link import calls, protocol
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.trust import access, agents, pairing

pytestmark = pytest.mark.timeout(300)
STRUCTS = [
    kind
    for module in (protocol, calls, talk, questions, pairing, access, agents)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
]


# -- control parts ------------------------------------------------------------------------------------------------


def example(kind: Any, chance: random.Random) -> Any:
    """A value of a type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return example(chance.choice(inner), chance)
    if origin is Annotated:  # a number within bounds
        return min(max(example(inner[0], chance), inner[1].ge), inner[1].le)
    if origin is Literal:
        return chance.choice(inner)
    if origin is list:
        return [example(inner[0], chance) for _ in range(chance.randrange(4))]
    if origin is tuple:
        return tuple(example(one, chance) for one in inner)
    if origin is dict:
        return {example(inner[0], chance): example(inner[1], chance) for _ in range(chance.randrange(3))}
    if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=True)
        return kind(**{field.name: example(hints[field.name], chance) for field in msgspec.structs.fields(kind)})
    simple: dict[Any, Callable[[], Any]] = {
        int: lambda: chance.choice((0, 1, -1, 7, 1 << 20, (1 << 63) - 1)), float: lambda: chance.random() * 1e9,
        bool: lambda: chance.random() < 0.5, str: lambda: chance.choice(("", "disk", "é" * 30, "../x", "\0")),
        bytes: lambda: chance.randbytes(chance.choice((0, 16, 100))), type(None): lambda: None,
        msgspec.Raw: lambda: msgspec.Raw(msgspec.msgpack.encode(["x"])),
    }  # fmt: skip
    return simple[kind]()


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few bytes of it changed, cut out, doubled, or the end cut off."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out)) if out else 0
        what = chance.randrange(5)
        if what == 0 and out:
            out[at] ^= 1 << chance.randrange(8)
        elif what == 1 and out:
            out[at] = chance.choice((0x00, 0x7F, 0x80, 0xC0, 0xC1, 0xC6, 0xDD, 0xDF, 0xFF, chance.randrange(256)))
        elif what == 2:
            del out[at : at + chance.randint(1, 8)]
        elif what == 3:
            out[at:at] = out[at : at + chance.randint(1, 8)]
        else:
            del out[chance.randrange(len(out) + 1) :]
    return bytes(out)


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_any_mutation_of_a_control_part_is_that_type_or_garbled(kind: Any, sweep: bool) -> None:
    chance, refused = random.Random(kind.__name__), 0
    for _ in range(20_000 if sweep else 300):
        good = protocol.encode(example(kind, chance))
        assert isinstance(protocol.decode(good, kind, "peer"), kind)
        try:
            found = protocol.decode(mutated(good, chance), kind, "peer")
            assert isinstance(found, kind)
            for parse in (talk.from_source, talk.from_replica):
                parse(mutated(good, chance), "peer")
        except protocol.Garbled as error:
            assert "peer" in str(error)
            refused += 1
    assert refused > 50


# -- frames and what a sender says --------------------------------------------------------------------------------


def frames(pair: Pair, state: talk.State, chance: random.Random) -> list[bytearray]:
    """Good frames of some blocks as they are in the source, each packed in another way; and one of zeros."""
    tag, made = int.from_bytes(state.replica_id[:8], "little"), []
    for codec in ((fmt.NONE, 0), (fmt.LZ4, 1), (fmt.ZSTD, 1)):
        batch = Batch(BLOCK, 64 * BLOCK)
        numbers = sorted(chance.sample(range(pair.image.size // BLOCK), 5))
        data = b"".join(bytes(pair.image.read(number * BLOCK, BLOCK)) for number in numbers)
        batch.blocks[:5], batch.lengths[:5] = array("Q", numbers), array("I", [BLOCK] * 5)
        batch.payload[: len(data)] = data
        batch.count, batch.used = 5, len(data)
        batch.hashes[: 16 * 5] = batch.rehash(state.seed)
        buffer = FrameBuffer(*codec)
        buffer.encode(batch, tag)
        made.append(bytearray(buffer.data[: buffer.used]))
    body = array("Q", [2, 3, 9, 1]).tobytes()
    zeros = fmt.FRAME.pack(fmt.FRAME_MAGIC, fmt.ZEROS, 0, 0, 2, len(body), 0, 0, tag, 2, 9, bytes(16))
    return [*made, bytearray(zeros + body)]


def resealed(frame: bytearray, tag: int, chance: random.Random) -> bytes:
    """A frame of which a field, the table or the payload was changed; its checksum holds."""
    head, body = list(fmt.FRAME.unpack(frame[: fmt.FRAME_BYTES])), bytearray(frame[fmt.FRAME_BYTES :])
    for _ in range(chance.randrange(3)):
        field = chance.choice((1, 2, 4, 5, 6, 9, 10))
        most = 255 if field < 3 else (1 << 32) - 1 if field < 7 else (1 << 64) - 1
        head[field] = min(max(chance.choice((0, 1, 2, 255, most, head[field] + 1, head[field] - 1)), 0), most)
    if chance.random() < 0.7:
        body = bytearray(mutated(bytes(body), chance))
        if chance.random() < 0.7:
            head[5] = len(body)
    return sealed(head, bytes(body), tag)


def sealed(head: list[Any], body: bytes, tag: int) -> bytes:
    """A frame with a checksum that holds."""
    first = fmt.FRAME.pack(*head[:-1], kernel.scan.hash_block(body, tag))
    return fmt.FRAME.pack(*head[:-1], kernel.scan.hash_block(first, tag)) + body


def rubbish(pair: Pair, state: talk.State, chance: random.Random) -> tuple[bytes, bytes]:
    """A message of a sender's, as control part and body: right, a little wrong, or nothing of the kind."""
    tag = int.from_bytes(state.replica_id[:8], "little")
    finish = talk.Finish(
        seal=chance.choice((state.seal, "00" * 32, "x")), tracker="scan" * chance.choice((1, 500)),
        read_bytes=chance.choice((-1, 5)),
        changed_bytes=1 << 62, sent_bytes=0,
    )  # fmt: skip
    pages = [], [0], [-1, 1 << 40], [0] * 65
    asks = [talk.Ask(what, some) for what in ("table", "pages", "spool", "x") for some in pages]
    control = chance.choice([*[talk.Frames()] * 6, finish, *asks])
    some = frames(pair, state, chance)
    body = b"".join(resealed(one, tag, chance) for one in chance.choices(some, k=chance.randint(1, 3)))
    coded = protocol.encode(control)
    if chance.random() < 0.1:
        coded = mutated(coded, chance)
    return coded, body if isinstance(control, talk.Frames) else b""


@pytest.mark.parametrize("first", [True, False])
def test_a_paired_sender_that_says_anything_makes_no_wrong_point(first: bool, sweep: bool) -> None:
    """Nothing but errors of ours at the receiver; points stay, and a good cycle afterwards is a good one."""
    chance = random.Random(f"sender {first}")
    pair = Pair(MemoryImage(random.Random(1).randbytes(64 * BLOCK - 100)))
    if not first:
        pair.cycle()
        pair.note()
    for number in range(2000 if sweep else 60):
        scribble(pair.image, chance, 5)
        _session(pair, chance)
        assert not pair.unexpected, pair.unexpected
        if not first:
            assert pair.points()[-1].generation == max(pair.kept)
        if number % 20 == 19 and not first:
            _good(pair)
    _good(pair)


def _good(pair: Pair) -> None:
    """A cycle of who means well comes over, at the latest after what others left is dropped."""
    try:
        pair.cycle()
    except errors.Error as error:
        assert error.retryable, error
        pair.cycle()
    pair.note()
    pair.kept = dict(sorted(pair.kept.items())[-3:])
    pair.check()


def _session(pair: Pair, chance: random.Random) -> None:
    left, right = socket.socketpair()
    server = threading.Thread(target=pair.serve, args=(right,))
    server.start()
    begin = talk.Begin(name="disk", source="name:disk", source_format="raw", size=pair.image.size, block_size=BLOCK)
    try:
        connection = Connection(left, "replica", client=True, idle=10)
        with connection, connection.call(talk.OPERATION, begin) as call:
            state = protocol.decode(call.receive(10).control, talk.State, "replica")
            for _ in range(chance.randint(1, 6)):
                control, body = rubbish(pair, state, chance)
                call._send(protocol.DATA, control, body, protocol.CHECKED if chance.random() < 0.5 else 0)
                while call.wait(0.01):
                    call.receive(10)
    except errors.Error:
        pass
    server.join(20)
    assert not server.is_alive()
    right.close()


def test_what_was_spooled_and_leads_nowhere_is_dropped_and_not_held_against_who_comes_next() -> None:
    """P13. Where nothing was spooled before, trying again would change nothing, and it is the sender's own damage."""
    pair = Pair(MemoryImage(random.Random(1).randbytes(800 * BLOCK)))
    pair.cycle()
    scribble(pair.image, random.Random(2), 1500, zeros=False)
    with pytest.raises(errors.Unreachable):
        pair.cycle(Proxy(Fault("cut", 1_500_000)), codec=(fmt.NONE, 0), workers=1)
    with pair.files.open(f"{pair.root}/incoming.spool", "rw") as file:
        head = fmt.FrameHeader.unpack(file.read_bytes(fmt.HEADER_BYTES, fmt.FRAME_BYTES))
        body = bytearray(file.read_bytes(fmt.HEADER_BYTES + fmt.FRAME_BYTES, head.stored))
        body[-1] ^= 1
        file.write(fmt.HEADER_BYTES, sealed(list(head), bytes(body), head.tag))
    with pytest.raises(protocol.Garbled, match="was dropped"):
        pair.cycle()
    pair.cycle()
    pair.note()
    pair.check()


# -- what a replica says ------------------------------------------------------------------------------------------


def answers(chance: random.Random) -> Callable[[Any], Any]:
    """How a replica's messages are changed on their way to the sender."""
    wild = (0, 1, -1, BLOCK, 1 << 33, 1 << 34, 1 << 50, (1 << 63) - 1)

    def change(value: Any) -> Any:
        if value is None or chance.random() < 0.6:
            return value
        field = chance.choice(msgspec.structs.fields(type(value)) or [None])
        if field is None:
            return value
        was = getattr(value, field.name)
        new: dict[type, Any] = {int: chance.choice(wild), bytes: chance.randbytes(16)}
        return msgspec.structs.replace(value, **{field.name: new.get(type(was), "x")})

    return change


def test_a_replica_that_says_anything_costs_its_sender_an_error(monkeypatch: pytest.MonkeyPatch, sweep: bool) -> None:
    chance, failed = random.Random("replica"), 0
    send = calls.Call.send
    change = answers(chance)

    def spoiled(self: calls.Call, value: Any = None, body: Any = b"", **options: Any) -> None:
        if self.peer == "source":
            value = change(value)
            if len(body) and chance.random() < 0.3:
                body = mutated(bytes(body), chance)
        send(self, value, body, **options)

    pair = Pair(MemoryImage(random.Random(1).randbytes(200 * BLOCK)))
    for number in range(1000 if sweep else 60):
        scribble(pair.image, chance, 20)
        if number % 3 == 0:
            for name in pair.state.listdir("/state") if pair.state.exists("/state") else []:
                pair.state.unlink(f"/state/{name}")  # then the map is fetched
        with monkeypatch.context() as patch:
            patch.setattr(calls.Call, "send", spoiled)
            try:
                pair.cycle()
            except errors.Error:
                failed += 1
        assert not pair.unexpected, pair.unexpected
    assert failed > 20
    pair.cycle()
    pair.note()
    pair.check()
