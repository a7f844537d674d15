"""The pass over an image: in spans over its extents, and nothing read that the image says is zero."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from secondsite.engine import errors, scan
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images import Extent, Image, RawImage, ShortImage
from secondsite.engine.images.base import Buffer
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.progress import Monitor

BLOCK, SEED, MIB = 4096, 3, 1 << 20
SMALL = scan.SMALL_HOLE


class Counting(MemoryImage):
    """Says what its extents are, and remembers what was read."""

    def __init__(self, size: int, data: list[tuple[int, int]]) -> None:
        content = bytearray(size)
        for start, length in data:
            content[start : start + length] = random.Random(start).randbytes(length)
        super().__init__(content, path="counting")
        self.data, self.reads = data, []  # type: ignore[var-annotated]

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        at = start
        for begin, count in self.data:
            if begin > at:
                yield Extent(at, begin - at, True)
            yield Extent(begin, count, False)
            at = begin + count
        if at < start + length:
            yield Extent(at, start + length - at, True)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self.reads.append((offset, memoryview(buffer).nbytes))
        super().read_into(offset, buffer)


class Collect:
    """A sink that keeps the blocks."""

    def __init__(self) -> None:
        self.blocks: dict[int, bytes] = {}

    def put(self, batch: Batch, worker: int) -> None:
        at = 0
        for index in range(batch.count):
            length = batch.lengths[index]
            assert batch.blocks[index] not in self.blocks
            self.blocks[batch.blocks[index]] = bytes(batch.payload[at : at + length])
            at += length


def run(image: Image, previous: BlockMap | None = None, *, workers: int = 1, batch: int = 8 * MIB) -> Collect:
    sink = Collect()
    scan.Scan(
        image, previous, sink, size=image.size, block_size=BLOCK, seed=SEED, workers=workers, batch_bytes=batch,
        monitor=Monitor(),
    ).run()  # fmt: skip
    return sink


def mapped(image: Image) -> BlockMap:
    made = BlockMap.create(MemoryImage(), "m", bytes(16), BLOCK, image.size)
    scan.rebuild(image, made, SEED)
    return made


def test_spans_cover_the_image() -> None:
    image = Counting(40 * MIB + 5, [(3 * BLOCK + 7, 100), (10 * MIB, 2 * MIB), (12 * MIB + 5 * BLOCK, 10)])
    found = list(scan.spans(image, image.size, BLOCK))
    at = 0
    for span in found:
        assert span.first == at and span.blocks > 0
        at += span.blocks
    assert at == 40 * MIB // BLOCK + 1
    data = [(span.first, span.blocks) for span in found if not span.zero]
    # Whole blocks; the hole of less than five blocks is read through, the large ones are not.
    assert data == [(3, 1), (10 * MIB // BLOCK, 2 * MIB // BLOCK + 6)]


def test_a_span_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scan.SPAN_BYTES == 32 * MIB
    monkeypatch.setattr(scan, "SPAN_BYTES", MIB)
    image = Counting(3 * MIB + 5, [(0, 3 * MIB + 5)])
    assert [span.blocks * BLOCK for span in scan.spans(image, image.size, BLOCK)] == [MIB] * 3 + [BLOCK]


def test_holes_are_never_read() -> None:
    image = Counting(64 * MIB, [(0, BLOCK), (20 * MIB, MIB), (64 * MIB - 10, 10)])
    sink = run(image)
    read = sum(length for _, length in image.reads)
    assert read == BLOCK + MIB + BLOCK
    for offset, length in image.reads:
        assert any(
            begin // BLOCK * BLOCK <= offset and offset + length <= begin + count + BLOCK
            for begin, count in image.data
        )
    assert len(sink.blocks) == 1 + MIB // BLOCK + 1


def test_a_hole_where_there_was_data_is_a_change_that_reads_nothing() -> None:
    """P7: zeros and trims are changes."""
    before = Counting(8 * MIB, [(0, MIB), (4 * MIB, MIB)])
    after = Counting(8 * MIB, [(0, MIB)])
    previous = mapped(before)
    sink = run(after, previous)
    assert sink.blocks == {block: b"" for block in range(4 * MIB // BLOCK, 5 * MIB // BLOCK)}
    assert sum(length for _, length in after.reads) == MIB


def test_small_holes_are_read_through() -> None:
    image = Counting(4 * MIB, [(0, BLOCK), (BLOCK + SMALL, BLOCK)])
    run(image)
    assert sum(length for _, length in image.reads) == SMALL + 2 * BLOCK


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("batch", [BLOCK, 10 * BLOCK, 8 * MIB])
def test_only_what_changed(workers: int, batch: int, tmp_path: Path) -> None:
    """In any number of threads, with batches that are full in the middle of a span; files and memory alike."""
    chance = random.Random(workers * batch)
    data = bytearray(chance.randbytes(700 * BLOCK + 99))
    data[100 * BLOCK : 300 * BLOCK] = bytes(200 * BLOCK)
    previous = mapped(MemoryImage(bytes(data)))
    changed = set(chance.sample(range(701), 60))
    for block in changed:
        data[block * BLOCK] ^= 0xFF
    zeroed = chance.sample(sorted(set(range(300, 700)) - changed), 20)
    for block in zeroed:
        data[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
    wanted = {b: bytes(data[b * BLOCK : (b + 1) * BLOCK]) for b in changed} | {b: b"" for b in zeroed}
    path = tmp_path / "disk"
    path.write_bytes(data)
    with RawImage(path) as raw:
        assert run(raw, previous, workers=workers, batch=batch).blocks == wanted
    assert run(MemoryImage(bytes(data)), previous, workers=workers, batch=batch).blocks == wanted


def test_growth_compares_new_blocks_with_zeros() -> None:
    previous = mapped(MemoryImage(b"x" * (10 * BLOCK)))
    grown = MemoryImage(b"x" * (10 * BLOCK) + bytes(3 * BLOCK) + b"y" * 5)
    assert run(grown, previous).blocks == {13: b"y" * 5}


def test_tallies() -> None:
    image = MemoryImage(b"x" * (3 * BLOCK) + bytes(2 * BLOCK) + b"y" * 10)
    previous = mapped(MemoryImage(b"x" * (2 * BLOCK) + b"z" * (2 * BLOCK) + bytes(BLOCK + 10)))
    tally = scan.Scan(
        image, previous, Collect(), size=image.size, block_size=BLOCK, seed=SEED, workers=1, batch_bytes=MIB,
        monitor=Monitor(),
    ).run()  # fmt: skip
    assert (tally.read_bytes, tally.changed_bytes, tally.sent_bytes) == (
        image.size,
        2 * BLOCK + 10,
        BLOCK + 10,
    )


def test_the_first_error_of_any_worker_is_raised() -> None:
    class Bad(MemoryImage):
        def read_into(self, offset: int, buffer: Buffer) -> None:
            if offset >= 40 * MIB:
                raise errors.Unreachable("cannot read", path="bad")
            super().read_into(offset, buffer)

    image = Bad(b"x" * (80 * MIB))
    with pytest.raises(errors.Unreachable, match="bad: cannot read"):
        run(image, workers=2)


def test_a_file_that_shrinks_meanwhile_is_short(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * (10 * BLOCK))
    with RawImage(path) as image:
        sink: Callable[..., Collect] = Collect
        pass_ = scan.Scan(
            image, None, sink(), size=20 * BLOCK, block_size=BLOCK, seed=SEED, workers=1, batch_bytes=MIB,
            monitor=Monitor(),
        )  # fmt: skip
        with pytest.raises(ShortImage, match=str(path)):
            pass_.run()


def test_differing_ranges() -> None:
    data = bytearray(b"x" * (10 * BLOCK + 7))
    block_map = mapped(MemoryImage(bytes(data)))
    assert scan.differing(MemoryImage(bytes(data)), block_map, SEED) == []
    for at in (BLOCK, 2 * BLOCK + 5, 10 * BLOCK + 6):
        data[at] = 0
    assert scan.differing(MemoryImage(bytes(data)), block_map, SEED) == [(BLOCK, 2 * BLOCK), (10 * BLOCK, 7)]


def test_join() -> None:
    ranges = [scan.Range(0, 5), scan.Range(5, 5), scan.Range(11, 1)]
    assert scan.join(ranges) == [(0, 10), (11, 1)]


class Gathering(MemoryImage):
    """Has its short spans asked for together, and remembers how."""

    gathers = True

    def __init__(self, content: bytearray) -> None:
        super().__init__(content, path="gathering")
        self.groups: list[list[tuple[int, int]]] = []

    def read_parts(self, parts: Sequence[tuple[int, memoryview]]) -> None:
        self.groups.append([(offset, view.nbytes) for offset, view in parts])
        super().read_parts(parts)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch_bytes", [3 * BLOCK, MIB])
def test_short_spans_are_asked_for_together(workers: int, batch_bytes: int) -> None:
    chance = random.Random(workers)
    size = 3000 * BLOCK + 100
    image = Gathering(bytearray(chance.randbytes(size)))
    runs, at = [(0, 1)], 2
    while at < 2900:
        length = chance.choice([1, 2, 3, 40, 300 if len(runs) % 50 == 7 else 1])
        runs.append((at, min(at + length, 2900)))
        at += length + chance.choice([1, 1, 5])
    runs.append((2999, 3001))
    sink = Collect()
    tally = scan.Scan(
        image, None, sink, size=size, block_size=BLOCK, seed=SEED, workers=workers, batch_bytes=batch_bytes,
        monitor=Monitor(), runs=iter(runs),
    ).run()  # fmt: skip
    wanted = [block for first, end in runs for block in range(first, end)]
    content = image.read(0, size)
    assert sink.blocks == {block: bytes(content[block * BLOCK : (block + 1) * BLOCK]) for block in wanted}
    assert tally.read_bytes == sum(map(len, sink.blocks.values()))
    assert max(map(len, image.groups)) > 10
    for group in image.groups:
        assert 2 <= len(group) <= scan.GATHERED and sum(length for _, length in group) <= scan.GATHERED_BYTES


def test_an_error_of_a_gathered_read_ends_the_pass() -> None:
    image = Gathering(bytearray(range(1, 251)) * 200)
    sink = Collect()
    with pytest.raises(ShortImage):
        scan.Scan(
            image, None, sink, size=100 * BLOCK, block_size=BLOCK, seed=SEED, workers=2, batch_bytes=MIB,
            monitor=Monitor(), runs=iter([(0, 1), (20, 21), (60, 61)]),
        ).run()  # fmt: skip
