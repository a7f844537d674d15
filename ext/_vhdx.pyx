"""VHDX maps: from block allocation entries and sector bitmaps to the file ranges of a disk, without the GIL.

A *piece* is a file descriptor, an offset and a length, in three flat arrays; the descriptor may be ZERO, for bytes
that are zero, or PARENT, for bytes that the next layer of a chain has (its offset is then one of the disk). An
*overlay* is a sorted list of ranges of a file that read as if written already: `sources` holds offsets in the file
of `pages_fd`, or -1 for zeros.
"""

from cpython cimport array
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

import array

cdef extern from "bitmap.h" nogil:
    uint64_t ss_next(const uint64_t *words, uint64_t start, uint64_t end, int value)

cdef extern from "holes.h" nogil:
    ctypedef struct ss_holes:
        int fd
        int sparse
        int64_t data
        int64_t end
    int64_t SS_SMALL_HOLE
    int64_t ss_hole_run(ss_holes *known, int fd, int64_t at, int64_t end, int *zero)

ZERO = -1
PARENT = -2
cdef int32_t ZERO_FD = -1
cdef int32_t PARENT_FD = -2

# What claim() may find; engine/images/vhdx/bat.py has the words.
OK, RESERVED, STATE, OUTSIDE, TAKEN, PARTIAL, NO_BITMAP, BITMAP = range(8)

cdef uint64_t MIB = 1 << 20

cdef array.array INTS = array.array("i")
cdef array.array LONGS = array.array("q")


cdef struct Pieces:
    int32_t *fds
    int64_t *offsets
    int64_t *lengths
    size_t count
    size_t room
    size_t limit
    bint full
    bint no_memory


cdef struct Overlay:
    const int64_t *starts
    const int64_t *ends
    const int64_t *sources
    size_t count
    int32_t fd


cdef bint grow(Pieces *out) noexcept nogil:
    cdef size_t room = out.room * 2 if out.room else 64
    cdef void *fds = realloc(out.fds, room * sizeof(int32_t))
    cdef void *offsets
    cdef void *lengths
    if fds != NULL:
        out.fds = <int32_t *>fds
    offsets = realloc(out.offsets, room * sizeof(int64_t))
    if offsets != NULL:
        out.offsets = <int64_t *>offsets
    lengths = realloc(out.lengths, room * sizeof(int64_t))
    if lengths != NULL:
        out.lengths = <int64_t *>lengths
    if fds == NULL or offsets == NULL or lengths == NULL:
        out.no_memory = True
        return False
    out.room = room
    return True


cdef bint push(Pieces *out, int32_t fd, int64_t offset, int64_t length) noexcept nogil:
    """Append a piece, or lengthen the last one; False where there is no room for it."""
    cdef size_t last = out.count - 1
    if out.full or out.no_memory:
        return False
    if length == 0:
        return True
    if out.count and out.fds[last] == fd and (
            fd == ZERO_FD or out.offsets[last] + out.lengths[last] == offset):
        out.lengths[last] += length
        return True
    if out.limit and out.count == out.limit:
        out.full = True
        return False
    if out.count == out.room and not grow(out):
        return False
    out.fds[out.count] = fd
    out.offsets[out.count] = 0 if fd == ZERO_FD else offset
    out.lengths[out.count] = length
    out.count += 1
    return True


cdef bint push_file(Pieces *out, int32_t fd, int64_t offset, int64_t length, const Overlay *over) noexcept nogil:
    """A range of the file, as it reads through the overlay."""
    cdef size_t low = 0
    cdef size_t high = over.count
    cdef size_t middle
    cdef int64_t end = offset + length
    cdef int64_t stop
    while low < high:
        middle = (low + high) // 2
        if over.ends[middle] > offset:
            high = middle
        else:
            low = middle + 1
    while offset < end:
        if low == over.count or over.starts[low] >= end:
            return push(out, fd, offset, end - offset)
        if over.starts[low] > offset:
            if not push(out, fd, offset, over.starts[low] - offset):
                return False
            offset = over.starts[low]
        stop = over.ends[low] if over.ends[low] < end else end
        if over.sources[low] < 0:
            if not push(out, ZERO_FD, 0, stop - offset):
                return False
        elif not push(out, over.fd, over.sources[low] + (offset - over.starts[low]), stop - offset):
            return False
        offset = stop
        low += 1
    return True


cdef bint push_partial(Pieces *out, int32_t fd, int64_t at, int64_t stop, int64_t place, int64_t disk,
                       uint32_t sector, const uint64_t *words, int64_t first_bit, int32_t missing,
                       const Overlay *over) noexcept nogil:
    """Bytes [at, stop) of a chunk inside one partially present block, whose byte `at` would lie at `place`."""
    cdef uint64_t last = (stop + sector - 1) // sector - first_bit
    cdef uint64_t bit
    cdef bint here
    cdef int64_t end
    cdef bint fits
    while at < stop:
        bit = at // sector - first_bit
        here = words[bit >> 6] >> (bit & 63) & 1
        end = (<int64_t>ss_next(words, bit, last, not here) + first_bit) * sector
        if end > stop:
            end = stop
        if here:
            fits = push_file(out, fd, place, end - at, over)
        else:
            fits = push(out, missing, disk, end - at)
        if not fits:
            return False
        place += end - at
        disk += end - at
        at = end
    return True


cdef tuple take(Pieces *out):
    """The pieces as three arrays; their memory is given back."""
    cdef array.array fds
    cdef array.array offsets
    cdef array.array lengths
    try:
        if out.no_memory:
            raise MemoryError("no memory for the pieces of a disk")
        fds = array.clone(INTS, out.count, False)
        offsets = array.clone(LONGS, out.count, False)
        lengths = array.clone(LONGS, out.count, False)
        if out.count:
            memcpy(fds.data.as_voidptr, out.fds, out.count * sizeof(int32_t))
            memcpy(offsets.data.as_voidptr, out.offsets, out.count * sizeof(int64_t))
            memcpy(lengths.data.as_voidptr, out.lengths, out.count * sizeof(int64_t))
        return fds, offsets, lengths
    finally:
        free(out.fds)
        free(out.offsets)
        free(out.lengths)


cdef Pieces new_pieces(size_t limit) noexcept:
    cdef Pieces out
    out.fds = NULL
    out.offsets = NULL
    out.lengths = NULL
    out.count = 0
    out.room = 0
    out.limit = limit
    out.full = False
    out.no_memory = False
    return out


cdef Overlay open_overlay(const int64_t[::1] starts, const int64_t[::1] ends, const int64_t[::1] sources,
                          int32_t pages_fd) except *:
    cdef Overlay over
    if ends.shape[0] != starts.shape[0] or sources.shape[0] != starts.shape[0]:
        raise ValueError("the lists of an overlay differ in length")
    over.starts = &starts[0]
    over.ends = &ends[0]
    over.sources = &sources[0]
    over.count = starts.shape[0]
    over.fd = pages_fd
    return over


def overlaid(int32_t fd, int64_t offset, int64_t length, const int64_t[::1] starts, const int64_t[::1] ends,
             const int64_t[::1] sources, int32_t pages_fd):
    """A range of a file as pieces, read through an overlay."""
    cdef Overlay over = open_overlay(starts, ends, sources, pages_fd)
    cdef Pieces out = new_pieces(0)
    if offset < 0 or length < 0 or offset > (<int64_t>1 << 62) or length > (<int64_t>1 << 62):
        raise ValueError(f"{length} bytes at {offset}")
    with nogil:
        push_file(&out, fd, offset, length, &over)
    return take(&out)


def refine(const int32_t[::1] fds, const int64_t[::1] offsets, const int64_t[::1] lengths, int64_t chunk_start,
           int64_t block_size, uint32_t sector, const uint64_t[::1] entries, const uint64_t[::1] bitmap,
           int64_t first_bit, int32_t fd, int32_t missing, const int64_t[::1] starts, const int64_t[::1] ends,
           const int64_t[::1] sources, int32_t pages_fd, size_t limit):
    """Replace the PARENT pieces, all of one chunk, by what one layer's entries say of them.

    `entries` are the chunk's payload entries; bit 0 of `bitmap` is the chunk's sector `first_bit`; what the layer
    does not have becomes `missing` (ZERO or PARENT). Stops before there would be more than `limit` pieces (0: no
    limit), so the lengths that come back may add up to less than those that went in. Raises ValueError for a
    piece that the entries or the bitmap do not cover.
    """
    cdef Overlay over = open_overlay(starts, ends, sources, pages_fd)
    cdef Pieces out
    cdef Py_ssize_t i
    cdef Py_ssize_t n = fds.shape[0]
    cdef int64_t at
    cdef int64_t end
    cdef int64_t stop
    cdef int64_t block
    cdef int64_t place
    cdef uint64_t state
    cdef bint fits = True
    cdef bint wrong = False
    if offsets.shape[0] != n or lengths.shape[0] != n:
        raise ValueError("the lists of pieces differ in length")
    if block_size <= 0 or sector == 0 or first_bit < 0 or entries.shape[0] > (<int64_t>1 << 62) // block_size:
        raise ValueError(f"blocks of {block_size} bytes, sectors of {sector}")
    for i in range(n):
        if fds[i] == PARENT_FD and (
                lengths[i] < 0 or offsets[i] < chunk_start
                or lengths[i] > entries.shape[0] * block_size
                or offsets[i] - chunk_start > entries.shape[0] * block_size - lengths[i]):
            raise ValueError(f"piece {i}: {lengths[i]} bytes at {offsets[i]} are not in the chunk at {chunk_start}")
    out = new_pieces(limit)
    with nogil:
        for i in range(n):
            if fds[i] != PARENT_FD:
                fits = push(&out, fds[i], offsets[i], lengths[i])
                if not fits:
                    break
                continue
            at = offsets[i] - chunk_start
            end = at + lengths[i]
            while at < end and fits and not wrong:
                block = at // block_size
                stop = (block + 1) * block_size
                if stop > end:
                    stop = end
                state = entries[block] & 7
                place = <int64_t>(entries[block] & <uint64_t>0x7FFFFFFFFFF00000) + at % block_size
                if state == 6:
                    fits = push_file(&out, fd, place, stop - at, &over)
                elif state == 7:
                    if at // sector < first_bit or (stop + sector - 1) // sector - first_bit > 64 * bitmap.shape[0]:
                        wrong = True
                        break
                    fits = push_partial(&out, fd, at, stop, place, chunk_start + at, sector, &bitmap[0], first_bit,
                                        missing, &over)
                else:
                    # Most entries of a large table say nothing: a run of them is one piece.
                    while stop < end and entries[block + 1] & 7 == state:
                        block += 1
                        stop += block_size
                    if stop > end:
                        stop = end
                    if state == 0:
                        fits = push(&out, missing, chunk_start + at, stop - at)
                    else:
                        fits = push(&out, ZERO_FD, 0, stop - at)
                at = stop
            if wrong or not fits:
                break
    pieces = take(&out)
    if wrong:
        raise ValueError(f"block {block} of the chunk at {chunk_start} is not covered by the bitmap")
    return pieces


cdef void push_holes(Pieces *out, int32_t fd, int64_t offset, int64_t length, ss_holes *known) noexcept nogil:
    """A range of a file as data and, where the file system has holes of some size in it, zeros."""
    cdef int64_t end = offset + length
    cdef int64_t stop
    cdef int zero = 0
    while offset < end:
        stop = ss_hole_run(known, fd, offset, end, &zero)
        push(out, ZERO_FD if zero else 0, 0 if zero else offset, stop - offset)
        offset = stop


def runs(const int32_t[::1] fds, const int64_t[::1] offsets, const int64_t[::1] lengths, bint holes):
    """Pieces joined by what they are: (kinds, lengths), a kind being 0 for data, ZERO or PARENT.

    `holes` looks for holes of the files too, and calls them zero.
    """
    cdef Pieces out
    cdef Pieces joined
    cdef Py_ssize_t i
    cdef size_t j
    cdef ss_holes known = ss_holes(fd=-1, sparse=0, data=0, end=0)
    if offsets.shape[0] != fds.shape[0] or lengths.shape[0] != fds.shape[0]:
        raise ValueError("the lists of pieces differ in length")
    out = new_pieces(0)
    joined = new_pieces(0)
    with nogil:
        for i in range(fds.shape[0]):
            if fds[i] < 0:
                push(&out, fds[i], offsets[i], lengths[i])
            elif holes and lengths[i] >= SS_SMALL_HOLE:
                push_holes(&out, fds[i], offsets[i], lengths[i], &known)
            else:
                push(&out, 0, offsets[i], lengths[i])
        for j in range(out.count):
            if joined.count and joined.fds[joined.count - 1] == out.fds[j]:
                joined.lengths[joined.count - 1] += out.lengths[j]
            else:
                push(&joined, out.fds[j], out.offsets[j], out.lengths[j])
    joined.no_memory |= out.no_memory
    free(out.fds)
    free(out.offsets)
    free(out.lengths)
    kinds, _, sizes = take(&joined)
    return kinds, sizes


cdef bint occupy(uint8_t[::1] used, uint64_t first, uint64_t count) noexcept nogil:
    """Mark MiBs of the file; False where one of them is taken. What lies past the end of `used` is nobody's."""
    cdef uint64_t i
    cdef uint64_t end = first + count
    if end > 8 * <uint64_t>used.shape[0]:
        end = 8 * <uint64_t>used.shape[0]
    for i in range(first, end):
        if used[i >> 3] >> (i & 7) & 1:
            return False
        used[i >> 3] |= <uint8_t>1 << (i & 7)
    return True


def claim(const uint64_t[::1] entries, uint64_t ratio, uint64_t blocks, bint differencing, uint64_t block_size,
          uint64_t file_size, uint64_t tail, uint8_t[::1] used):
    """Check whole chunks of entries, and mark the MiBs of the file that they use in the bits of `used`.

    `ratio` payload entries and one bitmap entry make a chunk; there are `blocks` payload entries, of which the
    last needs only `tail` bytes in the file. Returns (index, what is wrong with it), or (-1, OK).
    """
    cdef Py_ssize_t i
    cdef Py_ssize_t n = entries.shape[0]
    cdef uint64_t entry
    cdef uint64_t state
    cdef uint64_t place
    cdef uint64_t needed
    cdef uint64_t block = 0
    cdef uint64_t inside = ratio
    cdef Py_ssize_t sector_entry
    cdef int code = 0
    if ratio == 0 or ratio > <uint64_t>1 << 32 or block_size > <uint64_t>1 << 40:
        raise ValueError(f"{ratio} blocks of {block_size} bytes a chunk")
    with nogil:
        for i in range(n):
            entry = entries[i]
            state = entry & 7
            place = entry & ~<uint64_t>0xFFFFF
            inside = inside + 1 if inside < ratio else 0
            if entry == 0:
                block += inside < ratio
            elif inside == ratio:
                if entry & 0xFFFF8:
                    code = 1
                elif state != 0 and state != 6:
                    code = 2
                elif state == 6 and not differencing:
                    code = 7
                elif state == 6:
                    if place == 0 or place >= file_size or file_size - place < MIB:
                        code = 3
                    elif not occupy(used, place // MIB, 1):
                        code = 4
            elif block < blocks:
                block += 1
                if entry & 0xFFFF8:
                    code = 1
                elif state == 4 or state == 5:
                    code = 2
                elif state >= 6:
                    needed = tail if block == blocks else block_size
                    sector_entry = i - <Py_ssize_t>inside + <Py_ssize_t>ratio
                    if state == 7 and not differencing:
                        code = 5
                    elif state == 7 and (sector_entry >= n or entries[sector_entry] & 7 != 6):
                        code = 6
                    elif place == 0 or place >= file_size or file_size - place < needed:
                        code = 3
                    elif not occupy(used, place // MIB, block_size // MIB):
                        code = 4
            if code:
                break
    if code:
        return i, code
    return -1, 0


def tally(const uint64_t[::1] entries, uint64_t ratio, uint64_t blocks):
    """How many payload entries there are of each state, then how many bitmaps, soft anchors and ZEROs with a place."""
    cdef Py_ssize_t i
    cdef uint64_t block = 0
    cdef uint64_t inside = ratio
    cdef uint64_t state
    cdef uint64_t[11] counts
    if ratio == 0:
        raise ValueError("no blocks in a chunk")
    with nogil:
        for i in range(11):
            counts[i] = 0
        for i in range(entries.shape[0]):
            state = entries[i] & 7
            inside = inside + 1 if inside < ratio else 0
            if inside == ratio:
                counts[8] += state == 6
            elif block < blocks:
                block += 1
                counts[state] += 1
                if entries[i] >> 20:
                    counts[9] += state == 1 or state == 3
                    counts[10] += state == 2
    return [counts[i] for i in range(11)]
