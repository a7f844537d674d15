"""Disks that a server exports, their change maps, and the transmission phase of NBD, without the GIL."""

from cpython.exc cimport PyErr_SetFromErrno
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EBUSY, EINVAL, EIO, ENOMEM, ENOSPC, EPERM, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

include "nbd.pxi"

import time
from array import array

cdef extern from "Python.h":
    int PyBUF_READ
    int PyBUF_WRITE

cdef raise_error(int error, str what):
    global errno
    errno = error
    PyErr_SetFromErrno(OSError)


cdef unsigned shift_of(uint64_t size) except? 99:
    if size == 0 or size & (size - 1) or size > <uint64_t>1 << 40:
        raise ValueError(f"{size} is not a power of two")
    return (size).bit_length() - 1


cdef class ChangeMap:
    """Which granules of a disk of `size` bytes were written. `granule` and `region` are powers of two, in bytes.

    `keep` makes it survive a crash. One cut may be open at a time: prepare, cut (several maps at one instant), end.
    """

    cdef ss_changes c
    cdef bint made

    def __cinit__(self, uint64_t size, uint64_t granule, uint64_t region):
        if granule < 512 or region < granule:
            raise ValueError(f"granules of {granule} and regions of {region} bytes")
        cdef int error = ss_changes_init(&self.c, size, shift_of(granule), shift_of(region))
        if error:
            raise MemoryError(f"a change map of {size} bytes")
        self.made = True

    def __dealloc__(self):
        if self.made:
            ss_changes_free(&self.c)

    @property
    def size(self):
        return self.c.size

    @property
    def granule(self):
        return 1 << self.c.shift

    @property
    def region(self):
        return 1 << self.c.region_shift

    @property
    def marks_bytes(self):
        """Bytes of the marks in a file: whole pages of 4 KiB."""
        return self.c.words * 8

    @property
    def active_bytes(self):
        """Bytes of the active regions' bits in a file: whole pages of 4 KiB."""
        return self.c.region_words * 8

    @property
    def cutting(self):
        return bool(self.c.cutting)

    @property
    def lost(self):
        """The errno that ended the cut: its old bytes could not all be kept. 0 while it holds."""
        return self.c.lost

    @property
    def broken(self):
        """The errno with which the file could not be written: it was made void. 0 while it holds."""
        return self.c.broken

    @property
    def copied_bytes(self):
        """Copied before they were overwritten, in all cuts."""
        return self.c.copied_total

    @property
    def area_bytes(self):
        """Copied in this cut."""
        return min(self.c.area_used, self.c.area_limit)

    @property
    def activations(self):
        return self.c.activations

    @property
    def active_regions(self):
        return ss_count(self.c.active, self.c.regions)

    @property
    def marked_granules(self):
        """Set in either map."""
        cdef uint64_t total = 0, i
        with nogil:
            for i in range(self.c.words):
                total += <uint64_t>__builtin_popcountll(self.c.maps[0][i] | self.c.maps[1][i])
        return total

    def keep(self, int file, uint64_t active_at, uint64_t marks_at):
        """Keep active regions and marks in an open file, whose header is at 0; it is this map's alone."""
        self.c.file, self.c.active_at, self.c.marks_at = file, active_at, marks_at

    def load(self, const unsigned char[::1] active, const unsigned char[::1] marks):
        """What a file kept; every byte of an active region counts as written, and stays active until a save."""
        if <uint64_t>active.shape[0] != self.c.region_words * 8 or <uint64_t>marks.shape[0] != self.c.words * 8:
            raise ValueError(f"{active.shape[0]} and {marks.shape[0]} bytes are of another map")
        memcpy(self.c.active, &active[0], active.shape[0])
        memcpy(self.c.maps[0], &marks[0], marks.shape[0])
        memcpy(self.c.saved, &marks[0], marks.shape[0])
        # Bits past the end would name what does not exist.
        ss_set_range(self.c.active, self.c.regions, self.c.region_words * 64, 0)
        ss_set_range(self.c.maps[0], self.c.granules, self.c.words * 64, 0)
        cdef uint64_t at = 0, per = <uint64_t>1 << (self.c.region_shift - self.c.shift)
        while True:
            at = ss_next(self.c.active, at, self.c.regions, 1)
            if at >= self.c.regions:
                return
            ss_set_range(self.c.maps[0], at * per, min((at + 1) * per, self.c.granules), 1)
            at += 1

    def mark(self, uint64_t offset, uint64_t length):
        """As a write would; for what was written elsewhere, while nobody cuts."""
        if offset > self.c.size or length > self.c.size - offset:
            raise ValueError(f"{length} bytes at {offset} of {self.c.size}")
        with nogil:
            ss_changes_mark(&self.c, offset, length)

    def ranges(self, bint of_cut):
        """(start, length) pairs in bytes, flat, ascending, apart: the cut's marks, or all that are set in either map."""
        cdef uint64_t at = 0, end = 0, i, size = self.c.size
        cdef uint64_t *words = self.c.maps[1 - self.c.current]
        cdef uint64_t *joined = NULL
        found = array("Q")
        if not of_cut:
            joined = <uint64_t *>malloc(self.c.words * 8)
            if joined == NULL:
                raise MemoryError("a copy of a change map")
            with nogil:
                for i in range(self.c.words):
                    joined[i] = self.c.maps[0][i] | self.c.maps[1][i]
            words = joined
        try:
            while True:
                with nogil:
                    at = ss_next(words, end, self.c.granules, 1)
                    end = ss_next(words, at, self.c.granules, 0)
                if at >= self.c.granules:
                    return found
                found.append(at << self.c.shift)
                found.append(min(end << self.c.shift, size) - (at << self.c.shift))
        finally:
            free(joined)

    def status(self, uint64_t offset, uint64_t length, size_t most, bint copied=False):
        """At most `most` (length, 1 where written, else 0) pairs, flat, from `offset` on; with `copied` 1 is where the
        cut's bytes were copied.
        """
        cdef uint64_t at = offset, stop, end, granule, one
        cdef uint64_t *a = self.c.copied if copied else self.c.maps[0]
        cdef uint64_t *b = self.c.copied if copied else self.c.maps[1]
        if offset > self.c.size or length > self.c.size - offset:
            raise ValueError(f"{length} bytes at {offset} of {self.c.size}")
        end = offset + length
        cdef uint64_t bit
        found = array("Q")
        while at < end and <size_t>len(found) < 2 * most:
            granule = at >> self.c.shift
            bit = ((a[granule >> 6] | b[granule >> 6]) >> (granule & 63)) & 1
            one = granule + 1
            with nogil:
                while one << self.c.shift < end and (((a[one >> 6] | b[one >> 6]) >> (one & 63)) & 1) == bit:
                    one += 1
            stop = min(one << self.c.shift, end)
            found.append(stop - at)
            found.append(bit)
            at = stop
        return found

    def prepare(self, uint64_t group, bint everything, sample, int area, uint64_t limit):
        """Before a cut: the reader's block size in bytes, whether it wants all of the disk, what else it wants as
        (start, length) pairs, and the empty file for at most `limit` copied bytes.
        """
        if self.c.cutting:
            raise_error(EBUSY, "")
        self.c.group = max(<uint64_t>1, group >> self.c.shift)
        shift_of(self.c.group)
        self.c.everything = everything
        self.c.area, self.c.area_limit, self.c.area_used, self.c.lost = area, limit, 0, 0
        cdef uint64_t start, length
        for start, length in sample:
            if start > self.c.size or length > self.c.size - start:
                raise ValueError(f"{length} bytes at {start} of {self.c.size}")
            if length:
                ss_set_range(self.c.extra, start >> self.c.shift, ((start + length - 1) >> self.c.shift) + 1, 1)

    @staticmethod
    def cut(maps):
        """Cut all of these maps at one instant; seconds that writers may have stood still."""
        cdef ss_changes *found[64]
        cdef size_t count = len(maps), i
        if len(set(map(id, maps))) != count:
            raise ValueError("a map twice in one cut")
        if count == 0 or count > 64:
            raise ValueError(f"a cut of {count} disks; 1 to 64")
        for i in range(count):
            found[i] = &(<ChangeMap?>maps[i]).c
            if found[i].cutting:
                raise_error(EBUSY, "")
        began = time.monotonic()
        with nogil:
            ss_changes_cut(found, count)
        return time.monotonic() - began

    def end(self, bint acknowledged):
        """End the cut: its marks are forgotten, or set again."""
        if self.c.cutting:
            with nogil:
                ss_changes_end(&self.c, acknowledged)

    def save(self, Disk disk, bint everything):
        """Flush the disk, write the marks to the file, then retire the regions at rest, or every one. Returns an errno
        or 0. One call at a time.
        """
        cdef int error
        if disk.d.changes != &self.c:
            raise ValueError("that disk has another change map")
        with nogil:
            error = ss_changes_save(&self.c, everything, ss_disk_sync, &disk.d)
        return error


cdef int errno_of(object error):
    # By name: an extension module imports nothing of ours.
    names = {kind.__name__ for kind in type(error).__mro__}
    return ENOSPC if "Full" in names else EPERM if "Refused" in names else EIO


cdef int image_read(void *context, int fd, uint64_t offset, uint8_t *data, size_t length) noexcept with gil:
    cdef Disk disk = <Disk>context
    if length == 0:
        return 0
    try:
        disk.image.read_into(offset, PyMemoryView_FromMemory(<char *>data, length, PyBUF_WRITE))
    except BaseException as error:
        disk.last_error = str(error)
        return errno_of(error)
    return 0


cdef int image_write(void *context, uint64_t offset, const uint8_t *data, size_t length) noexcept with gil:
    cdef Disk disk = <Disk>context
    if length == 0:
        return 0
    try:
        disk.image.write(offset, PyMemoryView_FromMemory(<char *>data, length, PyBUF_READ))
    except BaseException as error:
        disk.last_error = str(error)
        return errno_of(error)
    return 0


cdef int image_zero(void *context, uint64_t offset, uint64_t length, int punch) noexcept with gil:
    cdef Disk disk = <Disk>context
    try:
        disk.image.zero(offset, length, punch=bool(punch))
    except BaseException as error:
        disk.last_error = str(error)
        return errno_of(error)
    return 0


cdef int image_flush(void *context) noexcept with gil:
    cdef Disk disk = <Disk>context
    try:
        disk.image.flush()
    except BaseException as error:
        disk.last_error = str(error)
        return errno_of(error)
    return 0


cdef class Disk:
    """An image as a server exports it. `fd`: the descriptor of a raw image, whose bytes then move without Python.

    `changes` is marked by every write. With `frozen` it is the read-only view of that map's cut, of which `zero` lets
    go of ranges. `last_error` is the last sentence of an image that failed. Methods raise OSError.
    """

    cdef ss_disk d
    cdef readonly object image
    cdef readonly ChangeMap changes
    cdef public str last_error

    def __cinit__(self, image, uint64_t size, *, int fd=-1, bint read_only=False, ChangeMap changes=None,
                  bint frozen=False):
        if changes is not None and changes.c.size != size:
            raise ValueError(f"a change map of {changes.c.size} bytes for a disk of {size}")
        if frozen and changes is None:
            raise ValueError("no cut without a change map")
        memset(&self.d, 0, sizeof(self.d))
        self.image, self.changes, self.last_error = image, changes, ""
        if frozen and not changes.c.cutting:
            raise ValueError("no cut is open")
        self.d.fd, self.d.size, self.d.read_only = fd, size, read_only or frozen
        self.d.frozen = changes.c.serial if frozen else 0
        self.d.context = <void *>self
        self.d.read = ss_fd_read if fd >= 0 else image_read
        self.d.write, self.d.zero, self.d.flush = image_write, image_zero, image_flush
        self.d.changes = NULL if changes is None else &changes.c

    @property
    def size(self):
        return self.d.size

    @property
    def fd(self):
        return self.d.fd

    @property
    def read_only(self):
        return bool(self.d.read_only)

    @property
    def frozen(self):
        return bool(self.d.frozen)

    def read_once(self):
        """From now on whatever was read of the frozen view is let go of, as if `zero` had been called for it."""
        self.d.once = 1

    cdef int within(self, uint64_t offset, uint64_t length) except -1:
        if offset > self.d.size or length > self.d.size - offset:
            raise_error(EINVAL, "")
        return 0

    def read_into(self, uint64_t offset, unsigned char[::1] buffer):
        """Fill a buffer."""
        cdef size_t length = buffer.shape[0]
        cdef int error = 0
        self.within(offset, length)
        if length:
            with nogil:
                error = ss_disk_read(&self.d, offset, &buffer[0], length)
        if error:
            raise_error(error, "")

    def write(self, uint64_t offset, const unsigned char[::1] data, bint fua=False):
        """Write all of `data`; durable on return with `fua`."""
        cdef size_t length = data.shape[0]
        cdef int error
        cdef const uint8_t *source = &data[0] if length else NULL
        self.within(offset, length)
        with nogil:
            error = ss_disk_write(&self.d, offset, source, length, fua)
        if error:
            raise_error(error, "")

    def zero(self, uint64_t offset, uint64_t length, bint punch=True, bint fua=False):
        """Make a range read as zeros, as a hole where possible or keeping its space."""
        cdef int error
        self.within(offset, length)
        with nogil:
            error = ss_disk_zero(&self.d, offset, length, punch, fua)
        if error:
            raise_error(error, "")

    def flush(self):
        """Make every write so far durable."""
        cdef int error
        with nogil:
            error = ss_disk_flush(&self.d)
        if error:
            raise_error(error, "")


cdef int contexts_status(void *context, uint32_t which, uint64_t offset, uint64_t length, int one, uint64_t **pairs,
                         size_t *count) noexcept with gil:
    cdef const uint64_t[::1] found
    try:
        made = (<object>context)[which](offset, length, bool(one))
        found = made
        count[0] = found.shape[0] // 2
        pairs[0] = <uint64_t *>malloc(16 * count[0] + 1)
        if pairs[0] == NULL:
            return ENOMEM
        if count[0]:
            memcpy(pairs[0], &found[0], 16 * count[0])
    except BaseException:
        return EIO
    return 0


def transmit(int fd, Disk disk, *, bint structured, bint extended, contexts, uint32_t max_payload):
    """Serve a connected socket from the end of the handshake until it ends; it is shut down then, and not closed.

    `contexts`: pairs (id, function of offset, length and whether one is enough, to flat (length, flags) pairs), at most
    four. Returns requests, bytes read and bytes written.
    """
    cdef ss_conn conn
    cdef int error
    if len(contexts) > SS_CONTEXTS:
        raise ValueError(f"{len(contexts)} contexts; at most {SS_CONTEXTS}")
    memset(&conn, 0, sizeof(conn))
    functions = [function for _, function in contexts]
    conn.fd, conn.disk, conn.structured, conn.extended = fd, &disk.d, structured, extended
    conn.max_payload, conn.contexts = max_payload, len(contexts)
    for at, (number, _) in enumerate(contexts):
        conn.ids[at] = number
    conn.status, conn.status_context = contexts_status, <void *>functions
    with nogil:
        error = ss_transmit(&conn)
    if error:
        raise_error(error, "")
    return conn.requests, conn.bytes_read, conn.bytes_written
