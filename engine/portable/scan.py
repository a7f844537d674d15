"""Span scan: read, zero test, hash, compare with the previous block map. The portable `_scan`.

A *batch* is four flat arrays that the caller owns: block numbers, lengths (0 for a block of zeros), hashes of
sixteen bytes (all zero for a block of zeros) and one payload buffer with the data blocks back to back.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from secondsite.engine.portable import (
    MAX_OFFSET,
    Bytes,
    Lengths,
    Words,
    block_lengths,
    check_blocks,
    check_image,
    read_all,
    released,
    runs,
    unsigned,
    view,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer


# The native scan's piece: where a batch fills up, both must stop at the same block.
_READ_BYTES = 256 << 10


class _Span(NamedTuple):
    """Blocks of an image, and how to hash them; `previous` has 16 bytes a block."""

    first: int
    blocks: int
    block_size: int
    image_size: int
    seed: int
    previous: Bytes

    def bytes_of(self, at: int, count: int) -> int:
        """The bytes of `count` blocks from the span's block `at`."""
        start = (self.first + at) * self.block_size
        return min(start + count * self.block_size, self.image_size) - start


@dataclass
class _Batch:
    blocks: Words
    lengths: Lengths
    hashes: Bytes
    payload: Bytes
    count: int
    used: int

    def room(self, block_size: int) -> int:
        """How many more blocks fit, if all of them held data."""
        return min(len(self.blocks) - self.count, (len(self.payload) - self.used) // block_size)

    def keep_changed(self, data: Bytes, span: _Span, at: int, count: int) -> None:
        """Append the blocks of `data` that changed. `data` may lie in the payload at or after `used`."""
        digests = np.zeros((count, 16), np.uint8)
        numbers = np.arange(span.first + at, span.first + at + count, dtype=np.uint64)
        sizes = block_lengths(numbers, span.block_size, span.image_size).astype(np.uint32)
        for i in range(count):
            start = i * span.block_size
            digests[i] = _digest(data[start : start + int(sizes[i])], span.seed)
        changed = np.flatnonzero((digests != span.previous[at : at + count]).any(axis=1))
        sizes[~digests.any(axis=1)] = 0
        end = self.count + len(changed)
        self.blocks[self.count : end] = numbers[changed]
        self.lengths[self.count : end] = sizes[changed]
        self.hashes[16 * self.count : 16 * end] = digests[changed].reshape(-1)
        self.count = end
        for i in changed[sizes[changed] > 0].tolist():
            start, size = i * span.block_size, int(sizes[i])
            self.payload[self.used : self.used + size] = data[start : start + size]
            self.used += size


def _digest(block: Bytes, seed: int) -> Bytes:
    if not block.any():
        return np.zeros(16, np.uint8)
    return np.frombuffer(xxhash.xxh3_128_digest(block.data, seed), np.uint8)


def _open_batch(
    blocks: Buffer, lengths: Buffer, hashes: Buffer, payload: Buffer, count: int, used: int
) -> _Batch:
    unsigned(count, used)
    batch = _Batch(
        view(blocks, np.uint64, writable=True),
        view(lengths, np.uint32, writable=True),
        view(hashes, np.uint8, writable=True),
        view(payload, np.uint8, writable=True),
        count,
        used,
    )
    if len(batch.lengths) < len(batch.blocks) or len(batch.hashes) < 16 * len(batch.blocks):
        raise ValueError("a batch's lengths and hashes must be as long as its blocks")
    if count > len(batch.blocks) or used > len(batch.payload) or (used and not count):
        raise ValueError("a batch is fuller than its arrays")
    return batch


def _open_span(
    batch: _Batch,
    first_block: int,
    block_size: int,
    image_size: int,
    n_blocks: int,
    seed: int,
    previous: Buffer | None,
) -> _Span:
    """Refuse a span that is not inside the image, or a batch that could never hold one of its blocks."""
    unsigned(first_block, n_blocks, seed)
    check_image(block_size, image_size)
    blocks = -(-image_size // block_size)
    if first_block + n_blocks > blocks:
        raise ValueError(f"{n_blocks} blocks from {first_block} of an image of {blocks}")
    if len(batch.payload) < block_size or (len(batch.blocks) == 0 and n_blocks):
        raise ValueError("the batch is smaller than a block")
    if previous is None:
        before = np.broadcast_to(np.zeros(16, np.uint8), (n_blocks, 16))
    else:
        entries = view(previous, np.uint8)
        if len(entries) // 16 < n_blocks:
            raise ValueError("the previous hashes do not cover the span")
        before = entries[: 16 * n_blocks].reshape(n_blocks, 16)
    return _Span(first_block, n_blocks, block_size, image_size, seed, before)


class _Segments:
    """The bytes of a list of file ranges, one after another; `fd` -1 is a range of zeros."""

    def __init__(self, fds: Buffer, offsets: Buffer, lengths: Buffer) -> None:
        lists = view(fds, np.int32), view(offsets, np.int64), view(lengths, np.int64)
        if len({len(numbers) for numbers in lists}) > 1:
            raise ValueError("the lists of segments differ in length")
        self.rest: list[tuple[int, int, int]] = list(zip(*(numbers.tolist() for numbers in lists), strict=True))
        for fd, offset, length in self.rest:
            if length < 0 or (fd >= 0 and (offset < 0 or offset + length > MAX_OFFSET)):
                raise ValueError(f"a segment of {length} bytes at {offset}")

    def fill(self, data: Bytes, what: str) -> None:
        """The next bytes; EOFError with `what` where a file or the list ends first."""
        while len(data):
            if not self.rest:
                raise EOFError(what)
            fd, offset, length = self.rest.pop(0)
            part = min(length, len(data))
            if fd < 0:
                data[:part] = 0
            else:
                read_all(fd, data[:part].data, offset, what)
            if part < length:
                self.rest.insert(0, (fd, offset + part, length - part))
            data = data[part:]

    def skip_hole(self, block_size: int, blocks: int) -> int:
        """How many of the next `blocks` blocks lie in a hole that begins here, in one segment; they are passed over."""
        if not self.rest:
            return 0
        fd, offset, length = self.rest[0]
        hole = length if fd < 0 else _next_data(fd, offset, offset + length) - offset
        skipped = min(hole // block_size, blocks)
        self.rest[0] = fd, offset + skipped * block_size, length - skipped * block_size
        return skipped


def _next_data(fd: int, at: int, end: int) -> int:
    try:
        return min(max(os.lseek(fd, at, os.SEEK_DATA), at), end)
    except OSError as error:
        # Else there is no such thing here, or the file was cut: then it is data, and reading it says so.
        hole = error.errno == errno.ENXIO and os.lseek(fd, 0, os.SEEK_END) >= end
        return end if hole else at


@released
def scan_segments(
    fds: Buffer,
    offsets: Buffer,
    seg_lengths: Buffer,
    first_block: int,
    block_size: int,
    image_size: int,
    n_blocks: int,
    seed: int,
    previous: Buffer | None,
    blocks: Buffer,
    lengths: Buffer,
    hashes: Buffer,
    payload: Buffer,
    count: int,
    used: int,
) -> tuple[int, int, int]:
    """Scan `n_blocks` blocks from `first_block`, whose bytes are the file ranges one after another.

    `previous` holds 16 bytes a block, or is None for "all zero". Returns (blocks done, count, used); it stops
    early when the batch is full, which may be at once; a batch that came empty always takes a block. Raises
    OSError, EOFError where a file ends too early, and ValueError for a span that is not inside the image.
    """
    batch = _open_batch(blocks, lengths, hashes, payload, count, used)
    span = _open_span(batch, first_block, block_size, image_size, n_blocks, seed, previous)
    segments = _Segments(fds, offsets, seg_lengths)
    done, look = 0, previous is None
    while done < n_blocks:
        want = min(max(_READ_BYTES // block_size, 1), n_blocks - done)
        while want > 1 and batch.count == 0 and want > batch.room(block_size):
            want //= 2
        if want > batch.room(block_size):
            break
        # Read to where the blocks will stay if they all changed; keep_changed closes the gaps.
        data = batch.payload[batch.used : batch.used + span.bytes_of(done, want)]
        segments.fill(data, f"the image ends inside block {first_block + done}")
        batch.keep_changed(data, span, done, want)
        done += want
        # As in the native kernel: behind zeros that were read there may be a hole; one look in vain is the last one.
        if look and done < n_blocks and not (batch.count and batch.blocks[batch.count - 1] == first_block + done - 1):
            hole = segments.skip_hole(block_size, n_blocks - done)
            look = hole > 0
            done += hole
    return done, batch.count, batch.used


@released
def scan_buffer(
    data: Buffer,
    first_block: int,
    block_size: int,
    image_size: int,
    n_blocks: int,
    seed: int,
    previous: Buffer | None,
    blocks: Buffer,
    lengths: Buffer,
    hashes: Buffer,
    payload: Buffer,
    count: int,
    used: int,
) -> tuple[int, int, int]:
    """As scan_segments, over bytes in memory: for images that are not ranges of a file."""
    batch = _open_batch(blocks, lengths, hashes, payload, count, used)
    span = _open_span(batch, first_block, block_size, image_size, n_blocks, seed, previous)
    given = view(data, np.uint8)
    if n_blocks and len(given) < span.bytes_of(0, n_blocks):
        raise ValueError("the data does not cover the span")
    taken = min(n_blocks, batch.room(block_size))
    batch.keep_changed(given, span, 0, taken)
    return taken, batch.count, batch.used


@released
def hash_blocks(payload: Buffer, lengths: Buffer, count: int, seed: int, out: Buffer) -> None:
    """Hash `count` blocks that lie back to back; a length of 0 gives sixteen zero bytes."""
    unsigned(count, seed)
    data, sizes = view(payload, np.uint8), view(lengths, np.uint32)
    digests = view(out, np.uint8, writable=True)
    if len(sizes) < count or len(digests) < 16 * count:
        raise ValueError("lengths or digests are too short")
    ends = np.cumsum(sizes[:count], dtype=np.uint64).tolist()
    if ends and ends[-1] > len(data):
        raise ValueError("the payload is shorter than its blocks")
    for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        block = data[start:end]
        # Unlike in a scan, the length alone says which block is one of zeros.
        digest = xxhash.xxh3_128_digest(block.data, seed) if len(block) else bytes(16)
        digests[16 * i : 16 * i + 16] = np.frombuffer(digest, np.uint8)


@released
def check_file(
    fd: int,
    blocks: Buffer,
    lengths: Buffer,
    hashes: Buffer,
    count: int,
    block_size: int,
    image_size: int,
    seed: int,
) -> int:
    """Read the named blocks back; the index of the first that is not what its hash says, or -1.

    Of a length only zero or not zero counts: the image's size says how long a block is. Raises ValueError for
    a block that is not inside the image, OSError, and EOFError where the file ends too early.
    """
    unsigned(count, seed)
    names, sizes, digests = view(blocks, np.uint64), view(lengths, np.uint32), view(hashes, np.uint8)
    check_blocks(names, sizes, count, block_size, image_size)
    if len(digests) < 16 * count:
        raise ValueError("the hashes are too short")
    for at, end in runs(names, sizes, count, block_size, _READ_BYTES):
        ends = np.cumsum(block_lengths(names[at:end], block_size, image_size)).tolist()
        data = np.empty(ends[-1], np.uint8)
        what = f"the file ends before block {int(names[at])}"
        read_all(fd, data.data, int(names[at]) * block_size, what)
        for i, start, stop in zip(range(at, end), [0, *ends], ends, strict=False):
            block = data[start:stop]
            if sizes[i] == 0:
                good = not block.any()
            else:
                good = xxhash.xxh3_128_digest(block.data, seed) == digests[16 * i : 16 * i + 16].tobytes()
            if not good:
                return i
    return -1


def hash_block(data: Buffer, seed: int, library: bool = False) -> bytes:
    """One digest. `library` is the native kernel's choice between two; here there is only libxxhash's own."""
    unsigned(seed)
    return bytes(xxhash.xxh3_128_digest(memoryview(data), seed))


def is_zero(data: Buffer) -> bool:
    """Is every byte zero? (An empty buffer is.)"""
    return not view(data, np.uint8).any()
