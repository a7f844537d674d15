/* Runs of data and of zeros in a range of a file, by the holes that its file system knows of.
 *
 * Looking for the next hole costs as much as the data before it has extents (on tmpfs: pages), so a file that has all
 * its space is not asked, and what one look has found is kept for the ranges that follow. */
#ifndef SS_HOLES_H
#define SS_HOLES_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

/* Holes below this are data: to leave one out costs as much as to read it. */
#define SS_SMALL_HOLE 65536

typedef struct {
    int fd;            /* the file that was looked at last; -1 at first */
    int sparse;        /* whether it has less space than bytes */
    int64_t data, end; /* a run of data of it that ends with a hole */
} ss_holes;

static inline int64_t ss_next_data(const ss_holes *known, int64_t at, int64_t end)
{
    if (known->data <= at && at < known->end)
        return at;
    int64_t data = lseek(known->fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO && lseek(known->fd, 0, SEEK_END) >= end)
        return end;
    /* No such thing here, or the file was cut: then it is data, and reading it says so. */
    return data < at ? at : data < end ? data : end;
}

static inline int64_t ss_next_hole(ss_holes *known, int64_t at, int64_t end)
{
    if (at < known->data || at >= known->end) {
        int64_t hole = lseek(known->fd, at, SEEK_HOLE);
        if (hole <= at)
            return end;
        known->data = at;
        known->end = hole;
    }
    return known->end < end ? known->end : end;
}

/* Where the run that begins at `at` ends, at most at `end`; `zero` tells whether it is a hole. */
static inline int64_t ss_hole_run(ss_holes *known, int fd, int64_t at, int64_t end, int *zero)
{
    struct stat info;
    if (known->fd != fd) {
        known->fd = fd;
        known->sparse = fstat(fd, &info) == 0 && (int64_t)info.st_blocks * 512 < (int64_t)info.st_size;
        known->data = known->end = 0;
    }
    *zero = 0;
    if (!known->sparse)
        return end;
    int64_t next = ss_next_data(known, at, end);
    if (next - at >= SS_SMALL_HOLE) {
        *zero = 1;
        return next;
    }
    for (;;) {
        int64_t hole = ss_next_hole(known, next, end);
        if (hole == end)
            return end;
        next = ss_next_data(known, hole, end);
        if (next - hole >= SS_SMALL_HOLE)
            return hole;
        if (next == end || next == hole)
            return end;
    }
}

#endif
