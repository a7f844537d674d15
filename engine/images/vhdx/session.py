"""What makes a file under change whole after a crash: the session's beginning, commits, and its end (formats 1.5).

* The first change of a session starts a log and writes new headers: new FileWriteGuid, DataWriteGuid and LogGuid.
* A commit makes the payload durable, then one log entry with every changed page of metadata, then writes those pages
  in place; the flush at the start of the next commit makes them durable there. So no pointer is ever on disk before
  what it leads to, and a crash leaves either the old metadata or the new.
* `close` ends the log, and cuts the file behind its last block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from uuid import UUID, uuid4

from secondsite.engine import errors
from secondsite.engine.images.base import Image
from secondsite.engine.images.vhdx.journal import NO_LOG, Journal
from secondsite.engine.images.vhdx.live import LiveDisk
from secondsite.engine.images.vhdx.packing import MIB, PAGE
from secondsite.engine.images.vhdx.space import GROW_BYTES, Space

# What one step of a write or zero may change at most, in pages: 16 of bitmaps for a block of 256 MiB (one more where it
# starts inside one) and three of the table. A step begins only where so many still fit into the next log entry.
_STEP_PAGES = 20


class Session(LiveDisk):
    """A disk whose metadata changes by commits. The file grows by `grow` bytes at a time."""

    def __init__(self, file: Image, parent: Image | None = None, *, grow: int = GROW_BYTES) -> None:
        super().__init__(file, parent)
        self.headers = self.opened.headers
        self._grow = grow
        self._file_size = file.size
        self.space = Space(self._file_size, self.opened.used())
        self.journal = Journal(file, self.headers.log_offset, self.headers.log_length)
        self.begun = False
        self._broken: errors.Error | None = None

    def check_open(self) -> None:
        if self._broken is not None:
            raise errors.Unreachable(
                f"an earlier write could not be made durable ({self._broken.message}); open it again", path=self.path
            )
        super().check_open()

    def begin(self) -> None:
        """Before the first change of a session. Inside the lock."""
        self.check_open()
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

    def has_room(self) -> bool:
        return len(self.table.dirty) + len(self.pages.dirty) + _STEP_PAGES <= self.journal.max_pages

    def flush(self) -> None:
        with self.gate.alone():
            self.check_open()
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
