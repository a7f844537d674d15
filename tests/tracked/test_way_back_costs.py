"""What the way back after a failover reads and sends, counted by the kernel as well as by what the calls say (issue 8):
without trackers each side is read once and only what differs is sent; with them it is what either side wrote.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from remote.hosting import Site, site
from tracked.test_reversal import BLOCK, MIB, SIZE, Pair, failed_over

from secondsite import engine
from secondsite.engine.blockmap import HEADER_BYTES, PAGE_BYTES, BlockMap


class Read:
    """Bytes that this process read by system calls, its agents' and servers' threads included."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        before = _read_so_far()
        yield
        self.bytes = _read_so_far() - before


def _read_so_far() -> int:
    found = re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())
    assert found is not None
    return int(found[1])


def test_without_trackers_each_side_is_read_once_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    pair = Pair(tmp_path, random.Random(16))
    engine.replicate(pair.disk, pair.forward, tracker="scan")
    pair.points.append(bytes(pair.data))
    with engine.open_image(pair.disk, "rw") as image:
        pair.write(image, pair.data, 5)
    model, read = failed_over(pair, 1), Read()
    with engine.open_image(pair.overlay, "rw") as image:
        pair.write(image, model, 5)
    with ExitStack() as stack:
        (tmp_path / "home-site").mkdir()
        there: Site = stack.enter_context(site(tmp_path / "home-site"))
        state = there.host("active", "back", allow="send,read")
        with read.counted():
            adopted = engine.adopt(pair.disk, there.root / "back", move=True)
        assert adopted.read_bytes == SIZE <= read.bytes < SIZE + MIB
        with read.counted():
            done = engine.replicate(pair.overlay, there.url("back"), state=state)
        assert (there.root / "back/head.raw").read_bytes() == model
    assert done.scanned and done.read_bytes <= SIZE
    assert done.sent_bytes < 4 * MIB and done.over_bytes < done.sent_bytes + 200_000
    # What was sent is read where it arrives, spooled, put into the head and read back there.
    assert read.bytes < SIZE + MIB + 5 * done.sent_bytes


def test_with_a_tracker_the_calls_read_what_was_written(tmp_path: Path) -> None:
    pair, read = Pair(tmp_path, random.Random(17)), Read()
    pair.home(2, 0)
    with engine.track([pair.disk], socket=str(tmp_path / "home")) as tracking:
        tracking.images[0].disk.write(5 * BLOCK, b"never sent")
    model = failed_over(pair, 2)
    with engine.open_image(pair.overlay, "rw") as image:
        pair.write(image, model, 1)
    with read.counted():
        adopted = engine.adopt(pair.disk, pair.back, like=pair.forward, move=True)
        done = engine.replicate(pair.overlay, pair.back)
    assert adopted.read_bytes == BLOCK and not done.scanned
    assert (pair.back / "head.raw").read_bytes() == model
    # Beside those the sample: at most 64 blocks each, of which most are zeros that a raw file reads all the same.
    assert read.bytes < 2 * 64 * BLOCK + 3 * MIB


@pytest.mark.parametrize("when", ["before adopting", "before the cycle"])
def test_a_damaged_map_is_made_anew_and_costs_no_scan(tmp_path: Path, when: str) -> None:
    """Maps are read lazily here, and where that meets damage they are looked at as a whole."""
    pair = Pair(tmp_path, random.Random(18))
    pair.home(1, 2)
    model = failed_over(pair, 1)
    with engine.open_image(pair.overlay, "rw") as image:
        pair.write(image, model, 2)
    if when == "before adopting":
        _spoil(pair.forward / "head.map")
    adopted = engine.adopt(pair.disk, pair.back, like=pair.forward, move=True)
    assert adopted.read_bytes < 2 * MIB and adopted.warnings == [] and engine.verify(pair.back).ok
    if when == "before the cycle":
        _spoil(pair.forward / "head.map")
    done = engine.replicate(pair.overlay, pair.back)
    assert not done.scanned and done.read_bytes < 4 * MIB
    assert (pair.back / "head.raw").read_bytes() == model and engine.verify(pair.back).ok


def _spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + PAGE_BYTES + 40)
        file.write(b"\xff" * 8)


@pytest.mark.parametrize("remembered", [True, False])
def test_a_far_map_that_is_remembered_is_not_fetched(
    tmp_path: Path, remembered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home sent to the far replica until the failover, and its copy of that map is whole, or it is damaged."""
    pair, asked = Pair(tmp_path, random.Random(19)), []
    page = BlockMap.page
    monkeypatch.setattr(BlockMap, "page", lambda self, number: asked.append(self.path) or page(self, number))
    with site(tmp_path) as there:
        state = there.host("home", "fwd", allow="send,read")
        with engine.track([pair.disk], socket=str(tmp_path / "home-socket")) as tracking:
            engine.replicate(pair.disk, there.url("fwd"), state=state)
            tracking.images[0].disk.write(5 * BLOCK, b"never sent")
        near = next((state / "maps").glob("*.map"))
        if not remembered:
            _spoil(near)
        asked.clear()
        adopted = engine.adopt(pair.disk, pair.back, like=there.url("fwd"), state=state, move=True)
    assert asked == ([str(near)] if remembered else [str(near), there.url("fwd") + "/head.map"])
    assert (adopted.read_bytes, adopted.warnings) == (BLOCK, []) and engine.verify(pair.back).ok
