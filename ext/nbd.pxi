# What ext/c/changes.h, disk.h and transmit.h offer.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    int __builtin_popcountll(unsigned long long word) nogil

cdef extern from "bitmap.h" nogil:
    uint64_t ss_next(const uint64_t *words, uint64_t start, uint64_t end, int value)
    uint64_t ss_count(const uint64_t *words, uint64_t bits)
    void ss_set_range(uint64_t *words, uint64_t start, uint64_t end, int value)

cdef extern from "changes.h" nogil:
    ctypedef int (*ss_read_fn)(void *, int, uint64_t, uint8_t *, size_t) noexcept nogil
    ctypedef struct ss_changes:
        uint64_t size, granules, regions, words, region_words
        unsigned shift, region_shift
        uint64_t *maps[2]
        uint64_t *copied
        uint64_t *extra
        uint64_t *active
        uint64_t *saved
        uint32_t serial
        int current, file, broken, cutting, everything, lost, area
        uint64_t active_at, marks_at, group, area_limit, area_used, copied_total, activations
    int ss_changes_init(ss_changes *c, uint64_t size, unsigned shift, unsigned region_shift)
    void ss_changes_free(ss_changes *c)
    void ss_changes_mark(ss_changes *c, uint64_t offset, uint64_t length)
    void ss_changes_cut(ss_changes **maps, size_t count)
    void ss_changes_end(ss_changes *c, int acknowledged)
    int ss_changes_save(ss_changes *c, int all, int (*flush)(void *) noexcept nogil, void *context)

cdef extern from "disk.h" nogil:
    ctypedef struct ss_disk:
        int fd
        void *context
        ss_read_fn read
        int (*write)(void *, uint64_t, const uint8_t *, size_t) noexcept nogil
        int (*zero)(void *, uint64_t, uint64_t, int) noexcept nogil
        int (*flush)(void *) noexcept nogil
        uint64_t size
        int read_only
        uint32_t frozen
        int once
        ss_changes *changes
    int ss_fd_read(void *context, int fd, uint64_t offset, uint8_t *data, size_t length)
    int ss_disk_read(ss_disk *d, uint64_t offset, uint8_t *data, size_t length)
    int ss_disk_write(ss_disk *d, uint64_t offset, const uint8_t *data, size_t length, int fua)
    int ss_disk_zero(ss_disk *d, uint64_t offset, uint64_t length, int punch, int fua)
    int ss_disk_flush(ss_disk *d)
    int ss_disk_sync(void *disk)

cdef extern from "transmit.h" nogil:
    uint32_t SS_CONTEXTS
    ctypedef struct ss_conn:
        int fd, structured, extended
        ss_disk *disk
        uint32_t max_payload, contexts
        uint32_t ids[4]
        int (*status)(void *, uint32_t, uint64_t, uint64_t, int, uint64_t **, size_t *) noexcept nogil
        void *status_context
        uint64_t requests, bytes_read, bytes_written
    int ss_transmit(ss_conn *conn)
