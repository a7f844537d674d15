"""File ranges: runs of blocks in one call, fallocate and sync_file_range. No paths, no policy."""

from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EINTR, EINVAL, EOPNOTSUPP, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from "blockio.h" nogil:
    int SS_SHORT
    uint64_t SS_MAX_OFFSET
    int ss_pread_all(int fd, uint8_t *data, size_t length, uint64_t offset)
    int ss_pwrite_all(int fd, const uint8_t *data, size_t length, uint64_t offset)
    uint64_t ss_block_length(uint64_t block, uint32_t block_size, uint64_t image_size)
    size_t ss_misfit(const uint64_t *blocks, const uint32_t *lengths, size_t count, uint32_t block_size,
                     uint64_t image_size)
    size_t ss_run(const uint64_t *blocks, const uint32_t *lengths, size_t first, size_t count,
                  uint32_t block_size, uint64_t limit)

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <linux/falloc.h>
    """
    int fallocate(int fd, int mode, int64_t offset, int64_t length) nogil
    int sync_file_range(int fd, int64_t offset, int64_t length, unsigned int flags) nogil
    int FALLOC_FL_KEEP_SIZE
    int FALLOC_FL_PUNCH_HOLE
    int FALLOC_FL_ZERO_RANGE
    unsigned int SYNC_FILE_RANGE_WRITE

PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
ZERO = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
cdef size_t ZERO_BYTES = 1 << 20
cdef size_t RUN_BYTES = 8 << 20
cdef uint64_t SECTOR = 4096  # the largest that a device has


cdef raise_error(int error, str what):
    if error == SS_SHORT:
        raise EOFError(what)
    global errno
    errno = error
    PyErr_SetFromErrno(OSError)


cdef int allocate(int fd, int mode, uint64_t offset, uint64_t length) noexcept nogil:
    while fallocate(fd, mode, offset, length) != 0:
        if errno != EINTR:
            return errno
    return 0


cdef int write_zeros(int fd, uint64_t offset, uint64_t length) noexcept nogil:
    cdef size_t part
    cdef int error = 0
    cdef uint8_t *zeros = <uint8_t *>calloc(1, ZERO_BYTES if length > ZERO_BYTES else length)
    if zeros == NULL:
        return 12  # ENOMEM
    while length and not error:
        part = ZERO_BYTES if length > ZERO_BYTES else length
        error = ss_pwrite_all(fd, zeros, part, offset)
        offset += part
        length -= part
    free(zeros)
    return error


cdef int zero_one(int fd, uint64_t offset, uint64_t length, int mode) noexcept nogil:
    """By `mode` of fallocate where the file system knows it, else by writing."""
    cdef uint64_t edge
    cdef int error = allocate(fd, mode, offset, length) if length else 0
    if error == EINVAL:  # a block device takes whole sectors only: what is cut at both ends is written
        edge = (SECTOR - offset % SECTOR) % SECTOR
        edge = edge if edge < length else length
        error = write_zeros(fd, offset, edge)
        offset += edge
        length -= edge
        edge = length % SECTOR
        if not error and edge:
            error = write_zeros(fd, offset + length - edge, edge)
        length -= edge
        if not error and length:
            error = allocate(fd, mode, offset, length)
    if error == EOPNOTSUPP:
        error = write_zeros(fd, offset, length)
    return error


cdef int check_blocks(const uint64_t[::1] blocks, const uint32_t[::1] lengths, size_t count, uint32_t block_size,
                      uint64_t image_size) except -1:
    """Refuse a batch that names anything outside the image, before a byte is read or written."""
    cdef size_t bad
    if <size_t>blocks.shape[0] < count or <size_t>lengths.shape[0] < count:
        raise ValueError("blocks or lengths are too short")
    if block_size == 0 or image_size > SS_MAX_OFFSET:
        raise ValueError(f"blocks of {block_size} bytes in an image of {image_size}")
    with nogil:
        bad = ss_misfit(&blocks[0], &lengths[0], count, block_size, image_size)
    if bad < count:
        raise ValueError(f"block {blocks[bad]} of {lengths[bad]} bytes is not inside an image of {image_size}")
    return 0


def zero_range(int fd, uint64_t offset, uint64_t length, bint punch):
    """Make a range inside the file read as zeros: as a hole, or (not `punch`) keeping its space allocated."""
    cdef int mode = PUNCH if punch else ZERO
    cdef int error
    with nogil:
        error = zero_one(fd, offset, length, mode)
    if error:
        raise_error(error, "")


def start_writeback(int fd, uint64_t offset, uint64_t length):
    """Ask the kernel to begin writing a range to the disk now; a hint, so errors are not reported."""
    with nogil:
        sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE)


def read_blocks(int fd, const uint64_t[::1] blocks, const uint32_t[::1] lengths, size_t count,
                uint32_t block_size, uint8_t[::1] payload):
    """Read the data blocks (length > 0) back to back into `payload`; the number of bytes.

    Raises ValueError for a length above the block size, OSError, and EOFError where the file ends too early.
    """
    cdef size_t at = 0
    cdef size_t run = 0
    cdef size_t i
    cdef uint64_t size
    cdef size_t used = 0
    cdef int error = 0
    check_blocks(blocks, lengths, count, block_size, SS_MAX_OFFSET)
    for i in range(count):
        used += lengths[i]
    if used > <size_t>payload.shape[0]:
        raise ValueError("no room for the blocks")
    used = 0
    with nogil:
        while at < count:
            run = ss_run(&blocks[0], &lengths[0], at, count, block_size, RUN_BYTES)
            size = 0
            for i in range(run):
                size += lengths[at + i]
            if size:
                error = ss_pread_all(fd, &payload[used], size, blocks[at] * block_size)
                if error:
                    break
            used += size
            at += run
    if error:
        raise_error(error, f"the file ends before block {blocks[at] + run}")
    return used


def write_blocks(int fd, const uint64_t[::1] blocks, const uint32_t[::1] lengths, size_t count,
                 uint32_t block_size, uint64_t image_size, const uint8_t[::1] payload, bint punch):
    """Write a batch: data runs from the payload, runs of zeros by fallocate (`punch`: as holes).

    Raises ValueError, before it writes, for a block that does not lie inside the image; and OSError.
    """
    cdef size_t at = 0
    cdef size_t run
    cdef size_t i
    cdef uint64_t size
    cdef size_t used = 0
    cdef int error = 0
    cdef int mode = PUNCH if punch else ZERO
    check_blocks(blocks, lengths, count, block_size, image_size)
    for i in range(count):
        used += lengths[i]
    if used > <size_t>payload.shape[0]:
        raise ValueError("the payload is shorter than its blocks")
    used = 0
    with nogil:
        while at < count and not error:
            run = ss_run(&blocks[0], &lengths[0], at, count, block_size,
                         SS_MAX_OFFSET if lengths[at] == 0 else RUN_BYTES)
            if lengths[at] == 0:
                size = (run - 1) * <uint64_t>block_size + ss_block_length(blocks[at + run - 1], block_size, image_size)
                error = zero_one(fd, blocks[at] * block_size, size, mode)
            else:
                size = 0
                for i in range(run):
                    size += lengths[at + i]
                error = ss_pwrite_all(fd, &payload[used], size, blocks[at] * block_size)
                used += size
            at += run
    if error:
        raise_error(error, "")


def read_segments(const int32_t[::1] fds, const int64_t[::1] offsets, const int64_t[::1] lengths, uint8_t[::1] buffer):
    """Fill `buffer` with file ranges, one after another; a negative fd is a range of zeros.

    Raises ValueError, before it reads, for ranges that do not add up to the buffer; OSError; and EOFError where a
    file ends inside a range.
    """
    cdef Py_ssize_t i
    cdef uint64_t used = 0
    cdef uint64_t room = buffer.shape[0]
    cdef int error = 0
    if offsets.shape[0] != fds.shape[0] or lengths.shape[0] != fds.shape[0]:
        raise ValueError("the lists of segments differ in length")
    for i in range(fds.shape[0]):
        if lengths[i] < 0 or <uint64_t>lengths[i] > room - used or (fds[i] >= 0 and (
                offsets[i] < 0 or <uint64_t>offsets[i] + <uint64_t>lengths[i] > SS_MAX_OFFSET)):
            raise ValueError(f"segment {i}: {lengths[i]} bytes at {offsets[i]}")
        used += lengths[i]
    if used != room:
        raise ValueError(f"segments of {used} bytes for a buffer of {room}")
    used = 0
    with nogil:
        for i in range(fds.shape[0]):
            if lengths[i] == 0:
                continue
            if fds[i] < 0:
                memset(&buffer[used], 0, lengths[i])
            else:
                error = ss_pread_all(fds[i], &buffer[used], lengths[i], offsets[i])
                if error:
                    break
            used += lengths[i]
    if error:
        raise_error(error, f"the file ends inside the {lengths[i]} bytes at {offsets[i]}")
