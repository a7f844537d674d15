"""Sector bitmaps of a differencing file: which sectors of a block are in it, and which are the parent's (formats 1.3).

Bit k of a chunk is bit k % 8 of byte k // 8, counted from the least significant; 1 is "in this file".
"""

from __future__ import annotations

from collections.abc import Iterator

from secondsite.engine.images.vhdx.packing import PAGE
from secondsite.engine.images.vhdx.pages import Pages
from secondsite.engine.images.vhdx.table import LiveTable

_PAGE_BITS = 8 * PAGE


class Sectors:
    """The bits of payload blocks whose chunk has a bitmap; positions are sectors inside the block."""

    def __init__(self, table: LiveTable, pages: Pages, sectors_per_block: int) -> None:
        self._table, self._pages, self._per_block = table, pages, sectors_per_block

    def _pieces(self, block: int, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """(page offset, first bit, last bit) of a range of sectors; a block's bits start at a whole byte."""
        chunk, place = divmod(block, self._table.ratio)
        bitmap = self._table.bitmap(chunk)
        at, end = place * self._per_block + first, place * self._per_block + last
        while at < end:
            page, bit = divmod(at, _PAGE_BITS)
            stop = min(end - page * _PAGE_BITS, _PAGE_BITS)
            yield bitmap + page * PAGE, bit, stop
            at += stop - bit

    def clear(self, block: int) -> None:
        """All sectors are the parent's."""
        for offset, first, last in self._pieces(block, 0, self._per_block):
            page = self._pages.change(offset)
            page[first // 8 : last // 8] = bytes((last - first) // 8)

    def set(self, block: int, first: int, last: int) -> None:
        """The sectors [first, last) are in this file."""
        for offset, start, end in self._pieces(block, first, last):
            page = self._pages.get(offset)
            low, high = start // 8, -(-end // 8)
            mask = (1 << end - 8 * low) - (1 << start - 8 * low)
            bits = int.from_bytes(page[low:high], "little")
            if bits | mask != bits:
                self._pages.change(offset)[low:high] = (bits | mask).to_bytes(high - low, "little")

    def all_set(self, block: int) -> bool:
        """Is nothing of this block the parent's any more?"""
        for offset, start, end in self._pieces(block, 0, self._per_block):
            if self._pages.get(offset)[start // 8 : end // 8].count(0xFF) != (end - start) // 8:
                return False
        return True

    def runs(self, block: int, first: int, last: int) -> Iterator[tuple[bool, int, int]]:
        """(in this file, first, last) of runs of sectors with one state; runs of one state may follow each other."""
        for offset, start, end in self._pieces(block, first, last):
            low = start // 8
            bits = int.from_bytes(self._pages.get(offset)[low : -(-end // 8)], "little")
            at = start
            while at < end:
                shifted = bits >> at - 8 * low
                present = bool(shifted & 1)
                rest = ~shifted if present else shifted
                length = (rest & -rest).bit_length() - 1 if rest else end - at
                stop = min(at + length, end)
                yield present, first + at - start, first + stop - start
                at = stop
            first += end - start
