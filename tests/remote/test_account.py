"""What a cycle is said to have changed is what all its attempts changed, each block once."""

from __future__ import annotations

import random

import pytest
from transfer import BLOCK, Fault, Pair, Proxy

from secondsite.engine import errors
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.memory import MemoryImage

pytestmark = pytest.mark.timeout(60)
SIZE = 2000 * BLOCK + 100


@pytest.fixture(params=["undo", "clone"])
def pair(request: pytest.FixtureRequest) -> Pair:
    made = Pair(MemoryImage(random.Random(1).randbytes(SIZE)))
    made.files, made.history = MemoryFiles(clones=request.param == "clone"), "auto"
    return made


def cut(pair: Pair, at: int) -> None:
    with pytest.raises(errors.Unreachable):
        pair.cycle(Proxy(Fault("cut", at)))


def test_a_first_copy_that_was_cut(pair: Pair) -> None:
    cut(pair, 5_000_000)
    found = pair.cycle()
    assert found.tally.changed_bytes < SIZE, "nothing was taken up: this test says nothing"
    (point,) = pair.points()
    assert (point.changed_bytes, found.done.changed_bytes, found.done.data_bytes) == (SIZE, SIZE, SIZE)
    assert SIZE <= point.sent_bytes < SIZE * 1.02


@pytest.mark.parametrize("resync", [False, True])
def test_a_delta_that_was_cut_and_what_changed_back(pair: Pair, resync: bool) -> None:
    """The blocks 0 to 99 are spooled and changed back, and some more become zeros."""
    pair.cycle()
    before = bytes(pair.image.read(0, 100 * BLOCK))
    pair.image.write(0, random.Random(2).randbytes(SIZE))
    cut_at = 5_000_000
    with pytest.raises(errors.Unreachable):
        pair.cycle(Proxy(Fault("cut", cut_at)), resync=resync)
    pair.image.write(0, before)
    pair.image.write(100 * BLOCK, bytes(50 * BLOCK))
    found = pair.cycle(resync=resync)
    pair.note()
    assert found.tally.changed_bytes < SIZE - 100 * BLOCK
    point = pair.points()[-1]
    assert point.changed_bytes == found.done.changed_bytes == SIZE - 100 * BLOCK
    assert found.done.data_bytes == SIZE - 150 * BLOCK
    assert point.sent_bytes >= SIZE - 50 * BLOCK  # what came and was of no use had to come over, too
    pair.check()


def test_a_disk_that_grows_and_shrinks(pair: Pair) -> None:
    """Without a cut it is what the scan says, also at the end of the disk."""
    for size in (SIZE + 300 * BLOCK, SIZE - 300 * BLOCK, 5 * BLOCK + 1, 50 * BLOCK):
        pair.image.resize(size)
        pair.image.write(size - 3000, random.Random(size).randbytes(3000))
        found = pair.cycle()
        told = pair.points()[-1].changed_bytes, found.done.changed_bytes, found.done.data_bytes
        assert told == (found.tally.changed_bytes, found.tally.changed_bytes, found.tally.sent_bytes)
