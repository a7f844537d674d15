"""Overlays: bytes against a model, what survives a crash, and files that are none."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time

import pytest

from secondsite.engine import errors
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.images.overlay import GRANULE, OverlayImage
from secondsite.engine.images.raw import RawImage

SIZE = 20 * GRANULE + 777
OVER = {"replica": "r", "generation": 3}


def base():
    return MemoryImage(random.Random(1).randbytes(SIZE))


class Zeros(MemoryImage):
    """A disk of zeros, of any size."""

    def __init__(self, size):
        super().__init__(b"")
        self._length = size

    @property
    def size(self):
        return self._length


def whole(image):
    return bytes(image.read(0, image.size))


def test_random_writes_against_a_model(tmp_path):
    chance, path = random.Random(2), tmp_path / "overlay"
    model = bytearray(whole(base()))
    image = OverlayImage(base(), path, OVER)
    for turn in range(400):
        at = chance.randrange(SIZE)
        length = min(chance.choice([1, 511, 4096, GRANULE, 3 * GRANULE]), SIZE - at)
        if chance.random() < 0.3:
            image.zero(at, length, punch=chance.random() < 0.5)
            model[at : at + length] = bytes(length)
        else:
            data = chance.randbytes(length)
            image.write(at, data)
            model[at : at + length] = data
        if turn % 100 == 99:
            assert whole(image) == bytes(model)
            image.close()
            image = OverlayImage(base(), path, OVER)
            assert whole(image) == bytes(model)
    extents = list(image.extents(0, SIZE))
    assert sum(extent.length for extent in extents) == SIZE
    assert all(not any(model[e.start : e.start + e.length]) for e in extents if e.zero)
    image.close()


def test_what_was_written_is_told_in_runs_however_large_the_disk_is(tmp_path):
    """Of 1 TiB it took half a minute, before which no machine of that size started."""
    chance, size = random.Random(3), 1 << 40
    image = OverlayImage(MemoryImage(bytes(GRANULE)), tmp_path / "small", OVER)
    assert image.written() == []
    image.close()
    image = OverlayImage(Zeros(size), tmp_path / "large", OVER)
    marked = set()
    for _ in range(300):
        at, count = chance.randrange(size // GRANULE - 400), chance.choice([1, 1, 7, 8, 9, 64, 300])
        image.zero(at * GRANULE, count * GRANULE)
        marked |= set(range(at, at + count))
    began = time.monotonic()
    found = image.written()
    assert time.monotonic() - began < 5
    edges = [(start // GRANULE, (start + length) // GRANULE) for start, length in found]
    assert {granule for start, end in edges for granule in range(start, end)} == marked
    assert all(before[1] < after[0] for before, after in itertools.pairwise(edges))
    image.close()


def test_the_file_is_sparse_and_only_what_was_written_lies_in_it(tmp_path):
    image = OverlayImage(MemoryImage(bytes(64 << 20)), tmp_path / "overlay", OVER)
    image.write(60 << 20, b"x")
    image.flush()
    assert image.held_bytes() == GRANULE
    assert os.stat(tmp_path / "overlay").st_blocks * 512 < 4 * GRANULE
    image.close()


def test_runs_are_those_of_bits_that_are_looked_at_one_by_one(tmp_path):
    """Bits of whole bytes are skipped; at every offset, and to every end, the answer is the same."""
    chance = random.Random(5)
    granules = 203
    overlay = OverlayImage(MemoryImage(bytes(granules * GRANULE)), tmp_path / "o", OVER)
    with overlay:
        for _ in range(40):
            overlay._bits[:26] = bytes(chance.choice((0, 0, 255, 255, chance.randrange(256))) for _ in range(26))
            start, end = sorted(chance.sample(range(granules * GRANULE + 1), 2))
            held = [bool(overlay._bits[at >> 3] >> (at & 7) & 1) for at in range(granules)]
            wanted, at = [], start
            while at < end:
                stop = at
                while stop < end and held[stop // GRANULE] == held[at // GRANULE]:
                    stop = (stop // GRANULE + 1) * GRANULE
                wanted.append((at, min(stop, end), held[at // GRANULE]))
                at = stop
            assert list(overlay._runs(start, end)) == wanted


def test_what_lies_in_one_of_a_large_disk_is_known_at_once(tmp_path):
    """Whoever serves it asks for that first, while a machine waits to start."""
    size = 1 << 40
    with (tmp_path / "disk.raw").open("wb") as file:
        file.truncate(size)
    with OverlayImage(RawImage(tmp_path / "disk.raw"), tmp_path / "o", OVER) as overlay:
        overlay.write(size // 2, b"x" * GRANULE)
        began = time.monotonic()
        assert overlay.written() == [(size // 2, GRANULE)]
        assert time.monotonic() - began < 2, "one by one it took 17 s"


def test_after_a_crash_it_has_what_was_flushed(tmp_path):
    """The file as it was on disk at the last flush, with and without what was written since."""
    image = OverlayImage(base(), tmp_path / "overlay", OVER)
    image.write(5, b"flushed" * 100)
    image.zero(3 * GRANULE, GRANULE)
    image.flush()
    expected = whole(image)
    image.write(7 * GRANULE + 1, b"not flushed")
    shutil.copy(tmp_path / "overlay", tmp_path / "crashed")
    image.close()
    with OverlayImage(base(), tmp_path / "crashed", OVER) as after:
        assert whole(after) == expected


def test_an_overlay_over_something_else_is_refused(tmp_path):
    with OverlayImage(base(), tmp_path / "overlay", OVER) as image:
        image.write(0, b"x")
    before = (tmp_path / "overlay").read_bytes()
    with pytest.raises(errors.Refused, match="generation"):
        OverlayImage(base(), tmp_path / "overlay", OVER | {"generation": 4})
    with pytest.raises(errors.Refused):
        OverlayImage(MemoryImage(bytes(SIZE + 1)), tmp_path / "overlay", OVER)
    assert (tmp_path / "overlay").read_bytes() == before


def test_two_users_of_one_overlay(tmp_path):
    with OverlayImage(base(), tmp_path / "overlay", OVER), pytest.raises(errors.Busy):
        OverlayImage(base(), tmp_path / "overlay", OVER)


def test_files_that_are_no_overlay_stay_as_they_are(tmp_path):
    path = tmp_path / "file"
    for content in (b"my notes", bytes(1 << 20), os.urandom(1 << 20)):
        path.write_bytes(content)
        with pytest.raises(errors.Refused, match="left as it is"):
            OverlayImage(base(), path, OVER)
        assert path.read_bytes() == content


@pytest.mark.parametrize("at", [8, 13, 20, 30, 60])
def test_a_header_with_a_bad_byte(tmp_path, at):
    with OverlayImage(base(), tmp_path / "overlay", OVER) as image:
        image.write(0, b"x")
    with (tmp_path / "overlay").open("r+b") as file:
        file.seek(at)
        file.write(b"\xee")
    with pytest.raises((errors.Damaged, errors.NewerFormat)):
        OverlayImage(base(), tmp_path / "overlay", OVER)
