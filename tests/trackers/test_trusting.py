"""What goes on around a tracker: a damaged map under a cycle that reads little of it, a source that moves."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.blockmap import HEADER_BYTES, PAGE_BLOCKS, PAGE_BYTES
from secondsite.engine.source import Source
from secondsite.engine.trackers.scan import RangesTracker

BLOCK = 4096
PAGE = PAGE_BLOCKS * BLOCK  # bytes of the disk that a page of the map is about


class Told:
    """A disk of three pages of the map, a MiB of data in each, whose changes are told to the tracker."""

    def __init__(self, folder: Path) -> None:
        self.disk, self.root = folder / "disk.raw", folder / "replica"
        self.data = {page * PAGE: random.Random(page).randbytes(1 << 20) for page in range(3)}
        with self.disk.open("wb") as file:
            file.truncate(3 * PAGE)
            for at, data in self.data.items():
                file.seek(at)
                file.write(data)
        self.cycle([], tracker="scan")

    def put(self, at: int, data: bytes) -> tuple[int, int]:
        with self.disk.open("r+b") as file:
            file.seek(at)
            file.write(data)
        return at, len(data)

    def cycle(self, named: list[tuple[int, int]], **options: Any) -> engine.Replicated:
        tracker = RangesTracker("told", Source(self.disk, None), lambda: named)
        options = {"tracker": tracker, "history": "undo", "distrust": 1, "block_size": BLOCK, **options}
        return engine.replicate(self.disk, self.root, **options)

    def rot(self, page: int) -> None:
        """Of the second MiB, whose blocks are zeros: only the page's digest tells."""
        with (self.root / "head.map").open("r+b") as file:
            file.seek(HEADER_BYTES + PAGE_BYTES * (1 + page) + 16 * 300)
            file.write(b"rot")


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_a_damaged_page_that_the_cycle_meets_is_made_anew(told: Told) -> None:
    told.rot(1)
    done = told.cycle([told.put(PAGE + BLOCK, b"x" * 100)])
    assert done.kind == "delta" and any("made anew from the head" in warning for warning in done.warnings)
    assert engine.verify(told.root, source=told.disk).ok


def test_a_damaged_page_elsewhere_costs_nothing_and_is_found_later(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.rot(2)
    monkeypatch.setattr("secondsite.engine.distrust.draw", lambda total, count, chance: [0])
    done = told.cycle([told.put(BLOCK, b"x" * 100)])
    assert (done.kind, done.read_bytes, done.warnings) == ("delta", BLOCK, [])
    found = engine.verify(told.root)
    assert found.ok and any("made anew" in warning for warning in found.warnings)
    done = told.cycle([told.put(2 * PAGE, b"y")], tracker="scan")
    assert any("made anew from the head" in warning for warning in done.warnings)
    assert engine.verify(told.root, source=told.disk).warnings == []


def test_a_sample_of_everything_finds_whatever_is_hidden(told: Told) -> None:
    told.put(2 * PAGE + 77, b"hidden")
    done = told.cycle([told.put(0, b"told")], distrust=3 * PAGE_BLOCKS)
    assert done.scanned and "which tracker 'told' did not name" in done.warnings[0]
    assert engine.verify(told.root, source=told.disk).ok
    done = told.cycle([told.put(0, b"told again")], distrust=3 * PAGE_BLOCKS)
    assert (done.scanned, done.sampled, done.caught) == (False, 3 * PAGE_BLOCKS - 1, pytest.approx(0.1, abs=0.01))


@pytest.mark.parametrize(
    "named", [[(BLOCK, 10), (0, 10)], [(0, 3 * PAGE + 1)], [(-5, 10)], [(0, -1)], [(3 * PAGE, 1)]], ids=str
)
def test_ranges_that_are_none_mean_a_scan(told: Told, named: list[tuple[int, int]]) -> None:
    told.put(2 * PAGE, b"x")
    done = told.cycle(named)
    assert done.scanned and "no range behind the one before" in done.warnings[0]
    assert engine.verify(told.root, source=told.disk).ok


def test_verify_does_not_call_a_moving_file_different(told: Told) -> None:
    found = engine.verify(told.root, source=told.disk)
    assert found.ok and found.against in ("image", "clone")
    if found.against == "clone":
        pytest.skip("the temporary folder lies where files can be cloned")

    def write(now: engine.Progress) -> None:
        if now.stage == "source":
            told.put(2 * PAGE, os.urandom(BLOCK))

    with pytest.raises(errors.SourceChanged, match="while it was compared"):
        engine.verify(told.root, source=told.disk, progress=write)
    assert not engine.verify(told.root, source=told.disk).ok, "at rest it is different"
