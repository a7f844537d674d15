/* A disk that a server exports: bytes at offsets, behind a file descriptor or behind functions, with or without a
 * change map, or the frozen view of a cut. Lengths and offsets were checked by the caller. All return 0 or an errno. */
#ifndef SS_DISK_H
#define SS_DISK_H

#include "changes.h"

typedef struct ss_disk {
    int fd; /* -1: `context` and the functions */
    void *context;
    ss_read_fn read;
    int (*write)(void *context, uint64_t offset, const uint8_t *data, size_t length);
    int (*zero)(void *context, uint64_t offset, uint64_t length, int punch);
    int (*flush)(void *context);
    uint64_t size;
    int read_only;
    uint32_t frozen; /* not 0: the view of that cut of `changes` */
    int once;        /* what was read of that view is not asked for again, and need not be copied any more */
    int running; /* requests that are being waited for, of all connections */
    ss_changes *changes;
} ss_disk;

int ss_fd_read(void *context, int fd, uint64_t offset, uint8_t *data, size_t length);
int ss_disk_read(ss_disk *d, uint64_t offset, uint8_t *data, size_t length);
int ss_disk_write(ss_disk *d, uint64_t offset, const uint8_t *data, size_t length, int fua);
int ss_disk_zero(ss_disk *d, uint64_t offset, uint64_t length, int punch, int fua);
int ss_disk_flush(ss_disk *d);
int ss_disk_sync(void *disk); /* what was written is durable, whoever wrote it */

#endif
