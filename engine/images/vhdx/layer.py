"""One file of a chain, opened: header, log, regions, metadata and table, in the order in which each needs the last."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from typing import Self

from secondsite.engine import kernel
from secondsite.engine.images.vhdx.bat import BlockTable
from secondsite.engine.images.vhdx.container import Container
from secondsite.engine.images.vhdx.header import Header, read_header
from secondsite.engine.images.vhdx.locator import Locator, read_locator
from secondsite.engine.images.vhdx.log import Replay, overlay_log
from secondsite.engine.images.vhdx.metadata import Metadata, read_metadata
from secondsite.engine.images.vhdx.regions import Regions, read_regions

Pieces = tuple["array[int]", "array[int]", "array[int]"]


@dataclass(frozen=True)
class Layer:
    """`replay` is what the log adds to the file, `locator` how the parent is found; None where there is none."""

    container: Container
    header: Header
    replay: Replay | None
    regions: Regions
    metadata: Metadata
    locator: Locator | None
    table: BlockTable

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Raises Damaged, NewerFormat, Unreachable, and Usage for what is not a file."""
        container = Container(path)
        try:
            header = read_header(container)
            replay = overlay_log(container, header)
            regions = read_regions(container, header)
            metadata = read_metadata(container, regions.metadata)
            locator = read_locator(container, metadata.locator) if metadata.locator else None
            table = BlockTable(container, regions, metadata)
        except BaseException:
            container.close()
            raise
        return cls(container, header, replay, regions, metadata, locator, table)

    @property
    def path(self) -> str:
        return self.container.path

    @property
    def missing(self) -> int:
        """What a block that is not present stands for."""
        return kernel.vhdx.ZERO if self.locator is None else kernel.vhdx.PARENT

    def refine(
        self, pieces: Pieces, start: int, length: int, limit: int = 0, missing: int | None = None
    ) -> Pieces:
        """What this file knows of the pieces that the layers above asked for, in a range inside one chunk."""
        meta, container = self.metadata, self.container
        number = start // meta.chunk_bytes
        chunk_start = number * meta.chunk_bytes
        entries = self.table.chunk(number)
        first, bitmap = self._bitmap(entries, start - chunk_start, length)
        return kernel.vhdx.refine(
            *pieces, chunk_start, meta.block_size, meta.logical_sector, entries[: meta.ratio], bitmap, first,
            container.fd, self.missing if missing is None else missing, *container.overlay, container.pages, limit,
        )  # fmt: skip

    def _bitmap(self, entries: memoryview, at: int, length: int) -> tuple[int, memoryview]:
        """The words of the chunk's sector bitmap for a range of it, and the sector of their first bit."""
        place = self.table.bitmap_place(entries)
        if not place:
            return 0, memoryview(b"").cast("Q")
        sector = self.metadata.logical_sector
        first = at // sector // 64
        last = -(-(at + length) // (sector * 64))
        raw = self.container.read(place + 8 * first, 8 * (last - first), "sector bitmap")
        return 64 * first, memoryview(raw).cast("Q")

    def close(self) -> None:
        self.container.close()
