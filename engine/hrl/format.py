"""The layout of a log (MS-HRL sections 2.2 to 2.6; formats section 4). Little-endian and packed.

```
header, 4096 bytes | metadata block without entries | data, data, ... | metadata block | data, ... | metadata block |
```

A metadata block describes the data that lies before it, and says how far back the block before it begins. The end of
the last one is the end of the log, EOLLocation in the header; that is 0 while the log is being written.

The specification's example differs from its text in two places, and the example is what a Windows made:

* The checksums of all 58 entries hold for a DataChecksum of 0. So 0 is read as "none was kept".
* The header's checksum is 692 off for the fields as printed, whichever are left out; some were edited for print.
"""

from __future__ import annotations

import datetime
import struct
from typing import NamedTuple
from uuid import UUID

from secondsite.engine import errors, kernel

COOKIE = b"msctlog "
VERSION = 0x00020000
HEADER_BYTES = 4096
METADATA_BYTES = 4096
MAX_METADATA_BYTES = 1 << 20
WRITE = 1
NIL = UUID(int=0)
CREATOR = b"2sit"  # in the logs that we write

_HEADER = struct.Struct("<8sII4sIQQIQiI16s16sIQI2s16s")
_HEADER_CHECKSUM = slice(40, 44)
METADATA = struct.Struct("<QII16s")
_METADATA_CHECKSUM = slice(12, 16)
ENTRY = struct.Struct("<QIIIBIB6s")
_ENTRY_CHECKSUM = slice(8, 12)

_EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_MAX_SECONDS = 0xFFFFFFFF


def complement(total: int) -> int:
    """The checksum of bytes with this sum (section 2.6)."""
    return ~total & 0xFFFFFFFF


def _checksum(data: bytes | bytearray, skipped: slice) -> int:
    return complement(kernel.crc.byte_sum(data) - sum(data[skipped]))


def seconds(moment: datetime.datetime) -> int:
    """Since 2000, as logs count; what 32 bits cannot say is their nearest."""
    return min(max(int((moment - _EPOCH).total_seconds()), 0), _MAX_SECONDS)


def moment(count: int) -> datetime.datetime:
    """The time that is so many seconds after 2000 began."""
    return _EPOCH + datetime.timedelta(seconds=count)


class Header(NamedTuple):
    """The fields of section 2.2 that mean something. `end` is EOLLocation, `entries` TotalMetadataEntries."""

    unique_id: UUID
    previous_id: UUID
    data_write_guid: UUID
    created: int
    modified: int
    original_size: int
    current_size: int
    end: int
    entries: int
    error: int = 0
    metadata_size: int = METADATA_BYTES
    creator: bytes = CREATOR
    creator_version: int = 0x00010000

    def pack(self) -> bytes:
        """All 4096 bytes, with their checksum."""
        packed = bytearray(HEADER_BYTES)
        _HEADER.pack_into(
            packed, 0, COOKIE, VERSION, self.created, self.creator, self.creator_version, self.original_size,
            self.current_size, 0, self.end, self.error, self.metadata_size, self.unique_id.bytes_le,
            self.previous_id.bytes_le, self.modified, self.entries, 0, b"\0\0", self.data_write_guid.bytes_le,
        )  # fmt: skip
        packed[_HEADER_CHECKSUM] = _checksum(packed, _HEADER_CHECKSUM).to_bytes(4, "little")
        return bytes(packed)

    @classmethod
    def unpack(cls, data: bytes, path: str) -> Header:
        """Raises Damaged, NewerFormat, and Refused for a log of a kind that is not applied anywhere."""
        if len(data) < HEADER_BYTES or data[:8] != COOKIE:
            raise errors.Damaged(f"expected the header of a log, {COOKIE.decode()!r}", path=path, offset=0)
        (
            _, version, created, creator, creator_version, original, current, checksum, end, error, metadata_size,
            unique, previous, modified, entries, kind, _, guid,
        ) = _HEADER.unpack_from(data)  # fmt: skip
        found = _checksum(data[:HEADER_BYTES], _HEADER_CHECKSUM)
        if found != checksum:
            raise errors.Damaged(f"the header's checksum is {checksum}, {found} was expected", path=path, offset=40)
        if version > VERSION:
            raise errors.NewerFormat(f"log version {version:#010x}; this program knows {VERSION:#010x}", path=path)
        if version < VERSION:
            raise errors.Refused(f"log version {version:#010x} never leaves its host; {VERSION:#010x} does", path=path)
        if kind:
            raise errors.Refused(f"a log of type {kind}; those of replication have type 0", path=path)
        return cls(
            UUID(bytes_le=unique), UUID(bytes_le=previous), UUID(bytes_le=guid), created, modified, original,
            current, end, entries, error, metadata_size, creator, creator_version,
        )  # fmt: skip


class Entry(NamedTuple):
    """One write: `length` bytes at `offset` of the disk; they lie at `location` of the log. `time` as in the header.

    `checksum` is that of the data, 0 where none was kept.
    """

    offset: int
    length: int
    time: int
    location: int
    checksum: int


def pack_metadata(distance: int, slots: bytes, count: int) -> bytes:
    """A metadata block with these entries, whose predecessor begins `distance` bytes before it (0: there is none)."""
    head = bytearray(METADATA.pack(distance, count, 0, bytes(16)))
    head[_METADATA_CHECKSUM] = _checksum(head, _METADATA_CHECKSUM).to_bytes(4, "little")
    return (bytes(head) + slots).ljust(METADATA_BYTES, b"\0")


def unpack_metadata(data: bytearray, path: str, at: int) -> tuple[int, int]:
    """Distance to the block before, and the number of entries, from the first 32 bytes of one. Raises Damaged."""
    distance, count, checksum, _ = METADATA.unpack_from(data)
    found = _checksum(data[: METADATA.size], _METADATA_CHECKSUM)
    if found != checksum:
        raise errors.Damaged(f"a metadata header's checksum is {checksum}, {found} was expected", path=path, offset=at)
    return distance, count


def pack_entry(entry: Entry) -> bytes:
    """The 32 bytes of section 2.4; where the data lies follows from the order."""
    packed = bytearray(ENTRY.pack(entry.offset, 0, entry.length, entry.time, WRITE, entry.checksum, 0, bytes(6)))
    packed[_ENTRY_CHECKSUM] = _checksum(packed, _ENTRY_CHECKSUM).to_bytes(4, "little")
    return bytes(packed)


def unpack_entry(data: bytearray, path: str, at: int, location: int) -> Entry:
    """Raises Damaged, naming the place `at` of the file."""
    offset, checksum, length, time, operation, data_checksum, _, _ = ENTRY.unpack(data)
    found = _checksum(data, _ENTRY_CHECKSUM)
    if found != checksum:
        raise errors.Damaged(f"an entry's checksum is {checksum}, {found} was expected", path=path, offset=at)
    if operation != WRITE:
        raise errors.Damaged(f"operation {operation}, expected {WRITE}, a write", path=path, offset=at)
    if not length or offset + length >= 1 << 63:
        raise errors.Damaged(f"{length} bytes at {offset} are no write to a disk", path=path, offset=at)
    return Entry(offset, length, time, location, data_checksum)
