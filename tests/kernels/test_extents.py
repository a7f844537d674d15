"""Extent maps: read from real files, and two of them compared against a model that looks at one byte after another."""

from __future__ import annotations

import importlib
import os
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

UNKNOWN, DELALLOC, ENCODED, ENCRYPTED, INLINE = 0x2, 0x4, 0x8, 0x80, 0x300
LAST, UNWRITTEN, MERGED, SHARED = 0x1, 0x800, 0x1000, 0x2000
QUICK = settings(max_examples=300, deadline=None)
TOP = (1 << 63) - 1


def part(name):
    return importlib.import_module(f"secondsite.engine.{'_' if name == 'native' else 'portable.'}extents")


@pytest.fixture(scope="session")
def extents(kernel):
    return part(kernel.name)


@st.composite
def maps(draw):
    """Extents in units of a byte: few addresses and few shapes, so that two of them often agree."""
    rows, at = [], draw(st.integers(0, 3))
    for _ in range(draw(st.integers(0, 6))):
        length = draw(st.integers(1, 6))
        shift = draw(st.sampled_from([100, 100, 100, 103]))
        physical = draw(st.sampled_from([at + shift] * 6 + [0]))
        flags = draw(st.sampled_from([0, 0, 0, SHARED, LAST | MERGED, UNWRITTEN, UNWRITTEN | SHARED, UNKNOWN,
                                      DELALLOC | UNKNOWN, ENCODED, ENCODED | SHARED, ENCRYPTED, INLINE,
                                      1 << 20]))  # fmt: skip
        rows.append((at, physical, length, flags))
        at += length + draw(st.sampled_from([0, 0, 1, 4]))
    return rows


def flat(rows):
    columns = tuple(zip(*rows, strict=True)) if rows else ((), (), (), ())
    return tuple(array(code, column) for code, column in zip("QQQI", columns, strict=True))


def byte(rows, at):
    """What one byte is: `zero`, an address, or None where nothing is known."""
    for logical, physical, length, flags in rows:
        if logical <= at < logical + length:
            if flags & ~(LAST | UNWRITTEN | MERGED | SHARED):
                return None
            if flags & UNWRITTEN:
                return "zero"
            return physical + at - logical if physical else None
    return "zero"


def model(old, new, old_size, size):
    def differs(at):
        if at >= min(old_size, size) - 1 and old_size != size:
            return True
        return None in (byte(old, at), byte(new, at)) or byte(old, at) != byte(new, at)

    return [at for at in range(size) if differs(at)]


def expand(found):
    return [at for start, length in zip(*found, strict=True) for at in range(start, start + length)]


@QUICK
@given(maps(), maps(), st.integers(0, 50), st.integers(0, 50), st.booleans())
def test_changes_are_those_of_a_model_byte_by_byte(extents, old, new, old_size, size, same):
    old_size = size if same else old_size
    found = extents.changed(flat(old), flat(new), old_size, size)
    assert [column.typecode for column in found] == ["Q", "Q"]
    assert expand(found) == model(old, new, old_size, size)
    ends = [start + length for start, length in zip(*found, strict=True)]
    assert all(end < start for end, start in zip(ends, found[0][1:], strict=False)), "runs that touch are one"
    assert all(found[1])


@QUICK
@given(maps(), maps(), st.integers(0, 50), st.integers(0, 50))
def test_both_kernels_give_the_same(native, portable, old, new, old_size, size):
    calls = [part(name).changed(flat(old), flat(new), old_size, size) for name in (native.name, portable.name)]
    assert calls[0] == calls[1]
    assert part("native").weigh(flat(new)) == part("portable").weigh(flat(new))


@QUICK
@given(maps())
def test_what_a_map_weighs(extents, rows):
    alone = sum(length for *_, length, flags in rows if not flags & (SHARED | UNKNOWN))
    uncertain = sum(length for *_, length, flags in rows if flags & ~(LAST | UNWRITTEN | MERGED | SHARED))
    assert extents.weigh(flat(rows)) == (alone, uncertain)


def test_one_compressed_extent_proves_nothing(extents):
    """Btrfs gave this map for both of two clones, of which 124 KiB differed: see PLAIN in the kernel."""
    one = flat([(0, 0xD00000, 0x20000, ENCODED | SHARED | LAST)])
    assert expand(extents.changed(one, one, 4096, 4096)) == list(range(4096))


def test_addresses_at_the_ends_of_their_range(extents):
    """A shift of logical against physical below zero, and extents that end with the last offset there is."""
    rows = [(1 << 40, 4096, 1 << 41, 0), (TOP - 4096, (1 << 64) - 4096, 4096, 0)]
    assert extents.changed(flat(rows), flat(rows), TOP, TOP) == (array("Q"), array("Q"))
    other = [(1 << 40, 8192, 1 << 41, 0), rows[1]]
    assert extents.changed(flat(rows), flat(other), TOP, TOP) == (array("Q", [1 << 40]), array("Q", [1 << 41]))
    assert extents.changed(flat([]), flat([]), 0, TOP) == (array("Q", [0]), array("Q", [TOP]))
    assert extents.changed(flat([]), flat([]), TOP, 0) == (array("Q"), array("Q"))


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 1, 0, 0)],
        [(8, 1, 8, 0), (15, 99, 8, 0)],
        [(8, 1, 8, 0), (0, 99, 8, 0)],
        [(TOP, 1, 1, 0)],
        [(1 << 63, 1, 1, 0)],
        [(8, 1, (1 << 64) - 1, 0)],
        [(8, 1, (1 << 64) - 8, 0), (16, 1, 1, 0)],
    ],
)
def test_maps_that_are_none(extents, rows):
    for old, new in ((rows, []), ([], rows)):
        with pytest.raises(ValueError):
            extents.changed(flat(old), flat(new), 100, 100)


def test_arguments_that_do_not_fit(extents):
    good = flat([(0, 1, 8, 0)])
    for bad in ((*good[:3], array("I")), (*good[:2], array("Q"), good[3]), (good[0], good[1][:0], *good[2:])):
        with pytest.raises(ValueError):
            extents.changed(good, bad, 8, 8)
    with pytest.raises(ValueError):
        extents.weigh((*good[:3], array("I")))
    with pytest.raises(ValueError):
        extents.changed(good, good, 1 << 63, 8)
    with pytest.raises(ValueError):
        extents.fiemap(0, 1 << 63)
    with pytest.raises(OSError):
        extents.fiemap(-1, 8)


def written(found):
    """(start, length) of the extents that hold data, those that touch joined."""
    joined = []
    for start, _, length, flags in zip(*found, strict=True):
        if flags & UNWRITTEN:
            continue
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return joined


@pytest.mark.needs("xfs")
def test_the_map_of_a_real_file(xfs_dir, extents):
    """Every second block of more extents than one call of the kernel gives; without a flush before."""
    blocks = 9000
    with (xfs_dir / f"{extents.__name__}.extents").open("w+b") as file:
        for block in range(blocks):
            os.pwrite(file.fileno(), b"x" * 4096, 8192 * block)
        size = 8192 * blocks + 10_000_000
        file.truncate(size)
        found = extents.fiemap(file.fileno(), size)
        assert [column.typecode for column in found] == ["Q", "Q", "Q", "I"]
        # XFS may have allocated ahead, between the blocks too; what it has not written it says to be so.
        assert not any(flags & ~(LAST | UNWRITTEN) for flags in found[3])
        assert written(found) == [(8192 * block, 4096) for block in range(blocks)]
        assert len(set(found[1])) == len(found[1])
        assert written(extents.fiemap(file.fileno(), 8192 * 100)) == [(8192 * block, 4096) for block in range(100)]
        short = extents.fiemap(file.fileno(), size, 5000)
        assert len(short[0]) == 5001
        assert (short[1][-1], short[3][-1], short[0][-1] + short[2][-1]) == (0, UNKNOWN, size)
        assert [list(column) for column in extents.changed(short, found, size, size)] == [
            [short[0][-1]], [size - short[0][-1]]
        ]  # fmt: skip
        assert [column[:5000] for column in short] == [column[:5000] for column in found]
        assert extents.fiemap(file.fileno(), 0) == flat([])
        assert part("native").fiemap(file.fileno(), size) == part("portable").fiemap(file.fileno(), size)


def test_a_file_without_extents(tmp_path, extents):
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(1 << 40)
        try:
            found = extents.fiemap(file.fileno(), 1 << 40)
        except OSError:
            pytest.skip("the temporary folder has no FIEMAP")
        assert found == flat([])
