"""Flat arrays without I/O: entries of a block map, and picking blocks out of a delta's frames."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

cdef extern from "zero.h" nogil:
    bint ss_is_zero(const uint8_t *data, size_t length)

cdef extern from "blockio.h" nogil:
    uint64_t SS_MAX_OFFSET
    uint64_t ss_block_length(uint64_t block, uint32_t block_size, uint64_t image_size)


def nonzero_entries(const uint8_t[::1] entries, uint64_t first_block, uint64_t[::1] out):
    """Number of the entries (16 bytes each) that are not zero; their block numbers go to `out`."""
    cdef size_t i
    cdef size_t found = 0
    cdef size_t n = entries.shape[0] // 16
    if <size_t>out.shape[0] < n:
        raise ValueError("no room for the block numbers")
    with nogil:
        for i in range(n):
            if not ss_is_zero(&entries[16 * i], 16):
                out[found] = first_block + i
                found += 1
    return found


def differing_entries(const uint8_t[::1] want, const uint8_t[::1] have, uint64_t first_block,
                      uint64_t[::1] out):
    """Number of entries (16 bytes each) in which two maps differ; their block numbers go to `out`."""
    cdef size_t i
    cdef size_t found = 0
    cdef size_t n = want.shape[0] // 16
    if have.shape[0] != want.shape[0] or <size_t>out.shape[0] < n:
        raise ValueError("the maps differ in length, or there is no room for the block numbers")
    with nogil:
        for i in range(n):
            if memcmp(&want[16 * i], &have[16 * i], 16) != 0:
                out[found] = first_block + i
                found += 1
    return found


def store_entries(uint8_t[::1] page, uint64_t page_first, const uint64_t[::1] blocks,
                  const uint8_t[::1] hashes, size_t at, size_t count):
    """Put the hashes of `blocks[at:count]` into a page of the map for as long as they lie in it; the next `at`."""
    cdef uint64_t entries = page.shape[0] // 16
    if <size_t>blocks.shape[0] < count or <size_t>hashes.shape[0] < 16 * count:
        raise ValueError("blocks or hashes are too short")
    with nogil:
        while at < count and blocks[at] >= page_first and blocks[at] - page_first < entries:
            memcpy(&page[16 * (blocks[at] - page_first)], &hashes[16 * at], 16)
            at += 1
    return at


def load_entries(const uint8_t[::1] page, uint64_t page_first, const uint64_t[::1] blocks,
                 uint8_t[::1] hashes, size_t at, size_t count):
    """The reverse of store_entries: read the hashes of `blocks[at:count]` from a page; the next `at`."""
    cdef uint64_t entries = page.shape[0] // 16
    if <size_t>blocks.shape[0] < count or <size_t>hashes.shape[0] < 16 * count:
        raise ValueError("blocks or hashes are too short")
    with nogil:
        while at < count and blocks[at] >= page_first and blocks[at] - page_first < entries:
            memcpy(&hashes[16 * at], &page[16 * (blocks[at] - page_first)], 16)
            at += 1
    return at


def set_lengths(const uint64_t[::1] blocks, const uint8_t[::1] hashes, size_t count, uint32_t block_size,
                uint64_t image_size, uint32_t[::1] lengths):
    """Lengths of blocks of which only the hashes are known: 0 where the hash is zero. Returns their sum."""
    cdef size_t i
    cdef uint64_t length
    cdef uint64_t used = 0
    if (<size_t>blocks.shape[0] < count or <size_t>lengths.shape[0] < count
            or <size_t>hashes.shape[0] < 16 * count):
        raise ValueError("blocks, hashes or lengths are too short")
    if block_size == 0 or image_size > SS_MAX_OFFSET:
        raise ValueError(f"blocks of {block_size} bytes in an image of {image_size}")
    for i in range(count):
        length = ss_block_length(blocks[i], block_size, image_size)
        if length == 0:
            raise ValueError(f"block {blocks[i]} lies past the end of the image")
        lengths[i] = 0 if ss_is_zero(&hashes[16 * i], 16) else length
        used += lengths[i]
    return used


def zero_blocks(const uint64_t[::1] blocks, const uint32_t[::1] lengths, size_t count, uint64_t[::1] out):
    """The numbers of a batch's blocks of zeros go to `out`; returns how many."""
    cdef size_t i
    cdef size_t found = 0
    if (<size_t>blocks.shape[0] < count or <size_t>lengths.shape[0] < count
            or <size_t>out.shape[0] < count):
        raise ValueError("blocks, lengths or room are too short")
    for i in range(count):
        if lengths[i] == 0:
            out[found] = blocks[i]
            found += 1
    return found


def ascending(const uint64_t[::1] blocks, size_t count, uint64_t end):
    """Do the first `count` block numbers strictly ascend, and stay below `end`?"""
    cdef size_t i
    if <size_t>blocks.shape[0] < count:
        raise ValueError("fewer blocks than the count")
    for i in range(count):
        if blocks[i] >= end or (i and blocks[i] <= blocks[i - 1]):
            return False
    return True


def pick_blocks(const uint64_t[::1] have_blocks, const uint32_t[::1] have_lengths, size_t have_count,
                const uint8_t[::1] have_payload, const uint64_t[::1] want_blocks, uint8_t[::1] resolved,
                size_t want_count, uint32_t block_size, uint32_t[::1] lengths, uint8_t[::1] slots):
    """Copy those wanted blocks that a frame holds and nobody resolved before into their slots.

    Both lists ascend. Slot i is `slots[i * block_size:]`; `lengths[i]` becomes the block's length (0 for zeros)
    and `resolved[i]` 1. Returns how many; with an empty payload it only counts them, and changes nothing.
    """
    cdef size_t h = 0
    cdef size_t w = 0
    cdef size_t at = 0
    cdef size_t total = 0
    cdef size_t taken = 0
    cdef bint dry = have_payload.shape[0] == 0
    if (<size_t>have_blocks.shape[0] < have_count or <size_t>have_lengths.shape[0] < have_count
            or <size_t>want_blocks.shape[0] < want_count or <size_t>resolved.shape[0] < want_count
            or <size_t>lengths.shape[0] < want_count or <uint64_t>slots.shape[0] < want_count * <uint64_t>block_size):
        raise ValueError("an array is shorter than its count")
    for h in range(have_count):
        total += have_lengths[h]
        if have_lengths[h] > block_size:
            raise ValueError("a block is longer than the block size")
    if not dry and total > <size_t>have_payload.shape[0]:
        raise ValueError("the payload is shorter than its blocks")
    h = 0
    with nogil:
        while h < have_count and w < want_count:
            if have_blocks[h] < want_blocks[w]:
                at += have_lengths[h]
                h += 1
            elif have_blocks[h] > want_blocks[w]:
                w += 1
            else:
                if resolved[w] != 1:
                    taken += 1
                    if not dry:
                        if have_lengths[h]:
                            memcpy(&slots[w * block_size], &have_payload[at], have_lengths[h])
                        lengths[w] = have_lengths[h]
                        resolved[w] = 1
                at += have_lengths[h]
                h += 1
                w += 1
    return taken


def compact(const uint8_t[::1] slots, const uint32_t[::1] lengths, size_t count, uint32_t block_size,
            uint8_t[::1] payload):
    """From slots of `block_size` to blocks back to back, in place too; returns the bytes."""
    cdef size_t i
    cdef size_t used = 0
    if <size_t>lengths.shape[0] < count or <uint64_t>slots.shape[0] < count * <uint64_t>block_size:
        raise ValueError("an array is shorter than its count")
    for i in range(count):
        used += lengths[i]
        if lengths[i] > block_size:
            raise ValueError("a block is longer than the block size")
    if used > <size_t>payload.shape[0]:
        raise ValueError("no room for the blocks")
    used = 0
    with nogil:
        for i in range(count):
            if lengths[i]:
                memmove(&payload[used], &slots[i * <size_t>block_size], lengths[i])
                used += lengths[i]
    return used


def pick_zeros(const uint64_t[::1] runs, const uint64_t[::1] want_blocks, uint8_t[::1] resolved,
               size_t want_count, uint32_t[::1] lengths):
    """Resolve the wanted blocks that lie in runs of zeros: pairs (first block, number of blocks), ascending."""
    cdef size_t r = 0
    cdef size_t w = 0
    cdef size_t n = runs.shape[0] // 2
    cdef size_t taken = 0
    if (<size_t>want_blocks.shape[0] < want_count or <size_t>resolved.shape[0] < want_count
            or <size_t>lengths.shape[0] < want_count):
        raise ValueError("an array is shorter than its count")
    with nogil:
        while r < n and w < want_count:
            if want_blocks[w] < runs[2 * r]:
                w += 1
            elif want_blocks[w] - runs[2 * r] >= runs[2 * r + 1]:
                r += 1
            else:
                if resolved[w] != 1:
                    resolved[w] = 1
                    lengths[w] = 0
                    taken += 1
                w += 1
    return taken
