"""Batches of blocks: one pass finds or makes room for every block; then the file takes them in one call.

What is read back goes the same way: one pass finds the blocks, one call of the kernel reads and hashes them.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from secondsite.engine.images.base import Buffer
from secondsite.engine.images.vhdx.table import IN_FILE, OFFSET, STATE

if TYPE_CHECKING:
    from secondsite.engine.images.vhdx.writer import VhdxWriter


def write_batch(
    image: VhdxWriter,
    blocks: array[int],
    lengths: array[int],
    count: int,
    size: int,
    payload: memoryview,
    punch: bool,
) -> None:
    """Blocks of a size that divides 1 MiB, in a file without a parent. See Image.write_blocks."""
    at = 0
    if count:
        image.check_range(0, max(blocks[i] * size + (lengths[i] or 1) for i in range(count)))
    while at < count:
        at, used = _write_some(image, blocks, lengths, at, count, size, payload, punch)
        payload = payload[used:]
        if at < count:
            image.flush()


def _write_some(
    image: VhdxWriter,
    blocks: array[int],
    lengths: array[int],
    at: int,
    count: int,
    size: int,
    payload: memoryview,
    punch: bool,
) -> tuple[int, int]:
    """Entries from `at` until the next log entry is full: the index of the first that is left, and bytes used."""
    numbers, sizes = array("Q"), array("I")
    per = image.opened.block_size // size
    with image.gate.locked():
        image.begin()
        while at < count and image.has_room():
            block = blocks[at] // per
            end = _same_block(blocks, at, count, (block + 1) * per)
            part = lengths[at:end]
            if any(part):
                place = image.allocate(block)
            elif _zero_by_state(image, block, blocks, at, end, size, punch):
                at = end
                continue
            else:
                place = image.table.get(block) & OFFSET
            shift = place // size - block * per
            numbers.extend(array("Q", [number + shift for number in blocks[at:end]]))
            sizes.extend(part)
            at = end
        image.gate.admit()
    try:
        if numbers:
            image.file.write_blocks(numbers, sizes, len(numbers), size, image.file.size, payload, punch=punch)
    finally:
        image.gate.leave()
    return at, sum(sizes)


def check_batch(
    image: VhdxWriter,
    blocks: array[int],
    lengths: array[int],
    hashes: Buffer,
    count: int,
    size: int,
    seed: int,
) -> int:
    """Blocks of a size that divides 1 MiB, in a file without a parent, all whole. See Image.check_blocks."""
    numbers, sizes, digests, kept = array("Q"), array("I"), bytearray(), list[int]()
    per, at, absent = image.opened.block_size // size, 0, -1
    with image.gate.locked():
        image.check_open()
        while at < count:
            block = blocks[at] // per
            end = _same_block(blocks, at, count, (block + 1) * per)
            entry, part = image.table.get(block), lengths[at:end]
            if entry & STATE in IN_FILE:
                shift = (entry & OFFSET) // size - block * per
                numbers.extend(array("Q", [number + shift for number in blocks[at:end]]))
                sizes.extend(part)
                digests += hashes[16 * at : 16 * end]
                kept.extend(range(at, end))
            elif any(part):
                absent = next(index for index in range(at, end) if lengths[index])
                break
            at = end
        held = image.space.end
        image.gate.admit()
    try:
        bad = image.file.check_blocks(numbers, sizes, digests, len(numbers), size, held, seed) if numbers else -1
    finally:
        image.gate.leave()
    return kept[bad] if bad >= 0 else absent


def _same_block(blocks: array[int], at: int, count: int, limit: int) -> int:
    """The end of the entries from `at` that ascend and lie below `limit`."""
    end = at + 1
    while end < count and blocks[end - 1] < blocks[end] < limit:
        end += 1
    return end


def _zero_by_state(
    image: VhdxWriter, block: int, blocks: array[int], at: int, end: int, size: int, punch: bool
) -> bool:
    """Zeros for (a part of) one block: done where the block's state says it; False where they are to be written."""
    start = blocks[at] * size - block * image.opened.block_size
    gapless = end - at == blocks[end - 1] - blocks[at] + 1
    if start == 0 and gapless and (end - at) * size >= image.block_length(block):
        image.zero_block(block, 0, image.block_length(block), punch)
        return True
    return image.table.get(block) & STATE not in IN_FILE


def write_runs(
    image: VhdxWriter,
    blocks: array[int],
    lengths: array[int],
    count: int,
    size: int,
    payload: memoryview,
    punch: bool,
) -> None:
    """Blocks of any size, over a parent too: neighbours of one sort are one write, or one range of zeros."""
    at = used = 0
    while at < count:
        end, data = at + 1, bool(lengths[at])
        # A short block of data ends its run: what follows it in the payload does not follow it on the disk.
        while (
            end < count
            and blocks[end] == blocks[end - 1] + 1
            and bool(lengths[end]) == data
            and (not data or lengths[end - 1] == size)
        ):
            end += 1
        start = blocks[at] * size
        if data:
            length = sum(lengths[at:end])
            image.write(start, payload[used : used + length])
            used += length
        else:
            image.zero(start, min((end - at) * size, image.size - start), punch=punch)
        at = end
