"""Overlays: bytes against a model, what survives a crash, and files that are none."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from secondsite.engine import errors
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.images.overlay import GRANULE, OverlayImage

SIZE = 20 * GRANULE + 777
OVER = {"replica": "r", "generation": 3}


def base():
    return MemoryImage(random.Random(1).randbytes(SIZE))


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


def test_the_file_is_sparse_and_only_what_was_written_lies_in_it(tmp_path):
    image = OverlayImage(MemoryImage(bytes(64 << 20)), tmp_path / "overlay", OVER)
    image.write(60 << 20, b"x")
    image.flush()
    assert image.held_bytes() == GRANULE
    assert os.stat(tmp_path / "overlay").st_blocks * 512 < 4 * GRANULE
    image.close()


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
