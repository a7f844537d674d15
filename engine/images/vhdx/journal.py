"""The log of a file that is written, and its two headers (formats 1.4, 1.5).

Each entry stands for itself: its tail is its own offset. What the entry before it brought to disk in place was flushed
before this one is written, so only the newest is ever needed; and as none is longer than half the ring, the one before
is whole until this one is durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

from secondsite.engine.images.base import Image
from secondsite.engine.images.vhdx.packing import HEADER_OFFSETS, PAGE, entry_bytes, pack_entry, pack_header

NO_LOG = UUID(int=0)


class Headers:
    """The pair of headers; the other slot than the newest is written next."""

    def __init__(
        self,
        file: Image,
        sequence: int,
        slot: int,
        file_write: UUID,
        data_write: UUID,
        log_offset: int,
        log_length: int,
    ) -> None:
        self._file, self.sequence, self.slot = file, sequence, slot
        self.file_write, self.data_write = file_write, data_write
        self.log_offset, self.log_length = log_offset, log_length

    def update(self, log: UUID) -> None:
        """Write both, one after the other, so that a good one is on disk at any time."""
        for _ in HEADER_OFFSETS:
            self.slot, self.sequence = 1 - self.slot, self.sequence + 1
            guids = self.file_write, self.data_write, log
            header = pack_header(self.sequence, *guids, self.log_offset, self.log_length)
            self._file.write(HEADER_OFFSETS[self.slot], header)
            self._file.flush()


class Journal:
    """The ring. `start` makes it a log without changes; `write` adds an entry and does not flush."""

    def __init__(self, file: Image, offset: int, length: int) -> None:
        self._file, self._offset, self._length = file, offset, length
        self._sequence = 0
        self._position = 0
        self.guid = NO_LOG
        sectors = length // PAGE // 2
        # The descriptors of n pages take less than one sector in 126, and one more for the entry's header.
        self.max_pages = sectors - 1 - sectors // 126
        assert entry_bytes(self.max_pages) <= length // 2

    def start(self, file_size: int) -> None:
        """A new log: the first entry, which changes nothing, must be durable before a header names the log."""
        self.guid, self._sequence, self._position = uuid4(), 0, 0
        self.write((), file_size)

    def write(self, pages: Sequence[tuple[int, bytes]], file_size: int) -> None:
        """An entry that sets these pages. The file's first `file_size` bytes must be durable."""
        entry = pack_entry(self.guid, self._sequence + 1, self._position, file_size, pages)
        room = self._length - self._position
        self._file.write(self._offset + self._position, entry[:room])
        if len(entry) > room:
            self._file.write(self._offset, entry[room:])
        self._sequence += 1
        self._position = (self._position + len(entry)) % self._length
