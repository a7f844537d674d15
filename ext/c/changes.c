/* See changes.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "changes.h"
#include "bitmap.h"
#include "blockio.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Bitmaps are private mappings: a page costs memory when a bit in it is set, and clearing gives it back. */
static uint64_t *map_words(uint64_t words)
{
    void *made = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return made == MAP_FAILED ? NULL : made;
}

static void clear_words(uint64_t *map, uint64_t words) { madvise(map, words * 8, MADV_DONTNEED); }

static uint64_t whole_pages(uint64_t bits) { return (bits + SS_PAGE * 8 - 1) / (SS_PAGE * 8) * (SS_PAGE / 8); }

static uint64_t **all_maps(ss_changes *c, size_t which)
{
    uint64_t **maps[] = {&c->maps[0], &c->maps[1], &c->copied, &c->released,
                         &c->extra,   &c->saved,   &c->active, &c->recent};
    return which < sizeof maps / sizeof *maps ? maps[which] : NULL;
}

int ss_changes_init(ss_changes *c, uint64_t size, unsigned shift, unsigned region_shift)
{
    pthread_rwlockattr_t kind;
    memset(c, 0, sizeof *c);
    c->size = size;
    c->shift = shift;
    c->region_shift = region_shift;
    c->granules = (size + (((uint64_t)1 << shift) - 1)) >> shift;
    c->regions = (size + (((uint64_t)1 << region_shift) - 1)) >> region_shift;
    c->words = whole_pages(c->granules ? c->granules : 1);
    c->region_words = whole_pages(c->regions ? c->regions : 1);
    c->file = c->area = -1;
    c->group = 1;
    for (size_t i = 0; all_maps(c, i); i++) {
        *all_maps(c, i) = map_words(i < 6 ? c->words : c->region_words);
        if (!*all_maps(c, i)) {
            ss_changes_free(c);
            return ENOMEM;
        }
    }
    pthread_rwlockattr_init(&kind);
    /* Otherwise a cut would wait for a gap in the writes, which a busy guest does not leave. */
    pthread_rwlockattr_setkind_np(&kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&c->gate, &kind);
    pthread_rwlockattr_destroy(&kind);
    pthread_mutex_init(&c->book, NULL);
    pthread_mutex_init(&c->activating, NULL);
    for (size_t i = 0; i < SS_STRIPES; i++)
        pthread_mutex_init(&c->stripes[i], NULL);
    return 0;
}

void ss_changes_free(ss_changes *c)
{
    for (size_t i = 0; all_maps(c, i); i++) {
        if (*all_maps(c, i))
            munmap(*all_maps(c, i), (i < 6 ? c->words : c->region_words) * 8);
        *all_maps(c, i) = NULL;
    }
}

/* -- marking ------------------------------------------------------------------------------------------------ */

static int keep_page(ss_changes *c, const uint64_t *words, uint64_t word, uint64_t at)
{
    uint64_t page = word & ~(uint64_t)(SS_PAGE / 8 - 1);
    return ss_pwrite_all(c->file, (const uint8_t *)(words + page), SS_PAGE, at + page * 8);
}

/* What cannot be kept must not be believed after a crash: spoil the file's headers. Writes go on. */
static void give_up(ss_changes *c, int error)
{
    static const uint8_t nothing[SS_HEADERS];
    __atomic_store_n(&c->broken, error, __ATOMIC_SEQ_CST);
    if (ss_pwrite_all(c->file, nothing, SS_HEADERS, 0) != 0 && ftruncate(c->file, 0) != 0)
        return; /* such a disk takes the image's own writes no better */
    fdatasync(c->file);
}

static void activate(ss_changes *c, uint64_t region)
{
    uint64_t word = region >> 6, bit = (uint64_t)1 << (region & 63), page[SS_PAGE / 8];
    uint64_t first = word & ~(uint64_t)(SS_PAGE / 8 - 1);
    pthread_mutex_lock(&c->activating);
    if (!ss_bit(c->active, region)) {
        if (c->file >= 0 && !c->broken) {
            memcpy(page, c->active + first, SS_PAGE);
            page[word - first] |= bit;
            int error = ss_pwrite_all(c->file, (uint8_t *)page, SS_PAGE, c->active_at + first * 8);
            if (!error && fdatasync(c->file) != 0)
                error = errno;
            if (error)
                give_up(c, error);
        }
        c->activations++;
        /* Others may go on from here: it is on the disk. */
        __atomic_fetch_or(&c->active[word], bit, __ATOMIC_SEQ_CST);
    }
    pthread_mutex_unlock(&c->activating);
}

static void set_bits(uint64_t *words, uint64_t first, uint64_t end)
{
    for (uint64_t at = first; at < end;) {
        uint64_t stop = (at | 63) + 1 < end ? (at | 63) + 1 : end, mask = ss_mask_from(at & 63);
        if (stop & 63)
            mask &= ~ss_mask_from(stop & 63);
        if ((__atomic_load_n(&words[at >> 6], __ATOMIC_RELAXED) & mask) != mask)
            __atomic_fetch_or(&words[at >> 6], mask, __ATOMIC_SEQ_CST);
        at = stop;
    }
}

static void mark(ss_changes *c, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;
    if (!length)
        return;
    for (uint64_t region = offset >> c->region_shift; region <= (end - 1) >> c->region_shift; region++) {
        if (!ss_bit(c->active, region))
            activate(c, region);
        ss_set_bit(c->recent, region);
    }
    set_bits(c->maps[c->current], offset >> c->shift, ((end - 1) >> c->shift) + 1);
}

void ss_changes_mark(ss_changes *c, uint64_t offset, uint64_t length)
{
    pthread_rwlock_rdlock(&c->gate);
    mark(c, offset, length);
    pthread_rwlock_unlock(&c->gate);
}

/* -- copying first ------------------------------------------------------------------------------------------- */

static int wanted(const ss_changes *c, uint64_t granule)
{
    if (ss_bit(c->released, granule))
        return 0;
    if (c->everything || ss_bit(c->extra, granule))
        return 1;
    uint64_t first = granule & ~(c->group - 1), end = first + c->group;
    if (end > c->granules)
        end = c->granules;
    return ss_next(c->maps[!c->current], first, end, 1) < end;
}

static uint64_t granule_length(const ss_changes *c, uint64_t granule)
{
    uint64_t left = c->size - (granule << c->shift), whole = (uint64_t)1 << c->shift;
    return left < whole ? left : whole;
}

static int copy_one(ss_changes *c, uint64_t granule, uint8_t *buffer, ss_read_fn read, void *context, int fd)
{
    uint64_t offset = granule << c->shift, length = granule_length(c, granule);
    if (__atomic_add_fetch(&c->area_used, length, __ATOMIC_RELAXED) > c->area_limit)
        return ENOSPC;
    int error = read(context, fd, offset, buffer, length);
    if (!error)
        error = ss_pwrite_all(c->area, buffer, length, offset);
    if (!error) {
        __atomic_add_fetch(&c->copied_total, length, __ATOMIC_RELAXED);
        ss_set_bit(c->copied, granule);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    return error;
}

static int lost(const ss_changes *c) { return __atomic_load_n(&c->lost, __ATOMIC_ACQUIRE); }

static void copy_first(ss_changes *c, uint64_t first, uint64_t end, ss_read_fn read, void *context, int fd)
{
    uint8_t *buffer = NULL;
    for (uint64_t granule = first; granule < end && !lost(c); granule++) {
        if (ss_bit(c->copied, granule) || !wanted(c, granule))
            continue;
        if (!buffer)
            buffer = malloc((size_t)1 << c->shift);
        pthread_mutex_t *stripe = &c->stripes[granule % SS_STRIPES];
        pthread_mutex_lock(stripe);
        int error = 0;
        if (!ss_bit(c->copied, granule))
            error = buffer ? copy_one(c, granule, buffer, read, context, fd) : ENOMEM;
        pthread_mutex_unlock(stripe);
        if (error)
            /* The guest's write goes on; it is the cut that ends here. */
            __atomic_store_n(&c->lost, error > 0 ? error : EIO, __ATOMIC_SEQ_CST);
    }
    free(buffer);
}

void ss_changes_enter(ss_changes *c, uint64_t offset, uint64_t length, ss_read_fn read, void *context, int fd)
{
    pthread_rwlock_rdlock(&c->gate);
    mark(c, offset, length);
    if (c->cutting && length)
        copy_first(c, offset >> c->shift, ((offset + length - 1) >> c->shift) + 1, read, context, fd);
}

void ss_changes_leave(ss_changes *c) { pthread_rwlock_unlock(&c->gate); }

/* -- cuts ------------------------------------------------------------------------------------------------------ */

void ss_changes_cut(ss_changes **maps, size_t count)
{
    for (size_t i = 0; i < count; i++)
        pthread_rwlock_wrlock(&maps[i]->gate);
    for (size_t i = 0; i < count; i++) {
        maps[i]->current ^= 1;
        maps[i]->serial += maps[i]->serial == UINT32_MAX ? 2 : 1;
        __atomic_store_n(&maps[i]->cutting, 1, __ATOMIC_SEQ_CST);
    }
    for (size_t i = count; i-- > 0;)
        pthread_rwlock_unlock(&maps[i]->gate);
}

void ss_changes_end(ss_changes *c, int acknowledged)
{
    pthread_rwlock_wrlock(&c->gate);
    __atomic_store_n(&c->cutting, 0, __ATOMIC_SEQ_CST);
    pthread_rwlock_unlock(&c->gate);
    pthread_mutex_lock(&c->book); /* the marks of the cut are being saved, or are back where marks are taken */
    uint64_t *frozen = c->maps[!c->current], *taking = c->maps[c->current];
    if (!acknowledged)
        for (uint64_t i = 0; i < c->words; i++)
            if (frozen[i])
                __atomic_fetch_or(&taking[i], frozen[i], __ATOMIC_SEQ_CST);
    clear_words(frozen, c->words);
    pthread_mutex_unlock(&c->book);
    clear_words(c->copied, c->words);
    clear_words(c->released, c->words);
    clear_words(c->extra, c->words);
    c->lost = c->everything = 0;
    c->area_used = 0;
    if (c->area >= 0 && ftruncate(c->area, 0) != 0)
        c->area_used = 0; /* it stays as large as it is, which is bounded; the next cut writes over it */
}

/* A reader may be late: its cut has ended, perhaps another has begun. */
static int is_open(const ss_changes *c, uint32_t serial)
{
    return __atomic_load_n(&c->cutting, __ATOMIC_SEQ_CST) && __atomic_load_n(&c->serial, __ATOMIC_SEQ_CST) == serial;
}

int ss_cut_read(ss_changes *c, uint32_t serial, uint64_t offset, uint8_t *data, size_t length, ss_read_fn read, void *context, int fd)
{
    if (!length)
        return 0;
    uint64_t first = offset >> c->shift, end = ((offset + length - 1) >> c->shift) + 1;
    for (uint64_t granule = first; granule < end; granule++)
        if (!ss_bit(c->copied, granule) && !wanted(c, granule))
            return ESTALE; /* nobody keeps its old bytes */
    int error = read(context, fd, offset, data, length);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint64_t granule = first; granule < end && !error; granule++) {
        if (!ss_bit(c->copied, granule))
            continue;
        uint64_t from = granule << c->shift, to = from + granule_length(c, granule);
        from = from < offset ? offset : from;
        to = to > offset + length ? offset + length : to;
        error = ss_pread_all(c->area, data + (from - offset), to - from, from);
    }
    int gone = lost(c);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* Ended meanwhile: what was copied may have been forgotten before it was looked for. */
    if (!is_open(c, serial))
        return ESTALE;
    return gone ? gone : error == SS_SHORT ? EIO : error;
}

void ss_cut_release(ss_changes *c, uint32_t serial, uint64_t offset, uint64_t length)
{
    /* Whole granules only: the rest of one may not have been read. */
    uint64_t first = (offset + ((uint64_t)1 << c->shift) - 1) >> c->shift, end = (offset + length) >> c->shift;
    if (offset + length == c->size)
        end = c->granules;
    /* With the gate, which cuts and ends take alone: a late reader must not let go of what the next cut wants. */
    pthread_rwlock_rdlock(&c->gate);
    if (first < end && is_open(c, serial))
        set_bits(c->released, first, end);
    pthread_rwlock_unlock(&c->gate);
}

/* -- what survives a crash --------------------------------------------------------------------------------------- */

/* The marks of both maps, as they are at one moment. */
static void join_marks(ss_changes *c, uint64_t *joined)
{
    pthread_mutex_lock(&c->book);
    for (uint64_t i = 0; i < c->words; i++) {
        uint64_t word = __atomic_load_n(&c->maps[0][i], __ATOMIC_SEQ_CST) |
                        __atomic_load_n(&c->maps[1][i], __ATOMIC_SEQ_CST);
        if (word)
            joined[i] = word; /* the other pages are not touched, and cost no memory */
    }
    pthread_mutex_unlock(&c->book);
}

static int save_marks(ss_changes *c, const uint64_t *joined)
{
    int error = 0, wrote = 0;
    for (uint64_t at = 0; at < c->words && !error; at += SS_PAGE / 8) {
        if (memcmp(joined + at, c->saved + at, SS_PAGE) == 0)
            continue;
        error = keep_page(c, joined, at, c->marks_at);
        memcpy(c->saved + at, joined + at, SS_PAGE);
        wrote = 1;
    }
    if (!error && wrote && fdatasync(c->file) != 0)
        error = errno;
    return error;
}

static int retire(ss_changes *c, const uint64_t *resting)
{
    int error = 0;
    int some = 0;
    pthread_rwlock_wrlock(&c->gate); /* without `activating`: a writer takes that while it holds the gate */
    for (uint64_t i = 0; i < c->region_words; i++)
        if (resting[i]) {
            c->active[i] &= ~(resting[i] & ~c->recent[i]);
            some = 1;
        }
    pthread_rwlock_unlock(&c->gate);
    /* Whoever comes back to a region meanwhile finds its bit clear, and writes a page with it under `activating`. */
    pthread_mutex_lock(&c->activating);
    for (uint64_t i = 0; i < c->region_words && some && !error; i += SS_PAGE / 8)
        error = keep_page(c, c->active, i, c->active_at);
    pthread_mutex_unlock(&c->activating);
    return error;
}

static void find_resting(ss_changes *c, uint64_t *resting, int all)
{
    pthread_rwlock_wrlock(&c->gate);
    for (uint64_t i = 0; i < c->region_words; i++) {
        uint64_t still = all ? c->active[i] : c->active[i] & ~c->recent[i];
        if (still)
            resting[i] = still;
        if (c->recent[i])
            c->recent[i] = 0;
    }
    pthread_rwlock_unlock(&c->gate);
}

int ss_changes_save(ss_changes *c, int all, ss_flush_fn flush, void *context)
{
    if (c->file < 0 || c->broken)
        return c->broken;
    uint64_t *resting = map_words(c->region_words), *joined = map_words(c->words);
    int error = resting && joined ? 0 : ENOMEM, flushed = !error;
    if (!error) {
        find_resting(c, resting, all);
        join_marks(c, joined);
        error = flush(context);
        flushed = !error;
    }
    if (!error)
        error = save_marks(c, joined);
    if (!error)
        error = retire(c, resting);
    if (error && flushed)
        give_up(c, error);
    if (resting)
        munmap(resting, c->region_words * 8);
    if (joined)
        munmap(joined, c->words * 8);
    return error;
}
