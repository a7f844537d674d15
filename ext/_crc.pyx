"""Checksums: CRC-32C, that of VHDX headers, region tables and log entries, and the sum of bytes, that of HRL."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "crc32c.h" nogil:
    ctypedef uint32_t (*ss_crc32c_fn)(uint32_t value, const uint8_t *data, size_t length)
    void ss_crc32c_setup()
    uint32_t ss_crc32c_tables(uint32_t value, const uint8_t *data, size_t length)
    ss_crc32c_fn ss_crc32c_best()

ss_crc32c_setup()
cdef ss_crc32c_fn best = ss_crc32c_best()
cdef Py_ssize_t LONG = 1 << 16  # from here on the work is worth giving up the GIL for


def crc32c(const uint8_t[::1] data, uint32_t value=0, bint tables=False):
    """The CRC-32C of `data`, after bytes whose CRC-32C is `value`; `tables` asks for the kernel without the
    processor's instruction, so that tests can compare the two."""
    cdef ss_crc32c_fn run = ss_crc32c_tables if tables else best
    cdef Py_ssize_t length = data.shape[0]
    cdef const uint8_t *start = &data[0] if length else NULL
    if length < LONG:
        return run(value, start, length)
    with nogil:
        value = run(value, start, length)
    return value


cdef enum:
    WORDS = 128  # of 8 bytes: each adds up to 510 to a lane of 16 bits, which holds 65,535

cdef uint64_t EVEN = 0x00FF00FF00FF00FF


cdef uint64_t add_up(const uint8_t *at, size_t length) noexcept nogil:
    """Eight bytes a step into four lanes of 16 bits, which are joined before any of them can run over."""
    cdef uint64_t total = 0, lanes, word
    cdef size_t i
    while length >= 8 * WORDS:
        lanes = 0
        for i in range(<size_t>WORDS):
            memcpy(&word, at + 8 * i, 8)
            lanes += (word & EVEN) + (word >> 8 & EVEN)
        total += (lanes & 0xFFFF) + (lanes >> 16 & 0xFFFF) + (lanes >> 32 & 0xFFFF) + (lanes >> 48)
        at += 8 * WORDS
        length -= 8 * WORDS
    for i in range(length):
        total += at[i]
    return total


def byte_sum(const uint8_t[::1] data):
    """The sum of all bytes."""
    cdef Py_ssize_t length = data.shape[0]
    cdef const uint8_t *start = &data[0] if length else NULL
    cdef uint64_t total
    if length < LONG:
        return add_up(start, length)
    with nogil:
        total = add_up(start, length)
    return total
