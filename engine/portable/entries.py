"""Entries of block maps and blocks of frames, matched by number: the part of `_scan` that reads no image.

`scan` re-exports all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from secondsite.engine.portable import Bytes, Words, block_lengths, check_image, released, unsigned, view

if TYPE_CHECKING:
    from typing_extensions import Buffer


def _entries(buffer: Buffer, *, writable: bool = False) -> Bytes:
    """Sixteen bytes a row; a rest of fewer does not count."""
    data = view(buffer, np.uint8, writable=writable)
    return data[: len(data) // 16 * 16].reshape(-1, 16)


def _name(rows: Bytes, first_block: int, out: Buffer) -> int:
    """The block numbers of those rows that are not all zero."""
    unsigned(first_block)
    numbers = view(out, np.uint64, writable=True)
    if len(numbers) < len(rows):
        raise ValueError("no room for the block numbers")
    found = np.flatnonzero(rows.any(axis=1))
    numbers[: len(found)] = found.astype(np.uint64) + np.uint64(first_block)
    return len(found)


@released
def nonzero_entries(entries: Buffer, first_block: int, out: Buffer) -> int:
    """Number of the entries (16 bytes each) that are not zero; their block numbers go to `out`."""
    return _name(_entries(entries), first_block, out)


@released
def differing_entries(want: Buffer, have: Buffer, first_block: int, out: Buffer) -> int:
    """Number of entries (16 bytes each) in which two maps differ; their block numbers go to `out`."""
    if len(view(want, np.uint8)) != len(view(have, np.uint8)):
        raise ValueError("the maps differ in length")
    return _name(_entries(want) ^ _entries(have), first_block, out)


def _in_page(page: Bytes, page_first: int, blocks: Words, at: int, count: int) -> Words:
    """Where the blocks from `at` on lie in the page, up to the first that does not."""
    unsigned(page_first)
    numbers = blocks[at:count]
    first = np.uint64(page_first)
    outside = (numbers < first) | (numbers - first >= np.uint64(len(page)))
    end = int(outside.argmax()) if outside.any() else len(numbers)
    return numbers[:end] - first


def _numbers(blocks: Buffer, digests: Bytes, at: int, count: int) -> Words:
    unsigned(at, count)
    numbers = view(blocks, np.uint64)
    if len(numbers) < count or len(digests) < count:
        raise ValueError("blocks or hashes are too short")
    return numbers


@released
def store_entries(page: Buffer, page_first: int, blocks: Buffer, hashes: Buffer, at: int, count: int) -> int:
    """Put the hashes of `blocks[at:count]` into a page of the map, while they lie in it; the next `at`."""
    rows, digests = _entries(page, writable=True), _entries(hashes)
    places = _in_page(rows, page_first, _numbers(blocks, digests, at, count), at, count)
    rows[places] = digests[at : at + len(places)]
    return at + len(places)


@released
def load_entries(page: Buffer, page_first: int, blocks: Buffer, hashes: Buffer, at: int, count: int) -> int:
    """The reverse of store_entries: read the hashes of `blocks[at:count]` from a page; the next `at`."""
    rows, digests = _entries(page), _entries(hashes, writable=True)
    places = _in_page(rows, page_first, _numbers(blocks, digests, at, count), at, count)
    digests[at : at + len(places)] = rows[places]
    return at + len(places)


@released
def set_lengths(
    blocks: Buffer, hashes: Buffer, count: int, block_size: int, image_size: int, lengths: Buffer
) -> int:
    """Lengths of blocks of which only the hashes are known: 0 where the hash is zero. Returns their sum."""
    unsigned(count)
    check_image(block_size, image_size)
    digests, sizes = _entries(hashes), view(lengths, np.uint32, writable=True)
    numbers = _numbers(blocks, digests, 0, count)[:count]
    if len(sizes) < count:
        raise ValueError("the lengths are too short")
    found = block_lengths(numbers, block_size, image_size)
    if not found.all():
        raise ValueError(f"block {numbers[found == 0][0]} lies past the end of the image")
    found[~digests[:count].any(axis=1)] = 0
    sizes[:count] = found
    return int(found.sum())


@released
def zero_blocks(blocks: Buffer, lengths: Buffer, count: int, out: Buffer) -> int:
    """The numbers of a batch's blocks of zeros go to `out`; returns how many."""
    unsigned(count)
    numbers, sizes = view(blocks, np.uint64), view(lengths, np.uint32)
    names = view(out, np.uint64, writable=True)
    if min(len(numbers), len(sizes), len(names)) < count:
        raise ValueError("blocks, lengths or room are too short")
    found = numbers[:count][sizes[:count] == 0]
    names[: len(found)] = found
    return len(found)


@released
def ascending(blocks: Buffer, count: int, end: int) -> bool:
    """Do the first `count` block numbers strictly ascend, and stay below `end`?"""
    unsigned(count, end)
    numbers = view(blocks, np.uint64)
    if len(numbers) < count:
        raise ValueError("fewer blocks than the count")
    numbers = numbers[:count]
    return bool((numbers < np.uint64(end)).all() and (numbers[1:] > numbers[:-1]).all())


@released
def pick_blocks(
    have_blocks: Buffer,
    have_lengths: Buffer,
    have_count: int,
    have_payload: Buffer,
    want_blocks: Buffer,
    resolved: Buffer,
    want_count: int,
    block_size: int,
    lengths: Buffer,
    slots: Buffer,
) -> int:
    """Copy those wanted blocks that a frame holds and nobody resolved before into their slots.

    Both lists ascend. Slot i is `slots[i * block_size:]`; `lengths[i]` becomes the block's length (0 for
    zeros) and `resolved[i]` 1. Returns how many; with an empty payload it counts them and changes nothing.
    """
    unsigned(have_count, want_count, block_size)
    have, sizes = view(have_blocks, np.uint64), view(have_lengths, np.uint32)
    want, state = view(want_blocks, np.uint64), view(resolved, np.uint8, writable=True)
    results, places = view(lengths, np.uint32, writable=True), view(slots, np.uint8, writable=True)
    data = view(have_payload, np.uint8)
    if (
        min(len(have), len(sizes)) < have_count
        or min(len(want), len(state), len(results)) < want_count
        or len(places) < want_count * block_size
    ):
        raise ValueError("an array is shorter than its count")
    have, sizes, want = have[:have_count], sizes[:have_count], want[:want_count]
    if (sizes > block_size).any():
        raise ValueError("a block is longer than the block size")
    ends = np.cumsum(sizes, dtype=np.uint64)
    if have_count and len(data) and int(ends[-1]) > len(data):
        raise ValueError("the payload is shorter than its blocks")
    _, from_, to = np.intersect1d(have, want, assume_unique=True, return_indices=True)
    fresh = state[to] != 1
    from_, to = from_[fresh], to[fresh]
    if len(data):
        for source, target in zip(from_.tolist(), to.tolist(), strict=True):
            end, size = int(ends[source]), int(sizes[source])
            places[target * block_size : target * block_size + size] = data[end - size : end]
        results[to] = sizes[from_]
        state[to] = 1
    return len(to)


@released
def compact(slots: Buffer, lengths: Buffer, count: int, block_size: int, payload: Buffer) -> int:
    """From slots of `block_size` to blocks back to back, in place too; returns the bytes."""
    unsigned(count, block_size)
    places, sizes = view(slots, np.uint8), view(lengths, np.uint32)
    data = view(payload, np.uint8, writable=True)
    if len(sizes) < count or len(places) < count * block_size:
        raise ValueError("an array is shorter than its count")
    if (sizes[:count] > block_size).any():
        raise ValueError("a block is longer than the block size")
    if int(sizes[:count].sum()) > len(data):
        raise ValueError("no room for the blocks")
    used = 0
    for i, size in enumerate(sizes[:count].tolist()):
        data[used : used + size] = places[i * block_size : i * block_size + size]
        used += size
    return used


@released
def pick_zeros(runs: Buffer, want_blocks: Buffer, resolved: Buffer, want_count: int, lengths: Buffer) -> int:
    """Resolve the wanted blocks in runs of zeros: pairs (first block, number of blocks), ascending."""
    unsigned(want_count)
    numbers, want = view(runs, np.uint64), view(want_blocks, np.uint64)
    state, results = view(resolved, np.uint8, writable=True), view(lengths, np.uint32, writable=True)
    if min(len(want), len(state), len(results)) < want_count:
        raise ValueError("an array is shorter than its count")
    pairs = numbers[: len(numbers) // 2 * 2].reshape(-1, 2)
    if len(pairs) == 0:
        return 0
    want = want[:want_count]
    run = np.searchsorted(pairs[:, 0], want, side="right") - 1
    inside = (run >= 0) & (want - pairs[run, 0] < pairs[run, 1])
    taken = np.flatnonzero(inside & (state[:want_count] != 1))
    state[taken] = 1
    results[taken] = 0
    return len(taken)
