"""What names the blocks that may have changed: an extent list from elsewhere, or a VHDX's own parent link.

A tracker is never trusted blindly (DESIGN D7): what it cannot know means a scan, and each cycle hashes some blocks that
it did not name. One of those that differs unmasks it, and everything is scanned.
"""

from __future__ import annotations

import json
import random
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from secondsite.engine import errors, kernel
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images import Image, ShortImage
from secondsite.engine.source import Noted, Source

# A list of a million extents has some 50 MB; what is much larger is not such a list.
MAX_LIST_BYTES = 512 << 20
SAMPLED_BLOCKS = 64
# As this program, Hyper-V's QueryChangesVirtualDisk and vSphere's QueryChangedDiskAreas call them.
_STARTS = ("offset", "start", "byteoffset")
_LENGTHS = ("length", "bytelength")
_LISTS = ("extents", "ranges", "changedarea", "changed")


class Marked:
    """The named blocks as runs, ascending and apart. `tracker` is what named them."""

    def __init__(self, tracker: str, ranges: Iterable[tuple[int, int]], size: int, block_size: int) -> None:
        self.tracker, self.size, self.block_size = tracker, size, block_size
        self.firsts, self.ends = array("Q"), array("Q")
        for first, end in _runs(ranges, block_size):
            self.firsts.append(first)
            self.ends.append(end)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Pairs (first block, block behind the last)."""
        return zip(self.firsts, self.ends, strict=True)

    def __contains__(self, block: int) -> bool:
        at = bisect_right(self.firsts, block)
        return at > 0 and block < self.ends[at - 1]

    def unmasked(self, image: Image, previous: BlockMap, seed: int, count: int, chance: random.Random) -> int | None:
        """Hash up to `count` random blocks that are not named; the offset of one that differs all the same, or None."""
        total = -(-self.size // self.block_size)
        for _ in range(min(count, total)):
            block = chance.randrange(total)
            if block in self:
                continue
            offset = block * self.block_size
            data = image.read(offset, min(self.block_size, self.size - offset))
            digest = bytes(16) if kernel.scan.is_zero(data) else kernel.scan.hash_block(data, seed)
            if digest != previous.load_hashes(array("Q", (block,)), 1):
                return offset
        return None


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


def find(origin: Source, noted: Noted | None, size: int, block_size: int, changed: str | None) -> Marked | None:
    """The marked blocks of a source since it was noted, or None where only a scan can tell.

    `changed` is a file with an extent list, which the user answers for.
    """
    if changed is not None:
        return Marked("changed", read_list(changed, size), size, block_size)
    layers = _since_parent(origin, noted)
    if layers is None:
        return None
    return Marked("vhdx", layers, size, block_size)


def _since_parent(origin: Source, noted: Noted | None) -> Iterator[tuple[int, int]] | None:
    """What the child files of a VHDX hold, where the parent that was replicated has not been touched since.

    The parent's DataWriteGuid alone does not tell: a running machine writes on under the same one. Its file's times do.
    """
    if origin.format != "vhdx" or noted is None or not origin.trusted():
        return None
    from secondsite.engine.images.vhdx import VhdxImage

    image = origin.image
    if not isinstance(image, VhdxImage):
        return None
    stamps = image.stamps()
    # The files that were noted are those below the ones that are new.
    above = len(stamps) - len(noted.stamp)
    if above < 1 or list(stamps[above:]) != noted.stamp:
        return None
    return image.changed_above(above)


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


def check(marked: Marked, image: Image, previous: BlockMap, seed: int) -> str | None:
    """Does a sample of the unnamed blocks bear the tracker out? What is wrong, or None."""
    try:
        offset = marked.unmasked(image, previous, seed, SAMPLED_BLOCKS, random.SystemRandom())
    except ShortImage:
        return None  # the scan will meet it too, and say it better
    if offset is None:
        return None
    return f"{image.path}: the bytes at {offset} changed, which tracker {marked.tracker!r} did not name; all is scanned"
