"""The block allocation table, read a window at a time and never as Python objects (formats 1.3).

A window is some whole chunks of entries. What is checked when:

* on the first use of a window, of each entry in it: reserved bits, the state, that allocated blocks and bitmaps lie
  inside the file and outside the regions, that partially present blocks have a bitmap, and that no block or bitmap of
  this window or of one used before has the same space. So nobody reads through an entry that was not checked, and who
  reads a whole disk has checked the whole table;
* by `check` (check.py): all windows, whether somebody used them or not.

The space that is taken is one bit a MiB of the file, in memory that the system gives as it is touched. A table of 64
TiB in blocks of 1 MiB has 512 MiB; 8 windows of at most 256 KiB are kept.
"""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from collections.abc import Iterator

from secondsite.engine import errors, kernel
from secondsite.engine.images.vhdx.container import Container
from secondsite.engine.images.vhdx.metadata import Metadata
from secondsite.engine.images.vhdx.packing import FULL, MIB
from secondsite.engine.images.vhdx.regions import Regions
from secondsite.engine.images.vhdx.structures import damaged

_WINDOW_ENTRIES = 16384
_KEPT = 8
_PLACE = ~(MIB - 1) & (1 << 64) - 1


class BlockTable:
    """The table of one file. Methods may be called from several threads at once; all may raise Damaged."""

    def __init__(self, container: Container, regions: Regions, metadata: Metadata) -> None:
        self.container, self.regions, self.metadata = container, regions, metadata
        self.stride = metadata.ratio + 1
        self.window_chunks = max(1, _WINDOW_ENTRIES // self.stride)
        self.windows = -(-metadata.entries // (self.window_chunks * self.stride))
        self._kept: OrderedDict[int, memoryview] = OrderedDict()
        self._bad: dict[int, errors.Error] = {}
        self._checked = bytearray(self.windows)
        self._used = self.taken()
        self._lock = threading.Lock()
        region = regions.bat
        if metadata.entries * 8 > region.length:
            raise damaged(
                container.path, region.at,
                f"region table: {region.length} bytes for the {region.name}, {metadata.entries * 8} are needed for "
                f"{metadata.size} bytes in blocks of {metadata.block_size}",
            )  # fmt: skip

    def chunk(self, number: int) -> memoryview:
        """A chunk's entries, checked; its bitmap's entry last, where the table has one."""
        window, inside = divmod(number, self.window_chunks)
        return self._window(window)[inside * self.stride : (inside + 1) * self.stride]

    def bitmap_place(self, entries: memoryview) -> int:
        """Where the sector bitmap of a chunk lies in the file, or 0 where there is none."""
        if len(entries) < self.stride or entries[-1] & 7 != FULL:
            return 0
        place: int = entries[-1] & _PLACE
        return place

    def tally(self) -> list[int]:
        """See `kernel.vhdx.tally`, over all windows, checked or not."""
        total = [0] * 11
        for index in range(self.windows):
            counts = kernel.vhdx.tally(self._read(index), self.metadata.ratio, self._blocks(index))
            total = [a + b for a, b in zip(total, counts, strict=True)]
        return total

    def problems(self) -> Iterator[errors.Damaged]:
        """The first problem of every window that has one, by a look at all of them that is not remembered."""
        used = self.taken()
        for index in range(self.windows):
            try:
                self._claim(index, self._read(index), used)
            except errors.Damaged as error:
                yield error

    def taken(self) -> mmap.mmap:
        """A bit for each MiB of the file, set where the regions lie."""
        mib = -(-self.container.size // MIB)
        used = mmap.mmap(-1, mib // 8 + 1)
        for place in self.regions.places:
            _set_bits(used, min(place.offset // MIB, mib), min(place.end // MIB, mib))
        return used

    def _window(self, index: int) -> memoryview:
        with self._lock:
            entries = self._kept.get(index)
            if entries is not None:
                self._kept.move_to_end(index)
                return entries
            if index in self._bad:
                raise self._bad[index]
            entries = self._read(index)
            if not self._checked[index]:
                try:
                    self._claim(index, entries, self._used)
                except errors.Damaged as error:
                    self._bad[index] = error
                    raise
                self._checked[index] = 1
            self._kept[index] = entries
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return entries

    def _read(self, index: int) -> memoryview:
        first = index * self.window_chunks * self.stride
        count = min(self.window_chunks * self.stride, self.metadata.entries - first)
        raw = self.container.read(self.regions.bat.offset + 8 * first, 8 * count, "block allocation table")
        return memoryview(raw).cast("Q")

    def _blocks(self, index: int) -> int:
        """Blocks from the window's first to the end of the disk."""
        return self.metadata.blocks - index * self.window_chunks * self.metadata.ratio

    def _claim(self, index: int, entries: memoryview, used: mmap.mmap) -> None:
        meta = self.metadata
        # Of the last block only what the disk has of it must be there: some tools cut it.
        tail = meta.size - (meta.blocks - 1) * meta.block_size
        where, code = kernel.vhdx.claim(
            entries, meta.ratio, self._blocks(index), meta.locator is not None, meta.block_size,
            self.container.size, tail, used,
        )  # fmt: skip
        if where >= 0:
            raise self._damaged(index, where, entries[where], code)

    def _damaged(self, index: int, where: int, entry: int, code: int) -> errors.Damaged:
        ratio = self.metadata.ratio
        chunk, inside = divmod(where, self.stride)
        chunk += index * self.window_chunks
        name = f"block {chunk * ratio + inside}" if inside < ratio else f"bitmap of chunk {chunk}"
        at = self.regions.bat.offset + 8 * (index * self.window_chunks * self.stride + where)
        return damaged(
            self.container.path, at, f"block allocation table: {name} is {entry:#x}: {self._reason(entry, code)}"
        )

    def _reason(self, entry: int, code: int) -> str:
        vhdx, state, place = kernel.vhdx, entry & 7, entry & _PLACE
        if code == vhdx.TAKEN:
            size = self.metadata.block_size
            for region in self.regions.places:
                if place < region.end and place + size > region.offset:
                    return f"it lies at {place}, in the space of the {region.name}"
            return f"it lies at {place}, in the space of another block"
        return {
            vhdx.RESERVED: "bits 3 to 19 must be 0",
            vhdx.STATE: f"there is no state {state} here",
            vhdx.OUTSIDE: f"it lies at {place}, expected from {MIB} on and before the file's end at "
            f"{self.container.size}",
            vhdx.PARTIAL: "only a differencing disk has blocks that are partially present",
            vhdx.NO_BITMAP: "it is partially present, and its chunk has no sector bitmap",
            vhdx.BITMAP: "only a differencing disk has sector bitmaps",
        }[code]


def _set_bits(bits: mmap.mmap, start: int, end: int) -> None:
    while start < end and start % 8:
        bits[start // 8] |= 1 << start % 8
        start += 1
    whole = max(end - start, 0) // 8
    bits[start // 8 : start // 8 + whole] = b"\xff" * whole
    for bit in range(start + 8 * whole, end):
        bits[bit // 8] |= 1 << bit % 8
