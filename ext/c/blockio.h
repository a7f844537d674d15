/* Whole reads and writes at an offset, and runs of neighbouring blocks as one call.
 *
 * Return 0, an errno, or SS_SHORT where the file ended before the range did. */
#ifndef SS_BLOCKIO_H
#define SS_BLOCKIO_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#define SS_SHORT (-1)
#define SS_MAX_OFFSET ((uint64_t)INT64_MAX)

static inline int ss_pread_all(int fd, uint8_t *data, size_t length, uint64_t offset)
{
    while (length) {
        ssize_t got = pread(fd, data, length, (off_t)offset);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        if (got == 0)
            return SS_SHORT;
        data += got;
        offset += (uint64_t)got;
        length -= (size_t)got;
    }
    return 0;
}

static inline int ss_pwrite_all(int fd, const uint8_t *data, size_t length, uint64_t offset)
{
    while (length) {
        ssize_t put = pwrite(fd, data, length, (off_t)offset);
        if (put < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        if (put == 0)
            return ENOSPC;
        data += put;
        offset += (uint64_t)put;
        length -= (size_t)put;
    }
    return 0;
}

/* The bytes of one block: all of `block_size`, or what is left of the image in its last block. */
static inline uint64_t ss_block_length(uint64_t block, uint32_t block_size, uint64_t image_size)
{
    uint64_t offset;
    if (__builtin_mul_overflow(block, (uint64_t)block_size, &offset) || offset >= image_size)
        return 0;
    return image_size - offset < block_size ? image_size - offset : block_size;
}

/* The first entry that names a block outside the image, or more bytes than the image has there; `count` if none
 * does. Nothing else keeps a hostile block number from wrapping round to another block's offset. */
static inline size_t ss_misfit(const uint64_t *blocks, const uint32_t *lengths, size_t count, uint32_t block_size,
                               uint64_t image_size)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t length = ss_block_length(blocks[i], block_size, image_size);
        if (length == 0 || lengths[i] > length)
            return i;
    }
    return count;
}

/* From entry `from`, how many entries name neighbouring blocks of the same sort (data or zero), with at most
 * `limit` bytes. A batch lists blocks in ascending order inside a run, and a length of 0 is a zero block. A short
 * block of data ends its run: what follows it in the payload does not follow it in the file. */
static inline size_t ss_run(const uint64_t *blocks, const uint32_t *lengths, size_t from, size_t count,
                            uint32_t block_size, uint64_t limit)
{
    size_t end = from + 1;
    uint64_t bytes = block_size;
    while (end < count && blocks[end] == blocks[end - 1] + 1 && !lengths[end] == !lengths[from]
           && (lengths[end - 1] == 0 || lengths[end - 1] == block_size) && bytes + block_size <= limit) {
        bytes += block_size;
        end++;
    }
    return end - from;
}

#endif
