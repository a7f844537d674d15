"""The block table of a file that is written: entries in memory, and which of their pages the log must bring to disk.

An entry is a state and the offset of the block, which is a multiple of 1 MiB (formats 1.3). After each run of `ratio`
payload blocks, a chunk, follows one entry for the chunk's sector bitmap; without a parent it stays empty.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

from secondsite.engine.images.vhdx.packing import FULL, MIB, NOT_PRESENT, PAGE, PARTIAL, ZERO

IN_FILE = (FULL, PARTIAL)
STATE = 7
OFFSET = ~(MIB - 1)
_PER_PAGE = PAGE // 8


def region_bytes(entries: int) -> int:
    """The length of the region that so many entries need: whole MiB."""
    return -(-8 * entries // MIB) * MIB


class LiveTable:
    """Entries by block number. `offset` and `length` are of the region in the file."""

    def __init__(self, raw: bytes, count: int, offset: int, length: int, ratio: int) -> None:
        """`raw` is the region's beginning, at least `count` entries."""
        self.offset, self.length, self.ratio = offset, length, ratio
        self.dirty: set[int] = set()
        self.entries = array("Q", raw[: 8 * count])
        if sys.byteorder != "little":
            self.entries.byteswap()

    def get(self, block: int) -> int:
        """The entry of a payload block."""
        return self.entries[block + block // self.ratio]

    def put(self, block: int, state: int, offset: int = 0) -> None:
        """Set the entry of a payload block."""
        self._put(block + block // self.ratio, state | offset)

    def bitmap(self, chunk: int) -> int:
        """The offset of a chunk's sector bitmap; 0 where there is none."""
        entry = self.entries[(chunk + 1) * self.ratio + chunk]
        return entry & OFFSET if entry & STATE == FULL else 0

    def put_bitmap(self, chunk: int, offset: int) -> None:
        """Say where a chunk's sector bitmap lies."""
        self._put((chunk + 1) * self.ratio + chunk, FULL | offset)

    def _put(self, index: int, entry: int) -> None:
        self.entries[index] = entry
        self.dirty.add(index // _PER_PAGE)

    def used(self, block_size: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of every block that the entries hold, soft anchors too."""
        ratio = self.ratio
        for index, entry in enumerate(self.entries):
            if entry >= MIB and entry & STATE not in (NOT_PRESENT, ZERO):
                yield entry & OFFSET, MIB if index % (ratio + 1) == ratio else block_size

    def resize(self, count: int) -> None:
        """Cut the table or add empty entries. What the file has behind the old end is noise, so it is overwritten."""
        old = len(self.entries)
        if count < old:
            del self.entries[count:]
            self.dirty = {page for page in self.dirty if page * _PER_PAGE < count}
            return
        self.entries.extend(array("Q", bytes(8 * (count - old))))
        self.dirty.update(range(old // _PER_PAGE, -(-count // _PER_PAGE)))

    def page(self, number: int) -> bytes:
        """4 KiB of the table; past its end, zeros."""
        part = self.entries[number * _PER_PAGE : (number + 1) * _PER_PAGE]
        if sys.byteorder != "little":
            part.byteswap()
        return part.tobytes().ljust(PAGE, b"\0")

    def place(self, number: int) -> int:
        """Where that page lies in the file."""
        return self.offset + number * PAGE
