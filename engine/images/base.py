"""The Image interface: the bytes of a disk at offsets, and what every implementation promises.

Each sentence below is tested for every implementation by tests/conformance/test_image.py.

* `size` is in bytes and need not be a multiple of any block.
* A range lies inside the image, or the call raises ShortImage (reads) or ValueError (zero).
* `extents(start, length)` covers the range in order, without gaps; a zero extent reads as zeros.
* `read_into` fills its whole buffer. `write` may extend a file, never a device.
* What `flush` returned from survives a power loss; nothing else is promised to.
* Errors of the machine below are `errors.Unreachable` (`errors.Full` where there is no room) and name the path.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from secondsite.engine import errors, kernel

Buffer = bytearray | memoryview



class ShortImage(errors.Damaged):
    """A read went past the end: the file was cut, or it shrank while it was read."""


class Extent(NamedTuple):
    """`length` bytes from `start` in one state."""

    start: int
    length: int
    zero: bool


class Segments(NamedTuple):
    """Where a range of a disk lies, in order: `lengths` bytes at `offsets` of the open files `fds`; fd -1 is zeros.

    Flat arrays ('i', 'q', 'q') of equal length, which the scan kernel reads without a Python object a piece.
    """

    fds: array[int]
    offsets: array[int]
    lengths: array[int]


class Stamp(NamedTuple):
    """What `stat` says of a file: equal before and after a read means nobody wrote it through the file system."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Image(ABC):
    """One open image. Methods may be called from several threads at once."""

    path: str

    gathers = False
    """Is `read_parts` faster than its parts one by one?"""

    check_bytes = 1 << 20
    """What `check_blocks` reads at a time."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of the disk."""

    @abstractmethod
    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """Data and zero extents of a range, in order."""

    @abstractmethod
    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill the buffer from `offset`. Raises ShortImage past the end."""

    @abstractmethod
    def write(self, offset: int, data: bytes | Buffer) -> None:
        """Write all of `data`."""

    @abstractmethod
    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        """Make a range read as zeros: as a hole where possible, or keeping its space (`punch=False`)."""

    @abstractmethod
    def resize(self, size: int) -> None:
        """Cut the image, or grow it by zeros."""

    def fit(self, size: int) -> None:
        """Resize it to hold a disk of `size` bytes; where a format's sizes are rounded up, what is more is zeros."""
        if self.size != size:
            self.resize(size)

    def clone_from(self, other: Image) -> bool:
        """Share the bytes of another file, which become all of this one's; False where that cannot be."""
        return False

    @abstractmethod
    def flush(self) -> None:
        """Make everything written so far durable."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it; a second call does nothing."""

    def give_up(self) -> None:
        """No read is to wait any longer for what may come back; it is about to be closed."""
        return None

    def segments(self, start: int, length: int) -> Segments | None:
        """The file ranges that hold a range of the disk, or None where it is not made of file ranges."""
        return None

    def scan_extents(self, start: int, length: int) -> Iterator[Extent]:
        """As `extents`, for a pass that reads the data anyway: small holes may count as data where that is faster."""
        return self.extents(start, length)

    def stamps(self) -> tuple[Stamp, ...] | None:
        """Identity and times of every file that the disk lies in, now; None where they would say nothing (devices)."""
        return None

    def files(self) -> list[str]:
        """Paths of the files that the disk lies in: the image itself, then its parents and extents."""
        return [self.path]

    def descriptors(self) -> list[list[int]]:
        """The descriptors that `segments` may name, by depth: the image's own, its parent's, and so on."""
        return [[]]

    def read(self, offset: int, length: int) -> bytearray:
        """`length` bytes from `offset`."""
        buffer = bytearray(length)
        self.read_into(offset, buffer)
        return buffer

    def read_parts(self, parts: Sequence[tuple[int, memoryview]]) -> None:
        """Fill several views of bytes, each from its offset: together, where each read is a question to somebody."""
        for offset, view in parts:
            self.read_into(offset, view)

    def read_bytes(self, offset: int, length: int) -> bytes:
        """As `read`, for who does not write into it: a file need not fill memory with zeros first."""
        return bytes(self.read(offset, length))

    def expect(self, offset: int, length: int) -> None:
        """A hint that a range will be read soon."""
        found = self.segments(offset, length)
        if found is not None:
            for fd, at, part in zip(*found, strict=True):
                if fd >= 0:
                    with contextlib.suppress(OSError):
                        os.posix_fadvise(fd, at, part, os.POSIX_FADV_WILLNEED)

    def start_writeback(self, offset: int, length: int) -> None:
        """A hint that a range will be flushed soon."""
        return None

    def release_cache(self) -> None:
        """A hint that what is durable by now will not be read soon, so that memory need not hold it."""
        return None

    # -- runs of blocks: a batch is flat arrays, see engine/batch.py ----------------------------------------

    def read_blocks(
        self, blocks: array[int], lengths: array[int], count: int, block_size: int, payload: Buffer
    ) -> int:
        """Read the data blocks (length > 0) of a batch back to back; returns the bytes read."""
        used = 0
        with memoryview(payload) as view:
            for index in range(count):
                length = lengths[index]
                if length:
                    self.read_into(blocks[index] * block_size, view[used : used + length])
                    used += length
        return used

    def write_blocks(
        self,
        blocks: array[int],
        lengths: array[int],
        count: int,
        block_size: int,
        image_size: int,
        payload: Buffer,
        *,
        punch: bool = True,
    ) -> None:
        """Write a batch; a length of 0 is a block of zeros."""
        used = 0
        with memoryview(payload) as view:
            for index in range(count):
                offset, length = blocks[index] * block_size, lengths[index]
                if length:
                    self.write(offset, view[used : used + length])
                    used += length
                else:
                    self.zero(offset, min(block_size, image_size - offset), punch=punch)

    def check_blocks(
        self,
        blocks: array[int],
        lengths: array[int],
        hashes: Buffer,
        count: int,
        block_size: int,
        image_size: int,
        seed: int,
    ) -> int:
        """Read a batch back; the index of the first block that is not what its hash says, or -1."""
        start = 0
        while start < count:
            limit = min(count, start + max(self.check_bytes // block_size, 1))
            end = next((at for at in range(start + 1, limit) if blocks[at] != blocks[at - 1] + 1), limit)
            bad = self._check_run(blocks[start:end], lengths[start:end], hashes, start, block_size, image_size, seed)
            if bad >= 0:
                return start + bad
            start = end
        return -1

    def _check_run(
        self, blocks: array[int], lengths: array[int], hashes: Buffer, at: int, block_size: int, image_size: int,
        seed: int,
    ) -> int:  # fmt: skip
        """Neighbouring blocks, whose hashes begin at entry `at`."""
        count, offset = len(blocks), blocks[0] * block_size
        data = self.read(offset, min(count * block_size, image_size - offset))
        true = array("I", (block_size,)) * count
        true[-1] = len(data) - (count - 1) * block_size
        found, places = bytearray(16 * count), array("Q", bytes(8 * count))
        kernel.scan.hash_blocks(data, true, count, seed, found)
        for zero in places[: kernel.entries.zero_blocks(blocks, lengths, count, places)]:
            first = (zero - blocks[0]) * block_size
            if kernel.scan.is_zero(memoryview(data)[first : first + block_size]):
                found[16 * (zero - blocks[0]) : 16 * (zero - blocks[0] + 1)] = bytes(16)
        wrong = kernel.entries.differing_entries(found, hashes[16 * at : 16 * (at + count)], 0, places)
        return places[0] if wrong else -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
