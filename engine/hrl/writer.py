"""Write a log. Until it is finished its header says that it was not closed, so that no reader takes half of one."""

from __future__ import annotations

from uuid import UUID

from secondsite.engine import errors, kernel
from secondsite.engine.hrl import format as fmt
from secondsite.engine.images.base import Image

# Of one entry: larger writes become several. Hyper-V's own are smaller; a reader needs so much memory for one.
ENTRY_BYTES = 2 << 20
SLOTS = (fmt.METADATA_BYTES - fmt.METADATA.size) // fmt.ENTRY.size


class HrlWriter:
    """A log in an empty file. `add` writes in order, then `finish`; `entries` and `data_bytes` count."""

    def __init__(
        self, file: Image, unique_id: UUID, previous_id: UUID, *, created: int, data_write_guid: UUID = fmt.NIL
    ) -> None:
        if unique_id == fmt.NIL or unique_id == previous_id:
            raise errors.Usage(f"{unique_id} is no identifier for a log that follows {previous_id}")
        self.file = file
        self.header = fmt.Header(unique_id, previous_id, data_write_guid, created, created, 0, 0, 0, 0)
        self.entries = self.data_bytes = 0
        self._at = fmt.HEADER_BYTES
        self._slots = bytearray()
        self._last = 0  # where the newest metadata block begins
        file.write(0, self.header.pack())
        self._end_block()  # as in the specification's example, the first block has no entries

    def add(self, offset: int, data: bytes | bytearray | memoryview, time: int) -> None:
        """One write of the disk, made `time` seconds after 2000."""
        with memoryview(data) as view:
            for start in range(0, len(view), ENTRY_BYTES):
                self._add(offset + start, view[start : start + ENTRY_BYTES], time)

    def _add(self, offset: int, data: memoryview, time: int) -> None:
        if len(self._slots) == SLOTS * fmt.ENTRY.size:
            self._end_block()
        checksum = fmt.complement(kernel.crc.byte_sum(data))
        self._slots += fmt.pack_entry(fmt.Entry(offset, len(data), time, self._at, checksum))
        self.file.write(self._at, data)
        self._at += len(data)
        self.entries += 1
        self.data_bytes += len(data)

    def _end_block(self) -> None:
        count = len(self._slots) // fmt.ENTRY.size
        distance = self._at - self._last if self._last else 0
        self.file.write(self._at, fmt.pack_metadata(distance, bytes(self._slots), count))
        self._last = self._at
        self._at += fmt.METADATA_BYTES
        self._slots.clear()

    def finish(self, modified: int) -> fmt.Header:
        """Close the log: everything before its header is durable before the header says so."""
        if self._slots:
            self._end_block()
        self.file.flush()
        self.header = self.header._replace(modified=modified, current_size=self._at, end=self._at, entries=self.entries)
        self.file.write(0, self.header.pack())
        self.file.flush()
        return self.header
