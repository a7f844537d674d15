"""A VHDX file that is read and written in place, whole after a crash at any moment (formats 1.3, 1.5; see `session`).

Payload goes straight to its place; the table and the sector bitmaps change in memory until a commit.

Without a parent a new block is in the table at once: its space is zeros, as the block was. Over a parent, bits and
states are set only after the data is written, inside the lock, so that a write that fails hides nothing of the parent.

Whole blocks of zeros become the state ZERO and give their space back; where `punch=False` asks to keep it, and in fixed
files, zeros are written in place. The space that a soft anchor names is left alone: nothing says that it is nobody
else's.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence

from secondsite.engine.images.base import Buffer
from secondsite.engine.images.raw import RawImage
from secondsite.engine.images.vhdx.batches import check_batch, write_batch, write_runs
from secondsite.engine.images.vhdx.image import VhdxImage
from secondsite.engine.images.vhdx.packing import FULL, MIB, NOT_PRESENT, PARTIAL, ZERO
from secondsite.engine.images.vhdx.resize import check_size, resize
from secondsite.engine.images.vhdx.session import Session
from secondsite.engine.images.vhdx.table import IN_FILE, OFFSET, STATE


class VhdxWriter(Session):
    """A VHDX open for reading and writing. `file` is the container itself, closed with this.

    A differencing file needs `parent`, the disk that it is a difference to, wherever it has nothing of its own; it
    is closed too. `open_writer` opens both by path.
    """

    def _place(self, block: int) -> int:
        """The offset of a block that is in the file, or of new space for it."""
        entry = self.table.get(block)
        if entry & STATE in IN_FILE:
            return entry & OFFSET
        # The space that a soft anchor names is left alone in this session: nothing says that it is nobody else's.
        return self.take(self.opened.block_size)

    def check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.opened.size:
            raise ValueError(f"{self.path}: bytes {offset} to {offset + length} of {self.opened.size}")

    def write(self, offset: int, data: bytes | Buffer) -> None:
        view = memoryview(data).cast("B")
        self.check_range(offset, view.nbytes)
        put = self._write_over_parent if self.opened.differencing else self._write_some
        while view.nbytes:
            done = put(offset, view)
            offset, view = offset + done, view[done:]
            if view.nbytes:
                self.flush()

    def _write_some(self, offset: int, view: memoryview) -> int:
        """Write until the next log entry is full; the number of bytes."""
        plan: list[tuple[int, int, int]] = []
        done, block_size = 0, self.opened.block_size
        with self.gate.locked():
            self.begin()
            while done < view.nbytes and self.has_room():
                block, inside = divmod(offset + done, block_size)
                part = min(block_size - inside, view.nbytes - done)
                plan.append((self.allocate(block) + inside, done, part))
                done += part
            self.gate.admit()
        try:
            for place, at, part in plan:
                self.file.write(place, view[at : at + part])
        finally:
            self.gate.leave()
        return done

    def allocate(self, block: int) -> int:
        """Without a parent: where a block lies, which it does from now on. New space is zeros, as the block was."""
        entry = self.table.get(block)
        if entry & STATE in IN_FILE:
            return entry & OFFSET
        place = self._place(block)
        self.table.put(block, FULL, place)
        return place

    def _write_over_parent(self, offset: int, view: memoryview) -> int:
        """As _write_some, for a differencing file: inside the lock, because bits are set only after the data."""
        with self.gate.locked():
            self.begin()
            done, block_size = 0, self.opened.block_size
            while done < view.nbytes and self.has_room():
                block, inside = divmod(offset + done, block_size)
                part = min(block_size - inside, view.nbytes - done)
                self._write_block(block, inside, view[done : done + part])
                done += part
        return done

    def _write_block(self, block: int, inside: int, data: memoryview | bytearray) -> None:
        """One range of one block of a differencing file: data, then bits, then state."""
        sector, end = self.opened.sector, inside + len(data)
        low, high = inside - inside % sector, -(-end // sector) * sector
        if (low, high) != (inside, end) and self.table.get(block) & STATE in (NOT_PRESENT, PARTIAL):
            whole, start = bytearray(high - low), block * self.opened.block_size + low
            self._read(list(self._pieces(start, len(whole))), start, whole)
            whole[inside - low : inside - low + len(data)] = data
            inside, end, data = low, high, whole
        place = self._place(block)
        self.file.write(place + inside, data)
        self._mark(block, place, inside, end)

    def _mark(self, block: int, place: int, inside: int, end: int) -> None:
        """Say that these bytes of a block are in the file, at `place`, now that they are."""
        state, sector = self.table.get(block) & STATE, self.opened.sector
        whole = inside == 0 and end >= self.block_length(block)
        if state == FULL:
            return
        if whole or state not in (NOT_PRESENT, PARTIAL):
            # From zeros the rest of the block is zeros too, never the parent's.
            self.table.put(block, FULL, place)
            return
        if state == NOT_PRESENT:
            self._need_bitmap(block // self.table.ratio)
            self.sectors.clear(block)
            self.table.put(block, PARTIAL, place)
        self.sectors.set(block, inside // sector, end // sector)
        if self.sectors.all_set(block):
            self.table.put(block, FULL, place)

    def _need_bitmap(self, chunk: int) -> None:
        if not self.table.bitmap(chunk):
            self.table.put_bitmap(chunk, self.take(MIB))

    def block_length(self, block: int) -> int:
        """The bytes of the disk in a block: fewer in the last."""
        return min(self.opened.block_size, self.opened.size - block * self.opened.block_size)

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        self.check_range(offset, length)
        end = offset + length
        while offset < end:
            with self.gate.locked():
                self.begin()
                while offset < end and self.has_room():
                    block, inside = divmod(offset, self.opened.block_size)
                    part = min(self.opened.block_size - inside, end - offset)
                    self.zero_block(block, inside, part, punch)
                    offset += part
            if offset < end:
                self.flush()

    def zero_block(self, block: int, inside: int, length: int, punch: bool) -> None:
        entry = self.table.get(block)
        state = entry & STATE
        if state == ZERO or (state == NOT_PRESENT and not self.opened.differencing):
            return
        keep = self.opened.fixed or not punch
        if length == self.block_length(block) and not (keep and state in IN_FILE):
            if state in IN_FILE:
                self.space.release(entry & OFFSET, self.opened.block_size)
            self.table.put(block, ZERO)
        elif state == FULL or (state == PARTIAL and not self.opened.differencing):
            self.file.zero((entry & OFFSET) + inside, length, punch=punch)
        elif state in (NOT_PRESENT, PARTIAL):
            self._zero_sectors(block, inside, length, punch)

    def _zero_sectors(self, block: int, inside: int, length: int, punch: bool) -> None:
        """Zeros over a part of a block whose other sectors may be the parent's."""
        sector, end = self.opened.sector, inside + length
        low, high = -(-inside // sector) * sector, end // sector * sector
        if low >= high:
            self._write_block(block, inside, bytearray(length))
            return
        place = self._place(block)
        self.file.zero(place + low, high - low, punch=punch)
        self._mark(block, place, low, high)
        if inside < low:
            self._write_block(block, inside, bytearray(low - inside))
        if high < end:
            self._write_block(block, high, bytearray(end - high))

    def write_blocks(
        self,
        blocks: array[int],
        lengths: array[int],
        count: int,
        block_size: int,
        image_size: int,
        payload: Buffer,
        *,
        punch: bool = True,
    ) -> None:
        # Blocks of a VHDX lie at whole MiB, so that what divides a MiB has a number in the file too.
        direct = not self.opened.differencing and MIB % block_size == 0
        put = write_batch if direct else write_runs
        with memoryview(payload) as view:
            put(self, blocks, lengths, count, block_size, view, punch)

    def check_blocks(
        self,
        blocks: array[int],
        lengths: array[int],
        hashes: Buffer,
        count: int,
        block_size: int,
        image_size: int,
        seed: int,
    ) -> int:
        direct = not self.opened.differencing and MIB % block_size == 0
        # The disk's last block, where it is a short one, is followed in the file by something.
        last = image_size // block_size
        if not direct or (image_size % block_size and last in blocks[:count]):
            return super().check_blocks(blocks, lengths, hashes, count, block_size, image_size, seed)
        self.check_range(0, (max(blocks[:count], default=-1) + 1) * block_size)
        return check_batch(self, blocks, lengths, hashes, count, block_size, seed)

    def resize(self, size: int) -> None:
        with self.gate.alone():
            if size != self.opened.size:
                check_size(self, size)
                self.begin()
                resize(self, size)


def open_writer(
    path: str | os.PathLike[str], *, allow_parent_path: Sequence[str | os.PathLike[str]] = ()
) -> VhdxWriter:
    """Open a file, and its parents for reading, as `VhdxImage` does; raises what that raises."""
    parent = None
    with VhdxImage(path, allow_parent_path=allow_parent_path) as image:
        above = [layer.path for layer in image.layers[1:]]
    if above:
        folders = [os.path.dirname(one) for one in above]
        parent = VhdxImage(above[0], allow_parent_path=folders)
    try:
        return VhdxWriter(RawImage(path, "rw"), parent)
    except BaseException:
        if parent is not None:
            parent.close()
        raise
