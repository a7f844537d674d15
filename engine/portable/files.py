"""File ranges: runs of blocks, fallocate and sync_file_range. The portable `_files`."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import numpy as np

from secondsite.engine.portable import (
    MAX_OFFSET,
    block_lengths,
    check_blocks,
    read_all,
    released,
    runs,
    unsigned,
    view,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

# From linux/falloc.h and fcntl.h.
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_SYNC_FILE_RANGE_WRITE = 2
PUNCH = _PUNCH_HOLE | _KEEP_SIZE
ZERO = _ZERO_RANGE | _KEEP_SIZE
_ZEROS = bytes(1 << 20)
_RUN_BYTES = 8 << 20
_SECTOR = 4096  # the largest that a device has

_libc = ctypes.CDLL(None, use_errno=True)
# Where off_t has 32 bits, the plain names take those.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    if offset >= 1 << 63:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    while len(data):
        put = os.pwrite(fd, data, offset)
        if put == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data, offset = data[put:], offset + put


def _write_zeros(fd: int, offset: int, length: int) -> None:
    for at in range(0, length, len(_ZEROS)):
        _write_all(fd, memoryview(_ZEROS)[: length - at], offset + at)


def zero_range(fd: int, offset: int, length: int, punch: bool) -> None:
    """Make a range inside the file read as zeros: as a hole, or (not `punch`) keeping its space allocated."""
    unsigned(offset, length)
    mode = PUNCH if punch else ZERO
    error = _allocate(fd, mode, offset, length)
    if error == errno.EINVAL:  # a block device takes whole sectors only: what is cut at both ends is written
        head = min(-offset % _SECTOR, length)
        tail = (length - head) % _SECTOR
        _write_zeros(fd, offset, head)
        _write_zeros(fd, offset + length - tail, tail)
        offset, length = offset + head, length - head - tail
        error = _allocate(fd, mode, offset, length)
    if error == errno.EOPNOTSUPP:
        return _write_zeros(fd, offset, length)
    if error:
        raise OSError(error, os.strerror(error))


def _allocate(fd: int, mode: int, offset: int, length: int) -> int:
    """fallocate; the error's number, or 0."""
    while length and _fallocate(fd, mode, offset, length) != 0:
        if (error := ctypes.get_errno()) != errno.EINTR:
            return error
    return 0


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Ask the kernel to begin writing a range to the disk now; a hint, so errors are not reported."""
    unsigned(offset, length)
    _sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


@released
def read_blocks(
    fd: int, blocks: Buffer, lengths: Buffer, count: int, block_size: int, payload: Buffer
) -> int:
    """Read the data blocks (length > 0) back to back into `payload`; the number of bytes.

    Raises ValueError for a length above the block size, OSError, and EOFError where the file ends too early.
    """
    unsigned(count)
    names, sizes = view(blocks, np.uint64), view(lengths, np.uint32)
    data = view(payload, np.uint8, writable=True)
    check_blocks(names, sizes, count, block_size, MAX_OFFSET)
    if int(sizes[:count].sum()) > len(data):
        raise ValueError("no room for the blocks")
    used = 0
    for at, end in runs(names, sizes, count, block_size, _RUN_BYTES):
        size = int(sizes[at:end].sum())
        what = f"the file ends before block {int(names[at]) + end - at}"
        read_all(fd, data[used : used + size].data, int(names[at]) * block_size, what)
        used += size
    return used


@released
def write_blocks(
    fd: int,
    blocks: Buffer,
    lengths: Buffer,
    count: int,
    block_size: int,
    image_size: int,
    payload: Buffer,
    punch: bool,
) -> None:
    """Write a batch: data runs from the payload, runs of zeros by fallocate (`punch`: as holes).

    Raises ValueError, before it writes, for a block that does not lie inside the image; and OSError.
    """
    unsigned(count)
    names, sizes, data = view(blocks, np.uint64), view(lengths, np.uint32), view(payload, np.uint8)
    check_blocks(names, sizes, count, block_size, image_size)
    if int(sizes[:count].sum()) > len(data):
        raise ValueError("the payload is shorter than its blocks")
    used = 0
    for at, end in runs(names, sizes, count, block_size, _RUN_BYTES):
        offset = int(names[at]) * block_size
        if sizes[at] == 0:
            zero_range(fd, offset, int(block_lengths(names[at:end], block_size, image_size).sum()), punch)
        else:
            size = int(sizes[at:end].sum())
            _write_all(fd, data[used : used + size].data, offset)
            used += size


@released
def read_segments(fds: Buffer, offsets: Buffer, lengths: Buffer, buffer: Buffer) -> None:
    """Fill `buffer` with file ranges, one after another; a negative fd is a range of zeros.

    Raises ValueError, before it reads, for ranges that do not add up to the buffer; OSError; and EOFError where a
    file ends inside a range.
    """
    files, places, sizes = view(fds, np.int32), view(offsets, np.int64), view(lengths, np.int64)
    data = view(buffer, np.uint8, writable=True)
    if len(places) != len(files) or len(sizes) != len(files):
        raise ValueError("the lists of segments differ in length")
    room = len(data)
    pieces = list(zip(files.tolist(), places.tolist(), sizes.tolist(), strict=True))
    for index, (fd, offset, length) in enumerate(pieces):
        if not 0 <= length <= room or (fd >= 0 and not 0 <= offset <= MAX_OFFSET - length):
            raise ValueError(f"segment {index}: {length} bytes at {offset}")
        room -= length
    if room:
        raise ValueError(f"segments of {len(data) - room} bytes for a buffer of {len(data)}")
    used = 0
    for fd, offset, length in pieces:
        if fd < 0:
            data[used : used + length] = 0
        else:
            what = f"the file ends inside the {length} bytes at {offset}"
            read_all(fd, data[used : used + length].data, offset, what)
        used += length
