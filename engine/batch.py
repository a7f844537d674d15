"""A batch: blocks of one pass in flat arrays, filled and read by the kernels without a Python object a block.

`blocks` u64 block numbers · `lengths` u32, 0 for a block of zeros · `hashes` 16 bytes a block, zeros for zeros ·
`payload` the data blocks back to back. Entries 0 to `count` are in use, and `used` bytes of the payload.
"""

from __future__ import annotations

import mmap
from array import array

from secondsite.engine import kernel
from secondsite.engine.units import MIB

# A batch a worker: small enough that two workers with three buffers each stay far below the memory budget,
# large enough that one fdatasync a batch is lost in the time the batch takes to write.
BATCH_BYTES = 8 * MIB
# Where nothing is flushed between batches they stay in a core's cache from the read over the write to the read back.
# Processor seconds for 1 GiB of an initial copy, two workers, medians of three: 8 MiB 0.95, 2 MiB 0.84, 1 MiB 0.80,
# 512 KiB 0.79.
SMALL_BATCH_BYTES = 1 * MIB
_EXTRA_BLOCKS = 4096  # zero blocks take a place but no payload
# A frame's header, and what its table has for a block: so much room is before the payload, and what an encoder wants
# beside that behind it. Memory that is not touched costs nothing.
_HEADER, _ENTRY, _PAGE = 64, 24, 4096


class Batch:
    """Room for `room` bytes of data blocks of `block_size`, and some thousand blocks of zeros."""

    __slots__ = ("_before", "_memory", "block_size", "blocks", "count", "hashes", "lengths", "payload", "used")

    def __init__(self, block_size: int, room: int = BATCH_BYTES) -> None:
        room = max(room // block_size, 1) * block_size
        blocks = room // block_size
        places = blocks + _EXTRA_BLOCKS
        self.block_size = block_size
        self.blocks = array("Q", bytes(8 * places))
        self.lengths = array("I", bytes(4 * places))
        self.hashes = bytearray(16 * places)
        # Anonymous memory: aligned, and committed only as far as it is used.
        self._before = -(-(_HEADER + _ENTRY * blocks) // _PAGE) * _PAGE
        self._memory = memoryview(mmap.mmap(-1, self._before + room + _HEADER * (2 * blocks + 2) + _PAGE))
        self.payload = self._memory[self._before : self._before + room]
        self.count = 0
        self.used = 0

    def reset(self) -> None:
        """Empty it for the next pass."""
        self.count = self.used = 0

    @property
    def free(self) -> int:
        """How many more blocks fit, whatever they hold."""
        return min(len(self.blocks) - self.count, (len(self.payload) - self.used) // self.block_size)

    def framed(self) -> memoryview:
        """The payload with room for the header and table of one frame of all blocks right before it; what is behind it
        too.
        """
        return self._memory[self._before - _HEADER - _ENTRY * self.count :]

    @property
    def solid(self) -> bool:
        """Are all of its blocks data, and as many as have a place in front of the payload?"""
        return (self.count - 1) * self.block_size < self.used and self.count * self.block_size <= len(self.payload)

    def add_zeros(self, blocks: array[int], start: int, end: int) -> None:
        """Append `blocks[start:end]` as blocks of zeros; there must be room."""
        at, n = self.count, end - start
        self.blocks[at : at + n] = blocks[start:end]
        self.lengths[at : at + n] = array("I", bytes(4 * n))
        self.hashes[16 * at : 16 * (at + n)] = bytes(16 * n)
        self.count += n

    def name(self, blocks: array[int], hashes: bytearray, count: int, image_size: int) -> None:
        """Name blocks by their hashes, without their bytes: sets the lengths, and `used` to what they need."""
        self.blocks[:count] = blocks[:count]
        self.hashes[: 16 * count] = hashes[: 16 * count]
        self.count = count
        self.used = kernel.entries.set_lengths(
            self.blocks, self.hashes, count, self.block_size, image_size, self.lengths
        )

    def rehash(self, seed: int) -> bytearray:
        """The hashes of the payload as it is now."""
        out = bytearray(16 * self.count)
        kernel.scan.hash_blocks(self.payload, self.lengths, self.count, seed, out)
        return out
