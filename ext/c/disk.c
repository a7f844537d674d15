/* See disk.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "disk.h"
#include "blockio.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>

/* Zeros of a tracked disk go in pieces: a cut waits for one of them, not for a whole disk that is trimmed. */
#define ZERO_PIECE ((uint64_t)32 << 20)

int ss_fd_read(void *context, int fd, uint64_t offset, uint8_t *data, size_t length)
{
    (void)context;
    int error = ss_pread_all(fd, data, length, offset);
    return error == SS_SHORT ? EIO : error;
}

int ss_disk_read(ss_disk *d, uint64_t offset, uint8_t *data, size_t length)
{
    if (d->frozen) {
        int error = ss_cut_read(d->changes, d->frozen, offset, data, length, d->read, d->context, d->fd);
        if (!error && __atomic_load_n(&d->once, __ATOMIC_RELAXED))
            ss_cut_release(d->changes, d->frozen, offset, length);
        return error;
    }
    return d->read(d->context, d->fd, offset, data, length);
}

static int put(ss_disk *d, uint64_t offset, const uint8_t *data, size_t length)
{
    return d->fd >= 0 ? ss_pwrite_all(d->fd, data, length, offset) : d->write(d->context, offset, data, length);
}

static int finish(ss_disk *d, int error, int fua) { return error || !fua ? error : ss_disk_flush(d); }

int ss_disk_write(ss_disk *d, uint64_t offset, const uint8_t *data, size_t length, int fua)
{
    if (d->read_only)
        return EPERM;
    if (!d->changes)
        return finish(d, put(d, offset, data, length), fua);
    ss_changes_enter(d->changes, offset, length, d->read, d->context, d->fd);
    int error = put(d, offset, data, length);
    ss_changes_leave(d->changes);
    return finish(d, error, fua);
}

static int write_zeros(int fd, uint64_t offset, uint64_t length)
{
    size_t room = length < 1 << 20 ? (size_t)length : (size_t)1 << 20;
    uint8_t *zeros = calloc(1, room ? room : 1);
    int error = zeros ? 0 : ENOMEM;
    while (length && !error) {
        size_t part = length < room ? (size_t)length : room;
        error = ss_pwrite_all(fd, zeros, part, offset);
        offset += part;
        length -= part;
    }
    free(zeros);
    return error;
}

static int clear(ss_disk *d, uint64_t offset, uint64_t length, int punch)
{
    if (d->fd < 0)
        return d->zero(d->context, offset, length, punch);
    int mode = FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
    int done;
    do
        done = fallocate(d->fd, mode, (off_t)offset, (off_t)length);
    while (done != 0 && errno == EINTR);
    if (done == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == EINVAL ? write_zeros(d->fd, offset, length) : errno;
}

int ss_disk_zero(ss_disk *d, uint64_t offset, uint64_t length, int punch, int fua)
{
    int error = 0;
    if (d->frozen) {
        ss_cut_release(d->changes, d->frozen, offset, length);
        return 0;
    }
    if (d->read_only)
        return EPERM;
    if (!length)
        return finish(d, 0, fua);
    if (!d->changes)
        return finish(d, clear(d, offset, length, punch), fua);
    while (length && !error) {
        uint64_t part = length < ZERO_PIECE ? length : ZERO_PIECE;
        ss_changes_enter(d->changes, offset, part, d->read, d->context, d->fd);
        error = clear(d, offset, part, punch);
        ss_changes_leave(d->changes);
        offset += part;
        length -= part;
    }
    return finish(d, error, fua);
}

int ss_disk_sync(void *disk)
{
    ss_disk *d = disk;
    if (d->fd < 0)
        return d->flush(d->context);
    return fdatasync(d->fd) == 0 ? 0 : errno;
}

int ss_disk_flush(ss_disk *d) { return d->frozen || d->read_only ? 0 : ss_disk_sync(d); }
