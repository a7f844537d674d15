"""From an existing file to what a writer needs of it: parsed by the reader's parts, its log replayed into the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from secondsite.engine import errors
from secondsite.engine.files import Files
from secondsite.engine.images.base import Image
from secondsite.engine.images.vhdx.bat import BlockTable
from secondsite.engine.images.vhdx.header import read_header
from secondsite.engine.images.vhdx.journal import Headers
from secondsite.engine.images.vhdx.metadata import Metadata, known_items, read_metadata
from secondsite.engine.images.vhdx.packing import DISK_SIZE
from secondsite.engine.images.vhdx.regions import Regions, read_regions
from secondsite.engine.images.vhdx.replay import OpenFile, headers_of, replay_into
from secondsite.engine.images.vhdx.table import LiveTable


class Identity(NamedTuple):
    """What a child copies from its parent, and what it remembers of its state."""

    size: int
    sector: int
    disk_id: UUID
    data_write: UUID


@dataclass
class Opened:
    """One file, parsed. `size` changes with a resize, as the table's place may; `size_at` is where the file has it."""

    headers: Headers
    regions: Regions
    metadata: Metadata
    table: LiveTable
    size: int
    size_at: int

    @property
    def block_size(self) -> int:
        return self.metadata.block_size

    @property
    def sector(self) -> int:
        return self.metadata.logical_sector

    @property
    def fixed(self) -> bool:
        return self.metadata.fixed

    @property
    def differencing(self) -> bool:
        return self.metadata.locator is not None

    def entries(self, size: int | None = None) -> int:
        """Entries of the table, now or of a disk of another size."""
        return self.metadata._replace(size=size or self.size).entries

    def used(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of everything that is somewhere in the file."""
        for place in self.regions.places:
            yield place.offset, place.length
        yield from self.table.used(self.block_size)


def load(file: Image) -> Opened:
    """Parse a file that is open for writing; a log that was left behind is replayed first. Raises Damaged."""
    header = read_header(OpenFile(file))
    headers = replay_into(file, header) if header.dirty else headers_of(file, header)
    container = OpenFile(file)
    regions = read_regions(container, header)
    metadata = read_metadata(container, regions.metadata)
    # A writer trusts every entry: two blocks in one place would be written over each other.
    for problem in BlockTable(container, regions, metadata).problems():
        raise problem
    raw = container.read(regions.bat.offset, 8 * metadata.entries, "block allocation table")
    table = LiveTable(raw, metadata.entries, regions.bat.offset, regions.bat.length, metadata.ratio)
    size_at = known_items(container, regions.metadata)[DISK_SIZE].offset
    return Opened(headers, regions, metadata, table, metadata.size, size_at)


def identify(files: Files, path: str) -> Identity:
    """What a new child of this file needs to know. Raises Damaged."""
    with files.open(path, "r") as file:
        container = OpenFile(file)
        header = read_header(container)
        if header.dirty:
            raise errors.Refused("its log is to be replayed before it can be a parent", path=path)
        metadata = read_metadata(container, read_regions(container, header).metadata)
        return Identity(metadata.size, metadata.logical_sector, metadata.disk_id, header.data_write)
