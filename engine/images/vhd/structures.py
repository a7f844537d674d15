"""The footer and the dynamic header of a VHD, parsed and packed (formats section 2). Big-endian throughout."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from secondsite.engine import errors

SECTOR = 512
FOOTER_BYTES = 512
HEADER_BYTES = 1024
NO_OFFSET = 0xFFFFFFFFFFFFFFFF
NO_BLOCK = 0xFFFFFFFF
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
KINDS = {FIXED: "fixed", DYNAMIC: "dynamic", DIFFERENCING: "differencing"}

# Sector numbers of 32 bits and the format's own limit (formats section 2).
MAX_BYTES = 2040 << 30
# Of the table, 64 MiB: 2040 GiB in blocks of 128 KiB. The largest that real files have is 4 MiB.
MAX_ENTRIES = 16 << 20
MAX_BLOCK = 256 << 20
VERSION = 0x00010000
NO_PARENT = UUID(int=0)

_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
_HEADER = struct.Struct(">8sQQIIII16sII512s")
_LOCATOR = struct.Struct(">4sIIIQ")
_FOOTER_SUM, _HEADER_SUM = 64, 36
_LOCATORS = range(576, 768, _LOCATOR.size)


def checksum(data: bytes | bytearray, at: int) -> int:
    """The complement of the sum of all bytes, with the four bytes of the checksum itself as zero."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


@dataclass(frozen=True)
class Geometry:
    """Cylinders, heads, sectors per track."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def bytes(self) -> int:
        return self.cylinders * self.heads * self.sectors * SECTOR


@dataclass(frozen=True)
class Footer:
    """The 512 bytes at the end of every VHD, and at the start of one that is not fixed."""

    kind: int
    current_size: int
    original_size: int
    geometry: Geometry
    unique_id: UUID
    data_offset: int
    timestamp: int
    creator: bytes
    creator_version: int
    creator_host: bytes
    saved_state: int = 0

    def pack(self) -> bytes:
        raw = bytearray(FOOTER_BYTES)
        g = self.geometry
        _FOOTER.pack_into(
            raw, 0, b"conectix", 2, VERSION, self.data_offset, self.timestamp, self.creator, self.creator_version,
            self.creator_host, self.original_size, self.current_size, g.cylinders, g.heads, g.sectors, self.kind, 0,
            self.unique_id.bytes, self.saved_state,
        )  # fmt: skip
        struct.pack_into(">I", raw, _FOOTER_SUM, checksum(raw, _FOOTER_SUM))
        return bytes(raw)

    @classmethod
    def parse(cls, raw: bytes, path: str, offset: int) -> Footer:
        """Raises Damaged where it is no footer, NewerFormat for another version."""
        fields = _FOOTER.unpack_from(raw)
        if fields[0] != b"conectix":
            raise errors.Damaged("no VHD footer: 'conectix' was expected", path=path, offset=offset)
        expected = checksum(raw, _FOOTER_SUM)
        if fields[14] != expected:
            raise errors.Damaged(
                f"the VHD footer's checksum is {fields[14]:#010x}, its bytes give {expected:#010x}",
                path=path, offset=offset + _FOOTER_SUM,
            )  # fmt: skip
        if fields[2] >> 16 != VERSION >> 16:
            raise errors.NewerFormat(f"VHD version {fields[2] >> 16}; this program reads version 1", path=path)
        if fields[13] not in KINDS:
            raise errors.Damaged(
                f"disk type {fields[13]} in the VHD footer; 2, 3 or 4 was expected", path=path, offset=offset + 60
            )
        if fields[9] > MAX_BYTES or fields[9] % SECTOR:
            raise errors.Damaged(
                f"a disk of {fields[9]} bytes; whole sectors and at most {MAX_BYTES} were expected",
                path=path, offset=offset + 48,
            )  # fmt: skip
        return cls(
            kind=fields[13], current_size=fields[9], original_size=fields[8], geometry=Geometry(*fields[10:13]),
            unique_id=UUID(bytes=fields[15]), data_offset=fields[3], timestamp=fields[4], creator=fields[5],
            creator_version=fields[6], creator_host=fields[7], saved_state=fields[16],
        )  # fmt: skip


@dataclass(frozen=True)
class Locator:
    """Where one platform's name of the parent lies in the file."""

    code: bytes
    length: int
    offset: int


@dataclass(frozen=True)
class DynamicHeader:
    """The 1024 bytes, at `offset`, that a dynamic or differencing VHD's footer points at."""

    offset: int
    table_offset: int
    entries: int
    block_size: int
    parent_id: UUID = NO_PARENT
    parent_timestamp: int = 0
    parent_name: str = ""
    locators: tuple[Locator, ...] = ()

    @property
    def bitmap_bytes(self) -> int:
        """The bitmap before a block's data: a bit a sector, rounded up to a whole sector."""
        return -(-self.block_size // SECTOR // 8 // SECTOR) * SECTOR

    def pack(self) -> bytes:
        raw = bytearray(HEADER_BYTES)
        _HEADER.pack_into(
            raw, 0, b"cxsparse", NO_OFFSET, self.table_offset, VERSION, self.entries, self.block_size, 0,
            self.parent_id.bytes, self.parent_timestamp, 0, self.parent_name.encode("utf-16-be")[:512],
        )  # fmt: skip
        for at, locator in zip(_LOCATORS, self.locators, strict=False):
            space = -(-locator.length // SECTOR) * SECTOR
            _LOCATOR.pack_into(raw, at, locator.code, space, locator.length, 0, locator.offset)
        struct.pack_into(">I", raw, _HEADER_SUM, checksum(raw, _HEADER_SUM))
        return bytes(raw)

    def pack_over(self, raw: bytes) -> bytes:
        """A header that was read, with this one's table in it and all else as it was: its first 40 bytes change."""
        changed = bytearray(raw)
        struct.pack_into(">Q", changed, 16, self.table_offset)
        struct.pack_into(">I", changed, 28, self.entries)
        struct.pack_into(">I", changed, _HEADER_SUM, checksum(changed, _HEADER_SUM))
        return bytes(changed)

    @classmethod
    def parse(cls, raw: bytes, path: str, offset: int) -> DynamicHeader:
        """Raises Damaged where it is none or its sizes make no sense, NewerFormat for another version."""
        fields = _HEADER.unpack_from(raw)
        if fields[0] != b"cxsparse":
            raise errors.Damaged("no dynamic header: 'cxsparse' was expected", path=path, offset=offset)
        expected = checksum(raw, _HEADER_SUM)
        if fields[6] != expected:
            raise errors.Damaged(
                f"the dynamic header's checksum is {fields[6]:#010x}, its bytes give {expected:#010x}",
                path=path, offset=offset + _HEADER_SUM,
            )  # fmt: skip
        if fields[3] >> 16 != VERSION >> 16:
            raise errors.NewerFormat(f"version {fields[3] >> 16} of the dynamic header; 1 is known", path=path)
        block = fields[5]
        if block < SECTOR or block > MAX_BLOCK or block & (block - 1):
            raise errors.Damaged(
                f"blocks of {block} bytes; a power of two from {SECTOR} to {MAX_BLOCK} was expected",
                path=path, offset=offset + 32,
            )  # fmt: skip
        return cls(
            offset=offset, table_offset=fields[2], entries=fields[4], block_size=block, parent_id=UUID(bytes=fields[7]),
            parent_timestamp=fields[8], parent_name=fields[10].decode("utf-16-be", "replace").split("\0")[0],
            locators=tuple(_locators(raw)),
        )  # fmt: skip


def _locators(raw: bytes) -> list[Locator]:
    found = []
    for at in _LOCATORS:
        code, _, length, _, offset = _LOCATOR.unpack_from(raw, at)
        if code != bytes(4):
            found.append(Locator(code, length, offset))
    return found
