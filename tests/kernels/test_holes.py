"""Holes inside a span: passed over where nothing is compared, and the batch is the same as if they had been read."""

from __future__ import annotations

import os
import random
import tempfile
from array import array
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
SEED = 7


@contextmanager
def file_of(size, data):
    """A file of `size` bytes that has `data` (offset: bytes) and holes."""
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), size)
        for offset, part in data.items():
            os.pwrite(file.fileno(), part, offset)
        yield file.fileno()


def scan(kernel, ranges, block_size, size, previous=None, places=64, room=64, first=0):
    """One call over an image of `size` bytes; what it returned and the numbers and lengths in the batch."""
    blocks, lengths = array("Q", bytes(8 * places)), array("I", bytes(4 * places))
    hashes, payload = bytearray(16 * places), bytearray(room * block_size)
    lists = [array(kind, [part[at] for part in ranges]) for at, kind in enumerate("iqq")]
    n_blocks = -(-size // block_size) - first
    done, count, used = kernel.scan.scan_segments(
        *lists, first, block_size, size, n_blocks, SEED, previous, blocks, lengths, hashes, payload, 0, 0
    )
    kept = list(blocks[:count]), list(lengths[:count]), bytes(hashes[: 16 * count]), bytes(payload[:used])
    return (done, count, used), kept


@pytest.mark.parametrize("fd", ["file", "zeros"])
def test_a_tebibyte_of_nothing_is_not_read(kernel, fd):
    """To read it would take minutes."""
    with file_of(TIB, {TIB - 5: b"\x01" * 5}) as file:
        # Zeros that are no file's end a span as data does: the block in which both lie is read.
        ranges = [(file, 0, TIB)] if fd == "file" else [(-1, 0, TIB - 64 * KIB), (file, TIB - 64 * KIB, 64 * KIB)]
        call, kept = scan(kernel, ranges, 64 * KIB, TIB)
    assert call == (TIB // (64 * KIB), 1, 64 * KIB)
    assert kept[0] == [TIB // (64 * KIB) - 1]


def test_what_is_compared_is_not_passed_over(kernel):
    """A hole where the map says data has changed: its blocks are zeros now."""
    size, previous = 3 * MIB, b"\x01" * 16 * 48
    with file_of(size, {}) as file:
        call, kept = scan(kernel, [(file, 0, size)], 64 * KIB, size, previous)
    assert call == (48, 48, 0)
    assert kept[0] == list(range(48)) and not any(kept[1])


def test_lists_that_end_before_the_blocks_do(kernel):
    """The hole lies at the very end of what the list has: nothing behind the list is looked at."""
    with file_of(MIB, {}) as file:
        for ranges in ([(file, 0, MIB)], [(-1, 0, MIB)], [(file, 0, 512 * KIB), (-1, 0, 512 * KIB)]):
            with pytest.raises(EOFError, match=r"block \d+"):
                scan(kernel, ranges, 64 * KIB, 2 * MIB)


def test_a_file_that_was_cut_in_its_hole(kernel):
    with file_of(MIB, {}) as file, pytest.raises(EOFError):
        scan(kernel, [(file, 0, 2 * MIB)], 64 * KIB, 2 * MIB)


@st.composite
def files(draw):
    """A file with data at some places, and ranges of it and of zeros that make an image; both of any alignment."""
    dice = random.Random(draw(st.integers(0, 1 << 30)))
    block_size = draw(st.sampled_from([4 * KIB, 64 * KIB, 512 * KIB]))
    size = 8 * MIB
    data = {}
    for _ in range(draw(st.integers(0, 5))):
        length = draw(st.sampled_from([1, 4096, 70_000, 400_000]))
        fill = dice.choice([dice.randbytes, bytes])
        data[dice.randrange(size - length)] = fill(length)
    ranges, total = [], 0
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.sampled_from([0, 512, 4096, 70_000, MIB, 3 * MIB]))
        offset = dice.randrange((size - length) // 512 + 1) * 512
        ranges.append((draw(st.sampled_from([True, True, False])), offset, length))
        total += length
    return data, ranges, total, block_size, draw(st.integers(1, 64)), draw(st.integers(1, 64))


@settings(max_examples=60, deadline=None)
@given(files())
def test_both_kernels_stop_at_the_same_place_with_the_same_batch(native, portable, drawn):
    data, ranges, total, block_size, places, room = drawn
    if not total:
        return
    with file_of(8 * MIB, data) as file:
        lists = [(file if real else -1, offset, length) for real, offset, length in ranges]
        content = b"".join(os.pread(file, length, at) if fd >= 0 else bytes(length) for fd, at, length in lists)
        made = [scan(kernel, lists, block_size, total, None, places, room) for kernel in (native, portable)]
    assert made[0] == made[1]
    done, (numbers, lengths, _, payload) = made[0][0][0], made[0][1]
    parts = [content[at : at + block_size] for at in range(0, min(done * block_size, total), block_size)]
    assert numbers == [at for at, part in enumerate(parts) if any(part)]
    assert payload == b"".join(parts[at] for at in numbers) and lengths == [len(parts[at]) for at in numbers]
