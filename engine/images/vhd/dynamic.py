"""Write a dynamic VHD in place, so that it opens after a crash at any write, with all that was flushed.

The order, and why:

1. *Room first.* Space for several blocks is added at once: a new footer goes to the new end, and is made durable,
   before anything is written into the space below it. So the last 512 bytes of the file are never the guest's, who
   could have written a footer there, and the space of a new block reads as zeros, durably.
2. *Data.* A new block's bitmap (all ones) and the caller's bytes. The rest of the block is zeros already.
3. *The table on flush.* The data is made durable, then the changed sectors of the block table are written, then they
   are made durable. A table entry so never names bytes that a crash took away.

The copy of the footer at the start is not written but when the disk grows, then last, and the footer at the end is
durable at that moment. A crash during 1 may leave no footer at the end; the copy is read then. Space that no entry
names when the file is opened is cut off before it is used again, since a crash may have left bytes in it.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from secondsite.engine import errors, kernel
from secondsite.engine.images.base import Buffer, Image, Segments
from secondsite.engine.images.layered import Handles, Layer
from secondsite.engine.images.vhd.create import CREATOR, whole_units
from secondsite.engine.images.vhd.fitting import FittingVhd
from secondsite.engine.images.vhd.geometry import geometry_of
from secondsite.engine.images.vhd.layers import BlockLayer
from secondsite.engine.images.vhd.reader import Link
from secondsite.engine.images.vhd.structures import FOOTER_BYTES, HEADER_BYTES, MAX_ENTRIES, NO_BLOCK, SECTOR

# Data begins where a page does, as Windows 8 and later place it (formats section 2).
_ALIGN = 4096
# Room is made for this much at once: one flush of the file for 16 blocks of 2 MiB.
_ROOM_BYTES = 32 << 20


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


class DynamicVhd(FittingVhd):
    """A dynamic VHD opened for writing."""

    def __init__(self, path: str, links: list[Link], layers: list[Layer], handles: Handles) -> None:
        super().__init__(path, links, layers, handles)
        layer, header = layers[0], links[0].header
        assert isinstance(layer, BlockLayer) and header is not None
        self.file: Image = links[0].file
        self.layer, self.header = layer, header
        self._lock = threading.RLock()
        self._flushing = threading.Lock()
        self._dirty: set[int] = set()  # sectors of the table
        self._limit = -1  # where the footer lies, once room was made; the end of the room
        self._next = 0  # where the next block's bitmap goes
        self._closed = False

    # -- where things are ------------------------------------------------------------------------------------

    def map(self, start: int, length: int) -> Segments:
        with self._lock:
            return super().map(start, length)

    def _used_end(self) -> int:
        """The first byte after everything that the file needs, but for the footer."""
        header = self.header
        end = max(header.offset + HEADER_BYTES, header.table_offset + len(self.layer.table))
        if self.layer.present:
            end = max(end, self.layer.highest * SECTOR + header.bitmap_bytes + header.block_size)
        return _up(end, SECTOR)

    def _place(self, after: int) -> int:
        """Where a block may begin at or after a byte, so that its data is aligned."""
        return _up(after + self.header.bitmap_bytes, _ALIGN) - self.header.bitmap_bytes

    # -- writing ---------------------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes | Buffer) -> None:
        """As any image; the disk is as large as it is, so that a write past its end is `Full`."""
        view = memoryview(data).cast("B")
        if offset + view.nbytes > self.size:
            raise errors.Full(f"the disk has {self.size} bytes, no room up to {offset + view.nbytes}", path=self.path)
        block_size = self.header.block_size
        while view.nbytes:
            block, inside = divmod(offset, block_size)
            part = view[: block_size - inside]
            if (at := self._data_at(block, part)) >= 0:
                self.file.write(at + inside, part)
            view, offset = view[part.nbytes :], offset + part.nbytes

    def _data_at(self, block: int, data: Buffer) -> int:
        """Where a block's data lies, which is given a place unless zeros alone are to go there: then -1."""
        with self._lock:
            entry = self.layer.entry(block)
            if entry == NO_BLOCK:
                if kernel.scan.is_zero(data):
                    return -1
                entry = self._allocate(block)
        return entry * SECTOR + self.header.bitmap_bytes

    def _allocate(self, block: int) -> int:
        """Give a block the next place in the file."""
        head, size = self.header.bitmap_bytes, self.header.block_size
        if self._limit < 0 or self._next + head + size > self._limit:
            self._make_room()
        at = self._next
        self.file.write(at, b"\xff" * head)
        entry = at // SECTOR
        self.layer.table[4 * block : 4 * block + 4] = entry.to_bytes(4, "big")
        self.layer.present += 1
        self.layer.highest = max(self.layer.highest, entry)
        self._dirty.add(4 * block // SECTOR)
        self._next = self._place(at + head + size)
        return entry

    def _make_room(self) -> None:
        """A footer further on, durable before the space below it is used."""
        if self._limit < 0:
            self._cut(self._used_end())
        stride = _up(self.header.bitmap_bytes + self.header.block_size, _ALIGN)
        place = self._place(self._limit)
        limit = place + max(_ROOM_BYTES // stride, 1) * stride
        if limit // SECTOR >= NO_BLOCK:
            raise errors.Full("a VHD's sectors have numbers of 32 bits; there are no more", path=self.path)
        self._put_footer(limit)
        self._limit, self._next = limit, place

    def _put_footer(self, at: int) -> None:
        self.file.write(at, self.footer.pack())
        self.file.flush()
        self.links[0].footer_at = at

    def _cut(self, end: int) -> None:
        """Make the file end there with a footer, which is durable before what lies behind it goes."""
        if self.file.size != end + FOOTER_BYTES or self.links[0].recovered:
            self._limit = -1  # until it has gone, what lies behind must not be taken for fresh room
            self._put_footer(end)
            self.file.resize(end + FOOTER_BYTES)
        self._limit, self._next = end, self._place(end)

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        """Blocks that are not there stay so; in the others the bytes become zeros, as holes where possible."""
        if offset + length > self.size:
            raise ValueError(f"{self.path}: zeros to {offset + length} of {self.size}")
        for fd, place, size in zip(*self.map(offset, length), strict=True):
            if fd >= 0:
                self.file.zero(place, size, punch=punch)

    # -- durability ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Data first, then the table that names it."""
        with self._flushing:
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            taken, self._dirty = self._dirty, set()
            start = self.header.table_offset
            sectors = {at: bytes(self.layer.table[at * SECTOR : (at + 1) * SECTOR]) for at in taken}
        try:
            self.file.flush()
            if taken:
                for at in sorted(sectors):
                    self.file.write(start + at * SECTOR, sectors[at])
                self.file.flush()
        except BaseException:
            with self._lock:
                self._dirty |= taken
            raise

    def start_writeback(self, offset: int, length: int) -> None:
        for fd, place, size in zip(*self.map(offset, length), strict=True):
            if fd >= 0:
                self.file.start_writeback(place, size)

    def close(self) -> None:
        """Flush, and give back the room that was made and not used."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
            if self._limit > self._used_end() or self.links[0].recovered:
                self._cut(self._used_end())
                self.file.flush()
        finally:
            super().close()

    # -- growing ---------------------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Grow the disk by zeros. Raises Refused for a smaller size: blocks past the end would have to move."""
        size = whole_units(size, rounding="exact")
        if size < self.size:
            raise errors.Refused(
                f"a dynamic VHD can grow, not shrink: its disk has {self.size} bytes, {size} were asked for "
                "(write a new file)",
                path=self.path,
            )
        if size == self.size:
            return
        with self._flushing, self._lock:
            self._clear_tail()
            self._flush()
            if -(-size // self.header.block_size) > self.header.entries:
                self._move_table(-(-size // self.header.block_size))
            elif self._limit < 0:
                self._cut(self._used_end())
            # The original size too, which should say nothing: libvhdi takes it for the disk's.
            footer = replace(
                self.footer, current_size=size, original_size=size, geometry=geometry_of(size), creator=CREATOR
            )
            self.links[0].footer = footer
            self._put_footer(self._limit)
            self.file.write(0, footer.pack())
            self.file.flush()
            self._size = self.layer.size = self.links[0].size = size

    def _clear_tail(self) -> None:
        """What the last block holds past the end of the disk becomes part of the disk, and so zeros."""
        inside = self.size % self.header.block_size
        entry = self.layer.entry(self.size // self.header.block_size) if inside else NO_BLOCK
        if entry != NO_BLOCK:
            start = entry * SECTOR + self.header.bitmap_bytes
            end = min(start + self.header.block_size, self.file.size)
            self.file.zero(start + inside, end - start - inside, punch=False)

    def _move_table(self, entries: int) -> None:
        """A longer table behind everything else, durable before the header's first sector, alone, names it."""
        if entries > MAX_ENTRIES:
            raise errors.Refused(f"a table of {entries} blocks; it takes at most {MAX_ENTRIES}", path=self.path)
        self._cut(self._used_end())
        place = _up(self._limit + FOOTER_BYTES, _ALIGN)
        table = bytearray(b"\xff" * _up(4 * entries, _ALIGN))
        table[: 4 * self.header.entries] = self.layer.table[: 4 * self.header.entries]
        self._put_footer(place + len(table))
        self._limit = place + len(table)
        self._next = self._place(self._limit)
        self.file.write(place, table)
        self.file.flush()
        raw = bytes(self.file.read(self.header.offset, HEADER_BYTES))
        header = replace(self.header, table_offset=place, entries=entries)
        self.file.write(header.offset, header.pack_over(raw)[:SECTOR])
        # Before it is durable: from here on entries go to the table that the file names, whatever the flush says.
        self.header = self.layer.header = self.links[0].header = header
        self.layer.table = table
        self.file.flush()
