"""The extents of a VMDK: flat, zero and sparse ones, and their sequence as one layer of a chain (formats section 3)."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

from secondsite.engine import errors, kernel
from secondsite.engine.images.base import Image, Segments
from secondsite.engine.images.layered import ZEROS, Handles, Layer
from secondsite.engine.images.vmdk.cache import Cache
from secondsite.engine.images.vmdk.header import SECTOR, SparseHeader
from secondsite.engine.images.vmdk.packed import PackedGrains

# 32 MiB of disk a table in the usual sizes: 8 GiB of disk in 512 KiB of memory.
_TABLES_HELD = 256


class Extent(Protocol):
    """A part of the disk that lies in one file, or nowhere. Ranges are inside it."""

    size: int

    def map(self, start: int, length: int) -> Segments: ...
    def allocated(self) -> int: ...


class FlatExtent:
    """Bytes of a file, as they are."""

    def __init__(self, file: Image, handle: int, offset: int, size: int) -> None:
        self.handle, self.offset, self.size = handle, offset, size
        if offset + size > file.size:
            raise errors.Damaged(
                f"an extent of {size} bytes from byte {offset} of a file of {file.size}", path=file.path
            )

    def map(self, start: int, length: int) -> Segments:
        return Segments(array("i", (self.handle,)), array("q", (self.offset + start,)), array("q", (length,)))

    def allocated(self) -> int:
        return self.size


class ZeroExtent:
    """Zeros that no file holds."""

    def __init__(self, size: int) -> None:
        self.size = size

    def map(self, start: int, length: int) -> Segments:
        return Segments(array("i", (ZEROS,)), array("q", (0,)), array("q", (length,)))

    def allocated(self) -> int:
        return 0


class SparseExtent:
    """Grains found by a directory of grain tables, plain or compressed. Tables are read when they are needed.

    Where the directory or a table of it lies outside the file, the redundant one is used, if there is one.
    """

    def __init__(self, file: Image, handles: Handles, size: int, header: SparseHeader, hole: int) -> None:
        self.file, self.header, self.size, self.hole = file, header, size, hole
        if header.size < size:
            raise errors.Damaged(
                f"its header knows {header.size} bytes, the descriptor {size}", path=file.path, offset=12
            )
        self.directory = self._directory(header.directory_at)
        self.spare = self._directory(header.redundant_at)
        if not self.directory:
            self.directory, self.spare = self.spare, array("I")
        self._compare()
        self._tables = Cache(_TABLES_HELD)
        if header.compressed:
            packed = PackedGrains(file, header, self.entry)
            self.handle = handles.add_reader(packed)
        else:
            self.handle = handles.add(file)

    def _compare(self) -> None:
        """Two directories name the same tables, each its own copy: one that lies elsewhere by a bad byte in the header
        would make a disk of zeros. Where there is one alone it must at least not lie in the descriptor."""
        begin, end = self.header.descriptor_at, self.header.descriptor_at + self.header.descriptor_bytes
        at = self.header.directory_at
        if begin < at + 4 * len(self.directory) and at < end:
            raise errors.Damaged(
                f"the grain directory at byte {at} lies in the descriptor", path=self.file.path, offset=56
            )
        for number, (one, other) in enumerate(zip(self.directory, self.spare, strict=False)):
            if bool(one) != bool(other):
                raise errors.Damaged(
                    f"the grain directory at byte {at} and the redundant one at {self.header.redundant_at} disagree "
                    f"about grain table {number}",
                    path=self.file.path, offset=56,
                )  # fmt: skip

    def _directory(self, at: int) -> array[int]:
        found = array("I")
        if SECTOR <= at <= self.file.size - 4 * self.header.tables:
            found.frombytes(self.file.read(at, 4 * self.header.tables))
            if sys.byteorder == "big":
                found.byteswap()
        return found

    def table(self, number: int) -> bytes:
        """One grain table's bytes; zeros where there is none."""
        if not self.directory[number]:
            return bytes(4 * self.header.entries)
        return self._tables.get(number, self._read_table)

    def _read_table(self, number: int) -> bytes:
        length = 4 * self.header.entries
        for directory in (self.directory, self.spare):
            at = SECTOR * directory[number] if number < len(directory) else 0
            if at and at + length <= self.file.size:
                return bytes(self.file.read(at, length))
        raise errors.Damaged(
            f"grain table {number} is said to lie at sector {self.directory[number]} of a file of "
            f"{self.file.size} bytes",
            path=self.file.path, offset=self.header.directory_at + 4 * number,
        )  # fmt: skip

    def _neighbouring(self, first: int, past: int) -> bytes:
        """The tables of a range by one read, where they lie one after another in the file; else nothing.

        That is how they are made, all of them at once: a walk over a disk of 62 TiB would read two million.
        """
        length, start = 4 * self.header.entries, self.directory[first]
        end = SECTOR * start + (past - first) * length
        if past - first < 2 or length % SECTOR or end > min(self.file.size, SECTOR << 32):
            return b""
        row = array("I", range(start, start + (past - first) * (length // SECTOR), length // SECTOR))
        if not start or self.directory[first:past] != row:
            return b""
        return bytes(self.file.read(SECTOR * start, (past - first) * length))

    def entry(self, grain: int) -> int:
        """The sector that the tables give for a grain; 0 for none."""
        number, index = divmod(grain, self.header.entries)
        return int.from_bytes(self.table(number)[4 * index : 4 * index + 4], "little")

    def map(self, start: int, length: int) -> Segments:
        header = self.header
        first, past = start // header.covered, -(-(start + length) // header.covered)
        if not any(self.directory[first:past]):
            return Segments(array("i", (self.hole,)), array("q", (0,)), array("q", (length,)))
        base = first * header.covered
        tables = self._neighbouring(first, past) or b"".join([self.table(n) for n in range(first, past)])
        fds, offsets, lengths, bad = kernel.tables.grain_map(
            tables, self.handle, header.grain, start - base, length, self.hole, header.zeros,
            base if header.compressed else -1, header.first_sector, self.file.size,
        )  # fmt: skip
        if bad >= 0:
            grain = first * header.entries + bad
            raise errors.Damaged(
                f"grain {grain} is said to lie at sector {self.entry(grain)}, which is not in the data part of a "
                f"file of {self.file.size} bytes",
                path=self.file.path,
            )
        return Segments(fds, offsets, lengths)

    def allocated(self) -> int:
        found = 0
        for number in range(-(-self.size // self.header.covered)):
            if self.directory[number]:
                found += kernel.tables.grain_count(self.table(number), self.header.zeros)
        return found * self.header.grain


class DiskLayer(Layer):
    """The extents of one descriptor, one after another."""

    def descriptors(self) -> list[int]:
        return [extent.handle for extent in self.extents if isinstance(extent, FlatExtent | SparseExtent)]

    def __init__(self, extents: Sequence[Extent], hole: int) -> None:
        self.extents = [extent for extent in extents if extent.size]
        self.starts = [0]
        for extent in self.extents:
            self.starts.append(self.starts[-1] + extent.size)
        self.size = self.starts[-1]
        self.hole = hole
        self.plain = any(isinstance(extent, FlatExtent) for extent in self.extents)

    def map(self, start: int, length: int) -> Segments:
        found = Segments(array("i"), array("q"), array("q"))
        index = bisect_right(self.starts, start) - 1
        while length:
            extent, inside = self.extents[index], start - self.starts[index]
            part = min(length, extent.size - inside)
            piece = extent.map(inside, part)
            if part == length and not found.fds:
                return piece
            for whole, more in zip(found, piece, strict=True):
                whole.extend(more)
            start, length, index = start + part, length - part, index + 1
        return found

    def allocated(self) -> int:
        return sum(extent.allocated() for extent in self.extents)
