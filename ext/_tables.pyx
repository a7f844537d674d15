"""Walks over the allocation tables of VHD and VMDK: which file ranges hold a range of a disk.

Every walk takes a table as the bytes of the file and gives three flat arrays (fds 'i', offsets 'q', lengths 'q') that
cover the range in order; neighbouring ranges that touch are one. A negative fd names no file: -1 is zeros, and the
caller's `hole` stands where the layer below is to be asked.
"""

from cpython cimport array
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcpy

import array

cdef extern from "pieces.h" nogil:
    ctypedef struct ss_pieces:
        int32_t *fds
        int64_t *offsets
        int64_t *lengths
        size_t count
        size_t room
    void ss_pieces_free(ss_pieces *list)
    int ss_pieces_add(ss_pieces *list, int32_t fd, int64_t offset, int64_t length)
    uint64_t ss_next_msb(const uint8_t *bits, uint64_t start, uint64_t end, int value)

cdef extern from "blockio.h" nogil:
    uint64_t SS_MAX_OFFSET

DEF SECTOR = 512
cdef uint32_t NONE = 0xFFFFFFFF
cdef uint64_t MAX_UNIT = 1 << 31

cdef array.array _ints = array.array("i")
cdef array.array _longs = array.array("q")


cdef array.array longs(const int64_t *data, size_t count):
    cdef array.array made = array.clone(_longs, count, False)
    if count:
        memcpy(made.data.as_voidptr, data, 8 * count)
    return made


cdef tuple finish(ss_pieces *list, int error):
    """The pieces as Python arrays; frees them."""
    cdef array.array fds
    try:
        if error:
            raise MemoryError("no room for the list of file ranges")
        fds = array.clone(_ints, list.count, False)
        if list.count:
            memcpy(fds.data.as_voidptr, list.fds, 4 * list.count)
        return fds, longs(list.offsets, list.count), longs(list.lengths, list.count)
    finally:
        ss_pieces_free(list)


cdef inline uint32_t big(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline uint32_t little(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[3] << 24 | <uint32_t>at[2] << 16 | <uint32_t>at[1] << 8 | at[0]


cdef int check_range(uint64_t entries, uint64_t unit, uint64_t start, uint64_t length) except -1:
    """Refuse a range that the table does not cover, and sizes that a multiplication below could overflow."""
    if unit == 0 or unit > MAX_UNIT or entries > NONE:
        raise ValueError(f"a table of {entries} entries of {unit} bytes each")
    if start > entries * unit or length > entries * unit - start:
        raise ValueError(f"{length} bytes at {start} of a table for {entries * unit}")
    return 0


# -- VHD ------------------------------------------------------------------------------------------------------


def vhd_map(const uint8_t[::1] table, const uint8_t[::1] bitmaps, int32_t fd, uint64_t block_size, uint64_t head,
            uint64_t start, uint64_t length, int32_t hole):
    """Blocks of a VHD (formats section 2): `table` is the BAT, `head` the bytes of a block's bitmap before its data.

    `bitmaps`, for a differencing file, holds `head` bytes for each block from the one that `start` lies in; a clear
    bit is a hole. Without it a block that is present is present whole.
    """
    cdef ss_pieces out = ss_pieces(NULL, NULL, NULL, 0, 0)
    cdef uint64_t entries = table.shape[0] // 4
    cdef uint64_t end = start + length
    cdef uint64_t first, block, stop
    cdef uint64_t at = start
    cdef int64_t data
    cdef uint32_t entry
    cdef int error = 0
    check_range(entries, block_size, start, length)
    if head > MAX_UNIT:
        raise ValueError(f"bitmaps of {head} bytes")
    first = start // block_size
    if bitmaps is not None and length:
        if head * 8 * SECTOR < block_size or block_size % SECTOR:
            raise ValueError("the bitmap of a block is too short, or a block is not of whole sectors")
        if <uint64_t>bitmaps.shape[0] < ((end - 1) // block_size - first + 1) * head:
            raise ValueError("fewer bitmaps than blocks")
    with nogil:
        while at < end and not error:
            block = at // block_size
            stop = (block + 1) * block_size
            if stop > end:
                stop = end
            entry = big(&table[4 * block])
            if entry == NONE:
                error = ss_pieces_add(&out, hole, 0, stop - at)
            else:
                data = <int64_t>entry * SECTOR + head
                if bitmaps is None:
                    error = ss_pieces_add(&out, fd, data + (at - block * block_size), stop - at)
                else:
                    error = sectors(&out, &bitmaps[(block - first) * head], fd, data, at - block * block_size,
                                    stop - block * block_size, hole)
            at = stop
    return finish(&out, error)


cdef int sectors(ss_pieces *out, const uint8_t *bits, int32_t fd, int64_t data, uint64_t start, uint64_t end,
                 int32_t hole) noexcept nogil:
    """The runs of one block's bitmap, most significant bit first, between two bytes of the block."""
    cdef uint64_t last = (end + SECTOR - 1) // SECTOR
    cdef uint64_t at = start
    cdef uint64_t stop
    cdef bint value = bits[start // SECTOR // 8] >> (7 - start // SECTOR % 8) & 1
    cdef int error = 0
    while at < end and not error:
        stop = ss_next_msb(bits, at // SECTOR, last, not value) * SECTOR
        if stop > end:
            stop = end
        error = ss_pieces_add(out, fd if value else hole, data + at, stop - at)
        at = stop
        value = not value
    return error


def vhd_check(const uint8_t[::1] table, uint64_t block_size, uint64_t head, uint64_t size, uint64_t file_size,
              const int64_t[::1] reserved):
    """Is each block inside the file, and clear of the reserved ranges? The first entry that is not, or -1.

    `reserved` holds pairs (start, end) in bytes. Of the block in which the disk (of `size` bytes) ends only the part
    inside the disk must be there.
    """
    cdef uint64_t entries = table.shape[0] // 4
    cdef uint64_t i, need
    cdef Py_ssize_t j
    cdef int64_t start, stop
    cdef int64_t bad = -1
    check_range(entries, block_size, 0, 0)
    if head > MAX_UNIT:
        raise ValueError(f"bitmaps of {head} bytes")
    with nogil:
        for i in range(entries):
            start = <int64_t>big(&table[4 * i]) * SECTOR
            if start == <int64_t>NONE * SECTOR:
                continue
            need = 0 if i * block_size >= size else size - i * block_size
            if need > block_size:
                need = block_size
            stop = start + head + need
            if <uint64_t>stop > file_size:
                bad = i
            for j in range(0, reserved.shape[0] - 1, 2):
                if start < reserved[j + 1] and stop > reserved[j]:
                    bad = i
            if bad >= 0:
                break
    return bad


cdef int compare(const void *left, const void *right) noexcept nogil:
    cdef uint32_t a = (<const uint32_t *>left)[0]
    cdef uint32_t b = (<const uint32_t *>right)[0]
    return (a > b) - (a < b)


def vhd_survey(const uint8_t[::1] table, uint64_t stride):
    """(blocks present, the highest entry or 0, an entry that overlaps the one before it in the file or -1).

    `stride` is the sectors of a block with its bitmap.
    """
    cdef uint64_t entries = table.shape[0] // 4
    cdef uint64_t i
    cdef uint64_t found = 0
    cdef uint32_t entry
    cdef uint32_t highest = 0
    cdef int64_t clash = -1
    cdef uint32_t *sorted_entries = <uint32_t *>malloc(4 * entries + 4)
    if sorted_entries == NULL:
        raise MemoryError(f"a copy of a table of {entries} entries")
    with nogil:
        for i in range(entries):
            entry = big(&table[4 * i])
            if entry != NONE:
                sorted_entries[found] = entry
                found += 1
                if entry > highest:
                    highest = entry
        qsort(sorted_entries, found, 4, compare)
        for i in range(1, found):
            if sorted_entries[i] - sorted_entries[i - 1] < stride:
                clash = sorted_entries[i]
                break
        free(sorted_entries)
    return found, highest, clash


# -- VMDK -----------------------------------------------------------------------------------------------------


def grain_map(const uint8_t[::1] tables, int32_t fd, uint64_t grain, uint64_t start, uint64_t length, int32_t hole,
              bint zeros, int64_t packed, uint64_t first_sector, uint64_t file_size):
    """Grains of a VMDK sparse extent (formats section 3): `tables` is its grain tables one after another.

    An entry is the sector of a grain; 0 is a hole, and where `zeros` is set 1 is zeros. With `packed` >= 0 grains are
    compressed: no file range holds their bytes, and a piece's offset is `packed` plus its place in the range of the
    tables. Gives (fds, offsets, lengths, bad): `bad` is the index of the first entry in the range that does not lie
    between `first_sector` and the end of the file, with which the walk ended, or -1.
    """
    cdef ss_pieces out = ss_pieces(NULL, NULL, NULL, 0, 0)
    cdef uint64_t entries = tables.shape[0] // 4
    cdef uint64_t end = start + length
    cdef uint64_t at = start
    cdef uint64_t index, stop, offset, need
    cdef int64_t bad = -1
    cdef uint32_t entry
    cdef int error = 0
    check_range(entries, grain, start, length)
    if packed > 0 and <uint64_t>packed > SS_MAX_OFFSET - end:
        raise ValueError("a range past the end of all offsets")
    with nogil:
        while at < end and not error:
            index = at // grain
            stop = (index + 1) * grain
            if stop > end:
                stop = end
            entry = little(&tables[4 * index])
            if entry == 0:
                error = ss_pieces_add(&out, hole, 0, stop - at)
            elif entry == 1 and zeros:
                error = ss_pieces_add(&out, -1, 0, stop - at)
            else:
                offset = <uint64_t>entry * SECTOR
                need = stop - index * grain if packed < 0 else SECTOR
                if entry < first_sector or offset + need > file_size:
                    bad = index
                    break
                if packed < 0:
                    error = ss_pieces_add(&out, fd, offset + (at - index * grain), stop - at)
                else:
                    error = ss_pieces_add(&out, fd, packed + at, stop - at)
            at = stop
    return *finish(&out, error), bad


def grain_count(const uint8_t[::1] tables, bint zeros):
    """How many entries of grain tables name a grain."""
    cdef uint64_t i
    cdef uint64_t found = 0
    cdef uint32_t entry
    with nogil:
        for i in range(<uint64_t>tables.shape[0] // 4):
            entry = little(&tables[4 * i])
            found += entry > 1 or (entry == 1 and not zeros)
    return found


# -- layers ---------------------------------------------------------------------------------------------------


cdef uint64_t total(const int32_t[::1] fds, const int64_t[::1] offsets, const int64_t[::1] lengths) except? 0:
    cdef Py_ssize_t i
    cdef uint64_t length = 0
    if offsets.shape[0] != fds.shape[0] or lengths.shape[0] != fds.shape[0]:
        raise ValueError("the lists of pieces differ in length")
    for i in range(fds.shape[0]):
        if lengths[i] < 0 or length + <uint64_t>lengths[i] > SS_MAX_OFFSET:
            raise ValueError(f"piece {i} has {lengths[i]} bytes")
        length += lengths[i]
    return length


def overlay(const int32_t[::1] fds, const int64_t[::1] offsets, const int64_t[::1] lengths,
            const int32_t[::1] below_fds, const int64_t[::1] below_offsets, const int64_t[::1] below_lengths,
            int32_t hole):
    """Pieces of a layer with its holes filled from those of the layer below, which cover the same range."""
    cdef ss_pieces out = ss_pieces(NULL, NULL, NULL, 0, 0)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t j = 0
    cdef int64_t inside = 0  # of piece i
    cdef int64_t under = 0  # of piece j
    cdef int64_t part
    cdef int error = 0
    if total(fds, offsets, lengths) != total(below_fds, below_offsets, below_lengths):
        raise ValueError("the two layers cover ranges of different length")
    with nogil:
        while i < fds.shape[0] and not error:
            if inside == lengths[i]:
                i += 1
                inside = 0
                continue
            if under == below_lengths[j]:
                j += 1
                under = 0
                continue
            part = lengths[i] - inside
            if part > below_lengths[j] - under:
                part = below_lengths[j] - under
            if fds[i] == hole:
                error = ss_pieces_add(&out, below_fds[j], below_offsets[j] + under, part)
            else:
                error = ss_pieces_add(&out, fds[i], offsets[i] + inside, part)
            inside += part
            under += part
    return finish(&out, error)


def zero_runs(const int32_t[::1] fds, const int64_t[::1] lengths):
    """Lengths of runs by turns: zeros (fd below 0), data, zeros, data; the first may be 0."""
    cdef Py_ssize_t i
    cdef Py_ssize_t n = fds.shape[0]
    cdef size_t count = 0
    cdef array.array made
    cdef int64_t *out
    cdef bint data = False
    if lengths.shape[0] != n:
        raise ValueError("the lists of pieces differ in length")
    out = <int64_t *>malloc(8 * n + 16)
    if out == NULL:
        raise MemoryError("no room for the runs")
    out[0] = 0
    with nogil:
        for i in range(n):
            if (fds[i] >= 0) != data:
                data = not data
                count += 1
                out[count] = 0
            out[count] += lengths[i]
    made = longs(out, count + 1)
    free(out)
    return made
