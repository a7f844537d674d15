"""A VHDX file that is read and written in place, whole after a crash at any moment (formats 1.5).

* The first change of a session starts a log and writes new headers: new FileWriteGuid, DataWriteGuid and LogGuid.
* Payload goes straight to its place. Changes of the block table and of sector bitmaps collect in memory.
* A commit makes the payload durable, then one log entry with every changed page of metadata, then writes those pages
  in place; the flush at the start of the next commit makes them durable there. So no pointer is ever on disk before
  what it leads to, and a crash leaves either the old metadata or the new.
* Space that was given up is room only after the commit that gave it up (see `space`).
* `close` ends the log, and cuts the file behind its last block.

Whole blocks of zeros become the state ZERO and give their space back; where `punch=False` asks to keep it, and in fixed
files, zeros are written in place.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple
from uuid import UUID, uuid4

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer, Extent, Image, Segments, ShortImage
from secondsite.engine.images.vhdx.gate import Gate
from secondsite.engine.images.vhdx.journal import NO_LOG, Journal
from secondsite.engine.images.vhdx.opening import load
from secondsite.engine.images.vhdx.packing import MIB, PAGE
from secondsite.engine.images.vhdx.pages import Pages
from secondsite.engine.images.vhdx.resize import check_size, resize
from secondsite.engine.images.vhdx.sectors import Sectors
from secondsite.engine.images.vhdx.space import GROW_BYTES, Space
from secondsite.engine.images.vhdx.table import FULL, IN_FILE, NOT_PRESENT, OFFSET, PARTIAL, STATE, ZERO

# What one step of a write or zero may change at most, in pages: 16 of bitmaps for a block of 256 MiB (one more where it
# starts inside one) and three of the table. A step begins only where so many still fit into the next log entry.
_STEP_PAGES = 20


class Piece(NamedTuple):
    """`length` bytes of the disk from `start`: at `place` of the file, or zeros (-1), or the parent's (-2)."""

    start: int
    length: int
    place: int


_ZEROS, _PARENT = -1, -2


class VhdxWriter(Image):
    """See the module. `file` is the VHDX itself, open for reading and writing, and closed with this.

    A differencing file needs `parent`, the disk that it is a difference to, wherever it has nothing of its own; it
    is closed too. The file grows by `grow` bytes at a time.
    """

    def __init__(self, file: Image, parent: Image | None = None, *, grow: int = GROW_BYTES) -> None:
        opened = load(file)
        self.path = file.path
        self.file = file
        self.parent = parent
        self.opened = opened
        self.table = opened.table
        self.headers = opened.headers
        self.pages = Pages(file)
        self.sectors = Sectors(self.table, self.pages, opened.block_size // opened.sector)
        self._grow = grow
        self._file_size = file.size
        self.space = Space(self._file_size, opened.used())
        self.journal = Journal(file, opened.headers.log_offset, opened.headers.log_length)
        self.gate = Gate()
        self.begun = False
        self._broken: errors.Error | None = None
        self._closed = False

    @property
    def size(self) -> int:
        return self.opened.size

    # -- reading -----------------------------------------------------------------------------------------------

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
            self._check_open()
            return list(self._pieces(start, length))

    def _over_parent(self, piece: Piece) -> tuple[Image, int]:
        """The parent, and how many bytes of the piece it has: behind its end the disk is zero."""
        if self.parent is None:
            raise errors.Refused("its parent is needed to read it, and was not given", path=self.path)
        return self.parent, max(min(piece.length, self.parent.size - piece.start), 0)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        with self.gate.locked():
            self._check_open()
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

    # -- writing -----------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._broken is not None:
            raise errors.Unreachable(
                f"an earlier write could not be made durable ({self._broken.message}); open it again", path=self.path
            )
        if self._closed:
            raise ValueError(f"{self.path} is closed")

    def _begin(self) -> None:
        """Before the first change of a session. Inside the lock."""
        self._check_open()
        if self.begun:
            return
        # Some tools cut the file in its last MiB, or its last block behind the disk's end.
        self._reach(self.space.end)
        if not self.headers.log_length:
            self.headers.log_offset, self.headers.log_length = self.space.take_end(MIB).offset, MIB
            self._reach(self.space.end)
            self.journal = Journal(self.file, self.headers.log_offset, MIB)
        self.journal.start(self._file_size)
        self._flush_file()
        self.headers.file_write, self.headers.data_write = uuid4(), uuid4()
        self._write_headers(self.journal.guid)
        self.begun = True

    def _write_headers(self, log: UUID) -> None:
        """Where this fails, the log that the disk's headers name may be this one or the one before."""
        try:
            self.headers.update(log)
        except errors.Error as error:
            self._broken = error
            raise

    def _flush_file(self) -> None:
        """After a flush that failed nobody knows what is on disk, and the next one may say that all is well."""
        try:
            self.file.flush()
        except errors.Error as error:
            self._broken = error
            raise

    def _reach(self, end: int) -> None:
        """Make the file long enough."""
        if end > self._file_size:
            size = -(-end // self._grow) * self._grow
            self.file.resize(size)
            self._file_size = size

    def take(self, length: int, *, at_end: bool = False) -> int:
        """The offset of new space that reads as zeros. Inside the lock."""
        room = self.space.take_end(length) if at_end else self.space.take(length)
        try:
            self._reach(room.offset + length)
            if not room.fresh:
                self.file.zero(room.offset, length)
        except errors.Error:
            self.space.release(room.offset, length)
            raise
        return room.offset

    def _place(self, block: int) -> int:
        """The offset of a block that is in the file, or of new space for it."""
        entry = self.table.get(block)
        if entry & STATE in IN_FILE:
            return entry & OFFSET
        # The space that a soft anchor names is left alone in this session: nothing says that it is nobody else's.
        return self.take(self.opened.block_size)

    def _has_room(self) -> bool:
        return len(self.table.dirty) + len(self.pages.dirty) + _STEP_PAGES <= self.journal.max_pages

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.opened.size:
            raise ValueError(f"{self.path}: bytes {offset} to {offset + length} of {self.opened.size}")

    def write(self, offset: int, data: bytes | Buffer) -> None:
        view = memoryview(data).cast("B")
        self._check_range(offset, view.nbytes)
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
            self._begin()
            while done < view.nbytes and self._has_room():
                block, inside = divmod(offset + done, block_size)
                part = min(block_size - inside, view.nbytes - done)
                plan.append((self._allocate(block) + inside, done, part))
                done += part
            self.gate.admit()
        try:
            for place, at, part in plan:
                self.file.write(place, view[at : at + part])
        finally:
            self.gate.leave()
        return done

    def _allocate(self, block: int) -> int:
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
            self._begin()
            done, block_size = 0, self.opened.block_size
            while done < view.nbytes and self._has_room():
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
        whole = inside == 0 and end >= self._block_length(block)
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

    def _block_length(self, block: int) -> int:
        """The bytes of the disk in a block: fewer in the last."""
        return min(self.opened.block_size, self.opened.size - block * self.opened.block_size)

    # -- zeros ---------------------------------------------------------------------------------------------------

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        self._check_range(offset, length)
        end = offset + length
        while offset < end:
            with self.gate.locked():
                self._begin()
                while offset < end and self._has_room():
                    block, inside = divmod(offset, self.opened.block_size)
                    part = min(self.opened.block_size - inside, end - offset)
                    self._zero_block(block, inside, part, punch)
                    offset += part
            if offset < end:
                self.flush()

    def _zero_block(self, block: int, inside: int, length: int, punch: bool) -> None:
        entry = self.table.get(block)
        state = entry & STATE
        if state == ZERO or (state == NOT_PRESENT and not self.opened.differencing):
            return
        keep = self.opened.fixed or not punch
        if length == self._block_length(block) and not (keep and state in IN_FILE):
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

    # -- batches ---------------------------------------------------------------------------------------------------

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
        """One pass over the batch finds or makes room for every block; then the file takes it in one call."""
        if self.opened.differencing or block_size > MIB or MIB % block_size:
            super().write_blocks(blocks, lengths, count, block_size, image_size, payload, punch=punch)
            return
        at = 0
        with memoryview(payload) as view:
            while at < count:
                at, used = self._write_batch(blocks, lengths, at, count, block_size, view, punch)
                view = view[used:]
                if at < count:
                    self.flush()

    def _write_batch(
        self, blocks: array[int], lengths: array[int], at: int, count: int, size: int, payload: memoryview, punch: bool
    ) -> tuple[int, int]:
        """Entries from `at` until the next log entry is full: the index of the first that is left, and bytes used.

        Blocks lie at whole MiB in the file, so that smaller ones have numbers there too.
        """
        numbers, sizes = array("Q"), array("I")
        per = self.opened.block_size // size
        self._check_range(0, max(blocks[i] * size + (lengths[i] or 1) for i in range(at, count)))
        with self.gate.locked():
            self._begin()
            while at < count and self._has_room():
                block = blocks[at] // per
                end = self._same_block(blocks, at, count, (block + 1) * per)
                part = lengths[at:end]
                if any(part):
                    place = self._allocate(block) // size
                elif not self._zeros_need_writing(block, blocks, at, end, size, punch):
                    at = end
                    continue
                else:
                    place = (self.table.get(block) & OFFSET) // size
                shift = place - block * per
                numbers.extend(array("Q", [number + shift for number in blocks[at:end]]))
                sizes.extend(part)
                at = end
            self.gate.admit()
        try:
            if numbers:
                file_size = self._file_size
                self.file.write_blocks(numbers, sizes, len(numbers), size, file_size, payload, punch=punch)
        finally:
            self.gate.leave()
        return at, sum(sizes)

    @staticmethod
    def _same_block(blocks: array[int], at: int, count: int, limit: int) -> int:
        """The end of the entries from `at` that ascend and lie below `limit`."""
        end = at + 1
        while end < count and blocks[end - 1] < blocks[end] < limit:
            end += 1
        return end

    def _zeros_need_writing(
        self, block: int, blocks: array[int], at: int, end: int, size: int, punch: bool
    ) -> bool:
        """Zeros for (a part of) one block: done here where that is a matter of its state, else True."""
        whole = (blocks[end - 1] - blocks[at] + 1) * size
        if whole >= self._block_length(block) and end - at == blocks[end - 1] - blocks[at] + 1:
            start = blocks[at] * size - block * self.opened.block_size
            if start == 0:
                self._zero_block(block, 0, self._block_length(block), punch)
                return False
        return self.table.get(block) & STATE in IN_FILE

    # -- durability ----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        with self.gate.alone():
            self._check_open()
            if self.begun:
                self.commit()

    def commit(self) -> None:
        """Payload, log, then metadata in place (formats 1.5). Inside the lock, alone."""
        self._flush_file()
        changed = [(self.table.place(number), self.table.page(number)) for number in sorted(self.table.dirty)]
        changed += [(offset, bytes(self.pages.get(offset))) for offset in sorted(self.pages.dirty)]
        if not changed:
            return
        self.journal.write(changed, self._file_size)
        self._flush_file()
        for offset, page in _joined(changed):
            self.file.write(offset, page)
        self.table.dirty.clear()
        self.pages.dirty.clear()
        for offset, length in self.space.settle():
            # To give it back to the file system is a kindness. Space that was never reached is behind the file's end.
            with suppress(errors.Error):
                self.file.zero(offset, max(min(length, self._file_size - offset), 0))

    def start_writeback(self, offset: int, length: int) -> None:
        for piece in self._parts(offset, length):
            if piece.place >= 0:
                self.file.start_writeback(piece.place, piece.length)

    def resize(self, size: int) -> None:
        with self.gate.alone():
            if size != self.opened.size:
                check_size(self, size)
                self._begin()
                resize(self, size)

    def close(self) -> None:
        if self._closed:
            return
        try:
            with self.gate.alone():
                if self.begun and self._broken is None:
                    self.commit()
                    self._flush_file()
                    self._write_headers(NO_LOG)
                    self.file.resize(self.space.used_end())
        finally:
            self._closed = True
            self.file.close()
            if self.parent is not None:
                self.parent.close()


def _joined(pages: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Neighbouring pages as one write."""
    start = 0
    for index in range(1, len(pages) + 1):
        if index == len(pages) or pages[index][0] != pages[index - 1][0] + PAGE:
            yield pages[start][0], b"".join(page for _, page in pages[start:index])
            start = index
