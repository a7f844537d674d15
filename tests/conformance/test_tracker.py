"""What engine/trackers/base.py promises, sentence by sentence, of every tracker; and of cycles while others write."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from trackerkit import RECORD, REPLICA, SIZE, Rig, Writers, find_rigs

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.trackers.base import Cut, Have, Tracker

BLOCK = 64 << 10


@pytest.fixture(params=find_rigs())
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = request.param
    folder = request.getfixturevalue(made.wants) / tmp_path.name if made.wants else tmp_path / "rig"
    folder.mkdir()
    one = made(folder)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def tracker(rig: Rig) -> Iterator[Tracker]:
    with rig.tracker() as made:
        yield made


@pytest.fixture
def follower(rig: Rig, tracker: Tracker) -> Follower:
    if not rig.knows:
        pytest.skip("it never knows what changed")
    return Follower(rig, tracker)


def point(generation: int, replica: str = REPLICA) -> Have:
    return Have(replica, generation, f"{generation:064x}")


def read(cut: Cut, ranges: list[tuple[int, int]]) -> list[bytes]:
    return [bytes(cut.image.read(start, length)) for start, length in ranges]


class Follower:
    """What a replica does with cuts, over a bytearray: it has the disk of the last acknowledged cut."""

    def __init__(self, rig: Rig, tracker: Tracker) -> None:
        self.rig, self.tracker, self.generation = rig, tracker, 0
        self.disk = b""
        self.step()

    @property
    def have(self) -> Have | None:
        return point(self.generation) if self.generation else None

    def begin(self) -> Cut:
        return self.tracker.begin(self.have)

    def take(self, cut: Cut) -> list[tuple[int, int]] | None:
        """Read what the cut names, and see that it leads from the last disk to this one."""
        found = cut.changed()
        ranges = None if found is None else list(found)
        if self.have is None:
            assert ranges is None
        size = cut.image.size
        disk = bytearray(self.disk[:size].ljust(size, b"\0"))
        at = 0
        for start, length in [(0, size)] if ranges is None else ranges:
            assert at <= start and length > 0 and start + length <= size, "ascending, disjoint, inside"
            at = start + length
            disk[start : start + length] = cut.image.read(start, length)
        self.disk = bytes(disk)
        return ranges

    def step(self) -> list[tuple[int, int]] | None:
        """A whole cycle, of a disk at rest."""
        with self.begin() as cut:
            ranges = self.take(cut)
            assert self.disk == self.rig.content(), "a byte that differs is not named"
            self.generation += 1
            cut.acknowledge(point(self.generation))
        return ranges


def total(ranges: list[tuple[int, int]] | None) -> int:
    assert ranges is not None
    return sum(length for _, length in ranges)


def change(rig: Rig, chance: random.Random) -> None:
    at = chance.randrange(SIZE // RECORD - 40) * RECORD
    kind = chance.randrange(4)
    if kind == 0:
        rig.write(at, chance.randbytes(RECORD))
    elif kind == 1:
        rig.write(at, chance.randbytes(RECORD * chance.randrange(1, 40)))
    elif kind == 2:
        rig.zero(at, RECORD * chance.randrange(1, 40))
    else:
        rig.trim(at, RECORD * chance.randrange(1, 40))


def test_a_byte_that_differs_is_named(follower: Follower) -> None:
    chance = random.Random(3)
    for _ in range(12):
        for _ in range(chance.randrange(1, 12)):
            change(follower.rig, chance)
        assert follower.step() is not None, "an acknowledged cut is known"


def test_little_is_named_that_did_not_change(follower: Follower) -> None:
    chance, rig = random.Random(4), follower.rig
    for at in range(0, SIZE, SIZE // 16):
        rig.write(at, chance.randbytes(SIZE // 16))
    follower.step()
    allowed = 0 if rig.grain < SIZE else SIZE
    assert total(follower.step()) <= allowed
    for at in (0, SIZE // 2 + RECORD, SIZE - RECORD):
        rig.write(at, b"x" * RECORD)
    assert RECORD * 3 <= total(follower.step()) <= 3 * max(rig.grain, RECORD)
    assert total(follower.step()) <= allowed


@pytest.mark.parametrize("how", ["zero", "trim"])
def test_zeros_are_changes(follower: Follower, how: str) -> None:
    rig = follower.rig
    rig.write(0, b"x" * SIZE)
    follower.step()
    getattr(rig, how)(SIZE // 4, SIZE // 4)
    assert total(follower.step()) >= SIZE // 4
    assert follower.disk[SIZE // 4 : SIZE // 2] == bytes(SIZE // 4)


@pytest.mark.parametrize("way", ["given back", "left", "raised"])
def test_what_is_marked_is_forgotten_on_acknowledge_alone(follower: Follower, way: str) -> None:
    rig, before = follower.rig, follower.disk
    for number in range(3):
        rig.write(number * SIZE // 4, b"x" * RECORD)
        cut = follower.begin()
        follower.take(cut)
        if way == "given back":
            cut.give_back()
        elif way == "left":
            with cut:
                pass
        else:
            with pytest.raises(RuntimeError), cut:
                raise RuntimeError
        follower.disk = before
    assert total(follower.step()) >= 3 * RECORD


def test_what_is_written_while_a_cut_is_open_is_named_by_the_next(follower: Follower, rig: Rig) -> None:
    rig.write(0, b"before".ljust(RECORD))
    with follower.begin() as cut:
        rig.write(SIZE // 2, b"during".ljust(RECORD))
        follower.take(cut)
        follower.generation += 1
        cut.acknowledge(point(follower.generation))
    rig.write(SIZE - RECORD, b"after".ljust(RECORD))
    follower.step()


def test_without_have_it_does_not_know(tracker: Tracker, rig: Rig) -> None:
    for _ in range(2):
        rig.write(0, b"x" * RECORD)
        with tracker.begin(None) as cut:
            assert cut.changed() is None
            assert bytes(cut.image.read(0, cut.image.size)) == rig.content()
            cut.acknowledge(point(1))


@pytest.mark.parametrize(
    "other", [point(2), point(0), Have(REPLICA, 1, "f" * 64), point(1, "f" * 32), Have("", 1, "")], ids=str
)
def test_a_point_that_was_not_acknowledged_is_unknown(tracker: Tracker, rig: Rig, other: Have) -> None:
    """The replica was restored, rolled back, or made anew since."""
    with tracker.begin(None) as cut:
        cut.acknowledge(point(1))
    rig.write(0, b"x" * RECORD)
    with tracker.begin(other) as cut:
        assert cut.changed() is None
        assert bytes(cut.image.read(0, cut.image.size)) == rig.content()


def test_the_point_before_the_last_is_unknown(tracker: Tracker, rig: Rig) -> None:
    """Somebody took a replica's folder back to yesterday's."""
    for generation in (1, 2):
        with tracker.begin(point(generation - 1) if generation > 1 else None) as cut:
            cut.changed()
            cut.acknowledge(point(generation))
        rig.write(generation * RECORD, b"x" * RECORD)
    with tracker.begin(point(1)) as cut:
        assert cut.changed() is None


def test_only_one_cut_is_open(tracker: Tracker) -> None:
    with tracker.begin(None):
        for _ in range(2):
            with pytest.raises(errors.Refused):
                tracker.begin(None)
    tracker.begin(None).give_back()


def test_ending_a_cut_twice_does_nothing(follower: Follower, rig: Rig) -> None:
    first = follower.begin()
    follower.take(first)
    first.acknowledge(point(2))
    follower.generation = 2
    rig.write(RECORD, b"x" * RECORD)
    first.give_back()
    first.acknowledge(point(7))
    assert total(follower.step()) >= RECORD
    second = follower.begin()
    second.give_back()
    second.give_back()
    second.acknowledge(point(9))
    with follower.tracker.begin(point(9)) as cut:
        assert cut.changed() is None
    follower.step()


def test_a_frozen_cut_is_of_one_instant(tracker: Tracker, rig: Rig) -> None:
    """What is named, and the sample, stay what they were when the cut began; all of it where nothing is known."""
    if not rig.frozen:
        pytest.skip("its cuts are not frozen")
    chance = random.Random(5)
    rig.write(0, chance.randbytes(SIZE))
    have, sample = None, [(at, BLOCK) for at in range(0, SIZE, 4 * BLOCK)]
    for generation in (1, 2, 3):
        change(rig, chance)
        then = rig.content()
        with tracker.begin(have, sample) as cut:
            for _ in range(30):
                change(rig, chance)
            assert cut.frozen and cut.image.size == SIZE
            named = cut.changed()
            ranges = [(0, SIZE)] if named is None else [*named, *sample]
            for _ in range(30):
                change(rig, chance)
            assert read(cut, ranges) == [then[start : start + length] for start, length in ranges]
            have = point(generation)
            cut.acknowledge(have)


def test_a_new_tracker_goes_on(rig: Rig) -> None:
    """As the next command does."""
    if not (rig.knows and rig.survives):
        pytest.skip("it knows nothing in another process")
    with rig.tracker() as tracker:
        follower = Follower(rig, tracker)
    rig.write(3 * RECORD, b"x" * RECORD)
    with rig.tracker() as follower.tracker:
        assert RECORD <= total(follower.step()) <= rig.grain


def test_closing_it_gives_back(rig: Rig, follower: Follower) -> None:
    rig.write(0, b"x" * RECORD)
    follower.begin()
    follower.tracker.close()
    if rig.survives:
        with rig.tracker() as follower.tracker:
            assert total(follower.step()) >= RECORD


def test_two_replicas_of_one_source(rig: Rig) -> None:
    if not (rig.knows and rig.several):
        pytest.skip("one replica at a time")
    other = "f" * 32
    with rig.tracker() as one, rig.tracker(other) as two:
        for tracker, replica in ((one, REPLICA), (two, other)):
            with tracker.begin(None) as cut:
                cut.acknowledge(point(1, replica))
        rig.write(0, b"1" * RECORD)
        with one.begin(point(1)) as cut:
            assert total(list(cut.changed() or [])) >= RECORD
            cut.acknowledge(point(2))
        rig.write(SIZE // 2, b"2" * RECORD)
        with two.begin(point(1, other)) as cut:
            named = list(cut.changed() or [])
            for at in (0, SIZE // 2):
                assert any(start <= at and at + RECORD <= start + length for start, length in named)
        with one.begin(point(1, other)) as cut:
            assert cut.changed() is None


@pytest.mark.parametrize("sizes", [(SIZE + 5000, SIZE), (SIZE - BLOCK, SIZE), (RECORD, 0, SIZE), (SIZE - 77, SIZE)])
def test_a_disk_of_another_size(follower: Follower, rig: Rig, sizes: tuple[int, ...]) -> None:
    if not rig.resizes:
        pytest.skip("it keeps its size")
    rig.write(0, b"x" * SIZE)
    follower.step()
    for size in sizes:
        rig.resize(size)
        follower.step()
        assert len(follower.disk) == size
        if size > RECORD:
            rig.write(size - 100, b"y" * 100)
            follower.step()


# -- as a cycle uses it ------------------------------------------------------------------------------------------


def first_cycle(rig: Rig, root: Path) -> str:
    engine.replicate(rig.source, root, block_size=RECORD, tracker="scan", workers=2)
    found = engine.info(root)
    assert isinstance(found, engine.ReplicaInfo)
    return found.replica_id


def test_every_point_is_a_state_the_disk_had(rig: Rig, tmp_path: Path) -> None:
    """Writers with records that tell who wrote them and when, while one cycle follows the other."""
    if not rig.frozen:
        pytest.skip("its source has to stand still")
    root, points, writers = tmp_path / "replica", [], Writers(rig, pause=0.0005)
    with rig.tracker(first_cycle(rig, root)) as tracker, writers.running():
        for _ in range(8):
            begun = time.monotonic_ns()
            done = engine.replicate(rig.source, root, tracker=tracker, workers=2, distrust=5)
            points.append((done, begun, (root / "head.raw").read_bytes()))
            assert done.warnings == [] or rig.grain == SIZE
            time.sleep(0.05)
    assert min(map(len, writers.logs)) > 50
    for done, begun, disk in points:
        writers.check(disk, begun)
        with engine.open_point(root, at=done.point) as image:
            assert bytes(image.read(0, SIZE)) == disk
    assert [done.scanned for done, *_ in points[1:]] == [not rig.knows] * 7
    assert engine.verify(root).ok
    with rig.tracker(engine.info(root).replica_id) as tracker:  # type: ignore[union-attr]
        engine.replicate(rig.source, root, tracker=tracker)
    assert (root / "head.raw").read_bytes() == rig.content()


def test_a_cycle_that_fails_gives_the_cut_back(
    rig: Rig, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "replica"
    with rig.tracker(first_cycle(rig, root)) as tracker:
        engine.replicate(rig.source, root, tracker=tracker)
        rig.write(0, b"x" * RECORD)
        with monkeypatch.context() as patch:
            patch.setattr("secondsite.engine.replica.cycle.Cycle.put", raising)
            with pytest.raises(errors.Full):
                engine.replicate(rig.source, root, tracker=tracker)
        done = engine.replicate(rig.source, root, tracker=tracker)
        assert (done.kind, done.scanned) == ("delta", not rig.knows)
    assert (root / "head.raw").read_bytes() == rig.content()


def raising(*arguments: object) -> None:
    raise errors.Full("no room", path="disk")
