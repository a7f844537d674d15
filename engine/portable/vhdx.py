"""VHDX maps over numpy: from block allocation entries and sector bitmaps to file ranges. The portable `_vhdx`."""

from __future__ import annotations

import itertools
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from secondsite.engine.portable import Words, released, unsigned, view

if TYPE_CHECKING:
    from typing_extensions import Buffer

ZERO = -1
PARENT = -2
OK, RESERVED, STATE, OUTSIDE, TAKEN, PARTIAL, NO_BITMAP, BITMAP = range(8)
_SMALL_HOLE = 65536
_MIB = 1 << 20
_PLACE = np.uint64(0x7FFFFFFFFFF00000)

Lists = tuple["array[int]", "array[int]", "array[int]"]
Longs = npt.NDArray[np.int64]


class _Full(Exception):
    """The limit of pieces is reached."""


class _Pieces:
    """A growing list of pieces that join where they touch."""

    def __init__(self, limit: int) -> None:
        self.fds, self.offsets, self.lengths = array("i"), array("q"), array("q")
        self.limit = limit

    def push(self, fd: int, offset: int, length: int) -> None:
        if length == 0:
            return
        if self.fds and self.fds[-1] == fd and (fd == ZERO or self.offsets[-1] + self.lengths[-1] == offset):
            self.lengths[-1] += length
            return
        if self.limit and len(self.fds) == self.limit:
            raise _Full
        self.fds.append(fd)
        self.offsets.append(0 if fd == ZERO else offset)
        self.lengths.append(length)

    def take(self) -> Lists:
        return self.fds, self.offsets, self.lengths


class _Overlay(NamedTuple):
    starts: list[int]
    ends: list[int]
    sources: list[int]
    fd: int

    def push(self, out: _Pieces, fd: int, offset: int, length: int) -> None:
        """A range of the file, as it reads through the overlay."""
        end = offset + length
        index = bisect_right(self.ends, offset)
        while offset < end and index < len(self.starts) and self.starts[index] < end:
            start, stop, source = self.starts[index], min(self.ends[index], end), self.sources[index]
            if start > offset:
                out.push(fd, offset, start - offset)
                offset = start
            if source < 0:
                out.push(ZERO, 0, stop - offset)
            else:
                out.push(self.fd, source + offset - start, stop - offset)
            offset = stop
            index += 1
        out.push(fd, offset, end - offset)


def _items(buffer: Buffer, dtype: type[np.generic]) -> list[int]:
    items: list[int] = view(buffer, dtype).tolist()
    return items


def _overlay(starts: Buffer, ends: Buffer, sources: Buffer, fd: int) -> _Overlay:
    made = _Overlay(_items(starts, np.int64), _items(ends, np.int64), _items(sources, np.int64), fd)
    if len(made.ends) != len(made.starts) or len(made.sources) != len(made.starts):
        raise ValueError("the lists of an overlay differ in length")
    return made


def overlaid(
    fd: int, offset: int, length: int, starts: Buffer, ends: Buffer, sources: Buffer, pages_fd: int
) -> Lists:
    """A range of a file as pieces, read through an overlay."""
    over, out = _overlay(starts, ends, sources, pages_fd), _Pieces(0)
    if not 0 <= offset <= 1 << 62 or not 0 <= length <= 1 << 62:
        raise ValueError(f"{length} bytes at {offset}")
    over.push(out, fd, offset, length)
    return out.take()


class _Chunk(NamedTuple):
    """One layer's entries and bitmap of one chunk."""

    start: int
    block_size: int
    sector: int
    entries: Words
    bits: npt.NDArray[np.uint8]
    first_bit: int
    fd: int
    missing: int
    over: _Overlay

    def push(self, out: _Pieces, at: int, end: int) -> None:
        """Bytes [at, end) of the chunk."""
        first, last = at // self.block_size, -(-end // self.block_size)
        entries = self.entries[first:last]
        states = (entries & np.uint64(7)).astype(np.int64)
        places = (entries & _PLACE).astype(np.int64)
        for low, high in self._alike(states, places):
            start, stop = max(at, (first + low) * self.block_size), min(end, (first + high) * self.block_size)
            state, place = int(states[low]), int(places[low]) + start - (first + low) * self.block_size
            if state == 6:
                self.over.push(out, self.fd, place, stop - start)
            elif state == 7:
                self._partial(out, start, stop, place)
            elif state == 0:
                out.push(self.missing, self.start + start, stop - start)
            else:
                out.push(ZERO, 0, stop - start)

    def _alike(self, states: Longs, places: Longs) -> Iterator[tuple[int, int]]:
        """Runs of blocks with one state, those in the file one behind another there."""
        same = states[1:] == states[:-1]
        there = (states[1:] < 6) | (places[1:] == places[:-1] + self.block_size)
        edges = [0, *(np.flatnonzero(~(same & there)) + 1).tolist(), len(states)]
        yield from itertools.pairwise(edges)

    def _partial(self, out: _Pieces, at: int, end: int, place: int) -> None:
        """Bytes of partially present blocks, by the sector bitmap."""
        first, last = at // self.sector - self.first_bit, -(-end // self.sector) - self.first_bit
        if first < 0 or last > 8 * len(self.bits):
            raise ValueError(f"bytes {at} of the chunk at {self.start} are not covered by the bitmap")
        bits = np.unpackbits(self.bits[first // 8 : -(-last // 8)], bitorder="little")
        bits = bits[first % 8 : first % 8 + last - first]
        edges = [0, *(np.flatnonzero(bits[1:] != bits[:-1]) + 1).tolist(), len(bits)]
        for low, high in itertools.pairwise(edges):
            start = max(at, (self.first_bit + first + low) * self.sector)
            stop = min(end, (self.first_bit + first + high) * self.sector)
            if bits[low]:
                self.over.push(out, self.fd, place + start - at, stop - start)
            else:
                out.push(self.missing, self.start + start, stop - start)


@released
def refine(
    fds: Buffer,
    offsets: Buffer,
    lengths: Buffer,
    chunk_start: int,
    block_size: int,
    sector: int,
    entries: Buffer,
    bitmap: Buffer,
    first_bit: int,
    fd: int,
    missing: int,
    starts: Buffer,
    ends: Buffer,
    sources: Buffer,
    pages_fd: int,
    limit: int,
) -> Lists:
    """Replace the PARENT pieces, all of one chunk, by what one layer's entries say of them.

    `entries` are the chunk's payload entries; bit 0 of `bitmap` is the chunk's sector `first_bit`; what the layer
    does not have becomes `missing` (ZERO or PARENT). Stops before there would be more than `limit` pieces (0: no
    limit), so the lengths that come back may add up to less than those that went in. Raises ValueError for a
    piece that the entries or the bitmap do not cover.
    """
    files, places, sizes = _items(fds, np.int32), _items(offsets, np.int64), _items(lengths, np.int64)
    table, bits = view(entries, np.uint64), view(bitmap, np.uint64).view(np.uint8)
    over = _overlay(starts, ends, sources, pages_fd)
    if len(places) != len(files) or len(sizes) != len(files):
        raise ValueError("the lists of pieces differ in length")
    if block_size <= 0 or sector <= 0 or first_bit < 0 or len(table) > (1 << 62) // block_size:
        raise ValueError(f"blocks of {block_size} bytes, sectors of {sector}")
    room = len(table) * block_size
    for index, (kind, place, size) in enumerate(zip(files, places, sizes, strict=True)):
        if kind == PARENT and not (0 <= size <= room and 0 <= place - chunk_start <= room - size):
            raise ValueError(f"piece {index}: {size} bytes at {place} are not in the chunk at {chunk_start}")
    chunk = _Chunk(chunk_start, block_size, sector, table, bits, first_bit, fd, missing, over)
    out = _Pieces(limit)
    try:
        for kind, place, size in zip(files, places, sizes, strict=True):
            if kind != PARENT:
                out.push(kind, place, size)
            elif size:
                chunk.push(out, place - chunk_start, place - chunk_start + size)
    except _Full:
        pass
    return out.take()


class _Holes:
    """Looks for the holes of files, and keeps what one look has found for the next: see the native kernel."""

    def __init__(self) -> None:
        self.fd, self.sparse, self.data, self.hole = -1, False, 0, 0

    def push(self, out: _Pieces, fd: int, offset: int, length: int) -> None:
        """A range of a file as data and, where the file system has holes of some size in it, zeros."""
        if self.fd != fd:
            info = os.fstat(fd)
            self.fd, self.sparse, self.data, self.hole = fd, info.st_blocks * 512 < info.st_size, 0, 0
        end, done, hole = offset + length, offset, offset
        while self.sparse and hole < end:
            data = self._next_data(hole, end)
            if data - hole >= _SMALL_HOLE:
                out.push(0, done, hole - done)
                out.push(ZERO, 0, data - hole)
                done = data
            if data == end:
                break
            if not self.data <= data < self.hole:
                found = self._next_hole(data)
                if found <= data:
                    break
                self.data, self.hole = data, found
            hole = self.hole
        out.push(0, done, end - done)

    def _next_hole(self, at: int) -> int:
        try:
            return os.lseek(self.fd, at, os.SEEK_HOLE)
        except OSError:
            return at

    def _next_data(self, at: int, end: int) -> int:
        if self.data <= at < self.hole:
            return at
        try:
            return min(os.lseek(self.fd, at, os.SEEK_DATA), end)
        except OSError:
            # After the last data of the file; unless the file was cut: it is read, and the read says so.
            return end if os.lseek(self.fd, 0, os.SEEK_END) >= end else at


def runs(fds: Buffer, offsets: Buffer, lengths: Buffer, holes: bool) -> tuple[array[int], array[int]]:
    """Pieces joined by what they are: (kinds, lengths), a kind being 0 for data, ZERO or PARENT.

    `holes` looks for holes of the files too, and calls them zero.
    """
    files, places, sizes = _items(fds, np.int32), _items(offsets, np.int64), _items(lengths, np.int64)
    if len(places) != len(files) or len(sizes) != len(files):
        raise ValueError("the lists of pieces differ in length")
    kinds, joined, looked = array("i"), array("q"), _Holes()
    for fd, offset, length in zip(files, places, sizes, strict=True):
        out = _Pieces(0)
        if fd >= 0 and holes and length >= _SMALL_HOLE:
            looked.push(out, fd, offset, length)
        else:
            out.push(min(fd, 0), offset, length)
        for kind, size in zip(out.fds, out.lengths, strict=True):
            if kinds and kinds[-1] == kind:
                joined[-1] += size
            else:
                kinds.append(kind)
                joined.append(size)
    return kinds, joined


def _payload(entries: Words, ratio: int, blocks: int) -> npt.NDArray[np.int64]:
    """The indexes of the payload entries."""
    index: npt.NDArray[np.int64] = np.arange(len(entries), dtype=np.int64)
    payload: npt.NDArray[np.int64] = index[index % (ratio + 1) != ratio][:blocks]
    return payload


def _occupy(used: npt.NDArray[Any], first: int, count: int) -> bool:
    """Mark MiBs of the file; False where one of them is taken."""
    index = np.arange(first, min(first + count, 8 * len(used)))
    bits = (np.uint8(1) << (index & 7).astype(np.uint8)).astype(np.uint8)
    if (used[index >> 3] & bits).any():
        return False
    np.bitwise_or.at(used, index >> 3, bits)
    return True


@released
def claim(
    entries: Buffer,
    ratio: int,
    blocks: int,
    differencing: bool,
    block_size: int,
    file_size: int,
    tail: int,
    used: Buffer,
) -> tuple[int, int]:
    """Check whole chunks of entries, and mark the MiBs of the file that they use in the bits of `used`.

    `ratio` payload entries and one bitmap entry make a chunk; there are `blocks` payload entries, of which the
    last needs only `tail` bytes in the file. Returns (index, what is wrong with it), or (-1, OK).
    """
    unsigned(blocks, block_size, file_size, tail)
    if not 0 < ratio <= 1 << 32 or block_size > 1 << 40:
        raise ValueError(f"{ratio} blocks of {block_size} bytes a chunk")
    table, marks = view(entries, np.uint64), view(used, np.uint8, writable=True)
    states, places = table & np.uint64(7), table & ~np.uint64(_MIB - 1)
    payload = _payload(table, ratio, blocks)
    bitmaps = np.arange(ratio, len(table), ratio + 1)
    # Entries that say nothing are most of a large table; only the others are looked at one by one.
    counted = np.zeros(len(table), np.int8)
    counted[payload], counted[bitmaps] = 1, 2
    reserved = (table & np.uint64(0xFFFF8)) != 0
    last = int(payload[-1]) if len(payload) == blocks and blocks else -1
    suspects = ((counted > 0) & (reserved | (states >= 4))) | ((counted == 2) & (states > 0))
    for index in np.flatnonzero(suspects).tolist():
        state, place = int(states[index]), int(places[index])
        sector_bitmap = counted[index] == 2
        size = _MIB if sector_bitmap else block_size
        needed = tail if index == last else size
        owner = index - index % (ratio + 1) + ratio
        if reserved[index]:
            return index, RESERVED
        if state < 6 or (sector_bitmap and state != 6):
            return index, STATE
        if not differencing and (sector_bitmap or state == 7):
            return index, BITMAP if sector_bitmap else PARTIAL
        if state == 7 and (owner >= len(table) or states[owner] != 6):
            return index, NO_BITMAP
        if place == 0 or place >= file_size or file_size - place < needed:
            return index, OUTSIDE
        if not _occupy(marks, place // _MIB, size // _MIB):
            return index, TAKEN
    return -1, OK


def tally(entries: Buffer, ratio: int, blocks: int) -> list[int]:
    """How many payload entries there are of each state, then how many bitmaps, soft anchors and ZEROs with a place."""
    if ratio <= 0:
        raise ValueError("no blocks in a chunk")
    table = view(entries, np.uint64)
    payload = table[_payload(table, ratio, blocks)]
    states, placed = payload & np.uint64(7), (payload >> np.uint64(20)) != 0
    counts: list[int] = np.bincount(states.astype(np.int64), minlength=8).tolist()
    counts.append(int(((table[ratio :: ratio + 1] & np.uint64(7)) == 6).sum()))
    counts.append(int((placed & ((states == 1) | (states == 3))).sum()))
    counts.append(int((placed & (states == 2)).sum()))
    return counts
