"""Entries of block maps and the picking of blocks by number: the part of `scan` that reads no image."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=60, deadline=None)
ENTRY = st.sampled_from([bytes(16), bytes(15) + b"\x01", b"\x80" + bytes(15), b"x" * 16])
ENTRIES = st.lists(ENTRY, max_size=40)
NUMBERS = st.lists(st.integers(0, 40), unique=True, max_size=20).map(sorted)
HUGE = (1 << 64) - 1


@QUICK
@given(ENTRIES, st.integers(0, 1 << 40), st.binary(max_size=15))
def test_nonzero_entries(kernel, entries, first, rest):
    out = array("Q", bytes(8 * len(entries)))
    found = kernel.entries.nonzero_entries(b"".join(entries) + rest, first, out)
    assert out[:found].tolist() == [first + i for i, entry in enumerate(entries) if any(entry)]


@QUICK
@given(ENTRIES, st.data())
def test_differing_entries(kernel, want, data):
    have = data.draw(st.permutations(want))
    out = array("Q", bytes(8 * len(want)))
    found = kernel.entries.differing_entries(b"".join(want), b"".join(have), 5, out)
    assert out[:found].tolist() == [5 + i for i in range(len(want)) if want[i] != have[i]]


@QUICK
@given(st.integers(0, 20), NUMBERS, st.integers(1, 20), st.data())
def test_entries_are_stored_and_loaded_page_by_page(kernel, page_first, blocks, places, data):
    at = data.draw(st.integers(0, len(blocks)))
    numbers = array("Q", blocks)
    hashes = random.Random(1).randbytes(16 * len(blocks))
    page = bytearray(16 * places)
    model = bytearray(page)
    end = at
    while end < len(blocks) and page_first <= blocks[end] < page_first + places:
        where = 16 * (blocks[end] - page_first)
        model[where : where + 16] = hashes[16 * end : 16 * end + 16]
        end += 1
    assert kernel.entries.store_entries(page, page_first, numbers, hashes, at, len(blocks)) == end
    assert page == model
    back = bytearray(len(hashes))
    assert kernel.entries.load_entries(page, page_first, numbers, back, at, len(blocks)) == end
    assert back == bytes(16 * at) + hashes[16 * at : 16 * end] + bytes(16 * (len(blocks) - end))


def test_pages_at_the_end_of_all_numbers(kernel):
    page, blocks = bytearray(16), array("Q", [HUGE])
    assert kernel.entries.store_entries(page, HUGE, blocks, b"x" * 16, 0, 1) == 1
    assert kernel.entries.load_entries(page, HUGE - 1, blocks, bytearray(16), 0, 1) == 0
    assert kernel.entries.store_entries(bytearray(), 0, blocks, b"x" * 16, 0, 1) == 0
    assert kernel.entries.store_entries(page, 0, array("Q"), b"", 0, 0) == 0


@QUICK
@given(ENTRIES, st.integers(1, 4096))
def test_set_lengths(kernel, entries, tail):
    size = max(len(entries) - 1, 0) * 4096 + tail
    blocks, lengths = array("Q", range(len(entries))), array("I", bytes(4 * len(entries)))
    used = kernel.entries.set_lengths(blocks, b"".join(entries), len(entries), 4096, size, lengths)
    wanted = [min(4096, size - 4096 * i) if any(entry) else 0 for i, entry in enumerate(entries)]
    assert lengths.tolist() == wanted
    assert used == sum(wanted)


@QUICK
@given(st.lists(st.integers(0, 12), max_size=6), st.integers(0, 12))
def test_ascending(kernel, blocks, end):
    wanted = blocks == sorted(set(blocks)) and all(block < end for block in blocks)
    assert kernel.entries.ascending(array("Q", blocks), len(blocks), end) is wanted


@st.composite
def frames(draw):
    """Numbers that a frame has, its blocks' lengths, numbers that are wanted, and what is resolved."""
    have, want = draw(NUMBERS), draw(NUMBERS)
    lengths = draw(st.lists(st.sampled_from([0, 5, 16]), min_size=len(have), max_size=len(have)))
    state = draw(st.lists(st.sampled_from([0, 1, 2]), min_size=len(want), max_size=len(want)))
    return have, lengths, want, state


@QUICK
@given(frames(), st.booleans())
def test_pick_blocks(kernel, frame, dry):
    have, sizes, want, state = frame
    payload = b"" if dry else random.Random(1).randbytes(sum(sizes))
    resolved, lengths, slots = bytearray(state), array("I", [99] * len(want)), bytearray(16 * len(want))
    taken = kernel.entries.pick_blocks(
        array("Q", have), array("I", sizes), len(have), payload,
        array("Q", want), resolved, len(want), 16, lengths, slots,
    )  # fmt: skip
    fresh = [i for i, number in enumerate(want) if number in have and state[i] != 1]
    assert taken == len(fresh)
    for i, number in enumerate(want):
        if i not in fresh or not payload:
            assert (resolved[i], lengths[i], slots[16 * i : 16 * i + 16]) == (state[i], 99, bytes(16))
            continue
        at = have.index(number)
        start = sum(sizes[:at])
        assert (resolved[i], lengths[i]) == (1, sizes[at])
        assert slots[16 * i : 16 * i + sizes[at]] == payload[start : start + sizes[at]]


@QUICK
@given(st.lists(st.sampled_from([0, 0, 1, 15, 16]), max_size=20), st.booleans())
def test_compact_and_zero_blocks(kernel, sizes, in_place):
    slots = bytearray(random.Random(1).randbytes(16 * len(sizes)))
    wanted = b"".join(slots[16 * i : 16 * i + size] for i, size in enumerate(sizes))
    payload = slots if in_place else bytearray(len(wanted))
    used = kernel.entries.compact(slots, array("I", sizes), len(sizes), 16, payload)
    assert payload[:used] == wanted
    blocks, out = array("Q", [HUGE - i for i in range(len(sizes))]), array("Q", bytes(8 * len(sizes)))
    found = kernel.entries.zero_blocks(blocks, array("I", sizes), len(sizes), out)
    assert out[:found].tolist() == [HUGE - i for i, size in enumerate(sizes) if size == 0]


@QUICK
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=6), frames())
def test_pick_zeros(kernel, steps, frame):
    _, _, want, state = frame
    runs, covered, at = array("Q"), set(), 0
    for gap, count in steps:
        runs.extend((at + gap, count))
        covered |= set(range(at + gap, at + gap + count))
        at += gap + count
    resolved, lengths = bytearray(state), array("I", [99] * len(want))
    taken = kernel.entries.pick_zeros(runs, array("Q", want), resolved, len(want), lengths)
    fresh = [number in covered and state[i] != 1 for i, number in enumerate(want)]
    assert taken == sum(fresh)
    assert lengths.tolist() == [0 if new else 99 for new in fresh]
    assert list(resolved) == [1 if new else old for new, old in zip(fresh, state, strict=True)]


def q(*numbers):
    return array("Q", numbers)


def i(*numbers):
    return array("I", numbers)


PICK = (q(1), i(4), 1, b"1234", q(1), bytearray(1), 1, 4, i(0), bytearray(4))
SHORT = [(0, q()), (1, i()), (3, b"123"), (4, q()), (5, bytearray()), (8, i()), (9, bytearray(3))]
BAD = [
    ("nonzero_entries", (bytes(16), 0, q())),
    ("differing_entries", (bytes(16), bytes(16), 0, q())),
    ("differing_entries", (bytes(16), bytes(32), 0, q(0, 0))),
    ("store_entries", (bytearray(16), 0, q(), bytes(16), 0, 1)),
    ("store_entries", (bytearray(16), 0, q(0), bytes(15), 0, 1)),
    ("load_entries", (bytes(16), 0, q(), bytearray(16), 0, 1)),
    ("load_entries", (bytes(16), 0, q(0), bytearray(15), 0, 1)),
    ("set_lengths", (q(), bytes(16), 1, 512, 512, i(0))),
    ("set_lengths", (q(0), bytes(15), 1, 512, 512, i(0))),
    ("set_lengths", (q(0), bytes(16), 1, 512, 512, i())),
    ("set_lengths", (q(1), bytes(16), 1, 512, 512, i(0))),
    ("set_lengths", (q(0), bytes(16), 1, 0, 512, i(0))),
    ("set_lengths", (q(0), bytes(16), 1, 512, 1 << 63, i(0))),
    ("set_lengths", (q(1 << 55), bytes(16), 1, 512, 512, i(0))),
    ("ascending", (q(1), 2, 9)),
    ("zero_blocks", (q(), i(0), 1, q(0))),
    ("zero_blocks", (q(0), i(), 1, q(0))),
    ("zero_blocks", (q(0), i(0), 1, q())),
    ("compact", (bytes(15), i(4), 1, 16, bytearray(4))),
    ("compact", (bytes(16), i(), 1, 16, bytearray(4))),
    ("compact", (bytes(16), i(4), 1, 16, bytearray(3))),
    ("compact", (bytes(16), i(17), 1, 16, bytearray(32))),
    ("pick_zeros", (q(0, 1), q(), bytearray(1), 1, i(0))),
    ("pick_zeros", (q(0, 1), q(0), bytearray(), 1, i(0))),
    ("pick_zeros", (q(0, 1), q(0), bytearray(1), 1, i())),
    ("pick_blocks", (*PICK[:7], 3, *PICK[8:])),  # a block longer than the block size
    *(("pick_blocks", (*PICK[:at], short, *PICK[at + 1 :])) for at, short in SHORT),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), BAD)
def test_short_arrays_are_refused(kernel, name, arguments):
    with pytest.raises(ValueError):
        getattr(kernel.entries, name)(*arguments)


def test_a_good_pick(kernel):
    assert kernel.entries.pick_blocks(*PICK[:5], bytearray(1), *PICK[6:8], i(0), bytearray(4)) == 1
    assert kernel.entries.pick_blocks(q(), i(), 0, b"", q(), bytearray(), 0, 4, i(), bytearray()) == 0
    assert kernel.entries.pick_zeros(q(), q(), bytearray(), 0, i()) == 0
