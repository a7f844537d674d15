"""Bitmap: one bit a block, in 64-bit words. The portable `_bitmap`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from secondsite.engine.portable import released, unsigned, view

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ONES = (1 << 64) - 1
_WINDOW = 1 << 16  # words looked at in one go, so that a search ends soon after what it found


class Bitmap:
    """`size` bits, all clear. Ranges are [start, end) in bits and must lie inside."""

    def __init__(self, size: int) -> None:
        unsigned(size)
        self._size = size
        try:
            # One word more than needed: the word of a range's end is always there.
            self._words = np.zeros(size // 64 + 1, np.uint64)
        except (MemoryError, ValueError):
            raise MemoryError(f"a bitmap of {size} bits") from None

    @property
    def size(self) -> int:
        return self._size

    def _inside(self, start: int, end: int) -> None:
        unsigned(start)
        if start > end or end > self._size:
            raise IndexError(f"bits {start} to {end} of a bitmap of {self._size}")

    def _mask(self, word: int, mask: int, value: bool) -> None:
        old = int(self._words[word])
        self._words[word] = old | mask if value else old & ~mask

    def _fill(self, start: int, end: int, value: bool) -> None:
        self._inside(start, end)
        first, last = start >> 6, end >> 6
        head, tail = _ONES << (start & 63) & _ONES, (1 << (end & 63)) - 1
        if first == last:
            self._mask(first, head & tail, value)
            return
        self._mask(first, head, value)
        self._words[first + 1 : last] = _ONES if value else 0
        self._mask(last, tail, value)

    def set(self, start: int, end: int) -> None:
        """Set the bits of a range."""
        self._fill(start, end, True)

    def clear(self, start: int, end: int) -> None:
        """Clear the bits of a range."""
        self._fill(start, end, False)

    @released
    def set_many(self, bits: Buffer, count: int) -> None:
        """Set each named bit; none of them where one lies outside."""
        unsigned(count)
        named = view(bits, np.uint64)
        if len(named) < count:
            raise ValueError("fewer bits than the count")
        named = named[:count]
        if count and int(named.max()) >= self._size:
            raise IndexError(f"bit {named.max()} of a bitmap of {self._size}")
        masks = np.uint64(1) << (named & np.uint64(63))
        np.bitwise_or.at(self._words, (named >> np.uint64(6)).astype(np.int64), masks)

    def test(self, bit: int) -> bool:
        """Is this bit set?"""
        self._inside(bit, bit + 1)
        return bool(int(self._words[bit >> 6]) >> (bit & 63) & 1)

    def count(self) -> int:
        """How many bits are set."""
        # Bits past `size` are never set, so that whole words can be counted.
        return int.from_bytes(self._words.tobytes(), "little").bit_count()

    def _next(self, start: int, end: int, value: bool) -> int:
        """The first bit at or after `start` that equals `value`, or `end`."""
        if start >= end:
            return end
        flip = 0 if value else _ONES
        at, past = start >> 6, (end + 63) >> 6
        word = (int(self._words[at]) ^ flip) & (_ONES << (start & 63))
        while not word:
            at += 1
            if at >= past:
                return end
            window = self._words[at : min(at + _WINDOW, past)] != np.uint64(flip)
            skip = int(window.argmax()) if window.any() else len(window) - 1
            at += skip
            word = int(self._words[at]) ^ flip
        return min(64 * at + (word & -word).bit_length() - 1, end)

    def next_range(self, start: int, limit: int) -> tuple[int, int] | None:
        """The first run of set bits at or after `start`, at most `limit` long: (start, end); None at the end.

        Raises ValueError for a limit of 0, with which a caller's loop would never end.
        """
        unsigned(start, limit)
        if limit == 0:
            raise ValueError("a run of at most 0 bits")
        first = self._next(start, self._size, True)
        if first >= self._size:
            return None
        return first, self._next(first, min(first + limit, self._size), False)

    def merge(self, other: Bitmap) -> None:
        """Set every bit that is set in `other`, which must be of the same size."""
        if other.size != self._size:
            raise ValueError(f"bitmaps of {self._size} and {other.size} bits")
        busy = np.flatnonzero(other._words)
        self._words[busy] |= other._words[busy]

    def to_bytes(self) -> bytes:
        """(size + 7) // 8 bytes, least significant bit first."""
        return self._words.tobytes()[: (self._size + 7) // 8]

    @staticmethod
    @released
    def from_bytes(size: int, data: Buffer) -> Bitmap:
        """The reverse of to_bytes; bits past `size` must be clear."""
        unsigned(size)
        given = view(data, np.uint8)
        if len(given) != (size + 7) // 8:
            raise ValueError(f"{len(given)} bytes for a bitmap of {size} bits")
        made = Bitmap(size)
        made._words.view(np.uint8)[: len(given)] = given
        if int(made._words[-1]) >> (size % 64):
            raise ValueError("bits are set past the end of the bitmap")
        return made
