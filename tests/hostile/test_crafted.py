"""Files whose checksums hold and whose numbers are absurd: refused before anything is allocated for them."""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors, kernel
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import HEADER, MAGIC, PAGE_BYTES, BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import DeltaReader
from secondsite.engine.delta.writer import DeltaWriter, FrameBuffer
from secondsite.engine.images import RawImage
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.replica import record

ROOT = "/vault/r"
REPLICA = bytes(range(16))
SIZE = 10 * 4096 + 100
# A frame's body is at most 4.2 MiB, and reading one makes a copy or two.
ROOM = 20 << 20


def header(**changes: Any) -> fmt.Header:
    return fmt.Header(REPLICA, 4096, 2, 1, SIZE, SIZE, 1)._replace(**changes)


def frame(kind: int, body: bytes, tag: int, **fields: int) -> bytes:
    """A frame whose checksum holds, whatever its fields say."""
    values = {
        "magic": fmt.FRAME_MAGIC,
        "kind": kind,
        "codec": 0,
        "flags": 0,
        "entries": 0,
        "stored": len(body),
    }
    values |= {"raw": 0, "reserved": 0, "tag": tag, "first": 0, "last": 0} | fields
    digest = kernel.scan.hash_block(body, tag)
    head = fmt.FRAME.pack(*values.values(), digest)
    return fmt.FRAME.pack(*values.values(), kernel.scan.hash_block(head, tag)) + body


def refused(data: bytes, read: Callable[[DeltaReader], Any]) -> None:
    """It is Damaged, names the file, and takes little memory to find out."""
    image = MemoryImage(data, path="crafted.undo")
    tracemalloc.start()
    try:
        with pytest.raises(errors.Damaged, match=r"crafted\.undo"):
            read(DeltaReader(image, "crafted.undo"))
        assert tracemalloc.get_traced_memory()[1] < ROOM
    finally:
        tracemalloc.stop()


def everything(reader: DeltaReader) -> None:
    decoder = kernel.codec.Decoder()
    for one in reader.frames():
        if one.blocks:
            one.decode(decoder)


def table(*blocks: int) -> bytes:
    return array("Q", blocks).tobytes() + bytes(16 * len(blocks))


DATA = {
    "no blocks": (b"", {"entries": 0}),
    "more blocks than the body": (table(1), {"entries": 1 << 31, "raw": 4096, "first": 1, "last": 1}),
    "all the blocks there are": (table(1), {"entries": (1 << 32) - 1, "raw": 4096}),
    "a block past the end": (table(11) + bytes(4096), {"entries": 1, "raw": 4096, "first": 11, "last": 11}),
    "the last block of all": (table((1 << 64) - 1), {"entries": 1, "raw": 4096}),
    "blocks that descend": (table(3, 2) + bytes(8192), {"entries": 2, "raw": 8192, "first": 3, "last": 2}),
    "a block twice": (table(3, 3) + bytes(8192), {"entries": 2, "raw": 8192, "first": 3, "last": 3}),
    "too much payload": (table(1) + bytes(8192), {"entries": 1, "raw": 8192, "first": 1, "last": 1}),
    "a whole tail block": (table(10) + bytes(4096), {"entries": 1, "raw": 4096, "first": 10, "last": 10}),
    "4 GiB of payload": (table(1), {"entries": 1, "raw": (1 << 32) - 1, "first": 1, "last": 1}),
    "another span than it holds": (
        table(1) + bytes(4096),
        {"entries": 1, "raw": 4096, "first": 0, "last": 9},
    ),
    "an unknown codec": (
        table(1) + bytes(4096),
        {"entries": 1, "raw": 4096, "first": 1, "last": 1, "codec": 77},
    ),
}
ZEROS = {
    "no runs": ((), {"entries": 0}),
    "more runs than the body": ((0, 1), {"entries": 1 << 30}),
    "an empty run": ((0, 0), {"entries": 1}),
    "a run past the end": ((5, 7), {"entries": 1, "first": 5, "last": 11}),
    "a run of everything": ((0, (1 << 64) - 1), {"entries": 1}),
    "a start past everything": (((1 << 64) - 1, 1), {"entries": 1}),
    "runs that overlap": ((0, 4, 3, 2), {"entries": 2, "last": 4}),
}


@pytest.mark.parametrize("what", DATA)
def test_data_frames(what: str) -> None:
    body, fields = DATA[what]
    lead = header()
    refused(lead.pack() + frame(fmt.DATA, body, lead.tag, **fields), everything)


@pytest.mark.parametrize("what", ZEROS)
def test_frames_of_zeros(what: str) -> None:
    runs, fields = ZEROS[what]
    lead = header()
    refused(lead.pack() + frame(fmt.ZEROS, array("Q", runs).tobytes(), lead.tag, **fields), everything)


@pytest.mark.parametrize("codec", [fmt.LZ4, fmt.ZSTD])
def test_a_bomb_has_no_more_room_than_its_blocks(codec: int) -> None:
    """64 MiB of one byte packed into a frame that says it has one block."""
    bomb = b"x" * (64 << 20)
    batch = Batch(1 << 22, len(bomb))
    batch.blocks[0], batch.lengths[0], batch.count, batch.used = 0, 1 << 22, 1, 1 << 22
    batch.payload[: 1 << 22] = bomb[: 1 << 22]
    lead = header(block_size=1 << 22, target_size=1 << 30, base_size=1 << 30)
    buffer = FrameBuffer(codec, 1)
    buffer.encode(batch, lead.tag)
    packed = bytes(buffer.data[fmt.FRAME_BYTES + 24 : buffer.used])
    small = header()
    body = table(1) + packed
    crafted = frame(fmt.DATA, body, small.tag, entries=1, raw=4096, first=1, last=1, codec=codec)
    del bomb, batch
    refused(small.pack() + crafted, everything)


@pytest.mark.parametrize("kind", [fmt.DATA, fmt.ZEROS, fmt.INDEX, fmt.END, 0, 99])
def test_a_length_past_the_file(kind: int) -> None:
    lead = header()
    refused(lead.pack() + frame(kind, b"", lead.tag, stored=(1 << 32) - 1), everything)


def test_an_index_longer_than_the_frames_before_it(tmp_path: Any) -> None:
    """In a sparse file 3 GiB of index cost an attacker nothing, and a reader all of its memory."""
    lead = header()
    path = tmp_path / "crafted.undo"
    stored = 3 << 30
    packed = fmt.FRAME.pack(
        fmt.FRAME_MAGIC, fmt.INDEX, 0, 0, stored // 24, stored, 0, 0, lead.tag, 0, 0, bytes(16)
    )
    with path.open("wb") as file:
        file.write(lead.pack() + packed)
        file.truncate(4 << 30)
    tracemalloc.start()
    try:
        with RawImage(path) as image, pytest.raises(errors.Damaged, match="does not fit"):
            everything(DeltaReader(image, str(path)))
        assert tracemalloc.get_traced_memory()[1] < ROOM
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "changes",
    [
        {"block_size": 0}, {"block_size": 4097}, {"block_size": 256}, {"block_size": 1 << 31},
        {"target_size": (1 << 64) - 1}, {"base_size": (1 << 64) - 1},
    ],
)  # fmt: skip
def test_delta_headers(changes: dict[str, int]) -> None:
    refused(header(**changes).pack(), everything)


def whole_delta() -> bytes:
    """A good delta of three frames."""
    image = MemoryImage()
    writer = DeltaWriter(image, header())
    buffer, batch = FrameBuffer(fmt.NONE, 0), Batch(4096, 8 * 4096)
    for blocks in ((0, 1), (5, 6), (2,)):
        batch.reset()
        for block in blocks:
            batch.blocks[batch.count], batch.lengths[batch.count] = block, 4096
            batch.count, batch.used = batch.count + 1, batch.used + 4096
        batch.payload[: batch.used] = b"y" * batch.used
        batch.hashes[: 16 * batch.count] = batch.rehash(7)
        buffer.encode(batch, writer.header.tag)
        writer.append(buffer)
    writer.finish(bytes(32), bytes(32))
    return bytes(image.read(0, image.size))


def test_an_index_that_names_other_frames() -> None:
    """Who reads in order would find the delta whole, and who reads at random would find other blocks."""
    data = whole_delta()
    reader = DeltaReader(MemoryImage(data), "crafted.undo")
    everything(reader)
    offset, tag = reader.end().index_offset, reader.header.tag
    entries = array("Q", reader.index())
    entries[0] = 1
    forged = frame(fmt.INDEX, entries.tobytes(), tag, entries=3)
    # The digest over everything is no secret either: the forger makes it hold.
    digest = hashlib.sha256(data[: fmt.HEADER_BYTES])
    at = fmt.HEADER_BYTES
    while at < offset:
        digest.update(data[at : at + fmt.FRAME_BYTES])
        at += fmt.FRAME_BYTES + reader.frame_header(at, len(data)).stored
    digest.update(forged[: fmt.FRAME_BYTES])
    end = fmt.END_BODY.pack(*reader.end()[:-1], digest.digest())
    refused(data[:offset] + forged + frame(fmt.END, end, tag), everything)


def test_a_frame_of_another_replica() -> None:
    other = header(replica_id=bytes(16))
    refused(
        header().pack() + frame(fmt.ZEROS, array("Q", (0, 1)).tobytes(), other.tag, entries=1), everything
    )


@pytest.mark.parametrize("size", [(1 << 64) - 1, 1 << 62, 1 << 50])
@pytest.mark.parametrize("unchecked", [False, True])
def test_a_map_of_an_absurd_image(size: int, unchecked: bool, tmp_path: Any) -> None:
    path = tmp_path / "head.map"
    packed = HEADER.pack(MAGIC, 1, 4096, PAGE_BYTES, 0, REPLICA, size, bytes(16))[:-16]
    path.write_bytes(packed + hashlib.sha256(packed).digest()[:16])
    tracemalloc.start()
    try:
        with RawImage(path, "rw") as image, pytest.raises(errors.Damaged, match=r"head\.map"):
            BlockMap.load(image, str(path), REPLICA, unchecked=unchecked)
        assert tracemalloc.get_traced_memory()[1] < ROOM
    finally:
        tracemalloc.stop()


ABSURD: list[Any] = [-1, 1 << 63, 10**4000, 1.5, "1", None, True, [], {}]


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("name", ["virtual_bytes", "generation", "seal", "time", "replica_id", "epoch"])
def test_a_points_record(specimens: dict[str, Any], trial: Callable[..., Any], name: str, value: Any) -> None:
    """A checksum proves who wrote a record, not that it makes sense."""
    victim = f"{ROOT}/points/000000000002.json"
    fields, _ = record.unpack(specimens["undo"].names[victim], victim)
    if isinstance(value, type(fields[name])) and not isinstance(value, int):
        value = "nonsense"
    one = trial(specimens["undo"], victim, record.pack({**fields, name: value}), f"{name}={str(value)[:20]}")
    assert 2 not in one.read_everything() or name == "epoch"
    one.put_back()


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("name", ["block_size", "seed", "replica_id", "epoch", "source"])
def test_the_identity(specimens: dict[str, Any], trial: Callable[..., Any], name: str, value: Any) -> None:
    victim = f"{ROOT}/replica.json"
    fields, _ = record.unpack(specimens["undo"].names[victim], victim)
    one = trial(specimens["undo"], victim, record.pack({**fields, name: value}), f"{name}={str(value)[:20]}")
    one.read_everything()
    one.put_back()


@pytest.mark.parametrize("depth", [500, 900, 990, 2000, 100_000])
def test_deep_nesting(specimens: dict[str, Any], trial: Callable[..., Any], depth: int) -> None:
    """A parser that recurses must not take the program down with it."""
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    for name in ("replica.json", "points/000000000002.json", "checked.json", "damage.json"):
        one = trial(specimens["undo"], f"{ROOT}/{name}", nested + b"\n" + nested + b"\n", f"depth {depth}")
        one.read_everything()
        line = json.dumps({"format": 1, "checksum": "0" * 32})[:-1].encode() + b', "a":' + nested + b"}\n"
        one = trial(specimens["undo"], f"{ROOT}/{name}", line + line, f"depth {depth} inside")
        one.read_everything()


def test_what_was_noted_of_the_source(specimens: dict[str, Any], in_memory: Callable[..., Any]) -> None:
    """checked.json is advice: nonsense in it costs a scan."""
    specimen = specimens["undo"]
    for fields in ({"stamp": 7}, {"checked_ns": float("inf")}, {"checked_ns": "x"}, {"generation": [4]}, {}):
        files = specimen.files()
        noted = {"generation": 4, "checked_ns": 1, "stamp": [1, 2, 3, 4, 5], **fields}
        files.names[f"{ROOT}/checked.json"] = MemoryImage(record.pack(noted))
        assert in_memory(files, specimen.contents[4], trust_mtime=True).kind == "unchanged"


def test_newer_formats_are_refused_by_name(specimens: dict[str, Any], trial: Callable[..., Any]) -> None:
    """Not called damaged: nothing is wrong with the file, and a later program reads it."""
    names = specimens["undo"].names

    def newer(data: bytes, body: int, end: int) -> bytes:
        lead = data[:8] + struct.pack("<I", 99) + data[12:body]
        return lead + hashlib.sha256(lead).digest()[:16] + data[end:]

    fields, _ = record.unpack(names[f"{ROOT}/replica.json"], "x")
    cases = {
        "replica.json": record.pack({**fields, "format": 99}),
        "points/000000000003.undo": newer(names[f"{ROOT}/points/000000000003.undo"], 88, 104),
        "head.map": newer(names[f"{ROOT}/head.map"], 48, 64),
    }
    for name, data in cases.items():
        one = trial(specimens["undo"], f"{ROOT}/{name}", data, "newer")
        error = one.attempt(
            lambda one=one: engine.restore(ROOT, "/out/x", at="1", files=one.files, workers=1)
        )
        assert isinstance(error, errors.NewerFormat) and name in str(error)
        one.put_back()
