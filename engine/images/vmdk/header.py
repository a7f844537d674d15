"""Headers of sparse extents: KDMV of hosted products, COWD of older ESX snapshots (formats section 3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from secondsite.engine import errors
from secondsite.engine.images.base import Image

SECTOR = 512
KDMV, COWD = b"KDMV", b"COWD"
SESPARSE = struct.pack("<Q", 0xCAFEBABE)
_AT_END = 0xFFFFFFFFFFFFFFFF
_NEWLINES, _REDUNDANT, _ZEROS, _COMPRESSED, _MARKERS = 1, 2, 4, 0x10000, 0x20000
_DEFLATE = 1
_FOOTER_MARKER = 3
_KDMV = struct.Struct("<4sIIQQQQIQQQB4sH")
_COWD = struct.Struct("<4sIIIIIII")

# 128 TiB, and a directory of 16 MiB for them in grains of 64 KiB. Larger ones come from fuzzers.
MAX_BYTES = 1 << 47
MAX_TABLES = 4 << 20
MAX_ENTRIES = 4096
MAX_GRAIN = 128 << 20
MAX_PACKED_GRAIN = 8 << 20


@dataclass(frozen=True)
class SparseHeader:
    """Sizes in bytes, but for `first_sector`, below which no grain lies. `redundant_at` is 0 where there is none."""

    version: int
    size: int
    grain: int
    entries: int
    directory_at: int
    redundant_at: int
    descriptor_at: int
    descriptor_bytes: int
    first_sector: int
    zeros: bool
    compressed: bool
    unclean: bool

    @property
    def covered(self) -> int:
        """Bytes of the disk that one grain table stands for."""
        return self.grain * self.entries

    @property
    def tables(self) -> int:
        return -(-self.size // self.covered)


def read_header(file: Image, magic: bytes) -> SparseHeader:
    """Raises Damaged, NewerFormat, Refused."""
    if file.size < SECTOR:
        raise errors.Damaged(f"a sparse extent of {file.size} bytes", path=file.path, offset=0)
    raw = bytes(file.read(0, SECTOR))
    header = _cowd(raw, file.path) if magic == COWD else _kdmv(raw, file.path, 0)
    if header.directory_at == _AT_END * SECTOR:
        header = _from_footer(file, header)
    _check(header, file)
    return header


def _kdmv(raw: bytes, path: str, at: int) -> SparseHeader:
    f = _KDMV.unpack_from(raw)
    if f[0] != KDMV:
        raise errors.Damaged("no header of a sparse extent: 'KDMV' was expected", path=path, offset=at)
    if not 1 <= f[1] <= 3:
        raise errors.NewerFormat(f"version {f[1]} of a sparse extent; 1 to 3 are known", path=path)
    flags = f[2]
    if flags & _NEWLINES and f[12] != b"\n \r\n":
        raise errors.Damaged(
            "the header's line ends were changed: the file was copied as if it were text", path=path, offset=at + 73
        )
    compressed = bool(flags & _COMPRESSED)
    if compressed and (f[13] != _DEFLATE or not flags & _MARKERS):
        raise errors.Refused(f"grains compressed by method {f[13]}, or without markers, are not read", path=path)
    return SparseHeader(
        version=f[1], size=f[3] * SECTOR, grain=f[4] * SECTOR, entries=f[7], directory_at=f[9] * SECTOR,
        redundant_at=f[8] * SECTOR if flags & _REDUNDANT and f[8] != _AT_END else 0, descriptor_at=f[5] * SECTOR,
        descriptor_bytes=f[6] * SECTOR, first_sector=max(f[10], 1), zeros=bool(flags & _ZEROS),
        compressed=compressed, unclean=bool(f[11]),
    )  # fmt: skip


def _cowd(raw: bytes, path: str) -> SparseHeader:
    _, version, _, sectors, grain, directory, tables, _ = _COWD.unpack_from(raw)
    if version != 1:
        raise errors.NewerFormat(f"version {version} of a COWD extent; 1 is known", path=path)
    header = SparseHeader(
        version=1, size=sectors * SECTOR, grain=grain * SECTOR, entries=4096, directory_at=directory * SECTOR,
        redundant_at=0, descriptor_at=0, descriptor_bytes=0, first_sector=1, zeros=False, compressed=False,
        unclean=False,
    )  # fmt: skip
    if grain and tables < header.tables:
        raise errors.Damaged(
            f"a directory of {tables} grain tables, {header.tables} are needed", path=path, offset=24
        )
    return header


def _from_footer(file: Image, header: SparseHeader) -> SparseHeader:
    """A stream that was written in one go has its directory's place in a copy of the header near its end."""
    at = file.size // SECTOR * SECTOR - 2 * SECTOR
    if at < 2 * SECTOR:
        raise errors.Damaged("a stream without a footer", path=file.path, offset=0)
    marker = bytes(file.read(at - SECTOR, SECTOR))
    if int.from_bytes(marker[12:16], "little") != _FOOTER_MARKER:
        raise errors.Damaged("no footer marker: the stream was cut off", path=file.path, offset=at - SECTOR)
    footer = _kdmv(bytes(file.read(at, SECTOR)), file.path, at)
    if footer.directory_at == _AT_END * SECTOR:
        raise errors.Damaged("the footer does not say where the grain directory is", path=file.path, offset=at + 56)
    # The descriptor is named by the header; the footer's other fields must describe the same disk.
    if (footer.size, footer.grain, footer.entries, footer.compressed) != (
        header.size, header.grain, header.entries, header.compressed,
    ):  # fmt: skip
        raise errors.Damaged("the footer describes another disk than the header", path=file.path, offset=at)
    return replace(header, directory_at=footer.directory_at)


def _check(header: SparseHeader, file: Image) -> None:
    """Sizes that fit each other, before anything is allocated by them."""
    limit = MAX_PACKED_GRAIN if header.compressed else MAX_GRAIN
    if not 0 < header.grain <= limit or header.grain & (header.grain - 1):
        raise errors.Damaged(
            f"grains of {header.grain} bytes; a power of two up to {limit} was expected", path=file.path, offset=20
        )
    if not 0 < header.entries <= MAX_ENTRIES:
        raise errors.Damaged(
            f"grain tables of {header.entries} entries; 1 to {MAX_ENTRIES} were expected", path=file.path, offset=44
        )
    if header.size > MAX_BYTES or header.tables > MAX_TABLES:
        raise errors.Damaged(
            f"a capacity of {header.size} bytes in {header.tables} grain tables; "
            f"{MAX_BYTES} and {MAX_TABLES} are the most",
            path=file.path, offset=12,
        )  # fmt: skip
    places = (header.directory_at, header.redundant_at)
    if not any(SECTOR <= at <= file.size - 4 * header.tables for at in places):
        raise errors.Damaged(
            f"a grain directory of {header.tables} entries at byte {header.directory_at} of a file of {file.size}",
            path=file.path, offset=56,
        )  # fmt: skip
