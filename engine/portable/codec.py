"""Batch encode and decode: the data and zero frames of a delta. The portable `_codec`.

The layout of a frame is specified in FORMAT.md. Compressed bytes depend on the library's version; what they
decode to does not.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import lz4.block
import numpy as np
import xxhash
import zstandard

from secondsite.engine.portable import Bytes, Lengths, Words, released, unsigned, view

if TYPE_CHECKING:
    from typing_extensions import Buffer

NONE, LZ4, ZSTD = 0, 1, 2
DATA, ZEROS = 1, 2
HEADER_BYTES = 64
# magic, kind, codec, flags, count, stored, raw, table's sum, tag, first block, last block, checksum
_HEADER = struct.Struct("<4sBBHIIIIQQQ16s")
_MAGIC = b"SFRM"
_MAX_BODY = 0x7E000000  # what LZ4 takes in one piece, in an int
_MIN_LEVEL = -(1 << 17)  # ZSTD_minCLevel()
_BLOCK_BYTES = 24  # its number and its hash, in a data frame
_TABLE_SUM = 1  # the flag of a frame whose table has a sum of its own


def _checksum(header: bytes, body: Buffer, tag: int) -> bytes:
    """Of a header whose checksum field holds anything: the body's digest takes part in the header's."""
    inner = xxhash.xxh3_128_digest(body, tag)
    return bytes(xxhash.xxh3_128_digest(header[:-16] + inner, tag))


def check_frame(frame: Buffer) -> bool:
    """Does the checksum of this whole frame (header and body) hold?"""
    data = memoryview(frame)
    if len(data) < HEADER_BYTES:
        return False
    header = bytes(data[:HEADER_BYTES])
    fields = _HEADER.unpack(header)
    stored, tag, checksum = fields[5], fields[8], fields[11]
    if len(data) != HEADER_BYTES + stored:
        return False
    return _checksum(header, data[HEADER_BYTES:], tag) == bytes(checksum)


def _groups(blocks: Words, lengths: Lengths, group_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut a batch into frames: at each change of sort or step back, and data at `group_bytes`."""
    cut = ((lengths[1:] == 0) != (lengths[:-1] == 0)) | (blocks[1:] <= blocks[:-1])
    edges = [0, *(np.flatnonzero(cut) + 1).tolist(), len(blocks)]
    ends = np.cumsum(lengths, dtype=np.uint64)
    for start, end in itertools.pairwise(edges):
        at = start
        while at < end:
            if lengths[at] == 0:
                stop = end
            else:
                room = int(ends[at]) - int(lengths[at]) + group_bytes
                fits = int(np.searchsorted(ends[at:end], np.uint64(room), side="right"))
                stop = at + max(fits, 1)  # a block larger than a group is one by itself
            yield at, stop
            at = stop


def _zero_runs(blocks: Words) -> Words:
    """Pairs (first block, number of blocks) of ascending block numbers."""
    starts = np.flatnonzero(np.concatenate(([True], np.diff(blocks) != 1)))
    counts = np.diff(np.append(starts, len(blocks)))
    return np.column_stack((blocks[starts], counts.astype(np.uint64)))


class Encoder:
    """One thread's compression state. `level` is zstd's level, or LZ4's acceleration."""

    def __init__(self, codec: int, level: int, group_bytes: int) -> None:
        if codec not in (NONE, LZ4, ZSTD):
            raise ValueError(f"no codec number {codec}")
        unsigned(group_bytes)
        self._codec, self._level, self._group_bytes = codec, level, group_bytes
        if codec == ZSTD:
            level = min(max(level, _MIN_LEVEL), zstandard.MAX_COMPRESSION_LEVEL)
            self._zstd = zstandard.ZstdCompressor(level=level)

    @property
    def codec(self) -> int:
        return self._codec

    @property
    def level(self) -> int:
        return self._level

    @property
    def group_bytes(self) -> int:
        return self._group_bytes

    def _compress(self, raw: Bytes) -> bytes | None:
        """Compressed bytes, or None where they would not be fewer than `raw`."""
        if self._codec == ZSTD:
            packed = self._zstd.compress(raw.data)
        elif self._codec == LZ4:
            speed = max(self._level, 1)
            packed = lz4.block.compress(raw.data, mode="fast", acceleration=speed, store_size=False)
        else:
            return None
        return packed if len(packed) < len(raw) else None

    def _data_frame(self, blocks: Words, hashes: Bytes, raw: Bytes, tag: int) -> bytes:
        packed = self._compress(raw)
        codec = NONE if packed is None else self._codec
        body = blocks.tobytes() + hashes.tobytes() + (raw.tobytes() if packed is None else packed)
        return _frame(DATA, codec, len(blocks), len(raw), tag, blocks, body)

    def bound(self, count: int, used: int, block_size: int) -> int:
        """Bytes that `encode` may need for a batch of `count` blocks and `used` bytes of payload."""
        unsigned(count, used, block_size)
        return used + _BLOCK_BYTES * count + HEADER_BYTES * (2 * count + 2) + 4096

    @released
    def encode(
        self,
        blocks: Buffer,
        lengths: Buffer,
        hashes: Buffer,
        count: int,
        payload: Buffer,
        tag: int,
        out: Buffer,
        frames: Buffer,
    ) -> tuple[int, int]:
        """Frame a batch: data blocks in groups of up to `group_bytes`, zero blocks as runs.

        Fills `out` with whole frames, one after another, and `frames` with three numbers each: first block,
        last block, offset in `out`. Returns (bytes, frames). `out` must hold `bound(...)` bytes.
        Blocks must ascend; a caller's batch that does not is cut into frames at each step back.
        """
        unsigned(count, tag)
        names, sizes = view(blocks, np.uint64)[:count], view(lengths, np.uint32)[:count]
        digests, data = view(hashes, np.uint8), view(payload, np.uint8)
        target, table = view(out, np.uint8, writable=True), view(frames, np.uint64, writable=True)
        if min(len(names), len(sizes), len(digests) // 16) < count or len(table) < 3 * (2 * count + 2):
            raise ValueError("an array is shorter than the batch")
        total = int(sizes.sum())
        if len(data) < total:
            raise ValueError("the payload is shorter than its blocks")
        if total + _BLOCK_BYTES * count > _MAX_BODY:
            raise ValueError("the batch is larger than a frame may be")
        if len(target) < self.bound(count, total, 0):
            raise ValueError("no room for the frames")
        made = n_frames = taken = 0
        for at, end in _groups(names, sizes, self._group_bytes) if count else ():
            raw = int(sizes[at:end].sum())
            if raw:
                group = data[taken : taken + raw]
                frame = self._data_frame(names[at:end], digests[16 * at : 16 * end], group, tag)
            else:
                pairs = _zero_runs(names[at:end])
                frame = _frame(ZEROS, NONE, len(pairs), 0, tag, names[at:end], pairs.tobytes())
            target[made : made + len(frame)] = np.frombuffer(frame, np.uint8)
            table[3 * n_frames : 3 * n_frames + 3] = (names[at], names[end - 1], made)
            n_frames, made, taken = n_frames + 1, made + len(frame), taken + raw
        return made, n_frames


def _frame(kind: int, codec: int, count: int, raw: int, tag: int, blocks: Words, body: bytes) -> bytes:
    """A sealed frame; `blocks` are those that it covers."""
    flags = _TABLE_SUM if kind == DATA else 0
    before, after = (_MAGIC, kind, codec, flags, count, len(body), raw), (tag, int(blocks[0]), int(blocks[-1]))
    header = _HEADER.pack(*before, 0, *after, b"")
    if kind == DATA:
        digest = xxhash.xxh3_128_digest(header + body[: _BLOCK_BYTES * count], tag)
        header = _HEADER.pack(*before, int.from_bytes(digest[:4], "little"), *after, b"")
    return header[:-16] + _checksum(header, body, tag) + body


class Decoder:
    """One thread's decompression state."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor()

    def _unpack(self, codec: int, stored: Bytes, size: int) -> bytes | None:
        if len(stored) > _MAX_BODY or size > _MAX_BODY:
            return None
        try:
            if codec == LZ4:
                return bytes(lz4.block.decompress(stored.data, uncompressed_size=size))
            # The size in the header is what the package allocates: it must be looked at first.
            if codec == ZSTD and zstandard.get_frame_parameters(stored.data).content_size == size:
                return self._zstd.decompress(stored.data, max_output_size=size, allow_extra_data=False)
        except (lz4.block.LZ4BlockError, zstandard.ZstdError):
            pass
        return None

    @released
    def decode(self, codec: int, stored: Buffer, raw: Buffer) -> bool:
        """Decompress into exactly `raw`; False where the bytes are not that.

        zstd bytes are one frame that states its size, as the encoder writes them, and nothing behind it.
        """
        given, target = view(stored, np.uint8), view(raw, np.uint8, writable=True)
        if len(given) == 0 or len(target) == 0:
            return len(given) == 0 and len(target) == 0
        made = given.tobytes() if codec == NONE else self._unpack(codec, given, len(target))
        if made is None or len(made) != len(target):
            return False
        target[:] = np.frombuffer(made, np.uint8)
        return True
