"""Extent maps of files, and where two of them may differ. The portable `_extents`."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secondsite.engine.portable import MAX_OFFSET, Words, released, unsigned, view

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Map = tuple[Buffer, Buffer, Buffer, Buffer]

MAX_EXTENTS = 1 << 22
_FIEMAP = 0xC020660B
_HEAD = struct.Struct("=QQIIII")  # start, length, flags, extents found, extents asked for, reserved
_EXTENT = np.dtype(
    [("logical", "u8"), ("physical", "u8"), ("length", "u8"), ("", "u8", 2), ("flags", "u4"), ("", "u4", 3)]
)
_SYNC = 1
_BATCH = 4096
_LAST, _UNKNOWN, _UNWRITTEN, _MERGED, _SHARED = 0x1, 0x2, 0x800, 0x1000, 0x2000
# With any flag beside these, those that later kernels may add among them, the address does not tell the bytes.
_PLAIN = _LAST | _UNWRITTEN | _MERGED | _SHARED
_ZERO, _DATA, _OPAQUE = 0, 1, 2


def fiemap(fd: int, size: int, limit: int = MAX_EXTENTS) -> tuple[array[int], array[int], array[int], array[int]]:
    """The map of the first `size` bytes of a file, written back first (FIEMAP_FLAG_SYNC): (logical, physical, length,
    flags). What lies behind `limit` extents, or behind an answer that makes no sense, is one extent with the flag
    UNKNOWN. Raises OSError where the file system does not answer.
    """
    unsigned(size, limit)
    if size > MAX_OFFSET:
        raise ValueError(f"a file of {size} bytes")
    out = (array("Q"), array("Q"), array("Q"), array("I"))
    at, done = 0, 0
    while at < size and not done:
        at, done = _take(out, _ask(fd, at, size - at), at, size, limit)
    if done < 0:
        for column, value in zip(out, (at, 0, size - at, _UNKNOWN), strict=True):
            column.append(value)
    return out


def _ask(fd: int, start: int, length: int) -> npt.NDArray[Any]:
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))  # ioctl would raise ValueError
    buffer = bytearray(_HEAD.size + _BATCH * _EXTENT.itemsize)
    _HEAD.pack_into(buffer, 0, start, length, _SYNC, 0, _BATCH, 0)
    if fcntl.ioctl(fd, _FIEMAP, buffer):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    found = min(_HEAD.unpack_from(buffer)[3], _BATCH)
    return np.frombuffer(buffer, _EXTENT, found, _HEAD.size)


def _take(out: tuple[array[int], ...], found: npt.NDArray[Any], at: int, size: int, limit: int) -> tuple[int, int]:
    """Append one answer: where to go on, and 1 after the last, -1 where what follows is not known, or 0."""
    for extent in found:
        logical, length, flags = int(extent["logical"]), int(extent["length"]), int(extent["flags"])
        if logical >= size:
            return at, 1
        if len(out[0]) >= limit or logical < at or not 0 < length <= MAX_OFFSET - logical:
            return at, -1
        for column, value in zip(out, (logical, int(extent["physical"]), length, flags), strict=True):
            column.append(value)
        at = logical + length
        if flags & _LAST:
            return at, 1
    return at, 0 if len(found) else 1


@released
def weigh(extents: Map) -> tuple[int, int]:
    """Bytes of a map's extents that no other file shares, which go free with the file; and of those whose address does
    not tell their bytes, which always count as changed.
    """
    lengths, flags = view(extents[2], np.uint64), view(extents[3], np.uint32)
    if len(flags) != len(lengths):
        raise ValueError("the arrays of a map differ in length")
    alone = flags & (_SHARED | _UNKNOWN) == 0
    return int(lengths[alone].sum()), int(lengths[flags & ~np.uint32(_PLAIN) != 0].sum())


class _Side:
    """A map that is ascending, disjoint and inside the offsets of a file. Raises ValueError for another."""

    def __init__(self, logical: Buffer, physical: Buffer, length: Buffer, flags: Buffer) -> None:
        self.starts, places, lengths = (view(part, np.uint64) for part in (logical, physical, length))
        marks = view(flags, np.uint32)
        if not len(self.starts) == len(places) == len(lengths) == len(marks):
            raise ValueError("the arrays of a map differ in length")
        room = MAX_OFFSET - np.minimum(self.starts, np.uint64(MAX_OFFSET))
        wrong = (self.starts > MAX_OFFSET) | (lengths == 0) | (lengths > room)
        self.ends = self.starts + lengths
        if not wrong.any():
            wrong[1:] = self.starts[1:] < self.ends[:-1]
        if wrong.any():
            bad = int(wrong.argmax())
            raise ValueError(f"extent {bad}: {lengths[bad]} bytes at {self.starts[bad]}")
        opaque = (marks & ~np.uint32(_PLAIN) != 0) | ((marks & _UNWRITTEN == 0) & (places == 0))
        self.kinds = np.where(opaque, _OPAQUE, np.where(marks & _UNWRITTEN != 0, _ZERO, _DATA))
        self.shifts = np.where(self.kinds == _DATA, places - self.starts, np.uint64(0))

    def look(self, at: Words) -> tuple[npt.NDArray[Any], Words]:
        """The kind at each of these bytes, and its shift: physical less logical."""
        if not len(self.starts):
            return np.zeros(len(at), np.int64), np.zeros_like(at)
        found = np.searchsorted(self.starts, at, "right") - 1
        inside = (found >= 0) & (at < self.ends[found])
        return np.where(inside, self.kinds[found], _ZERO), np.where(inside, self.shifts[found], np.uint64(0))


@released
def changed(old: Map, new: Map, old_size: int, size: int) -> tuple[array[int], array[int]]:
    """Where files of `old_size` and `size` bytes may differ, by their maps: (starts 'Q', lengths 'Q') in bytes,
    ascending, apart, inside the new one; see the native one for the rules. Raises ValueError for a map that is none.
    """
    unsigned(old_size, size)
    if max(old_size, size) > MAX_OFFSET:
        raise ValueError(f"files of {old_size} and {size} bytes")
    a, b, common = _Side(*old), _Side(*new), min(old_size, size)
    edges = np.unique(np.concatenate((np.zeros(1, np.uint64), a.starts, a.ends, b.starts, b.ends)))
    edges = edges[edges < common]
    kinds, shifts = a.look(edges)
    others, moved = b.look(edges)
    differ = (kinds != others) | (kinds == _OPAQUE) | (shifts != moved)
    turns = np.flatnonzero(np.diff(differ, prepend=False, append=False))
    ends = np.append(edges, np.uint64(common))
    starts, stops = ends[turns[::2]].tolist(), ends[turns[1::2]].tolist()
    if old_size != size and size:
        tail = max(common - 1, 0)
        if stops and stops[-1] >= tail:
            stops[-1] = size
        else:
            starts.append(tail)
            stops.append(size)
    return array("Q", starts), array("Q", (stop - start for start, stop in zip(starts, stops, strict=True)))
