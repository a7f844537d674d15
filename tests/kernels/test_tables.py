"""Walks over allocation tables, against models that look at one byte, sector or grain at a time."""

from __future__ import annotations

import itertools
import random
import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=80, deadline=None)
NONE = 0xFFFFFFFF
SECTOR = 512


def expand(pieces, unit):
    """(fd, offset) of every `unit` bytes; offset 0 where there is no file."""
    fds, offsets, lengths = pieces
    assert len(fds) == len(offsets) == len(lengths)
    places = []
    for fd, offset, length in zip(fds, offsets, lengths, strict=True):
        assert length > 0 and length % unit == 0
        places += [(fd, offset + at if fd >= 0 else 0) for at in range(0, length, unit)]
    return places


def joined(pieces):
    """Do no two neighbours touch?"""
    rows = list(zip(*pieces, strict=True))
    return all(
        a[0] != b[0] or (a[0] >= 0 and a[1] + a[2] != b[1]) for a, b in itertools.pairwise(rows)
    )


BAT = st.lists(st.sampled_from([NONE, 3, 4, 12, 20, 28, 4294967294]), min_size=1, max_size=12)


@QUICK
@given(BAT, st.sampled_from([2, 8, 16]), st.booleans(), st.data())
def test_vhd_map(kernel, bat, sectors, sparse, data):
    table = struct.pack(f">{len(bat)}I", *bat)
    start = data.draw(st.integers(0, len(bat) * sectors))
    count = data.draw(st.integers(0, len(bat) * sectors - start))
    head, first = SECTOR, start // sectors
    bits = random.Random(start).randbytes(head * (len(bat) - first)) if sparse else None
    got = kernel.tables.vhd_map(
        table, bits, 7, sectors * SECTOR, head, start * SECTOR, count * SECTOR, -2
    )
    want = []
    for sector in range(start, start + count):
        block, inside = divmod(sector, sectors)
        here = bat[block] != NONE
        if bits is not None:
            byte = bits[(block - first) * head + inside // 8]
            here = here and bool(byte >> (7 - inside % 8) & 1)
        want.append((7, bat[block] * SECTOR + head + inside * SECTOR) if here else (-2, 0))
    assert expand(got, SECTOR) == want
    assert joined(got)


@QUICK
@given(BAT, st.integers(0, 3000), st.integers(0, 9000), st.randoms(use_true_random=False))
def test_vhd_ranges_that_begin_and_end_anywhere(kernel, bat, start, length, chance):
    table = struct.pack(f">{len(bat)}I", *bat)
    start = min(start, 1024 * len(bat))
    length = min(length, 1024 * len(bat) - start)
    bits = chance.randbytes(512 * len(bat))

    def walk(start, length):
        return kernel.tables.vhd_map(table, bits[start // 1024 * 512 :], 3, 1024, 512, start, length, -2)

    assert expand(walk(start, length), 1) == expand(walk(0, 1024 * len(bat)), 1)[start : start + length]


def test_long_runs_of_a_vhd_bitmap(kernel):
    table = struct.pack(">I", 3)
    bits = bytes(64) + b"\x01" + b"\xff" * 100 + b"\x80" + bytes(346)
    got = kernel.tables.vhd_map(table, bits, 5, 2 << 20, 512, 0, 2 << 20, -1)
    assert [list(part) for part in got] == [
        [-1, 5, -1],
        [0, 2048 + 519 * SECTOR, 0],
        [519 * SECTOR, 802 * SECTOR, (4096 - 1321) * SECTOR],
    ]


def test_vhd_ranges_and_sizes_that_do_not_fit(kernel):
    table = struct.pack(">2I", 3, NONE)
    for block, head, start, length, bits in (
        (0, 512, 0, 0, None),
        (1 << 40, 512, 0, 0, None),
        (4096, 512, 0, 8193, None),
        (4096, 512, 8193, 0, None),
        (4096, 512, 0, 8192, bytes(512)),
        (4097, 512, 0, 512, bytes(1024)),
        (4096, 0, 0, 512, bytes(1024)),
        (4096, 1 << 40, 0, 512, None),
        (4096, 512, 1 << 63, 1 << 63, None),
    ):
        with pytest.raises(ValueError):
            kernel.tables.vhd_map(table, bits, 3, block, head, start, length, -1)


@QUICK
@given(BAT, st.integers(0, 200), st.integers(0, 40 * SECTOR), st.integers(0, 60), st.integers(0, 5))
def test_vhd_check_and_survey(kernel, bat, size, file_size, low, high):
    table = struct.pack(f">{len(bat)}I", *bat) + b"\0\0"
    block, head, size = 4 * SECTOR, SECTOR, size * 100
    reserved = array("q", (0, low * 40, 6000, 6000 + high * 300, 77))
    bad = -1
    for i, entry in enumerate(bat):
        start = entry * SECTOR
        stop = start + head + min(max(size - i * block, 0), block)
        clash = any(start < b and stop > a for a, b in ((0, low * 40), (6000, 6000 + high * 300)))
        if entry != NONE and (stop > file_size or clash):
            bad = i
            break
    assert kernel.tables.vhd_check(table, block, head, size, file_size, reserved) == bad
    present = sorted(entry for entry in bat if entry != NONE)
    clash = next((b for a, b in itertools.pairwise(present) if b - a < 5), -1)
    want = (len(present), max(present, default=0), clash)
    assert kernel.tables.vhd_survey(table, 5) == want


@QUICK
@given(
    st.lists(st.sampled_from([0, 1, 2, 10, 18, 26, 4000]), min_size=1, max_size=12),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_grain_map(kernel, table, zeros, packed, data):
    grain, first, end = 8, 2, 40
    start = data.draw(st.integers(0, len(table) * grain))
    count = data.draw(st.integers(0, len(table) * grain - start))
    *got, bad = kernel.tables.grain_map(
        struct.pack(f"<{len(table)}I", *table), 9, grain * SECTOR, start * SECTOR, count * SECTOR, -2,
        zeros, 1 << 40 if packed else -1, first, end * SECTOR,
    )  # fmt: skip
    want, wrong = [], -1
    for sector in range(start, start + count):
        index, inside = divmod(sector, grain)
        entry = table[index]
        if entry == 0:
            want.append((-2, 0))
        elif entry == 1 and zeros:
            want.append((-1, 0))
        else:
            last = 1 if packed else min(grain, start + count - index * grain)
            if entry < first or entry + last > end:
                wrong = index
                break
            want.append((9, ((1 << 40) + sector * SECTOR) if packed else (entry + inside) * SECTOR))
    assert bad == wrong
    assert expand(got, SECTOR) == want
    assert joined(got)
    named = sum(entry > 1 or (entry == 1 and not zeros) for entry in table)
    assert kernel.tables.grain_count(struct.pack(f"<{len(table)}I", *table), zeros) == named


PIECE = st.tuples(st.sampled_from([-2, -1, 3, 4]), st.integers(0, 1000), st.integers(0, 9))


def arrays(rows):
    fds, offsets, lengths = zip(*rows, strict=True) if rows else ((), (), ())
    return array("i", fds), array("q", offsets), array("q", lengths)


@QUICK
@given(st.lists(PIECE, max_size=12), st.lists(PIECE, max_size=12))
def test_overlay(kernel, top, below):
    def size(rows):
        return sum(row[2] for row in rows)

    short, more = (top, size(below) - size(top)) if size(top) < size(below) else (below, size(top) - size(below))
    short.append((-2, 0, more))

    def bytes_of(rows):
        return [(fd, offset + at if fd >= 0 else 0) for fd, offset, length in rows for at in range(length)]

    got = kernel.tables.overlay(*arrays(top), *arrays(below), -2)
    upper, lower = bytes_of(top), bytes_of(below)
    want = [low if up[0] == -2 else up for up, low in zip(upper, lower, strict=True)]
    assert expand(got, 1) == want
    assert joined(got)
    with pytest.raises(ValueError):
        kernel.tables.overlay(*arrays([*top, (3, 0, 1)]), *arrays(below), -2)
    with pytest.raises(ValueError):
        kernel.tables.overlay(*arrays([(3, 0, -1)]), *arrays([(3, 0, -1)]), -2)
    runs = kernel.tables.zero_runs(got[0], got[2])
    states = [value for i, run in enumerate(runs) for value in [i % 2 == 1] * run]
    assert states == [fd >= 0 for fd, _ in want]
    assert all(runs[1:])


@QUICK
@given(BAT, st.integers(0, 96), st.integers(0, 96), st.randoms(use_true_random=False))
def test_both_kernels_give_the_same_arrays(native, portable, bat, a, b, chance):
    start, stop = sorted((min(a, 8 * len(bat)), min(b, 8 * len(bat))))
    table = struct.pack(f">{len(bat)}I", *bat)
    bits = chance.randbytes(512 * len(bat))
    for bitmaps in (None, bits):
        calls = [
            part.tables.vhd_map(table, bitmaps, 3, 4096, 512, start * 512, (stop - start) * 512, -2)
            for part in (native, portable)
        ]
        assert calls[0] == calls[1]
        assert [part.typecode for part in calls[1]] == ["i", "q", "q"]
