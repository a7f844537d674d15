"""The metadata region: the facts of a disk (formats 1.2). It has no checksum, so every value is checked here."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

from secondsite.engine import errors
from secondsite.engine.images.vhdx.container import Container
from secondsite.engine.images.vhdx.packing import (
    DISK_ID,
    DISK_SIZE,
    FILE_PARAMETERS,
    ITEM,
    ITEM_HEAD,
    LOGICAL_SECTOR,
    MIB,
    PARENT_LOCATOR,
    PHYSICAL_SECTOR,
    TABLE_BYTES,
)
from secondsite.engine.images.vhdx.regions import Region
from secondsite.engine.images.vhdx.structures import (
    CHUNK_SECTORS,
    INCOMPLETE_FILE,
    MAX_BLOCK,
    MAX_DISK,
    MAX_ENTRIES,
    MIN_BLOCK,
    damaged,
    guid,
)

_MAX_USER = 1024
_SECTORS = (512, 4096)
_USER, _REQUIRED = 1, 4

_NAMES = {
    FILE_PARAMETERS: "file parameters",
    DISK_SIZE: "virtual disk size",
    DISK_ID: "virtual disk id",
    LOGICAL_SECTOR: "logical sector size",
    PHYSICAL_SECTOR: "physical sector size",
    PARENT_LOCATOR: "parent locator",
}
_LENGTHS = {FILE_PARAMETERS: 8, DISK_SIZE: 8, DISK_ID: 16, LOGICAL_SECTOR: 4, PHYSICAL_SECTOR: 4}


class Item(NamedTuple):
    """One entry of the table; `offset` is one of the file."""

    name: UUID
    offset: int
    length: int
    flags: int
    at: int


class Metadata(NamedTuple):
    """What the disk is. `locator` is the parent locator's item in a differencing disk, else None."""

    size: int
    block_size: int
    logical_sector: int
    physical_sector: int
    disk_id: UUID
    fixed: bool
    locator: Item | None

    @property
    def chunk_bytes(self) -> int:
        """What one sector bitmap stands for."""
        return CHUNK_SECTORS * self.logical_sector

    @property
    def ratio(self) -> int:
        """Blocks of a chunk."""
        return self.chunk_bytes // self.block_size

    @property
    def blocks(self) -> int:
        return -(-self.size // self.block_size)

    @property
    def entries(self) -> int:
        """Entries of the block allocation table that mean something (formats 1.3)."""
        if self.locator is None:
            return self.blocks + (self.blocks - 1) // self.ratio
        return -(-self.blocks // self.ratio) * (self.ratio + 1)


def read_metadata(container: Container, region: Region) -> Metadata:
    """All facts, checked. Raises Damaged, and NewerFormat for a required item that is not known."""
    found = known_items(container, region)
    block, flags = _file_parameters(container, found)
    logical = _sector(container, found, LOGICAL_SECTOR)
    size = _size(container, found, logical)
    has_parent, locator = bool(flags & 2), found.get(PARENT_LOCATOR)
    if has_parent != (locator is not None):
        # Without a checksum it is not known which of the two is wrong: one would read zeros for the parent's data.
        raise damaged(
            container.path, region.offset,
            "metadata: " + ("a parent and no parent locator" if has_parent else "a parent locator and no parent"),
        )  # fmt: skip
    return Metadata(
        size, block, logical, _sector(container, found, PHYSICAL_SECTOR),
        guid(container.read(_need(container, region, found, DISK_ID).offset, 16, "virtual disk id")),
        bool(flags & 1), locator,
    )  # fmt: skip


def known_items(container: Container, region: Region) -> dict[UUID, Item]:
    """The items that the reader uses, by name, checked. Raises as `read_metadata`."""
    items = list(_items(container, region))
    if len({(item.name, item.flags & _USER) for item in items}) != len(items):
        raise damaged(container.path, region.offset, "metadata table: an item is listed twice")
    if sum(item.flags & _USER for item in items) > _MAX_USER:
        raise damaged(container.path, region.offset, f"metadata table: more than {_MAX_USER} user items")
    _check_apart(items, container.path)
    found = {}
    for item in items:
        if item.name == INCOMPLETE_FILE and not item.flags & _USER:
            raise damaged(container.path, item.at, "metadata table: the creation of this file was never finished")
        if item.name in _NAMES and not item.flags & _USER:
            found[item.name] = item
        elif item.flags & _REQUIRED:
            raise errors.NewerFormat(
                f"it requires a metadata item that this program does not know: {item.name}", path=container.path
            )
    for name in _LENGTHS:
        _need(container, region, found, name)
    return found


def _items(container: Container, region: Region) -> Iterator[Item]:
    table = container.read(region.offset, TABLE_BYTES, "metadata table")
    signature, _, count = ITEM_HEAD.unpack_from(table)
    if signature != b"metadata":
        raise damaged(
            container.path, region.offset, f"metadata table: signature {signature!r}, b'metadata' was expected"
        )
    if count > MAX_ENTRIES:
        raise damaged(
            container.path, region.offset + 10, f"metadata table: {count} entries, at most {MAX_ENTRIES} were expected"
        )
    for index in range(count):
        at = region.offset + 32 + 32 * index
        name, offset, length, flags = ITEM.unpack_from(table, at - region.offset)
        empty = length == 0 and offset == 0
        if not empty and not (offset >= TABLE_BYTES and length <= MIB and offset + length <= region.length):
            raise damaged(
                container.path, at,
                f"metadata table: {length} bytes at {offset} for item {guid(name)}, expected from {TABLE_BYTES} to "
                f"{region.length}, and at most {MIB}",
            )  # fmt: skip
        yield Item(guid(name), region.offset + offset, length, flags, at)


def _check_apart(items: list[Item], path: str) -> None:
    placed = sorted((item for item in items if item.length), key=lambda item: item.offset)
    for before, item in itertools.pairwise(placed):
        if before.offset + before.length > item.offset:
            raise damaged(path, item.at, f"metadata table: item {item.name} overlaps item {before.name}")


def _need(container: Container, region: Region, found: dict[UUID, Item], name: UUID) -> Item:
    item = found.get(name)
    if item is None:
        raise damaged(container.path, region.offset, f"metadata table: no {_NAMES[name]}")
    if item.length != _LENGTHS[name]:
        raise damaged(
            container.path, item.at,
            f"metadata table: {item.length} bytes for the {_NAMES[name]}, {_LENGTHS[name]} were expected",
        )  # fmt: skip
    return item


def _number(container: Container, item: Item) -> int:
    return int.from_bytes(container.read(item.offset, item.length, _NAMES[item.name]), "little")


def _file_parameters(container: Container, found: dict[UUID, Item]) -> tuple[int, int]:
    item = found[FILE_PARAMETERS]
    block, flags = struct.unpack("<II", container.read(item.offset, 8, "file parameters"))
    if block & (block - 1) or not MIN_BLOCK <= block <= MAX_BLOCK:
        raise damaged(
            container.path, item.offset,
            f"file parameters: blocks of {block} bytes, a power of two from {MIN_BLOCK} to {MAX_BLOCK} was expected",
        )  # fmt: skip
    return block, flags


def _sector(container: Container, found: dict[UUID, Item], name: UUID) -> int:
    size = _number(container, found[name])
    if size not in _SECTORS:
        raise damaged(
            container.path, found[name].offset, f"{_NAMES[name]}: {size} bytes, 512 or 4096 were expected"
        )
    return size


def _size(container: Container, found: dict[UUID, Item], sector: int) -> int:
    item = found[DISK_SIZE]
    size = _number(container, item)
    if not 0 < size <= MAX_DISK or size % sector:
        raise damaged(
            container.path, item.offset,
            f"virtual disk size: {size} bytes, a multiple of {sector} up to {MAX_DISK} was expected",
        )  # fmt: skip
    return size
