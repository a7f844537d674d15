/* Which granules of a disk were written, for a server that takes the writes, and cuts of it at one instant.
 *
 * Writers hold the gate shared from before a write is marked until it is done; a cut takes it alone, so that it falls
 * between two writes. There are two maps: one takes marks, the other is the cut's. While a cut is open a granule that
 * its reader may still want is copied to the area before it is overwritten; `copied` is set before the write begins,
 * so a reader that finds it clear after its own read has read the old bytes.
 *
 * What survives a crash: a region is marked active in the file, durably, before its first write, and retired lazily
 * after the marks themselves were saved. After a crash the marks are those saved and all of the active regions.
 *
 * A mark that an ended cut forgot leaves the file only after the disk was flushed: else a power loss could take back
 * what the cut's reader has read, and nothing would say so. */
#ifndef SS_CHANGES_H
#define SS_CHANGES_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define SS_STRIPES 64
#define SS_PAGE 4096
#define SS_HEADERS (2 * SS_PAGE) /* at the beginning of the file; without a sound one it is void */

typedef int (*ss_read_fn)(void *context, int fd, uint64_t offset, uint8_t *data, size_t length);
typedef int (*ss_flush_fn)(void *context);

typedef struct ss_changes {
    uint64_t size, granules, regions, words, region_words;
    unsigned shift, region_shift;
    uint64_t *maps[2], *copied, *released, *extra, *active, *recent, *saved;
    int current;
    uint32_t serial;         /* of the last cut */
    int file;                /* holds `active` at active_at and the marks at marks_at; -1: nothing is kept */
    uint64_t active_at, marks_at;
    int broken;              /* errno of what could not be kept; the file is void then */
    pthread_rwlock_t gate;
    pthread_mutex_t book, activating, stripes[SS_STRIPES];
    int cutting, everything, lost;
    uint64_t group;          /* granules in a block of the cut's reader */
    int area;
    uint64_t area_limit, area_used;
    uint64_t copied_total, activations;
} ss_changes;

int ss_changes_init(ss_changes *c, uint64_t size, unsigned shift, unsigned region_shift);
void ss_changes_free(ss_changes *c);

/* A write of [offset, offset + length): marked, its old bytes copied where a cut wants them. Then leave. */
void ss_changes_enter(ss_changes *c, uint64_t offset, uint64_t length, ss_read_fn read, void *context, int fd);
void ss_changes_leave(ss_changes *c);
void ss_changes_mark(ss_changes *c, uint64_t offset, uint64_t length);

/* Cut several disks at one instant. Each must have been prepared: group, everything, extra, area. */
void ss_changes_cut(ss_changes **maps, size_t count);
void ss_changes_end(ss_changes *c, int acknowledged);
int ss_cut_read(ss_changes *c, uint32_t serial, uint64_t offset, uint8_t *data, size_t length, ss_read_fn read, void *context, int fd);
void ss_cut_release(ss_changes *c, uint32_t serial, uint64_t offset, uint64_t length);

/* Save the marks and retire the regions at rest (`all`: every region). `flush` makes the disk durable. Returns 0 or an
 * errno; where the disk could not be flushed the file stays as it is, and sound. One call at a time. */
int ss_changes_save(ss_changes *c, int all, ss_flush_fn flush, void *context);

static inline int ss_bit(const uint64_t *words, uint64_t bit)
{
    return (int)(__atomic_load_n(&words[bit >> 6], __ATOMIC_ACQUIRE) >> (bit & 63) & 1);
}

static inline void ss_set_bit(uint64_t *words, uint64_t bit)
{
    if (!ss_bit(words, bit))
        __atomic_fetch_or(&words[bit >> 6], (uint64_t)1 << (bit & 63), __ATOMIC_SEQ_CST);
}

#endif
