"""Bitmap: one bit a block. Its memory is committed by the kernel as bits are set, so a sparse one is small."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cdef extern from "bitmap.h" nogil:
    void ss_set_range(uint64_t *words, uint64_t start, uint64_t end, int value)
    uint64_t ss_next(const uint64_t *words, uint64_t start, uint64_t end, int value)
    uint64_t ss_count(const uint64_t *words, uint64_t bits)


cdef class Bitmap:
    """`size` bits, all clear. Ranges are [start, end) in bits and must lie inside."""

    cdef uint64_t *words
    cdef readonly uint64_t size

    def __cinit__(self, uint64_t size):
        self.size = size
        self.words = <uint64_t *>calloc(size // 64 + 1, 8)
        if self.words == NULL:
            raise MemoryError(f"a bitmap of {size} bits")

    def __dealloc__(self):
        free(self.words)

    cdef int inside(self, uint64_t start, uint64_t end) except -1:
        if start > end or end > self.size:
            raise IndexError(f"bits {start} to {end} of a bitmap of {self.size}")
        return 0

    def set(self, uint64_t start, uint64_t end):
        """Set the bits of a range."""
        self.inside(start, end)
        with nogil:
            ss_set_range(self.words, start, end, 1)

    def clear(self, uint64_t start, uint64_t end):
        """Clear the bits of a range."""
        self.inside(start, end)
        with nogil:
            ss_set_range(self.words, start, end, 0)

    def set_many(self, const uint64_t[::1] bits, size_t count):
        """Set each named bit; none of them where one lies outside."""
        cdef size_t i
        if <size_t>bits.shape[0] < count:
            raise ValueError("fewer bits than the count")
        for i in range(count):
            self.inside(bits[i], bits[i] + 1)
        for i in range(count):
            self.words[bits[i] >> 6] |= <uint64_t>1 << (bits[i] & 63)

    def test(self, uint64_t bit):
        """Is this bit set?"""
        self.inside(bit, bit + 1)
        return bool(self.words[bit >> 6] >> (bit & 63) & 1)

    def count(self):
        """How many bits are set."""
        with nogil:
            total = ss_count(self.words, self.size)
        return total

    def next_range(self, uint64_t start, uint64_t limit):
        """The first run of set bits at or after `start`, at most `limit` long, as (start, end); None at the end.

        Raises ValueError for a limit of 0, with which a caller's loop would never end.
        """
        cdef uint64_t first
        cdef uint64_t end
        if limit == 0:
            raise ValueError("a run of at most 0 bits")
        with nogil:
            first = ss_next(self.words, start, self.size, 1)
            end = self.size if limit > self.size - first else first + limit
            end = ss_next(self.words, first, end, 0)
        return None if first >= self.size else (first, end)

    def merge(self, Bitmap other):
        """Set every bit that is set in `other`, which must be of the same size."""
        cdef uint64_t i
        if other.size != self.size:
            raise ValueError(f"bitmaps of {self.size} and {other.size} bits")
        with nogil:
            for i in range(self.size // 64 + 1):
                if other.words[i]:
                    self.words[i] |= other.words[i]

    def to_bytes(self):
        """(size + 7) // 8 bytes, least significant bit first."""
        return (<char *>self.words)[:(self.size + 7) // 8]

    @staticmethod
    def from_bytes(uint64_t size, const unsigned char[::1] data):
        """The reverse of to_bytes; bits past `size` must be clear."""
        cdef Bitmap made
        if <uint64_t>data.shape[0] != size // 8 + (size % 8 != 0):
            raise ValueError(f"{data.shape[0]} bytes for a bitmap of {size} bits")
        made = Bitmap(size)
        if size:
            memcpy(made.words, &data[0], data.shape[0])
            if size % 64 and made.words[size // 64] >> (size % 64):
                raise ValueError("bits are set past the end of the bitmap")
        return made
