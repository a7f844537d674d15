"""The region tables: where block table and metadata lie (formats 1.1). They are read as the log leaves them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

from secondsite.engine import errors, kernel
from secondsite.engine.images.vhdx.container import Container
from secondsite.engine.images.vhdx.header import Header
from secondsite.engine.images.vhdx.packing import (
    BAT_REGION,
    METADATA_REGION,
    MIB,
    REGION,
    REGION_HEAD,
    TABLE_BYTES,
    TABLE_OFFSETS,
)
from secondsite.engine.images.vhdx.structures import HEADER_AREA, MAX_ENTRIES, damaged, guid

_NAMES = {BAT_REGION: "block allocation table", METADATA_REGION: "metadata"}


class Region(NamedTuple):
    """Bytes of the file with one purpose; `at` is where the file says so."""

    name: str
    offset: int
    length: int
    at: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class Regions(NamedTuple):
    """`places` is everything that is not payload, log and first MiB included; `note` as in Header."""

    bat: Region
    metadata: Region
    places: tuple[Region, ...]
    note: str = ""


def read_regions(container: Container, header: Header) -> Regions:
    """The regions, apart from each other and inside the file. Raises Damaged or NewerFormat."""
    table, start, note = _table(container)
    found: dict[UUID, Region] = {}
    for name, region, required in _entries(table, start, container):
        if name in found:
            raise damaged(container.path, region.at, f"region table: {region.name} is listed twice")
        if name not in _NAMES and required:
            raise errors.NewerFormat(
                f"it requires a region that this program does not know: {name}", path=container.path
            )
        found[name] = region
    for name, text in _NAMES.items():
        if name not in found:
            raise damaged(container.path, start, f"region table: no entry for the {text}")
    fixed = [Region("first MiB", 0, HEADER_AREA, 0)]
    if header.log_length:
        fixed.append(Region("log", header.log_offset, header.log_length, header.offset))
    places = tuple(sorted([*fixed, *found.values()], key=lambda region: region.offset))
    _check_apart(places, container.path)
    return Regions(found[BAT_REGION], found[METADATA_REGION], places, note)


def _table(container: Container) -> tuple[bytes, int, str]:
    """The first table whose checksum holds, with its place."""
    for index, start in enumerate(TABLE_OFFSETS):
        raw = container.read(start, TABLE_BYTES, "region table")
        signature, checksum, _ = REGION_HEAD.unpack_from(raw)
        if signature == b"regi" and kernel.crc.crc32c(raw[:4] + bytes(4) + raw[8:]) == checksum:
            return raw, start, "region table 1 has a wrong signature or checksum" if index else ""
    raise damaged(
        container.path, TABLE_OFFSETS[0], "region tables: neither has its signature `regi` and its checksum"
    )


def second_table(container: Container, regions: Regions) -> str:
    """What a check says of the copy that was not used; nothing where it is equal."""
    if regions.note:
        return regions.note
    first, second = (container.read(start, TABLE_BYTES, "region table") for start in TABLE_OFFSETS)
    return "" if first == second else "region table 2 is not a copy of table 1"


def _entries(table: bytes, start: int, container: Container) -> Iterator[tuple[UUID, Region, bool]]:
    count = REGION_HEAD.unpack_from(table)[2]
    if count > MAX_ENTRIES:
        raise damaged(container.path, start + 8, f"region table: {count} entries, at most {MAX_ENTRIES} were expected")
    for index in range(count):
        at = start + 16 + 32 * index
        raw, offset, length, flags = REGION.unpack_from(table, at - start)
        name = guid(raw)
        region = Region(_NAMES.get(name, f"region {name}"), offset, length, at)
        if offset % MIB or length % MIB or offset < HEADER_AREA or not length:
            raise damaged(
                container.path, at,
                f"region table: {length} bytes at {offset} for the {region.name}, multiples of {MIB} were expected",
            )  # fmt: skip
        if region.end > container.size:
            raise damaged(
                container.path, at,
                f"region table: the {region.name} ends at {region.end}, the file at {container.size}",
            )  # fmt: skip
        yield name, region, bool(flags & 1)


def _check_apart(places: tuple[Region, ...], path: str) -> None:
    for before, region in itertools.pairwise(places):
        if before.end > region.offset:
            raise damaged(
                path, region.at,
                f"region table: the {region.name} at {region.offset} overlaps the {before.name}, "
                f"which ends at {before.end}",
            )  # fmt: skip
