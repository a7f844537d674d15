"""Read one log: its header, then its writes in order. All input is hostile; nothing is believed unchecked."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from types import TracebackType
from uuid import UUID

from secondsite.engine import errors, kernel
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.hrl import format as fmt

# Data is read ahead in pieces of this size to be summed: entries are mostly of 4 KiB, a read for each would cost more
# than the sum.
_WINDOW_BYTES = 4 << 20


class HrlReader:
    """A log in a file. Opening reads and checks the header alone; `entries` checks everything else.

    Memory: 8 bytes a metadata block, one such block, and 4 MiB of data.
    """

    def __init__(self, path: str, files: Files | None = None) -> None:
        """Raises Damaged, NewerFormat, Unreachable, and Refused for a log that was not closed or has an error."""
        self.path = path
        self.unproved_bytes = 0  # of data whose checksum was not kept; known when `entries` has ended
        self.file = (files or LocalFiles()).open(path, "r")
        try:
            self.size = self.file.size
            self.header = fmt.Header.unpack(bytes(self.file.read(0, min(self.size, fmt.HEADER_BYTES))), path)
            self._check_header(self.header)
        except BaseException:
            self.file.close()
            raise
        self._window = memoryview(b"")
        self._window_at = 0

    @property
    def unique_id(self) -> UUID:
        return self.header.unique_id

    @property
    def previous_id(self) -> UUID:
        """The identifier of the log that this one goes on from; nil for the first."""
        return self.header.previous_id

    def _check_header(self, header: fmt.Header) -> None:
        if header.end == 0:
            raise errors.Refused(
                "the log was not closed, so its end is missing (get all of it, or replicate the disk itself)",
                path=self.path,
            )
        if header.error:
            raise errors.Refused(
                f"its writer met error {header.error & 0xFFFFFFFF:#010x}, so writes may be missing "
                "(replicate the disk itself)",
                path=self.path,
            )
        if header.end > self.size:
            raise self._damaged(f"the log ends at {header.end}, the file at {self.size}", 44)
        size = header.metadata_size
        if size % 512 or not 0 < size <= fmt.MAX_METADATA_BYTES:
            raise self._damaged(f"metadata blocks of {size} bytes, expected a multiple of 512", 56)
        if header.end < fmt.HEADER_BYTES + size:
            raise self._damaged(f"the log ends at {header.end}, before its first metadata block", 44)
        if header.unique_id == fmt.NIL:
            raise self._damaged("the log has no identifier", 60)

    def _damaged(self, what: str, at: int) -> errors.Damaged:
        return errors.Damaged(what, path=self.path, offset=at)

    def entries(self) -> Iterator[fmt.Entry]:
        """All writes in the order in which they were made, each with its data's checksum proved. Raises Damaged.

        Section 2.5: from the end backward to find the metadata blocks, then forward.
        """
        start, count, unproved = fmt.HEADER_BYTES, 0, 0
        for at in reversed(self._blocks()):
            for entry in self._block(start, at):
                count += 1
                unproved += 0 if entry.checksum else entry.length
                yield entry
            start = at + self.header.metadata_size
        if count != self.header.entries:
            raise self._damaged(f"{self.header.entries} entries were expected, there are {count}", 96)
        self.unproved_bytes = unproved

    def _blocks(self) -> array[int]:
        """Where the metadata blocks lie, the last one first."""
        size = self.header.metadata_size
        at = self.header.end - size
        found = array("Q", [at])
        while True:
            distance, _ = fmt.unpack_metadata(self.file.read(at, fmt.METADATA.size), self.path, at)
            if distance == 0:
                return found
            # At least a block each time: the walk ends, whatever the file says.
            if distance < size or distance > at - fmt.HEADER_BYTES:
                raise self._damaged(f"the metadata block before it cannot lie {distance} bytes back", at)
            at -= distance
            found.append(at)

    def _block(self, start: int, at: int) -> list[fmt.Entry]:
        """The entries of the metadata block at `at`, whose data lies from `start` to there."""
        block = self.file.read(at, self.header.metadata_size)
        _, count = fmt.unpack_metadata(block, self.path, at)
        slots = (len(block) - fmt.METADATA.size) // fmt.ENTRY.size
        if count > slots:
            raise self._damaged(f"{count} entries in a metadata block that has room for {slots}", at)
        if self.header.creator == fmt.CREATOR:
            return self._parse_ours(block, count, start, at)
        try:
            return self._parse(block, range(count), start, at)
        except errors.Damaged as error:
            # The specification's example lists the slots with the newest first and the unused ones before it; it
            # does not say whether that is their order in the file. One order fits the data, so both are taken.
            try:
                return self._parse(block, range(slots - 1, slots - 1 - count, -1), start, at)
            except errors.Damaged:
                raise error from None

    def _parse_ours(self, block: bytearray, count: int, start: int, at: int) -> list[fmt.Entry]:
        """The slots that are not used are under no checksum, and the specification does not say what they hold: in a
        log of another program they mean nothing. We write zeros there, so in ours anything else is damage."""
        found = self._parse(block, range(count), start, at)
        used = fmt.METADATA.size + count * fmt.ENTRY.size
        if block.count(0, used) < len(block) - used:
            raise self._damaged("the unused part of a metadata block is not zero", at + used)
        return found

    def _parse(self, block: bytearray, slots: Sequence[int], start: int, at: int) -> list[fmt.Entry]:
        found, location = [], start
        for slot in slots:
            place = fmt.METADATA.size + slot * fmt.ENTRY.size
            entry = fmt.unpack_entry(block[place : place + fmt.ENTRY.size], self.path, at + place, location)
            if entry.length > at - location:
                raise self._damaged(f"{entry.length} bytes of data from {location} do not fit before {at}", at + place)
            if entry.checksum and self._checksum(location, entry.length) != entry.checksum:
                raise self._damaged(f"the checksum of {entry.length} bytes of data does not hold", location)
            location += entry.length
            found.append(entry)
        if location != at:
            raise self._damaged(f"{at - location} bytes of data belong to no entry", location)
        return found

    def _checksum(self, location: int, length: int) -> int:
        total, end = 0, location + length
        while location < end:
            inside = location - self._window_at
            if not 0 <= inside < len(self._window):
                held = self.file.read(location, min(_WINDOW_BYTES, self.header.end - location))
                self._window, self._window_at, inside = memoryview(held), location, 0
            part = self._window[inside : inside + end - location]
            total += kernel.crc.byte_sum(part)
            location += len(part)
        return fmt.complement(total)

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        self._window = memoryview(b"")
        self.file.close()

    def __enter__(self) -> HrlReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
