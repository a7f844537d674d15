"""Growing and cutting the disk in a file that is in use (formats 1.2, 1.3).

The size is one item of the metadata, and changes by one log entry. Whatever must be true at the new size is durable
before; what is left over at it is given up after. Entries of the table behind the disk's end mean nothing, so new ones
may be written in several steps; where the region has no room for them, the whole table is written to a new place
and the entry that changes the size also changes both region tables.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from secondsite.engine import errors
from secondsite.engine.images.vhdx import packing
from secondsite.engine.images.vhdx.packing import FULL, PAGE
from secondsite.engine.images.vhdx.structures import MAX_DISK
from secondsite.engine.images.vhdx.table import IN_FILE, OFFSET, STATE, region_bytes

if TYPE_CHECKING:
    from secondsite.engine.images.vhdx.writer import VhdxWriter

_PART_PAGES = 256


def check_size(image: VhdxWriter, size: int) -> None:
    """Raises Usage for a size that the format does not know, Refused for a differencing file."""
    if image.opened.differencing:
        raise errors.Refused("a differencing file has the size of its parent", path=image.path)
    if not 0 < size <= MAX_DISK or size % image.opened.sector:
        sector = image.opened.sector
        raise errors.Usage(f"{size} bytes: a multiple of {sector} up to 64 TiB was expected", path=image.path)


def resize(image: VhdxWriter, size: int) -> None:
    """Inside the lock, alone, after `check_size` and the session's beginning."""
    if size < image.opened.size:
        _cut(image, size)
    else:
        _grow(image, size)


def _set_size(image: VhdxWriter, size: int) -> None:
    image.pages.patch(image.opened.size_at, size.to_bytes(8, "little"))
    # Where the commit fails, the page stays to be written: memory is what the next one makes durable.
    image.opened.size = size


def _cut(image: VhdxWriter, size: int) -> None:
    """The space behind the new end is room after the very commit that makes the size durable."""
    opened, table = image.opened, image.table
    first, last = (-(-end // opened.block_size) for end in (size, opened.size))
    image.commit()
    _set_size(image, size)
    for block in range(first, last):
        entry = table.get(block)
        if entry & STATE in IN_FILE:
            image.space.release(entry & OFFSET, opened.block_size)
    table.resize(opened.entries(size))
    image.commit()


def _grow(image: VhdxWriter, size: int) -> None:
    opened, table = image.opened, image.table
    old, blocks = -(-opened.size // opened.block_size), -(-size // opened.block_size)
    image.commit()
    _clear_tail(image)
    table.resize(opened.entries(size))
    try:
        if opened.fixed:
            start = image.take((blocks - old) * opened.block_size, at_end=True) if blocks > old else 0
            for block in range(old, blocks):
                table.put(block, FULL, start + (block - old) * opened.block_size)
        if region_bytes(opened.entries(size)) > table.length:
            _move_table(image, size)
        else:
            _commit_new(image)
    except errors.Error:
        table.resize(opened.entries())
        raise
    _set_size(image, size)
    image.commit()


def _clear_tail(image: VhdxWriter) -> None:
    """What the last block holds behind the disk's end comes into sight, and must be zeros."""
    opened = image.opened
    block, inside = divmod(opened.size, opened.block_size)
    if inside and (entry := image.table.get(block)) & STATE in IN_FILE:
        image.file.zero((entry & OFFSET) + inside, opened.block_size - inside)


def _commit_new(image: VhdxWriter) -> None:
    """More pages than a log entry holds: they lie behind the table's end as yet, so any part may be first."""
    dirty = sorted(image.table.dirty)
    step = image.journal.max_pages - 4
    for start in range(0, len(dirty), step):
        image.table.dirty = set(dirty[start : start + step])
        image.commit()


def _move_table(image: VhdxWriter, size: int) -> None:
    """Write the table to new space, where nothing leads yet, and have the region tables name it."""
    opened, table = image.opened, image.table
    length = region_bytes(opened.entries(size))
    offset = image.take(length, at_end=True)
    pages = -(-8 * len(table.entries) // PAGE)
    for start in range(0, pages, _PART_PAGES):
        part = range(start, min(start + _PART_PAGES, pages))
        image.file.write(offset + start * PAGE, b"".join(table.page(number) for number in part))
    _patch_regions(image, offset, length)
    image.space.release(table.offset, table.length)
    # The old place gets no more writes: once it is room, they would go into somebody's block.
    table.dirty.clear()
    table.offset, table.length = offset, length


def _patch_regions(image: VhdxWriter, offset: int, length: int) -> None:
    """Both region tables, from the one that is good: other regions stay as they are, known here or not."""
    entry = image.opened.regions.bat.at
    start = max(place for place in packing.TABLE_OFFSETS if place <= entry)
    table = image.file.read(start, packing.TABLE_BYTES)
    struct.pack_into("<QI", table, entry - start + 16, offset, length)
    sealed = packing.sealed(table)
    for place in packing.TABLE_OFFSETS:
        for page in range(0, packing.TABLE_BYTES, PAGE):
            if image.pages.get(place + page) != sealed[page : page + PAGE]:
                image.pages.patch(place + page, sealed[page : page + PAGE])
