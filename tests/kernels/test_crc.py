"""CRC-32C and sums of bytes: known answers, a plain model, pieces, and one kernel against the others."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=80, deadline=None)
DATA = random.Random(1).randbytes(1 << 20)


@pytest.fixture(scope="session")
def crc(kernel):
    return kernel.crc.crc32c


def model(data: bytes, value: int = 0) -> int:
    """Bit by bit, from the definition."""
    value ^= 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next two: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_known_answers(crc, data, answer):
    assert crc(data) == crc(data, 0, True) == model(data) == answer


@QUICK
@given(st.binary(max_size=3000), st.integers(0, (1 << 32) - 1))
def test_it_is_the_definition(crc, data, value):
    assert crc(data, value) == crc(data, value, True) == model(data, value)


@QUICK
@given(st.integers(0, len(DATA)), st.integers(0, 70_000), st.integers(0, 70_000))
def test_pieces_make_the_whole(crc, start, first, second):
    data = memoryview(DATA)[start : start + first + second]
    assert crc(data[first:], crc(data[:first])) == crc(data)


@QUICK
@given(st.integers(0, 300), st.integers(0, 20_000), st.integers(0, (1 << 32) - 1))
def test_kernels_agree_at_any_length_and_alignment(native, portable, start, length, value):
    data = memoryview(DATA)[start : start + length]
    answers = {native.crc.crc32c(data, value), native.crc.crc32c(data, value, tables=True)}
    assert answers == {portable.crc.crc32c(data, value)}


@pytest.mark.parametrize("length", [4095, 4096, 4097, 65_536, (1 << 20) - 1, 1 << 20])
def test_kernels_agree_on_what_vhdx_sums(native, portable, length):
    data = DATA[:length]
    assert native.crc.crc32c(data) == native.crc.crc32c(data, 0, True) == portable.crc.crc32c(data)


def test_what_is_no_flat_buffer_of_bytes_is_refused(crc):
    with pytest.raises((ValueError, BufferError)):
        crc(memoryview(bytes(8))[::2])
    with pytest.raises(TypeError):
        crc("text")
    with pytest.raises(OverflowError):
        crc(b"", -1)
    with pytest.raises(OverflowError):
        crc(b"", 1 << 32)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 1023, 1024, 1025, 4096, 65_535, 65_536, 65_537, 1 << 20])
def test_sums_are_those_of_python(kernel, length):
    assert kernel.crc.byte_sum(DATA[:length]) == sum(DATA[:length])
    # No lane of the kernel runs over.
    assert kernel.crc.byte_sum(b"\xff" * length) == 255 * length


@QUICK
@given(st.integers(0, 300), st.integers(0, 70_000))
def test_kernels_agree_on_sums_at_any_length_and_alignment(native, portable, start, length):
    data = memoryview(DATA)[start : start + length]
    assert native.crc.byte_sum(data) == portable.crc.byte_sum(data)


def test_a_sum_takes_any_flat_buffer_and_nothing_else(kernel):
    assert kernel.crc.byte_sum(bytearray(b"\1\2")) == kernel.crc.byte_sum(memoryview(b"\0\1\2")[1:]) == 3
    with pytest.raises((ValueError, BufferError)):
        kernel.crc.byte_sum(memoryview(bytes(8))[::2])
    with pytest.raises(TypeError):
        kernel.crc.byte_sum("text")
