"""A point read in place, over chains of undo deltas with frames that overlap and images that shrink and grow."""

from __future__ import annotations

import random
import threading
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.replica import view as views
from secondsite.engine.replica.view import PointView, point_map

BLOCK = 4096


@pytest.mark.parametrize("seed", range(6))
def test_random_reads_against_a_model(lab: Any, disk: Callable[..., Callable[[], bytes]], seed: int) -> None:
    """Two workers scan small batches, so the frames of one delta overlap in their spans."""
    step, chance = disk(seed, 60), random.Random(seed)
    for _ in range(10):
        lab.cycle(step(), workers=1 + seed % 3, codec=chance.choice(("none", "lz4", "zstd")), limit=None)
    for name, content in lab.contents.items():
        with engine.open_point("/r", at=name, files=lab.files) as view:
            assert view.size == len(content)
            for _ in range(40):
                offset = chance.randrange(len(content))
                length = chance.randrange(min(len(content) - offset, 20 * BLOCK) + 1)
                assert view.read(offset, length) == content[offset : offset + length], (name, offset, length)


def test_what_a_shrink_cut_off_does_not_come_back(lab: Any) -> None:
    """Long, short, long again with other bytes: to the oldest point those past the middle one's end are zeros."""
    first = b"a" * (20 * BLOCK)
    lab.cycle(first[: 10 * BLOCK] + bytes(10 * BLOCK))
    lab.cycle(first[: 3 * BLOCK + 5])
    lab.cycle(first[: 3 * BLOCK + 5] + b"z" * (15 * BLOCK))
    lab.check()


def test_batches_of_blocks(lab: Any, disk: Callable[..., Callable[[], bytes]]) -> None:
    step = disk(9, 60)
    for _ in range(6):
        lab.cycle(step())
    opened = lab.open()
    for point in opened.points():
        content = lab.contents[point.name]
        with PointView(opened, point) as view, point_map(opened, point) as block_map:
            count = block_map.blocks
            blocks = array("Q", sorted(random.Random(1).sample(range(count), min(count, 9))))
            hashes = block_map.load_hashes(blocks, len(blocks))
            parts = [content[b * BLOCK : (b + 1) * BLOCK] for b in blocks]
            lengths = array("I", (len(p) if any(p) else 0 for p in parts))
            wanted = b"".join(p for p in parts if any(p))
            payload = bytearray(len(blocks) * BLOCK)
            assert view.read_blocks(blocks, lengths, len(blocks), BLOCK, payload) == len(wanted)
            assert payload[: len(wanted)] == wanted
            check = (blocks, lengths, hashes, len(blocks), BLOCK, len(content), opened.identity.seed)
            assert view.check_blocks(*check) == -1


def test_threads_share_a_small_cache(
    lab: Any, disk: Callable[..., Callable[[], bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "CACHE_FRAMES", 2)
    step = disk(4, 200)
    for _ in range(5):
        lab.cycle(step())
    content = lab.contents["1"]
    wrong = []
    with engine.open_point("/r", at="1", files=lab.files) as view:

        def read(start: int) -> None:
            for offset in range(start, len(content) - BLOCK, 7919):
                if view.read(offset, BLOCK) != content[offset : offset + BLOCK]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(n * 100,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_thousands_of_points_need_few_open_files(lab: Any) -> None:
    data = bytearray(b"x" * (4 * BLOCK))
    for number in range(200):
        data[number % 4 * BLOCK] ^= 1 + number % 7
        lab.cycle(data)
    assert lab.restore("1") == lab.contents["1"]
    with engine.open_point("/r", at="2", files=lab.files) as view:
        assert view.read(0, 4 * BLOCK) == lab.contents["2"]


def test_the_map_of_a_point_has_its_seal(lab: Any, disk: Callable[..., Callable[[], bytes]]) -> None:
    step = disk(2)
    for _ in range(6):
        lab.cycle(step())
    opened = lab.open()
    for point in opened.points():
        with point_map(opened, point) as found:
            assert (found.seal().hex(), found.image_size) == (point.seal, point.virtual_bytes)


def test_a_point_that_is_not_there(lab: Any) -> None:
    lab.cycle(b"x")
    for at, kind in (("2", errors.Refused), ("nonsense", errors.Usage)):
        with pytest.raises(kind), engine.open_point("/r", at=at, files=lab.files):
            pass
