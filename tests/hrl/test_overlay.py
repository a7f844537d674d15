"""A disk with logs over it, against a plain bytearray."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hrlkit import Write, number, some_writes, write_log

from secondsite.engine import errors
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.hrl import HrlReader, HrlWriter, applied, overlay
from secondsite.engine.images import Image, RawImage
from secondsite.engine.images.memory import MemoryImage

Make = Callable[..., HrlReader]


def written(disk: bytes, logs: list[list[Write]]) -> tuple[bytes, bytes]:
    """What a disk becomes, and a byte for each of it: 1 where something was written."""
    made, touched = bytearray(disk), bytearray(len(disk))
    for writes in logs:
        for offset, data in writes:
            made[offset : offset + len(data)] = data
            touched[offset : offset + len(data)] = b"\1" * len(data)
    return bytes(made), bytes(touched)


def check(image: Image, expected: bytes, touched: bytes, chance: random.Random) -> None:
    """Whole and in parts; the ranges; the extents; the segments."""
    size = len(expected)
    assert image.size == size and bytes(image.read(0, size)) == expected
    for _ in range(30):
        start = chance.randint(0, size)
        length = chance.randint(0, size - start)
        assert bytes(image.read(start, length)) == expected[start : start + length]
        at = start
        for extent in image.extents(start, length):
            assert extent.start == at and extent.length > 0
            at += extent.length
            assert not extent.zero or not any(expected[extent.start : at])
        assert at == start + length
        segments = image.segments(start, length)
        assert segments is None or sum(segments.lengths) == length
    marks, last = bytearray(size), -1
    for start, length in image.changed_ranges():  # type: ignore[attr-defined]
        assert start > last and length > 0
        last = start + length
        marks[start:last] = b"\1" * length
    assert bytes(marks) == touched


@pytest.mark.parametrize("seed", range(400))
@pytest.mark.sweep(sample=25)
@pytest.mark.parametrize("memory", [False, True])
def test_any_writes(tmp_path: Path, seed: int, memory: bool) -> None:
    chance = random.Random(seed)
    size = chance.choice([1, 511, 4096, 100_000, 300_001])
    disk = b"".join(chance.choice([bytes(512), chance.randbytes(512)]) for _ in range(size // 512 + 1))[:size]
    unit = chance.choice([1, 1, 512]) if size >= 512 else 1
    logs = [some_writes(chance, size, chance.choice([0, 1, 20, 300]), unit=unit) for _ in range(chance.randint(1, 4))]
    readers = [HrlReader(str(write_log(tmp_path / f"{n}.hrl", writes, n + 2, n + 1))) for n, writes in enumerate(logs)]
    (tmp_path / "disk").write_bytes(disk)
    with MemoryImage(disk) if memory else RawImage(tmp_path / "disk") as base, overlay(base, readers) as image:
        assert (image.segments(0, size) is None) == memory
        check(image, *written(disk, logs), chance)
    assert (tmp_path / "disk").read_bytes() == disk


def test_logs_in_memory() -> None:
    files = MemoryFiles()
    with files.open("x.hrl", "create") as file:
        writer = HrlWriter(file, number(2), number(1), created=0)
        writer.add(3, b"abc", 0)
        writer.finish(0)
    with overlay(MemoryImage(bytes(10)), [HrlReader("x.hrl", files)]) as image:
        check(image, b"\0\0\0abc\0\0\0\0", b"\0\0\0\1\1\1\0\0\0\0", random.Random(1))
        assert image.stamps() is None


def test_many_small_writes_in_disorder(log: Make) -> None:
    """The index stays small and is made fast: no step for each pair of writes."""
    chance = random.Random(3)
    writes = [(512 * chance.randrange(20000), chance.randbytes(2) * 256) for _ in range(20000)]
    disk = bytes(512 * 20000)
    with overlay(MemoryImage(disk), [log(writes)]) as image:
        check(image, *written(disk, [writes]), chance)
        assert len(image._starts) <= 20000


def test_no_log(tmp_path: Path) -> None:
    with overlay(MemoryImage(b"disk"), []) as image:
        check(image, b"disk", bytes(4), random.Random(1))
        assert image.stamps() is None and image.path == "memory"


def test_past_the_end_of_the_disk(log: Make) -> None:
    with pytest.raises(errors.Refused, match=r"writes to byte 4097 of a disk of 4096: the log .* is of another disk"):
        overlay(MemoryImage(bytes(4096)), [log([(4090, b"1234567")])])


def test_nothing_is_written(log: Make) -> None:
    with overlay(MemoryImage(bytes(4096)), [log([(0, b"1")])]) as image:
        with pytest.raises(errors.Refused):
            image.write(0, b"2")
        with pytest.raises(errors.Damaged, match="4096"):
            image.read(4000, 97)


def test_too_many_writes(log: Make, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(applied, "MAX_ENTRIES", 2)
    with pytest.raises(errors.Refused, match="more than 2 writes at once"):
        overlay(MemoryImage(bytes(9)), [log([(0, b"1"), (1, b"2")]), log([(2, b"3")])])
