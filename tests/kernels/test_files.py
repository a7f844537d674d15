"""Batches of file ranges against a bytearray, on a file and on a memfd.

A memfd (tmpfs) has holes and no FALLOC_FL_ZERO_RANGE, so that the fallback to writing zeros is met too.
"""

from __future__ import annotations

import os
import random
import tempfile
from array import array
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=40, deadline=None)
MAX = (1 << 63) - 1


@contextmanager
def a_file(size, kind="file"):
    """An fd of a file of `size` zeros."""
    if kind == "memfd":
        fd = os.memfd_create("kernels")
    else:
        fd, path = tempfile.mkstemp()
        os.unlink(path)
    try:
        os.truncate(fd, size)
        yield fd
    finally:
        os.close(fd)


@st.composite
def batches(draw, block_size, size):
    """A batch inside an image: block numbers, lengths and the payload; not always ascending."""
    blocks = -(-size // block_size)
    numbers = draw(st.lists(st.integers(0, blocks - 1), min_size=1, max_size=30, unique=True))
    if draw(st.booleans()):
        numbers.sort()
    zero = draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    lengths = [
        0 if nothing else min(block_size, size - number * block_size)
        for number, nothing in zip(numbers, zero, strict=True)
    ]
    payload = random.Random(draw(st.integers(0, 1 << 30))).randbytes(sum(lengths))
    return array("Q", numbers), array("I", lengths), payload


@st.composite
def scripts(draw):
    """A block size, an image's size with an odd tail, and batches to write."""
    block_size = draw(st.sampled_from([512, 4096, 65536]))
    size = draw(st.integers(1, 24)) * block_size - draw(st.sampled_from([0, 1, 511, block_size // 2]))
    return block_size, size, draw(st.lists(batches(block_size, size), min_size=1, max_size=4))


def apply(model, block_size, blocks, lengths, payload):
    used = 0
    for number, length in zip(blocks, lengths, strict=True):
        start = number * block_size
        end = min(start + block_size, len(model))
        model[start:end] = payload[used : used + length] if length else bytes(end - start)
        used += length


@pytest.mark.parametrize("kind", ["file", "memfd"])
@QUICK
@given(scripts(), st.booleans())
def test_writes_and_read_back_are_those_of_a_bytearray(kernel, kind, script, punch):
    block_size, size, steps = script
    model = bytearray(random.Random(size).randbytes(size))
    with a_file(size, kind) as fd:
        os.pwrite(fd, model, 0)
        for blocks, lengths, payload in steps:
            kernel.files.write_blocks(fd, blocks, lengths, len(blocks), block_size, size, payload, punch)
            apply(model, block_size, blocks, lengths, payload)
            assert os.fstat(fd).st_size == size
            back = bytearray(len(payload))
            read = kernel.files.read_blocks(fd, blocks, lengths, len(blocks), block_size, back)
            assert read == len(payload)
            assert back == payload
            kernel.files.start_writeback(fd, 0, size)
        assert os.pread(fd, size + 1, 0) == model


@pytest.mark.parametrize("kind", ["file", "memfd"])
@QUICK
@given(st.integers(1, 3 << 20), st.data())
def test_a_zeroed_range_reads_as_zeros(kernel, kind, size, data):
    start = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - start))
    model = bytearray(b"\xa5" * size)
    with a_file(size, kind) as fd:
        os.pwrite(fd, model, 0)
        kernel.files.zero_range(fd, start, length, data.draw(st.booleans()))
        model[start : start + length] = bytes(length)
        assert os.pread(fd, size + 1, 0) == model


def test_punching_frees_the_space(kernel):
    with a_file(1 << 20, "memfd") as fd:
        os.pwrite(fd, b"\xff" * (1 << 20), 0)
        kernel.files.zero_range(fd, 0, 1 << 20, True)
        assert os.fstat(fd).st_blocks == 0


def test_a_short_block_in_a_run_keeps_its_place(kernel):
    """Its successor goes where its number says, not to where the payload left off."""
    with a_file(3 * 4096) as fd:
        blocks, lengths = array("Q", [0, 1, 2]), array("I", [4096, 100, 4096])
        payload = b"a" * 4096 + b"b" * 100 + b"c" * 4096
        kernel.files.write_blocks(fd, blocks, lengths, 3, 4096, 3 * 4096, payload, True)
        assert os.pread(fd, 3 * 4096, 0) == b"a" * 4096 + b"b" * 100 + bytes(3996) + b"c" * 4096
        back = bytearray(len(payload))
        kernel.files.read_blocks(fd, blocks, lengths, 3, 4096, back)
        assert back == payload


@pytest.mark.parametrize(
    ("blocks", "lengths", "count", "block_size", "image_size"),
    [
        ([0], [4096], 2, 4096, 8192),  # arrays shorter than the count
        ([0, 1], [4096], 2, 4096, 8192),
        ([0, 1], [4096, 4096], 2, 4096, 8192),  # a payload shorter than the blocks
        ([0], [4097], 1, 4096, 8192),  # longer than a block
        ([2], [4096], 1, 4096, 8192),  # past the end
        ([2], [0], 1, 4096, 8192),
        ([1], [4096], 1, 4096, 8000),  # longer than the tail
        ([1 << 52], [4096], 1, 4096, 8192),  # block * size wraps to 0
        ([(1 << 64) - 1], [0], 1, 4096, 8192),
        ([0], [0], 1, 0, 8192),
        ([0], [4096], 1, 4096, MAX + 1),
        ([], [], 1, 4096, 8192),
    ],
)
def test_bad_batches_are_refused_and_write_nothing(kernel, blocks, lengths, count, block_size, image_size):
    with a_file(8192) as fd:
        os.pwrite(fd, b"\xa5" * 8192, 0)
        batch = array("Q", blocks), array("I", lengths), count, block_size
        with pytest.raises(ValueError):
            kernel.files.write_blocks(fd, *batch, image_size, bytes(4096), True)
        assert os.pread(fd, 9000, 0) == b"\xa5" * 8192


@pytest.mark.parametrize(
    ("block", "length", "room"),
    [(0, 4096, 4095), (1 << 52, 4096, 4096), (MAX // 4096, 4096, 4096), (0, 4097, 8192)],
)
def test_reads_that_cannot_be_are_refused(kernel, block, length, room):
    with a_file(8192) as fd, pytest.raises(ValueError):
        kernel.files.read_blocks(fd, array("Q", [block]), array("I", [length]), 1, 4096, bytearray(room))


def test_empty_batches_do_nothing(kernel):
    none = array("Q"), array("I"), 0, 4096
    assert kernel.files.read_blocks(-1, *none, bytearray()) == 0
    kernel.files.write_blocks(-1, *none, 0, b"", True)
    kernel.files.zero_range(-1, 0, 0, True)
    kernel.files.start_writeback(-1, 0, 0)


def test_errors_of_the_system_are_raised(kernel):
    one = array("Q", [0]), array("I", [4096]), 1, 4096
    with a_file(4000) as fd, pytest.raises(EOFError, match="before block 1"):
        kernel.files.read_blocks(fd, *one, bytearray(4096))
    for call in (
        lambda: kernel.files.read_blocks(-1, *one, bytearray(4096)),
        lambda: kernel.files.write_blocks(-1, *one, 4096, bytes(4096), True),
        lambda: kernel.files.write_blocks(-1, one[0], array("I", [0]), 1, 4096, 4096, b"", True),
        lambda: kernel.files.zero_range(-1, 0, 1, False),
    ):
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            call()
        assert caught.value.errno == 9
    with a_file(4096) as fd, pytest.raises(OSError, match="Invalid argument"):
        kernel.files.zero_range(fd, MAX + 1, 1, True)


def segments(*pieces):
    fds, offsets, lengths = zip(*pieces, strict=True) if pieces else ((), (), ())
    return array("i", fds), array("q", offsets), array("q", lengths)


def test_segments_of_several_files_are_read_one_after_another(kernel):
    with a_file(8192) as one, a_file(8192) as two:
        os.pwrite(one, b"1" * 8192, 0)
        os.pwrite(two, bytes(range(256)) * 32, 0)
        back = bytearray(b"\xff" * 1010)
        pieces = segments((two, 5, 10), (-1, 0, 400), (one, 8000, 192), (one, 0, 0), (two, 3, 408))
        kernel.files.read_segments(*pieces, back)
        data = bytes(range(256)) * 32
        assert back == data[5:15] + bytes(400) + b"1" * 192 + data[3:411]
        with pytest.raises(EOFError):
            kernel.files.read_segments(*segments((one, 8000, 193)), bytearray(193))


def test_no_segments_fill_no_buffer(kernel):
    kernel.files.read_segments(*segments(), bytearray())


@pytest.mark.parametrize(
    ("pieces", "room"),
    [
        ([(-1, 0, 10)], 9),
        ([(-1, 0, 10)], 11),
        ([(-1, 0, -1), (-1, 0, 11)], 10),
        ([(0, -1, 10)], 10),
        ([(0, MAX, 10)], 10),
        ([(-1, 0, MAX), (-1, 0, MAX), (-1, 0, 12)], 10),
    ],
)
def test_segments_that_do_not_fit_are_refused(kernel, pieces, room):
    with pytest.raises(ValueError):
        kernel.files.read_segments(*segments(*pieces), bytearray(room))


def test_lists_of_segments_of_different_lengths_are_refused(kernel):
    fds, offsets, lengths = segments((-1, 0, 10), (-1, 0, 10))
    with pytest.raises(ValueError):
        kernel.files.read_segments(fds, offsets[:1], lengths, bytearray(20))
    with pytest.raises(ValueError):
        kernel.files.read_segments(fds, offsets, lengths[:1], bytearray(20))
