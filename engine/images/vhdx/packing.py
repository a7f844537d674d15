"""The bytes of VHDX structures as they are written: header, region table, metadata, locator, log entry (formats 1)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from uuid import UUID

from secondsite.engine import kernel

KIB, MIB = 1 << 10, 1 << 20
PAGE = 4 * KIB

FILE_ID = b"vhdxfile"
HEADER_OFFSETS = (64 * KIB, 128 * KIB)
TABLE_OFFSETS = (192 * KIB, 256 * KIB)
TABLE_BYTES = 64 * KIB

BAT_REGION = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
METADATA_REGION = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")
FILE_PARAMETERS = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
DISK_SIZE = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
DISK_ID = UUID("BECA12AB-B2E6-4523-93EF-C309E000C746")
LOGICAL_SECTOR = UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
PHYSICAL_SECTOR = UUID("CDA348C7-445D-4471-9CC9-E9885251C556")
PARENT_LOCATOR = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
LOCATOR_TYPE = UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")

IS_DISK, IS_REQUIRED = 2, 4

# The layouts, for reading as well. A checksum, where there is one, is the second field.
HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
REGION_HEAD = struct.Struct("<4sII")
REGION = struct.Struct("<16sQII")
ITEM_HEAD = struct.Struct("<8sHH")
ITEM = struct.Struct("<16sIII4x")
LOCATOR_HEAD = struct.Struct("<16sHH")
LOCATOR_PAIR = struct.Struct("<IIHH")
LOG_ENTRY = struct.Struct("<4sIIIQI4x16sQQ")
DESCRIPTOR = struct.Struct("<4s4s8sQQ")

# States of a block (formats 1.3).
NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULL, PARTIAL = 0, 1, 2, 3, 6, 7


def sealed(data: bytearray) -> bytes:
    """With its CRC-32C in bytes 4 to 8, summed while they are zero."""
    data[4:8] = bytes(4)
    data[4:8] = kernel.crc.crc32c(data).to_bytes(4, "little")
    return bytes(data)


def pack_header(
    sequence: int, file_write: UUID, data_write: UUID, log: UUID, log_offset: int, log_length: int
) -> bytes:
    """One of the two headers, 4 KiB."""
    guids = file_write.bytes_le, data_write.bytes_le, log.bytes_le
    data = bytearray(PAGE)
    HEADER.pack_into(data, 0, b"head", 0, sequence, *guids, 0, 1, log_length, log_offset)
    return sealed(data)


def pack_regions(regions: Sequence[tuple[UUID, int, int, bool]]) -> bytes:
    """A region table of (guid, offset, length, required), 64 KiB."""
    data = bytearray(TABLE_BYTES)
    REGION_HEAD.pack_into(data, 0, b"regi", 0, len(regions))
    for index, (guid, offset, length, required) in enumerate(regions):
        REGION.pack_into(data, 16 + 32 * index, guid.bytes_le, offset, length, int(required))
    return sealed(data)


def pack_metadata(items: Mapping[UUID, tuple[int, bytes]]) -> bytes:
    """The metadata region up to its last item: a 64 KiB table, then the items of (flags, content) one after another."""
    data = bytearray(TABLE_BYTES)
    ITEM_HEAD.pack_into(data, 0, b"metadata", 0, len(items))
    for index, (guid, (flags, content)) in enumerate(items.items()):
        ITEM.pack_into(data, 32 + 32 * index, guid.bytes_le, len(data), len(content), flags)
        data += content + bytes(-len(content) % 8)
    return bytes(data)


def pack_locator(pairs: Mapping[str, str]) -> bytes:
    """A parent locator: keys and values in UTF-16, without an end mark (formats 1.2)."""
    head = bytearray(LOCATOR_HEAD.pack(LOCATOR_TYPE.bytes_le, 0, len(pairs)))
    at = len(head) + 12 * len(pairs)
    text = b""
    for key, value in pairs.items():
        name, content = key.encode("utf-16-le"), value.encode("utf-16-le")
        head += LOCATOR_PAIR.pack(at, at + len(name), len(name), len(content))
        text += name + content
        at += len(name) + len(content)
    return bytes(head) + text


def entry_bytes(pages: int) -> int:
    """The length of a log entry of that many pages: 126 descriptors fit into its first sector, 128 into the others."""
    return PAGE * (-(-(64 + 32 * pages) // PAGE) + pages)


def pack_entry(
    log: UUID, sequence: int, tail: int, file_size: int, pages: Sequence[tuple[int, bytes]]
) -> bytes:
    """A log entry that sets whole pages (offset, 4 KiB each) of a file of `file_size` durable bytes (formats 1.4)."""
    start = PAGE * -(-(64 + 32 * len(pages)) // PAGE)
    data = bytearray(start + PAGE * len(pages))
    LOG_ENTRY.pack_into(
        data, 0, b"loge", 0, len(data), tail, sequence, len(pages), log.bytes_le, file_size, file_size
    )
    high, low = (sequence >> 32).to_bytes(4, "little"), (sequence & 0xFFFFFFFF).to_bytes(4, "little")
    for index, (offset, page) in enumerate(pages):
        DESCRIPTOR.pack_into(data, 64 + 32 * index, b"desc", page[-4:], page[:8], offset, sequence)
        at = start + PAGE * index
        data[at : at + 8] = b"data" + high
        data[at + 8 : at + PAGE - 4] = page[8:-4]
        data[at + PAGE - 4 : at + PAGE] = low
    return sealed(data)
