"""The blocks that a tracker names, as runs, and lists of extents from elsewhere."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from secondsite.engine import ahead, errors, kernel
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images import Image

# A list of a million extents has some 50 MB; what is much larger is not such a list.
MAX_LIST_BYTES = 512 << 20
# As this program, Hyper-V's QueryChangesVirtualDisk and vSphere's QueryChangedDiskAreas call them.
_STARTS = ("offset", "start", "byteoffset")
_LENGTHS = ("length", "bytelength")
_LISTS = ("extents", "ranges", "changedarea", "changed")


class Looked(NamedTuple):
    """So many unnamed blocks were looked at; `wrong` is the offset of one that had changed all the same."""

    blocks: int
    wrong: int | None


class Marked:
    """The named blocks as runs, ascending and apart.

    `ranges` are bytes, ascending and inside the disk of `size` bytes, or it raises ValueError. Where the disk had
    another size before, all from the last byte that both have is named, whatever the ranges say.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]], size: int, block_size: int, old_size: int) -> None:
        self.size, self.block_size = size, block_size
        self.firsts, self.ends = array("Q"), array("Q")
        for first, end in _runs(_with_tail(_sound(ranges, size), old_size, size), block_size):
            self.firsts.append(first)
            self.ends.append(end)
        self.blocks = sum(self.ends) - sum(self.firsts)

    @property
    def total(self) -> int:
        """Blocks of the disk."""
        return -(-self.size // self.block_size)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Pairs (first block, block behind the last)."""
        return zip(self.firsts, self.ends, strict=True)

    def __contains__(self, block: int) -> bool:
        at = bisect_right(self.firsts, block)
        return at > 0 and block < self.ends[at - 1]

    def look(self, image: Image, previous: BlockMap, seed: int, drawn: Iterable[int], count: int) -> Looked:
        """Hash up to `count` of the drawn blocks that are not named, until one differs all the same."""
        unnamed = (block for block in drawn if block < self.total and block not in self)
        looked = 0
        for group in ahead.groups([self._place(block) for block in islice(unnamed, count)]):
            for (offset, _), data in zip(group, _read(image, group), strict=True):
                looked += 1
                digest = bytes(16) if kernel.scan.is_zero(data) else kernel.scan.hash_block(data, seed)
                if digest != previous.load_hashes(array("Q", (offset // self.block_size,)), 1):
                    return Looked(looked, offset)
        return Looked(looked, None)

    def _place(self, block: int) -> tuple[int, int]:
        offset = block * self.block_size
        return offset, min(self.block_size, self.size - offset)


def _read(image: Image, places: list[tuple[int, int]]) -> list[memoryview]:
    """What lies at some places, all of them asked for at once."""
    for offset, length in places:
        image.expect(offset, length)
    parts = [(offset, memoryview(bytearray(length))) for offset, length in places]
    image.read_parts(parts)
    return [view for _, view in parts]


def _sound(ranges: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    at = 0
    for start, length in ranges:
        if start < at or length < 0 or start + length > size:
            raise ValueError(f"{length} bytes at {start} of {size} are no range behind the one before")
        if length:
            yield start, length
        at = start


def _with_tail(ranges: Iterable[tuple[int, int]], old_size: int, size: int) -> Iterator[tuple[int, int]]:
    tail = max(min(old_size, size) - 1, 0) if old_size != size else size
    for start, length in ranges:
        if start < tail:
            yield start, min(length, tail - start)
    if tail < size:
        yield tail, size - tail


def _runs(ranges: Iterable[tuple[int, int]], block_size: int) -> Iterator[tuple[int, int]]:
    """Ranges of bytes, ascending, as runs of whole blocks."""
    first = end = 0
    for start, length in ranges:
        low, high = start // block_size, -(-(start + length) // block_size)
        if end and low <= end:
            end = max(end, high)
            continue
        if end > first:
            yield first, end
        first, end = low, high
    if end > first:
        yield first, end


def read_list(path: str, size: int) -> list[tuple[int, int]]:
    """A JSON list of {offset, length} objects, or an object that has one; sorted. Raises Damaged, Unreachable.

    The names of QueryChangesVirtualDisk (ByteOffset, ByteLength) and of vSphere (start, length) are understood too.
    """
    try:
        if Path(path).stat().st_size > MAX_LIST_BYTES:
            raise errors.Usage(f"has more than {MAX_LIST_BYTES} bytes, too many for an extent list", path=path)
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise errors.from_os(error, path, "read it") from None
    except (ValueError, RecursionError) as error:
        raise errors.Damaged(f"is no JSON: {error}", path=path) from None
    if isinstance(value, dict):
        lowered = {str(key).lower(): item for key, item in value.items()}
        value = next((lowered[name] for name in _LISTS if name in lowered), None)
    if not isinstance(value, list):
        raise errors.Damaged("a list of objects with offset and length was expected", path=path)
    return sorted(_extent(entry, number, size, path) for number, entry in enumerate(value))


def _extent(entry: Any, number: int, size: int, path: str) -> tuple[int, int]:
    lowered = {str(key).lower(): item for key, item in entry.items()} if isinstance(entry, dict) else {}
    start = next((lowered[name] for name in _STARTS if name in lowered), None)
    length = next((lowered[name] for name in _LENGTHS if name in lowered), None)
    if type(start) is not int or type(length) is not int or start < 0 or length < 0 or start + length > size:
        wrong = f"entry {number} is no range inside the {size} bytes of the disk: {entry!r:.100}"
        raise errors.Damaged(wrong, path=path)
    return start, length
