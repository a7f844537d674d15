"""A VHDX file that may change while it is read: where the bytes of its disk are now (formats 1.3).

The reader of this package (`image`) looks at a file that stands still. Here the table and the bitmaps are in memory,
and what a commit has yet to bring to disk is read as well.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer, Extent, Image, Segments, ShortImage
from secondsite.engine.images.vhdx.gate import Gate
from secondsite.engine.images.vhdx.opening import load
from secondsite.engine.images.vhdx.packing import NOT_PRESENT, PARTIAL
from secondsite.engine.images.vhdx.pages import Pages
from secondsite.engine.images.vhdx.sectors import Sectors
from secondsite.engine.images.vhdx.table import IN_FILE, OFFSET, STATE


class Piece(NamedTuple):
    """`length` bytes of the disk from `start`: at `place` of the file, or zeros (-1), or the parent's (-2)."""

    start: int
    length: int
    place: int


_ZEROS, _PARENT = -1, -2


class LiveDisk(Image):
    """The reading half of `writer.VhdxWriter`, and what both halves share. `file` and `parent` are closed with it."""

    def __init__(self, file: Image, parent: Image | None) -> None:
        self.path = file.path
        self.file = file
        self.parent = parent
        self.opened = load(file)
        self.table = self.opened.table
        self.pages = Pages(file)
        self.sectors = Sectors(self.table, self.pages, self.opened.block_size // self.opened.sector)
        self.gate = Gate()
        self._closed = False

    @property
    def size(self) -> int:
        return self.opened.size

    def check_open(self) -> None:
        """Raises ValueError for a disk that was closed."""
        if self._closed:
            raise ValueError(f"{self.path} is closed")

    def _pieces(self, start: int, length: int) -> Iterator[Piece]:
        """Where a range lies, in order. Inside the lock."""
        end = start + length
        if end > self.opened.size:
            raise ShortImage(f"the disk has {self.opened.size} bytes, {end} were expected", path=self.path)
        block_size = self.opened.block_size
        while start < end:
            block, inside = divmod(start, block_size)
            part = min(block_size - inside, end - start)
            yield from self._block_pieces(block, inside, part)
            start += part

    def _block_pieces(self, block: int, inside: int, length: int) -> Iterator[Piece]:
        start, entry = block * self.opened.block_size + inside, self.table.get(block)
        state = entry & STATE
        if state == PARTIAL and self.opened.differencing:
            sector = self.opened.sector
            for present, first, last in self.sectors.runs(block, inside // sector, -(-(inside + length) // sector)):
                low, high = max(first * sector, inside), min(last * sector, inside + length)
                place = (entry & OFFSET) + low if present else _PARENT
                yield Piece(start + low - inside, high - low, place)
        elif state in IN_FILE:
            yield Piece(start, length, (entry & OFFSET) + inside)
        else:
            absent = state == NOT_PRESENT and self.opened.differencing
            yield Piece(start, length, _PARENT if absent else _ZEROS)

    def _parts(self, start: int, length: int) -> list[Piece]:
        with self.gate.locked():
            self.check_open()
            return list(self._pieces(start, length))

    def _over_parent(self, piece: Piece) -> tuple[Image, int]:
        """The parent, and how many bytes of the piece it has: behind its end the disk is zero."""
        if self.parent is None:
            raise errors.Refused("its parent is needed to read it, and was not given", path=self.path)
        return self.parent, max(min(piece.length, self.parent.size - piece.start), 0)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        with self.gate.locked():
            self.check_open()
            pieces = list(self._pieces(offset, memoryview(buffer).nbytes))
            self.gate.admit()
        try:
            self._read(pieces, offset, buffer)
        finally:
            self.gate.leave()

    def _read(self, pieces: list[Piece], offset: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        for piece in pieces:
            part = view[piece.start - offset : piece.start - offset + piece.length]
            if piece.place >= 0:
                self.file.read_into(piece.place, part)
                continue
            have = 0
            if piece.place == _PARENT:
                parent, have = self._over_parent(piece)
                if have:
                    parent.read_into(piece.start, part[:have])
            if have < piece.length:
                part[have:] = bytes(piece.length - have)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        for piece in self._parts(start, length):
            have = 0
            if piece.place >= 0:
                shift = piece.start - piece.place
                for extent in self.file.extents(piece.place, piece.length):
                    yield Extent(extent.start + shift, extent.length, extent.zero)
                continue
            if piece.place == _PARENT:
                parent, have = self._over_parent(piece)
                if have:
                    yield from parent.extents(piece.start, have)
            if have < piece.length:
                yield Extent(piece.start + have, piece.length - have, True)

    def segments(self, start: int, length: int) -> Segments | None:
        made = Segments(array("i"), array("q"), array("q"))
        for piece in self._parts(start, length):
            have = 0
            if piece.place != _ZEROS:
                image, at, have = self.file, piece.place, piece.length
                if piece.place == _PARENT:
                    (image, have), at = self._over_parent(piece), piece.start
                below = image.segments(at, have) if have else Segments(array("i"), array("q"), array("q"))
                if below is None:
                    return None
                for whole, part in zip(made, below, strict=True):
                    whole.extend(part)
            if have < piece.length:
                made.fds.append(-1)
                made.offsets.append(0)
                made.lengths.append(piece.length - have)
        return made

    def start_writeback(self, offset: int, length: int) -> None:
        for piece in self._parts(offset, length):
            if piece.place >= 0:
                self.file.start_writeback(piece.place, piece.length)
