"""The bitmap against a Python set, and what it refuses."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=100, deadline=None)
SIZES = st.one_of(st.integers(0, 200), st.sampled_from([63, 64, 65, 127, 128, 4096, 70_000]))


@st.composite
def histories(draw):
    """A size and a list of (operation, start, end)."""
    size = draw(SIZES)
    bit = st.integers(0, size)
    steps = st.tuples(st.sampled_from(["set", "clear", "many"]), bit, bit)
    return size, [(what, *sorted(ends)) for what, *ends in draw(st.lists(steps, max_size=12))]


def replay(kernel, size, steps):
    """The bitmap after those steps, and the set of its bits."""
    bitmap, model = kernel.Bitmap(size), set()
    for what, start, end in steps:
        if what == "clear":
            bitmap.clear(start, end)
            model -= set(range(start, end))
        else:
            bits = range(start, end) if what == "set" else range(start, end, 7)
            model |= set(bits)
            if what == "set":
                bitmap.set(start, end)
            else:
                bitmap.set_many(array("Q", bits), len(bits))
    return bitmap, model


def ranges(bitmap, limit):
    at, found = 0, []
    while (piece := bitmap.next_range(at, limit)) is not None:
        assert at <= piece[0] < piece[1] <= piece[0] + limit
        found.append(piece)
        at = piece[1]
    return found


def expected_ranges(model, limit):
    found = []
    for bit in sorted(model):
        if found and found[-1][1] == bit and bit - found[-1][0] < limit:
            found[-1] = (found[-1][0], bit + 1)
        else:
            found.append((bit, bit + 1))
    return found


@QUICK
@given(histories(), st.sampled_from([1, 3, 64, 1000, (1 << 64) - 1]))
def test_bitmap_is_a_set(kernel, history, limit):
    size, steps = history
    bitmap, model = replay(kernel, size, steps)
    assert bitmap.size == size
    assert bitmap.count() == len(model)
    assert ranges(bitmap, limit) == expected_ranges(model, limit)
    for bit in {0, 1, 63, 64, 65, size // 2, size - 1}:
        if 0 <= bit < size:
            assert bitmap.test(bit) == (bit in model)
    assert bitmap.next_range(size, 1) is None
    assert bitmap.next_range((1 << 64) - 1, 1) is None


@QUICK
@given(histories())
def test_bytes_are_little_endian_bits_and_round_trip(kernel, history):
    size, steps = history
    bitmap, model = replay(kernel, size, steps)
    data = bitmap.to_bytes()
    assert data == sum(1 << bit for bit in model).to_bytes((size + 7) // 8, "little")
    assert kernel.Bitmap.from_bytes(size, data).to_bytes() == data


@QUICK
@given(SIZES, st.data())
def test_merge_is_a_union(kernel, size, data):
    bit = st.integers(0, size)
    first, second = (sorted(data.draw(st.tuples(bit, bit))) for _ in range(2))
    a, b = kernel.Bitmap(size), kernel.Bitmap(size)
    a.set(*first)
    b.set(*second)
    a.merge(b)
    assert a.count() == len(set(range(*first)) | set(range(*second)))
    assert b.count() == second[1] - second[0]


def test_a_bit_far_away_is_found(kernel):
    bitmap = kernel.Bitmap(40_000_000)
    bitmap.set(39_999_990, 39_999_993)
    assert bitmap.next_range(5, 100) == (39_999_990, 39_999_993)
    assert bitmap.next_range(39_999_993, 100) is None
    bitmap.set(0, 40_000_000)
    assert bitmap.next_range(1, 1 << 62) == (1, 40_000_000)
    assert bitmap.count() == 40_000_000


@pytest.mark.parametrize("size", [0, 1, 64, 100])
def test_what_lies_outside_is_refused(kernel, size):
    bitmap = kernel.Bitmap(size)
    huge = (1 << 64) - 1
    for start, end in [(0, size + 1), (size + 1, size + 1), (1, 0), (huge, 0), (0, huge), (huge, huge)]:
        with pytest.raises(IndexError):
            bitmap.set(start, end)
        with pytest.raises(IndexError):
            bitmap.clear(start, end)
    for bit in (size, huge):
        with pytest.raises(IndexError):
            bitmap.test(bit)
    with pytest.raises(OverflowError):
        bitmap.set(-1, 0)
    bitmap.set(size, size)
    assert bitmap.count() == 0


def test_set_many_sets_all_or_none(kernel):
    bitmap = kernel.Bitmap(100)
    for bad in (100, (1 << 64) - 1):
        with pytest.raises(IndexError):
            bitmap.set_many(array("Q", [1, bad]), 2)
    assert bitmap.count() == 0
    bitmap.set_many(array("Q", [1, 100]), 1)
    bitmap.set_many(array("Q"), 0)
    assert bitmap.count() == 1
    with pytest.raises(ValueError):
        bitmap.set_many(array("Q", [1]), 2)
    with pytest.raises(ValueError):
        bitmap.set_many(array("I", [1, 2]), 2)


def test_bad_bytes_and_sizes_are_refused(kernel):
    wrong_sizes = [(9, b"\0"), (8, b"\0\0"), (0, b"\0"), ((1 << 64) - 1, b"")]
    for size, data in [*wrong_sizes, (60, b"\xff" * 8), (3, b"\x08")]:
        with pytest.raises(ValueError):
            kernel.Bitmap.from_bytes(size, data)
    with pytest.raises(ValueError):
        kernel.Bitmap(8).merge(kernel.Bitmap(9))
    with pytest.raises(ValueError):
        kernel.Bitmap(8).next_range(0, 0)
    with pytest.raises(MemoryError):
        kernel.Bitmap((1 << 64) - 1)
    with pytest.raises(OverflowError):
        kernel.Bitmap(-1)
