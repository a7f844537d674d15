"""CRC-32C, the checksum of VHDX headers, region tables and log entries."""

from libc.stdint cimport uint8_t, uint32_t

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
