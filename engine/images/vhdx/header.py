"""The two headers: which one is current (formats 1.1). Headers are written in place, never through the log."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from secondsite.engine import errors, kernel
from secondsite.engine.images.vhdx.container import Container
from secondsite.engine.images.vhdx.packing import FILE_ID, HEADER, HEADER_OFFSETS, KIB, MIB
from secondsite.engine.images.vhdx.structures import HEADER_AREA, MAX_LOG, NO_GUID, damaged, guid

HEADER_BYTES = 4 * KIB
_VERSION = 1


class Header(NamedTuple):
    """The current header. `slot` is 0 or 1; `note` says what is wrong with the other one, if anything is."""

    slot: int
    sequence: int
    file_write: UUID
    data_write: UUID
    log: UUID
    log_version: int
    version: int
    log_length: int
    log_offset: int
    note: str = ""

    @property
    def offset(self) -> int:
        return HEADER_OFFSETS[self.slot]

    @property
    def dirty(self) -> bool:
        """Is there a log to replay?"""
        return self.log != NO_GUID


def parse(raw: bytes, slot: int) -> Header | None:
    """A header, or None where signature or checksum are wrong: the other one counts then."""
    signature, checksum, sequence, file_write, data_write, log, *rest = HEADER.unpack_from(raw)
    if signature != b"head" or kernel.crc.crc32c(raw[:4] + bytes(4) + raw[8:]) != checksum:
        return None
    return Header(slot, sequence, guid(file_write), guid(data_write), guid(log), *rest)


def read_header(container: Container) -> Header:
    """The current header, fit for use. Raises Damaged, and NewerFormat for a later version."""
    signature = container.read(0, len(FILE_ID), "file type identifier")
    if signature != FILE_ID:
        raise damaged(container.path, 0, f"not a VHDX file: it begins with {signature!r}, {FILE_ID!r} was expected")
    header = _choose(container)
    _check_versions(header, container.path)
    _check_log(header, container.path)
    return header


def creator(container: Container) -> str:
    """The program that made the file, as it says itself."""
    raw = container.read(len(FILE_ID), 512, "creator")
    return raw.decode("utf-16-le", "replace").split("\0")[0]


def _choose(container: Container) -> Header:
    raws = [container.read(offset, HEADER_BYTES, "header") for offset in HEADER_OFFSETS]
    found = [parse(raw, slot) for slot, raw in enumerate(raws)]
    good = sorted((header for header in found if header), key=lambda header: -header.sequence)
    if not good:
        raise damaged(
            container.path, HEADER_OFFSETS[0],
            "headers: neither has its signature and checksum, so which log and data are current is lost",
        )  # fmt: skip
    if len(good) == 1:
        return good[0]._replace(note=f"header {2 - good[0].slot} has a wrong signature or checksum")
    # disk2vhd writes one header twice, with one sequence number.
    if good[0].sequence == good[1].sequence and raws[0] != raws[1]:
        raise damaged(
            container.path, HEADER_OFFSETS[1],
            f"headers: both have sequence number {good[0].sequence} and they differ; one must be newer",
        )  # fmt: skip
    return good[0]


def _check_versions(header: Header, path: str) -> None:
    if header.version > _VERSION:
        raise errors.NewerFormat(f"VHDX version {header.version}, this program knows {_VERSION}", path=path)
    if header.version != _VERSION:
        raise damaged(path, header.offset + 66, f"header: version {header.version}, {_VERSION} was expected")
    if header.dirty and header.log_version != 0:
        raise errors.NewerFormat(f"a log of version {header.log_version}, this program knows 0", path=path)


def _check_log(header: Header, path: str) -> None:
    """The place of the log; whether the file reaches that far matters only to who replays it."""
    at, length = header.offset + 68, header.log_length
    if header.dirty and not length:
        raise damaged(path, at, "header: it names a log to replay, and a log of no length")
    if length % MIB or header.log_offset % MIB:
        raise damaged(
            path, at, f"header: a log of {length} bytes at {header.log_offset}, multiples of {MIB} were expected"
        )
    if length and header.log_offset < HEADER_AREA:
        raise damaged(path, at, f"header: the log at {header.log_offset} lies in the first {HEADER_AREA} bytes")
    if length > MAX_LOG:
        raise damaged(path, at, f"header: a log of {length} bytes, at most {MAX_LOG} were expected")
