"""Cycles for ever, on a clock that the test moves: the grid, what counts as missed, retries, and how it ends."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors, watching
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.watching import RETRY_SECONDS, Schedule, retry_seconds

BLOCK = 4096


class World:
    """A clock that moves only in sleeps and where a cycle is made to take time; a replica in memory."""

    def __init__(self, every: float, costs: Callable[[int], float] = lambda _: 0.0, ends: float = 60.0) -> None:
        self.every, self.costs, self.ends = every, costs, ends
        self.at, self.begun, self.seen = 1000.0, [], []  # type: float, list[float], list[engine.Status]
        self.files = MemoryFiles()
        self.chance = random.Random(4)
        self.disk = MemoryImage(self.chance.randbytes(16 * BLOCK), path="disk")
        self.fail: dict[int, errors.Error] = {}
        self.running = False

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        assert not self.running, "slept in a cycle"
        self.at += seconds

    def clock(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.at, datetime.UTC)

    def cycle(self, progress: Any) -> engine.Replicated:
        assert not self.running, "two cycles at once"
        self.running = True
        try:
            number = len(self.begun)
            self.begun.append(round(self.at - 1000, 3))
            if number in self.fail:
                raise self.fail[number]
            self.disk.write(BLOCK * self.chance.randrange(16), self.chance.randbytes(99))
            done = engine.replicate(
                self.disk, "/r", block_size=BLOCK, history="undo", workers=1, files=self.files, clock=self.clock
            )
            self.at += self.costs(number)
            return done
        finally:
            self.running = False

    def run(self) -> None:
        watch = watching.Watch(
            self.cycle, self.every, self.seen.append, lambda: self.at - 1000 >= self.ends, self.clock, self.now,
            self.sleep,
        )  # fmt: skip
        with pytest.raises(errors.Cancelled):
            watch.run()

    def ended(self) -> list[engine.Status]:
        return [status for status in self.seen if status.last is not None]


def test_a_cycle_every_second_without_drift() -> None:
    world = World(1.0, lambda _: 0.3, ends=20)
    world.run()
    assert world.begun == pytest.approx([float(second) for second in range(20)], abs=1e-6)
    last = world.seen[-1]
    assert (last.cycles, last.missed, last.failed, last.missing) == (20, 0, 0, False)
    assert {status.state for status in world.seen} == {"initial", "replicating", "waiting"}
    assert max(status.age for status in world.seen if status.age is not None) == pytest.approx(1.0, abs=0.11)
    # The newest point is as old as its cut, not as its end.
    assert {round(status.age or 0, 3) for status in world.ended()} == {0.3}
    points = engine.points("/r", files=world.files)
    assert len(points) == 20 and points[7].time == "1970-01-01T00:16:47.000000Z"


def test_it_degrades_says_so_and_recovers() -> None:
    world = World(1.0, lambda number: 2.5 if 4 <= number < 8 else 0.2, ends=30)
    world.run()
    # Back to back while they take 2.5 s, on the grid again afterwards.
    assert world.begun[:12] == pytest.approx([0, 1, 2, 3, 4, 6.5, 9, 11.5, 14, 15, 16, 17], abs=1e-6)
    states = [status.state for status in world.ended()]
    assert states[:12] == ["waiting"] * 4 + ["degraded"] * 4 + ["waiting"] * 4
    # Due at 5 to 14 while another ran: not one of them began at its time.
    assert world.ended()[-1].missed == 10


def test_missed_are_those_that_were_due_meanwhile() -> None:
    """3.5 s of a cycle: those due at 1 and 2 never run, the one of 3 runs late; all three count (R6.2)."""
    world = World(1.0, lambda number: 3.5 if number == 0 else 0.1, ends=8)
    world.run()
    assert world.begun == pytest.approx([0, 3.5, 4, 5, 6, 7], abs=1e-6)
    assert world.seen[-1].missed == 3


def test_more_than_a_fifth_missed_is_a_warning() -> None:
    slow = World(1.0, lambda number: 1.5 if number % 3 == 0 else 0.1, ends=40)
    slow.run()
    assert slow.seen[-1].missing
    rare = World(1.0, lambda number: 1.5 if number % 10 == 0 else 0.1, ends=40)
    rare.run()
    assert rare.seen[-1].missed and not rare.seen[-1].missing


def test_what_was_missed_is_forgotten_after_twelve_hours() -> None:
    schedule = Schedule(0.0, 60.0)
    for minute in range(0, 100, 2):
        schedule.begin(minute * 60.0, late=False)
    assert schedule.missing and schedule.missed == 49
    for minute in range(100, 730):
        schedule.begin(minute * 60.0, late=False)
    assert not schedule.missing and schedule.missed == 50


@pytest.mark.parametrize("every", [1.0, 30.0, 300.0, 86400.0])
def test_retries_as_the_rule_says_and_sooner_for_short_intervals(every: float) -> None:
    told = [retry_seconds(attempt, every) for attempt in range(1, 2000)]
    assert told == sorted(told) and told[0] == min(every, 60.0)
    assert told[-1] == min(1800.0, 60 * every)
    if every >= 60:
        assert tuple(told[:6]) == RETRY_SECONDS


def test_an_error_that_may_pass_is_tried_again() -> None:
    world = World(1.0, ends=20)
    world.fail = {number: errors.Unreachable("no way there", path="/r") for number in (3, 4, 5)}
    world.run()
    # After 1, 2 and 4 seconds; then what is due again.
    assert world.begun[:9] == pytest.approx([0, 1, 2, 3, 4, 6, 10, 11, 12], abs=0.01)
    failed = [status for status in world.seen if status.error is not None]
    assert failed[0].state == "retrying" and failed[0].error == "/r: no way there" and failed[0].retry == 1
    assert failed[-1].age == pytest.approx(8, abs=0.6), "the age grows on while nothing gets through"
    last = world.seen[-1]
    assert (last.error, last.failed, last.retry, last.state) == (None, 3, None, "waiting")
    assert last.missed == 7  # due at 4 to 10, and none of them began then


def test_a_lost_cut_is_read_again_at_once() -> None:
    world = World(30.0, ends=100)
    world.fail = {1: errors.CutLost("old contents found no room", path="disk")}
    world.run()
    assert world.begun[:4] == pytest.approx([0, 30, 30, 60], abs=0.01)
    assert next(status.state for status in world.seen if status.error is not None) == "resync required"
    assert world.seen[-1].state == "waiting"


def test_a_long_first_copy_is_not_called_degraded() -> None:
    world = World(1.0, lambda number: 4.5 if number == 0 else 0.2, ends=9)
    world.run()
    assert {status.state for status in world.seen} == {"initial", "replicating", "waiting"}
    assert world.seen[-1].missed == 4


def test_stopped_in_the_middle_of_a_cycle_the_point_before_is_named() -> None:
    world = World(1.0)
    world.fail = {3: errors.Cancelled("stopped on request; nothing was changed")}
    with pytest.raises(errors.Cancelled, match=r"^stopped on request; point 3 is the newest$"):
        watching.Watch(
            world.cycle, 1.0, world.seen.append, lambda: False, world.clock, world.now, world.sleep
        ).run()


def test_what_no_retry_mends_ends_it() -> None:
    world = World(1.0)
    world.fail = {2: errors.Damaged("a bad byte", path="/r")}
    with pytest.raises(errors.Damaged, match="a bad byte"):
        watching.Watch(
            world.cycle, 1.0, world.seen.append, lambda: False, world.clock, world.now, world.sleep
        ).run()
    assert len(world.begun) == 3


@pytest.mark.parametrize("every", [0.0, 0.5, -1.0, 86401.0, float("nan"), float("inf")])
def test_an_interval_that_cannot_be(every: float) -> None:
    with pytest.raises(errors.Usage, match="from 1 s to a day"):
        engine.watch(MemoryImage(b"", path="disk"), "/r", every=every, files=MemoryFiles())


def test_points_are_kept_as_was_asked_and_each_restores() -> None:
    world = World(1.0, ends=12)
    contents = {}

    def keep(status: engine.Status) -> None:
        if status.last is not None:
            contents[status.point] = world.disk.read(0, 16 * BLOCK)
            world.disk.write(BLOCK * world.chance.randrange(16), world.chance.randbytes(99))

    with pytest.raises(errors.Cancelled, match="point 12 is the newest"):
        engine.watch(
            world.disk, "/r", every=1.0, keep=5, block_size=BLOCK, workers=1, files=world.files, observe=keep,
            history="undo", cancel=lambda: world.at >= 1012, clock=world.clock, monotonic=world.now, sleep=world.sleep,
        )  # fmt: skip
    listed = [point.point for point in engine.points("/r", files=world.files)]
    assert listed == ["8", "9", "10", "11", "12"]
    for name in listed:
        engine.restore("/r", "/out", at=name, files=world.files, workers=1)
        assert world.files.read_bytes("/out", 1 << 20) == bytes(contents[name]), name
        world.files.unlink("/out")
