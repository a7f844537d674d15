"""Deltas: what the writer writes the reader reads, in order and at random, and merges do what both did."""

from __future__ import annotations

import random
import threading
from array import array
from typing import Any

import pytest

from secondsite.engine import errors, kernel
from secondsite.engine.batch import Batch
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.merge import merge
from secondsite.engine.delta.reader import DeltaReader
from secondsite.engine.delta.writer import DeltaWriter, FrameBuffer
from secondsite.engine.images.memory import MemoryImage

ID = bytes(range(16))
BLOCK = 4096
SEED = 5
CODECS = [(fmt.NONE, 0), (fmt.LZ4, 1), (fmt.ZSTD, 1), (fmt.ZSTD, -5), (fmt.ZSTD, 19)]


def blocks_of(size: int) -> int:
    return -(-size // BLOCK)


def part(data: bytes, block: int) -> bytes:
    return data[block * BLOCK : (block + 1) * BLOCK]


def append(writer: DeltaWriter, data: bytes, blocks: list[int], codec: tuple[int, int]) -> None:
    """One batch of these blocks as `data` has them."""
    batch, buffer = Batch(BLOCK, max(len(blocks), 1) * BLOCK), FrameBuffer(*codec)
    for block in blocks:
        content = part(data, block)
        at = batch.count
        batch.blocks[at], batch.count = block, at + 1
        batch.lengths[at] = len(content) if any(content) else 0
        if batch.lengths[at]:
            batch.payload[batch.used : batch.used + len(content)] = content
            batch.used += len(content)
    batch.hashes[: 16 * batch.count] = batch.rehash(SEED)
    buffer.encode(batch, writer.header.tag)
    writer.append(buffer)


def filled(contents: list[bytes], blocks: list[int] | None = None) -> Batch:
    """A batch with room for all of them; what has no length is zeros."""
    batch = Batch(BLOCK, max(len(contents), 1) * BLOCK)
    for block, content in zip(blocks or range(len(contents)), contents, strict=True):
        batch.blocks[batch.count], batch.lengths[batch.count] = block, len(content)
        batch.payload[batch.used : batch.used + len(content)] = content
        batch.count, batch.used = batch.count + 1, batch.used + len(content)
    batch.hashes[: 16 * batch.count] = batch.rehash(SEED)
    return batch


def framed_apart(batch: Batch, codec: tuple[int, int], group: int) -> bytes:
    """Its frames by the encoder alone, into memory that is not the batch's."""
    encoder = kernel.codec.Encoder(*codec, group)
    out = bytearray(encoder.bound(batch.count, batch.used, BLOCK))
    made, _ = encoder.encode(
        batch.blocks, batch.lengths, batch.hashes, batch.count, batch.payload, 7, out,
        array("Q", bytes(24 * (2 * batch.count + 2))),
    )  # fmt: skip
    return bytes(out[:made])


WHOLE, SHORT = random.Random(3).randbytes(BLOCK), b"the last block is short"


@pytest.mark.parametrize(
    ("contents", "blocks", "codec", "group", "around"),
    [
        ([WHOLE] * 8, None, (fmt.NONE, 0), 8 * BLOCK, True),
        ([WHOLE], [(1 << 34) - 1], (fmt.NONE, 0), BLOCK, True),
        ([*[WHOLE] * 7, SHORT], [1, 2, 3, 5, 8, 13, 21, 34], (fmt.NONE, 0), 8 * BLOCK, True),
        ([SHORT], None, (fmt.NONE, 0), 8 * BLOCK, True),
        ([WHOLE] * 8, None, (fmt.NONE, 0), 4 * BLOCK, False),  # two frames
        ([WHOLE] * 8, [0, 1, 2, 3, 2, 3, 4, 5], (fmt.NONE, 0), 8 * BLOCK, False),  # that do not ascend
        ([*[WHOLE] * 3, b"", *[WHOLE] * 4], None, (fmt.NONE, 0), 8 * BLOCK, False),  # zeros between
        ([*[WHOLE] * 7, b""], None, (fmt.NONE, 0), 8 * BLOCK, False),
        ([b"", SHORT], None, (fmt.NONE, 0), 8 * BLOCK, False),
        ([b""] * 8, None, (fmt.NONE, 0), 8 * BLOCK, False),
        ([], None, (fmt.NONE, 0), 8 * BLOCK, False),
        ([WHOLE] * 8, None, (fmt.LZ4, 1), 8 * BLOCK, False),
    ],
)  # fmt: skip
def test_one_frame_that_is_not_packed_is_made_around_its_payload(
    contents: list[bytes], blocks: list[int] | None, codec: tuple[int, int], group: int, around: bool
) -> None:
    batch, buffer = filled(contents, blocks), FrameBuffer(*codec, group)
    expected, payload = framed_apart(batch, codec, group), bytes(batch.payload)
    buffer.encode(batch, 7)
    assert bytes(buffer.data[: buffer.used]) == expected
    assert bytes(batch.payload) == payload
    assert (buffer.data.obj is batch.payload.obj) == around


def delta(
    base: bytes, target: bytes, base_generation: int, target_generation: int, *, codec: tuple[int, int] = (1, 1),
    chance: random.Random | None = None, seals: tuple[bytes, bytes] | None = None,
) -> MemoryImage:  # fmt: skip
    """What leads from one image to the other, as a cycle would write it; with `chance` in batches that overlap."""
    names = [b for b in range(blocks_of(len(target))) if part(target, b) != part(base, b)
             and (any(part(target, b)) or any(part(base, b)))]  # fmt: skip
    file = MemoryImage(path=f"{target_generation}.undo")
    header = fmt.Header(ID, BLOCK, base_generation, target_generation, len(base), len(target), 1)
    writer = DeltaWriter(file, header)
    groups = [names]
    if chance is not None:
        groups = [[], [], []]
        for name in names:
            chance.choice(groups).append(name)
    for group in groups:
        if group:
            append(writer, target, group, codec)
    seals = seals or (base_generation.to_bytes(32, "big"), target_generation.to_bytes(32, "big"))
    writer.finish(*seals)
    return file


def read(file: MemoryImage) -> DeltaReader:
    return DeltaReader(file, file.path)


def apply(base: bytes, reader: DeltaReader) -> bytes:
    """What a delta makes of its base."""
    size = reader.header.target_size
    cut = min(len(base), size)
    out = bytearray(base[:cut] + bytes(size - cut))
    decoder = kernel.codec.Decoder()
    for frame in reader.frames():
        raw, at = frame.decode(decoder) if frame.blocks else b"", 0
        for block, length in zip(frame.blocks, frame.lengths, strict=True):
            out[block * BLOCK : block * BLOCK + length] = raw[at : at + length]
            at += length
        for first, count in zip(frame.runs[::2], frame.runs[1::2], strict=True):
            end = min((first + count) * BLOCK, size)
            out[first * BLOCK : end] = bytes(end - first * BLOCK)
    return bytes(out)


def history(seed: int, length: int) -> list[bytes]:
    """Images that change, grow and shrink, with odd tails."""
    chance = random.Random(seed)
    made = [chance.randbytes(chance.randrange(1, 30 * BLOCK))]
    while len(made) < length:
        data = bytearray(made[-1])
        for _ in range(chance.randrange(4)):
            block = chance.randrange(blocks_of(len(data)))
            fresh = chance.choice((bytes(BLOCK), chance.randbytes(BLOCK), b"text " * 820))[:BLOCK]
            data[block * BLOCK : (block + 1) * BLOCK] = fresh[: len(part(data, block))]
        if chance.random() < 0.6:
            size = chance.choice(
                (1, BLOCK, chance.randrange(1, 40 * BLOCK), len(data) + 1, max(len(data) - 1, 1))
            )
            data = data[:size] + bytearray(max(0, size - len(data)))
        made.append(bytes(data))
    return made


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_written_and_read(codec: tuple[int, int], seed: int) -> None:
    old, new = history(seed, 8)[::7]
    file = delta(new, old, 2, 1, codec=codec, chance=random.Random(seed))
    reader = read(file)
    assert apply(new, reader) == old
    end = reader.end()
    frames = list(reader.frames())
    assert end.frames == len(frames) == len(reader.index()) // 3
    assert end.data_blocks == sum(len(frame.blocks) for frame in frames)
    assert end.zero_blocks == sum(frame.zero_blocks for frame in frames)
    for first, last, offset in zip(*[iter(reader.index().tolist())] * 3, strict=True):
        frame = reader.frame(offset)
        assert (frame.head.first, frame.head.last) == (first, last)


def test_nothing_changed() -> None:
    reader = read(delta(b"x" * 5000, b"x" * 5000, 2, 1))
    assert list(reader.frames()) == [] and list(reader.index()) == []
    assert apply(b"x" * 5000, reader) == b"x" * 5000


def test_every_flipped_byte_and_every_cut_is_found() -> None:
    file = delta(bytes(3 * BLOCK), b"a" * BLOCK + bytes(BLOCK) + b"b" * 50, 2, 1, codec=(fmt.NONE, 0))
    good = bytes(file.read(0, file.size))
    chance = random.Random(1)
    spots = [*range(fmt.HEADER_BYTES + fmt.FRAME_BYTES + 60), *range(len(good) - 500, len(good))]
    for at in [*spots, *chance.sample(range(len(good)), 200)]:
        bad = bytearray(good)
        bad[at] ^= 1 << chance.randrange(8)
        with pytest.raises(errors.Damaged, match=r"^1\.undo: "):
            list(read(MemoryImage(bad, path="1.undo")).frames())
    for size in [*spots, *chance.sample(range(len(good)), 100)]:
        with pytest.raises(errors.Damaged, match=r"^1\.undo: "):
            list(read(MemoryImage(good[:size], path="1.undo")).frames())
        with pytest.raises(errors.Damaged, match=r"^1\.undo: "):
            read(MemoryImage(good[:size], path="1.undo")).end()
    with pytest.raises(errors.Damaged, match=r"^1\.undo: "):
        list(read(MemoryImage(good + b"\0", path="1.undo")).frames())


def test_a_table_is_believed_by_its_own_sum_alone() -> None:
    """Whatever bit of header or table flips, the table is refused, or reading the frame whole says what is wrong."""
    data = b"a" * BLOCK + b"b" * BLOCK + b"c" * 50
    file = delta(bytes(len(data)), data, 2, 1, codec=(fmt.NONE, 0))
    good, start = bytes(file.read(0, file.size)), fmt.HEADER_BYTES
    table = read(file).table(start, file.size)
    assert table is not None and table.alone and list(table.blocks) == [0, 1, 2] and not table.runs
    for block in range(3):
        at, digest = table.find(block, BLOCK)
        assert good[at : at + len(part(data, block))] == part(data, block)
        assert kernel.scan.hash_block(part(data, block), SEED) == digest
    payload = start + fmt.FRAME_BYTES + 3 * fmt.TABLE_ENTRY
    for bit in range(8 * start, 8 * payload):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        reader = read(MemoryImage(bad, path="1.undo"))
        if 8 * (start + 48) <= bit < 8 * (start + 64):
            assert reader.table(start, len(bad)) is not None  # the checksum over all of it, which nobody looks at here
            continue
        with pytest.raises(errors.Damaged, match=r"^1\.undo: "):
            assert reader.table(start, len(bad)) is None
            reader.frame(start)
    assert read(MemoryImage(good[: payload + 10], path="1.undo")).table(start, payload + 10) is None


def test_frames_that_are_packed_or_of_the_first_version_have_no_table_alone() -> None:
    packed = delta(bytes(BLOCK), b"a" * BLOCK, 2, 1, codec=(fmt.LZ4, 1))
    assert read(packed).table(fmt.HEADER_BYTES, packed.size) is None
    zeros = delta(b"a" * BLOCK, bytes(BLOCK), 2, 1)
    assert read(zeros).table(fmt.HEADER_BYTES, zeros.size) is None


def test_frames_may_not_change_places_or_get_lost() -> None:
    """Each frame is good by itself; only the digest over all of them tells."""
    file = delta(bytes(40 * BLOCK), random.Random(1).randbytes(40 * BLOCK), 2, 1, chance=random.Random(2))
    good, reader = bytes(file.read(0, file.size)), read(file)
    ends = []
    at = fmt.HEADER_BYTES
    for frame in reader.frames():
        ends.append((at, at + fmt.FRAME_BYTES + frame.head.stored))
        at = ends[-1][1]
    first, second = (good[a:b] for a, b in ends[:2])
    rest = good[ends[1][1] :]
    for forged in (second + first + rest, second + rest, first + first + second + rest):
        with pytest.raises(
            errors.Damaged, match=r"index does not name|digest over|expected a frame|does not fit"
        ):
            list(read(MemoryImage(good[: fmt.HEADER_BYTES] + forged, path="x")).frames())


def test_whole_frames_of_an_unfinished_delta() -> None:
    """What a crash leaves: frames up to the first that is not whole."""
    file = delta(bytes(40 * BLOCK), random.Random(1).randbytes(40 * BLOCK), 2, 1, chance=random.Random(2))
    good, reader = bytes(file.read(0, file.size)), read(file)
    end = reader.end().index_offset
    frames = [frame.offset for frame in reader.frames()]
    for size in random.Random(4).sample(range(fmt.HEADER_BYTES, end + 1), 200):
        whole = [o for o, after in zip(frames, [*frames[1:], end], strict=True) if after <= size]
        assert [f.offset for f in read(MemoryImage(good[:size], path="x")).written()] == whole


def test_several_threads_append() -> None:
    target = random.Random(8).randbytes(64 * BLOCK)
    file = MemoryImage(path="1.undo")
    writer = DeltaWriter(file, fmt.Header(ID, BLOCK, 2, 1, len(target), len(target), 1))
    threads = [
        threading.Thread(target=append, args=(writer, target, list(range(n * 8, n * 8 + 8)), (fmt.LZ4, 1)))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.finish(bytes(32), bytes(32))
    assert apply(bytes(len(target)), read(file)) == target


def test_after_a_failed_write_no_frame_follows() -> None:
    """What was promised durable must not lie behind a hole."""

    class Full(MemoryImage):
        failing = False

        def write(self, offset: int, data: Any) -> None:
            if self.failing:
                raise errors.Full("no room", path="x")
            super().write(offset, data)

    file = Full(path="x")
    writer = DeltaWriter(file, fmt.Header(ID, BLOCK, 2, 1, BLOCK, BLOCK, 1))
    file.failing = True
    for _ in range(2):
        with pytest.raises(errors.Full, match="no room"):
            append(writer, b"x" * BLOCK, [0], (fmt.NONE, 0))
        file.failing = False


@pytest.mark.parametrize("seed", range(40))
def test_merge_against_a_model(seed: int) -> None:
    """A chain of undo deltas, folded from either end: the images decide."""
    chance = random.Random(seed)
    images = history(seed, 5)
    # images[0] is the oldest; deltas lead from n+1 back to n.
    chain = [delta(images[n + 1], images[n], n + 2, n + 1, chance=chance) for n in range(4)]
    while len(chain) > 1:
        at = chance.randrange(len(chain) - 1)
        older, newer = chain[at], chain[at + 1]
        output = MemoryImage(path="merged")
        header = merge(read(newer), read(older), output, (fmt.LZ4, 1))
        assert header.target_generation == read(older).header.target_generation
        assert header.base_generation == read(newer).header.base_generation
        base, target = images[header.base_generation - 1], images[header.target_generation - 1]
        merged = read(output)
        assert apply(base, merged) == target
        named = [b for f in merged.frames() for b in f.blocks]
        named += [
            b
            for f in merged.frames()
            for r, c in zip(f.runs[::2], f.runs[1::2], strict=True)
            for b in range(r, r + c)
        ]
        assert len(named) == len(set(named))
        chain[at : at + 2] = [output]


def test_merge_refuses_what_does_not_belong_together() -> None:
    images = [bytes([n]) * (BLOCK * 3) for n in range(1, 4)]
    older = delta(images[1], images[0], 2, 1)
    wrong = {
        "generation": delta(images[2], images[1], 4, 3),
        "size": delta(images[2], images[1][:-1], 3, 2),
        "seal": delta(images[2], images[1], 3, 2, seals=(b"x" * 32, b"y" * 32)),
    }
    for newer in wrong.values():
        with pytest.raises(errors.Damaged, match=r"1\.undo: it starts from"):
            merge(read(newer), read(older), MemoryImage(), (fmt.LZ4, 1))
    assert (
        merge(read(delta(images[2], images[1], 3, 2)), read(older), MemoryImage(), (1, 1)).base_generation
        == 3
    )


def test_merge_refuses_damage() -> None:
    images = [bytes([n]) * (BLOCK * 3) for n in range(1, 4)]
    for which in (0, 1):
        files = [delta(images[2], images[1], 3, 2), delta(images[1], images[0], 2, 1)]
        middle = files[which].size // 2
        files[which].write(middle, bytes([files[which].read(middle, 1)[0] ^ 1]))
        with pytest.raises(errors.Damaged, match=files[which].path):
            merge(read(files[0]), read(files[1]), MemoryImage(), (fmt.LZ4, 1))


@pytest.mark.parametrize(
    ("text", "codec"),
    [("auto", (1, 1)), ("none", (0, 0)), ("lz4", (1, 1)), ("lz4:64", (1, 64)), ("zstd", (2, 1)), ("zstd:19", (2, 19)),
     ("zstd:-50", (2, -50))],
)  # fmt: skip
def test_codecs(text: str, codec: tuple[int, int]) -> None:
    assert fmt.parse_codec(text) == codec


@pytest.mark.parametrize(
    "text", ["", "gzip", "auto:1", "none:1", "lz4:0", "zstd:20", "zstd:x", "zstd:1:2", "ZSTD"]
)
def test_what_is_no_codec(text: str) -> None:
    with pytest.raises(errors.Usage, match="is not a codec"):
        fmt.parse_codec(text)


def test_headers() -> None:
    header = fmt.Header(ID, 65536, 9, 8, 1 << 40, 5, 3)
    packed = header.pack()
    assert len(packed) == 104 and fmt.Header.unpack(packed, "x") == header
    assert array("Q", packed[16:24])[0] == header.tag
    with pytest.raises(errors.Damaged, match="x: at byte 0"):
        fmt.Header.unpack(packed[:-1], "x")
