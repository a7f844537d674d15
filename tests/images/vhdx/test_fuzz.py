"""Damaged files of every kind: an error that says what is wrong, or a disk that reads; never a crash, never for ever.

Each case spoils a structure of one file, more often than not with a right checksum, opens it, and puts the file back.
The fields that are spoiled are those of the specification, so that most cases come further than the first check.
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import struct
import time
from uuid import UUID

import pytest
import vhdxkit
from vhdxkit import FULL, KIB, MIB, PARTIAL, UNMAPPED, ZERO, Disk, data, log_entry, zeros

from secondsite.engine import errors
from secondsite.engine.images.vhdx import VhdxImage

LOG = UUID(int=12345)
SECONDS = 20
MEMORY_MIB = 300
VALUES = [0, 1, 2, 3, 6, 7, 8, 255, 512, 4096, 65535, 65536, MIB, MIB + 1, 2 * MIB, 1 << 31, 1 << 32, 1 << 40, 1 << 62]
VALUES += [1 << 63, (1 << 64) - 1, (1 << 64) - MIB, (1 << 64) - 4096, MIB | FULL, 4 * MIB | FULL, 5 * MIB | PARTIAL]


def made_up(folder, dirty):
    """A chain of two whose child has everything: its path and its areas (offset, length, checksummed size)."""
    rng = random.Random(dirty)
    folder.mkdir()
    base = Disk(24 * MIB, 2 * MIB)
    base.fill(rng, [FULL, ZERO, UNMAPPED])
    base.write(folder / "base.vhdx")
    child = Disk(24 * MIB, parent=base, parent_path="base.vhdx", seed=3, log=LOG if dirty else vhdxkit.NO_GUID)
    child.fill(rng, [FULL, ZERO, UNMAPPED, PARTIAL, PARTIAL, 0])
    path = child.write(folder / "child.vhdx")
    end = path.stat().st_size
    areas = [(64 * KIB, 80, 4096), (128 * KIB, 80, 4096), (192 * KIB, 80, 64 * KIB), (256 * KIB, 80, 64 * KIB)]
    areas += [(child.metadata_offset, 32 + 32 * 6, 0), (child.metadata_offset + 64 * KIB, 400, 0)]
    areas += [(child.bat_offset, 24 * 8, 0), (child.bitmap_entry_at(0), 8, 0), (child.bitmap_places[0], 6144, 0)]
    if dirty:
        page = path.read_bytes()[child.bat_offset : child.bat_offset + 4096]
        raws = [
            log_entry(LOG, 1, 0, [zeros(child.bat_offset, 4096)], flushed=end, last=end),
            log_entry(LOG, 2, 0, [data(child.bat_offset, page), zeros(end, MIB)], flushed=end, last=end + MIB),
        ]
        vhdxkit.put_log(path, child, [(0, raws[0]), (len(raws[0]), raws[1])])
        areas += [(MIB, 128, len(raws[0])), (MIB + len(raws[0]), 200, len(raws[1]))] * 3
    return path, areas


def fuzzed_sample(unpack, name):
    areas = [(64 * KIB, 80, 4096), (128 * KIB, 80, 4096), (192 * KIB, 80, 64 * KIB), (256 * KIB, 80, 64 * KIB)]
    areas += [(at, 400, 0) for at in (MIB, 2 * MIB, 3 * MIB, 2 * MIB + 64 * KIB, 3 * MIB + 64 * KIB)]
    return unpack(name), areas


def spoil(rng, path, areas):
    """Spoil one to three fields; returns what puts the file back."""
    undo = []
    with path.open("r+b") as file:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            start, length, summed = rng.choice(areas)
            file.seek(start)
            size = max(length, summed)
            before = file.read(size)
            undo.append((start, before))
            raw = bytearray(before)
            kind = rng.random()
            at = rng.randrange(min(length, len(raw)))
            if kind < 0.3:
                raw[at] ^= 1 << rng.randrange(8)
            elif kind < 0.8:
                width = rng.choice([2, 4, 8])
                at -= at % width
                value = rng.choice(VALUES) + rng.choice([0, 0, 0, -1, 1])
                raw[at : at + width] = struct.pack("<Q", value & (1 << 64) - 1)[:width]
            else:
                raw[at : at + 16] = rng.randbytes(16)
            raw = raw[: len(before)]
            if summed and rng.random() < 0.85:
                raw = vhdxkit.seal(raw)
            file.seek(start)
            file.write(raw)
    return undo


def put_back(path, undo):
    for start, raw in reversed(undo):
        vhdxkit.patch(path, start, raw)


def use(path, rng):
    """Open it and use all of it that fits into the time."""
    with VhdxImage(path) as image:
        image.facts()
        image.check()
        for extent in itertools.islice(image.extents(0, image.size), 3000):
            size = min(extent.length, 64 * KIB)
            got = image.read(extent.start, size)
            assert len(got) == size
            assert not extent.zero or got == bytes(size)
        at = image.size
        for start in (0, rng.randrange(at), max(0, at - MIB)):
            size = min(MIB, at - start)
            assert sum(image.segments(start, size).lengths) == size
            image.read(start, size)
        before = 0
        for extent in itertools.islice(image.changed_since_parent(), 3000):
            assert before <= extent.start < extent.start + extent.length <= at
            before = extent.start + extent.length


def run(path, areas, seed, count):
    """`count` cases; how many of them opened and read to the end."""
    rng = random.Random(seed)
    whole = path.read_bytes()
    opened, peak = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        undo = spoil(rng, path, areas)
        began = time.monotonic()
        try:
            use(path, rng)
            opened += 1
        except errors.Error as error:
            assert str(path.parent) in str(error), (number, error)
        assert time.monotonic() - began < SECONDS, number
        put_back(path, undo)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MEMORY_MIB * KIB
    assert path.read_bytes() == whole
    return opened


@pytest.mark.parametrize("dirty", [False, True], ids=["clean", "dirty"])
def test_spoiled_structures(tmp_path, sweep, dirty):
    count = 20000 if sweep else 300
    opened = run(*made_up(tmp_path / "vms", dirty), f"made up {dirty}", count)
    assert count // 50 < opened < count  # the cases are neither all hopeless nor all harmless


@pytest.mark.parametrize(
    "name",
    ["fattools-synthetic/base-512-1M.vhdx.gz", "qemu-iotests/iotest-dirtylog-10G-4M.vhdx.bz2"],
)
def test_spoiled_samples(unpack, tmp_path, sweep, name):
    path, areas = fuzzed_sample(unpack, name)
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    run(copy, areas, name, 10000 if sweep else 100)


def test_cuts(tmp_path, sweep):
    """The file ends anywhere, and the log says that it was longer."""
    rng = random.Random(1)
    path, _ = made_up(tmp_path / "vms", True)
    whole = path.read_bytes()
    for _ in range(2000 if sweep else 40):
        os.truncate(path, rng.randrange(len(whole)))
        with pytest.raises(errors.Error):
            VhdxImage(path).close()
        path.write_bytes(whole)
