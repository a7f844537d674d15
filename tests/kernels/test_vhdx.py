"""VHDX maps: the kernels against a model that goes sector by sector, and against each other."""

from __future__ import annotations

import itertools
import os
import random
import struct
from array import array

import pytest

ZERO, PARENT = -1, -2
MIB = 1 << 20
NOTHING = array("q")
SECTORS = 16  # of a block in these tests
BLOCK = SECTORS * 512


def lists(pieces):
    return array("i", [p[0] for p in pieces]), array("q", [p[1] for p in pieces]), array("q", [p[2] for p in pieces])


def overlay(patches):
    return tuple(array("q", [patch[n] for patch in patches]) for n in range(3))


def bytewise(pieces, step=512):
    """The pieces as one (fd, offset) a step, which joins and cuts do not change."""
    found = []
    for fd, offset, length in zip(*pieces, strict=True):
        assert length > 0
        found += [(fd, 0 if fd == ZERO else offset + at) for at in range(0, length, step)]
    return found


def joined(pieces):
    """No two neighbours could be one."""
    listed = list(zip(*pieces, strict=True))
    for (fd, offset, length), (after, there, _) in itertools.pairwise(listed):
        assert fd != after or (fd != ZERO and offset + length != there)


def random_chunk(rng, blocks):
    """Entries and a bitmap; places grow or jump."""
    entries, bits, place = [], rng.getrandbits(blocks * SECTORS), rng.randrange(1, 50)
    for _ in range(blocks):
        state = rng.choice([0, 0, 1, 2, 3, 6, 6, 7, 7])
        place = place + 1 if rng.random() < 0.5 else rng.randrange(1, 1000)
        entries.append(place * MIB | state if state > 5 or rng.random() < 0.3 else state)
    words = -(-blocks * SECTORS // 64)
    return array("Q", entries), memoryview(bits.to_bytes(8 * words, "little")).cast("Q"), bits


def model(entries, bits, start, sector, fd, missing, patches):
    """(fd, offset) of one sector of the disk."""
    inside = sector - start // 512
    entry = entries[inside // SECTORS]
    state, place = entry & 7, (entry >> 20) * MIB + inside % SECTORS * 512
    if state == 0 or (state == 7 and not bits >> inside & 1):
        return missing, 0 if missing == ZERO else sector * 512
    if state < 6:
        return ZERO, 0
    for low, high, source in patches:
        if low <= place < high:
            return (ZERO, 0) if source < 0 else (99, source + place - low)
    return fd, place


@pytest.mark.parametrize("seed", range(30))
def test_refine_is_what_the_model_says(kernel, seed):
    rng = random.Random(seed)
    blocks, start = rng.randrange(1, 40), rng.choice([0, 1 << 32])
    entries, words, bits = random_chunk(rng, blocks)
    edges = sorted(rng.sample(range(0, 1000 * MIB, 512), 40))
    patches = [(low, high, rng.choice([-1, low * 2])) for low, high in zip(edges[::2], edges[1::2], strict=True)]
    missing = rng.choice([ZERO, PARENT])
    pieces, expected, at = [], [], start
    while at < start + blocks * BLOCK:
        size = min(512 * rng.randrange(1, 60), start + blocks * BLOCK - at)
        kind = rng.choice([5, ZERO, PARENT, PARENT, PARENT])
        pieces.append((kind, at, size))
        for sector in range(at // 512, (at + size) // 512):
            if kind == PARENT:
                expected.append(model(entries, bits, start, sector, 7, missing, patches))
            else:
                expected.append((kind, 0 if kind == ZERO else sector * 512))
        at += size
    arguments = *lists(pieces), start, BLOCK, 512, entries, words, 0, 7, missing, *overlay(patches), 99
    found = kernel.vhdx.refine(*arguments, 0)
    assert bytewise(found) == expected
    joined(found)
    for limit in (1, 2, 7):
        part = kernel.vhdx.refine(*arguments, limit)
        assert len(part[0]) <= limit
        assert len(part[0]) == limit or sum(part[2]) == blocks * BLOCK
        assert bytewise(part) == expected[: sum(part[2]) // 512]


def test_ranges_need_not_begin_with_a_sector(kernel):
    entries = array("Q", [5 * MIB | 7, 0])
    bitmap = memoryview((0b1010).to_bytes(8, "little")).cast("Q")
    found = kernel.vhdx.refine(
        *lists([(PARENT, 300, 1000)]), 0, BLOCK, 512, entries, bitmap, 0, 3, PARENT, *overlay([]), -1, 0
    )
    assert [list(part) for part in found] == [[PARENT, 3, PARENT], [300, 5 * MIB + 512, 1024], [212, 512, 276]]


def test_a_bitmap_that_begins_later(kernel):
    entries = array("Q", [0] * 8 + [9 * MIB | 7])
    bitmap = memoryview((0b10).to_bytes(8, "little")).cast("Q")
    at = 128 * 512
    found = kernel.vhdx.refine(
        *lists([(PARENT, at, 1024)]), 0, BLOCK, 512, entries, bitmap, 128, 3, ZERO, *overlay([]), -1, 0
    )
    assert [list(part) for part in found] == [[ZERO, 3], [0, 9 * MIB + 512], [512, 512]]


@pytest.mark.parametrize(
    ("piece", "first", "words"),
    [
        ((PARENT, 0, 3 * BLOCK), 0, 1),
        ((PARENT, BLOCK, 2 * BLOCK), 0, 1),
        ((PARENT, -512, 512), 0, 1),
        ((PARENT, (1 << 63) - 1, 1), 0, 1),
        ((PARENT, 0, (1 << 63) - 1), 0, 1),
        ((PARENT, 512, -1), 0, 1),
        ((PARENT, 0, 2 * BLOCK), 0, 0),
        ((PARENT, 0, BLOCK), 64, 1),
        ((PARENT, 0, BLOCK), -64, 1),
        ((PARENT, BLOCK, BLOCK), 1 << 62, 1),
    ],
)
def test_pieces_that_are_not_covered_are_refused(kernel, piece, first, words):
    entries = array("Q", [MIB | 7, 2 * MIB | 7])
    bitmap = memoryview(bytes(8 * words)).cast("Q")
    with pytest.raises(ValueError):
        kernel.vhdx.refine(*lists([piece]), 0, BLOCK, 512, entries, bitmap, first, 3, ZERO, *overlay([]), -1, 0)


def test_bad_arguments_are_refused(kernel):
    entries, empty = array("Q", [6]), memoryview(b"").cast("Q")
    for block, sector in ((0, 512), (-1, 512), (512, 0)):
        with pytest.raises(ValueError):
            kernel.vhdx.refine(*lists([]), 0, block, sector, entries, empty, 0, 3, ZERO, *overlay([]), -1, 0)
    with pytest.raises(ValueError):
        kernel.vhdx.overlaid(1, 0, 10, array("q", [1]), NOTHING, NOTHING, -1)
    for offset, length in ((-1, 5), (5, -1), (1 << 63 >> 1, 1 << 63 >> 1)):
        if offset + length < 1 << 62:
            with pytest.raises(ValueError):
                kernel.vhdx.overlaid(1, offset, length, NOTHING, NOTHING, NOTHING, -1)
    with pytest.raises(ValueError):
        kernel.vhdx.runs(array("i", [1]), NOTHING, NOTHING, False)
    for ratio in (0, 1 << 33):
        with pytest.raises((ValueError, OverflowError)):
            kernel.vhdx.claim(entries, ratio, 1, False, MIB, MIB, MIB, bytearray(8))


def test_overlays(kernel):
    patches = [(10, 20, 1000), (20, 30, -1), (40, 50, 0)]
    cases = {
        (0, 5): [(1, 0, 5)],
        (0, 15): [(1, 0, 10), (99, 1000, 5)],
        (12, 3): [(99, 1002, 3)],
        (15, 30): [(99, 1005, 5), (ZERO, 0, 10), (1, 30, 10), (99, 0, 5)],
        (30, 10): [(1, 30, 10)],
        (45, 100): [(99, 5, 5), (1, 50, 95)],
        (7, 0): [],
    }
    for (offset, length), expected in cases.items():
        found = kernel.vhdx.overlaid(1, offset, length, *overlay(patches), 99)
        assert list(zip(*found, strict=True)) == expected


def test_runs_and_the_holes_of_a_file(kernel, tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        for at in (0, 2 * MIB, 5 * MIB):
            file.seek(at)
            file.write(b"x" * 65536)
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = lists([(fd, 0, 3 * MIB), (ZERO, 0, MIB), (PARENT, 0, 5), (PARENT, 77, 5), (fd, 4 * MIB, 100)])
        kinds, sizes = kernel.vhdx.runs(*pieces, False)
        assert (list(kinds), list(sizes)) == ([0, ZERO, PARENT, 0], [3 * MIB, MIB, 10, 100])
        kinds, sizes = kernel.vhdx.runs(*pieces, True)
        assert list(kinds) == [0, ZERO, 0, ZERO, PARENT, 0]
        assert list(sizes) == [65536, 2 * MIB - 65536, 65536, 2 * MIB - 65536, 10, 100]
        # A piece behind the end of the file is data: reading it says what is wrong.
        kinds, sizes = kernel.vhdx.runs(*lists([(fd, 7 * MIB, 2 * MIB)]), True)
        assert (list(kinds), list(sizes)) == ([0], [2 * MIB])
    finally:
        os.close(fd)


def random_table(rng, ratio, chunks):
    """Entries of whole chunks, mostly possible ones; the same space twice with some luck."""
    entries, place = [], 1
    for _ in range(chunks):
        for _ in range(ratio):
            state = rng.choices([0, 1, 2, 3, 4, 5, 6, 7], [8, 2, 2, 2, 0.02, 0.02, 6, 2])[0]
            place += 2
            entry = (place if rng.random() < 0.98 else rng.randrange(place + 2)) * MIB | state
            entries.append(entry | (8 if rng.random() < 0.004 else 0) if state > 5 or rng.random() < 0.1 else state)
        place += 2
        entries.append(rng.choices([place * MIB | 6, 0, 3], [30, 2, 0.1])[0])
    return array("Q", entries)


@pytest.mark.parametrize("seed", range(60))
def test_claims_are_those_of_both_kernels(native, portable, seed):
    rng = random.Random(seed)
    ratio, chunks = rng.choice([1, 4, 30]), rng.randrange(1, 6)
    table = random_table(rng, ratio, chunks)
    if rng.random() < 0.5:
        table = table[: len(table) - rng.randrange(1, ratio + 1)]
    blocks = rng.randrange(1, ratio * chunks + 2)
    file_size = rng.choice([4000, 100]) * MIB + rng.choice([0, 512])
    arguments = table, ratio, blocks, rng.random() < 0.9, 2 * MIB, file_size, rng.choice([512, 2 * MIB])
    one, two = bytearray(400), bytearray(400)
    found = native.vhdx.claim(*arguments, one)
    assert portable.vhdx.claim(*arguments, two) == found
    if found[1] == native.vhdx.OK:
        assert one == two
    assert native.vhdx.tally(table, ratio, blocks) == portable.vhdx.tally(table, ratio, blocks)


def test_claims_one_by_one(kernel):
    def claim(*entries, blocks=2, differencing=True, size=20 * MIB, tail=2 * MIB, used=None):
        used = bytearray(4) if used is None else used
        return kernel.vhdx.claim(array("Q", entries), 2, blocks, differencing, 2 * MIB, size, tail, used)

    vhdx = kernel.vhdx
    assert claim(6 | 2 * MIB, 7 | 4 * MIB, 6 | 6 * MIB) == (-1, vhdx.OK)
    assert claim(6 | 2 * MIB, 8, 0) == (1, vhdx.RESERVED)
    assert claim(6 | 2 * MIB, 4, 0) == (1, vhdx.STATE)
    assert claim(0, 0, 1) == (2, vhdx.STATE)
    assert claim(6 | 19 * MIB, 0, 0) == (0, vhdx.OUTSIDE)
    assert claim(6, 0, 0) == (0, vhdx.OUTSIDE)
    assert claim(0, 6 | 19 * MIB, 0) == (1, vhdx.OUTSIDE)
    assert claim(0, 6 | 19 * MIB, 0, tail=MIB) == (-1, vhdx.OK)
    assert claim(0, 6 | 19 * MIB, 0, tail=MIB + 1) == (1, vhdx.OUTSIDE)
    assert claim(0, 6 | 19 * MIB, 0, tail=MIB, blocks=3) == (1, vhdx.OUTSIDE)
    assert claim(0, 6 | 19 * MIB, 0, blocks=1) == (-1, vhdx.OK)
    assert claim(6 | 2 * MIB, 6 | 3 * MIB, 0) == (1, vhdx.TAKEN)
    assert claim(6 | 2 * MIB, 0, 6 | 3 * MIB) == (2, vhdx.TAKEN)
    assert claim(6 | 2 * MIB, 0, 0, used=bytearray(b"\x08\0\0\0")) == (0, vhdx.TAKEN)
    assert claim(7 | 2 * MIB, 0, 6 | 4 * MIB, differencing=False) == (0, vhdx.PARTIAL)
    assert claim(7 | 2 * MIB, 0, 0) == (0, vhdx.NO_BITMAP)
    assert claim(7 | 2 * MIB, 0) == (0, vhdx.NO_BITMAP)
    assert claim(0, 0, 6 | 4 * MIB, differencing=False) == (2, vhdx.BITMAP)
    used = bytearray(4)
    claim(6 | 2 * MIB, 7 | 4 * MIB, 6 | 6 * MIB, used=used)
    assert struct.unpack("<I", used) == (0b1111100,)
