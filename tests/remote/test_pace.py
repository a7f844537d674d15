"""When and how fast: retries, calendars, limits that change while they are waited for, and what packs the frames."""

from __future__ import annotations

import datetime
import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondsite.engine import errors
from secondsite.engine.delta import format as fmt
from secondsite.engine.remote.link import schedule
from secondsite.engine.remote.sending import retry
from secondsite.engine.remote.sending.compression import LADDER, Choice, Packed


def test_the_delays_of_the_rule() -> None:
    assert [s / 60 for s in itertools.islice(retry.delays(), 8)] == [1, 2, 4, 8, 10, 30, 30, 30]


def test_what_passes_is_tried_again_and_what_does_not_is_not() -> None:
    outcomes = iter([errors.Unreachable("a"), errors.Busy("b"), errors.Full("c")])
    waited: list[float] = []

    def attempt() -> str:
        if (error := next(outcomes, None)) is not None:
            raise error
        return "there"

    assert retry.run(attempt, sleep=waited.append) == "there"
    assert sum(waited) == 60 + 120 + 240 and max(waited) <= 0.25
    for kind in (errors.Refused, errors.Damaged, errors.Usage, errors.NewerFormat):
        def refused(kind: type[errors.Error] = kind) -> None:
            raise kind("no")
        with pytest.raises(kind):
            retry.run(refused, sleep=waited.append, told=[0])


def test_progress_begins_the_delays_anew_and_attempts_are_bounded() -> None:
    state = {"sent": 0}
    told: list[float] = []

    def attempt() -> None:
        state["sent"] += len(told) == 3
        raise errors.Unreachable("gone")

    with pytest.raises(errors.Unreachable):
        retry.run(attempt, sleep=lambda s: None, attempts=6, say=lambda e, s: told.append(s),
                  progressed=lambda: state["sent"])  # fmt: skip
    assert told == [60, 120, 240, 60, 120, 240, 480, 600]


def test_a_wait_is_cancelled() -> None:
    def attempt() -> None:
        raise errors.Unreachable("gone")

    with pytest.raises(errors.Cancelled):
        retry.run(attempt, sleep=lambda s: None, cancel=lambda: True)


# 2026-11-23 is a Monday.
@pytest.mark.parametrize("day, hour, minute, rate", [
    (23, 8, 0, 10 << 20), (23, 17, 59, 10 << 20), (23, 18, 0, None), (23, 7, 59, None),
    (28, 12, 0, 50 << 20), (27, 23, 0, 0), (28, 5, 59, 0), (28, 6, 0, 50 << 20), (29, 1, 0, 50 << 20),
])  # fmt: skip
def test_a_calendar(day: int, hour: int, minute: int, rate: int | None) -> None:
    rules = schedule.parse("mon-fri 08:00-18:00 10MB; fri 22:00-06:00 0; sat,sun 50MB")
    assert schedule.rate_at(rules, datetime.datetime(2026, 11, day, hour, minute)) == rate


def test_days_over_the_end_of_the_week() -> None:
    assert schedule.parse("sat-mon none")[0].days == {5, 6, 0}


@pytest.mark.parametrize("text", ["", ";", "mon", "mon 10", "mon 8:00-9:00 1M", "mon 08:00-08:00 1M", "foo 1M",
                                  "08:00-25:00 1M", "24:00-01:00 1M", "mon 08:00-09:00 1M x", "1M; -5"])  # fmt: skip
def test_rules_that_are_none(text: str) -> None:
    if text == "mon 10":
        assert schedule.parse(text)[0].rate == 10
        return
    with pytest.raises(errors.Usage):
        schedule.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_calendar_or_a_usage_error(text: str) -> None:
    try:
        assert schedule.parse(text)
    except errors.Usage:
        pass


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.hooks: dict[float, object] = {}

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def _throttle(clock: Time, limit: int | None, rules: str = "") -> schedule.Throttle:
    start = datetime.datetime(2026, 11, 23, 7, 59, 50)
    return schedule.Throttle(
        limit, schedule.parse(rules) if rules else None, clock=lambda: clock.now, sleep=clock.sleep,
        now=lambda: start + datetime.timedelta(seconds=clock.now),
    )  # fmt: skip


def test_a_limit_is_kept() -> None:
    clock = Time()
    throttle = _throttle(clock, 1000)
    for _ in range(100):
        throttle.take(100, lambda: None)
    assert 9.5 <= clock.now <= 10.5


def test_a_limit_that_changes_while_it_is_waited_for() -> None:
    clock = Time()
    throttle = _throttle(clock, 10)

    def check() -> None:
        if clock.now >= 3:
            throttle.limit = None

    throttle.take(1_000_000, check)
    assert 3 <= clock.now <= 3.2


def test_a_closed_window_waits_for_the_next_rule_and_a_cancel_ends_it() -> None:
    clock = Time()
    throttle = _throttle(clock, None, "08:00-18:00 none; 0")
    throttle.take(1000, lambda: None)
    assert 9.99 <= clock.now <= 10.2
    clock.now = -100.0

    def stop() -> None:
        raise errors.Cancelled("stop")

    with pytest.raises(errors.Cancelled):
        throttle.take(1, stop)


def _batches(choice: Choice, link: float, ratios: Callable[[int], list[float]], batches: int = 2000) -> list[int]:
    """The steps of so many batches of a megabyte on a link and processor that are simulated."""
    used = []
    for number in range(batches):
        step, rival = choice.next()
        one = {at: Packed(1e6 / ratios(number)[at], 1e6 / _SPEEDS[at]) for at in (step, rival) if at is not None}
        choice.packed(step, one[step].size, one[step].seconds)
        if rival is not None:
            choice.compared(step, rival, one[step], one[rival])
        choice.sent(int(one[step].size), one[step].size / link)
        used.append(step)
    return used


_SPEEDS = [5e9, 8e8, 3e8, 2e8, 8e7, 4e7]
_FILES = [1.0, 1.8, 2.4, 2.6, 2.8, 2.9]


def _settled(link: float, ratios: list[float], workers: int = 2) -> tuple[int, int]:
    choice = Choice(workers)
    _batches(choice, link, lambda number: ratios)
    return LADDER[choice.current]


def test_a_slow_link_gets_the_best_packing_and_a_quick_one_none() -> None:
    assert _settled(1.25e6, _FILES) == (fmt.ZSTD, 9)
    assert _settled(1.25e6, _FILES, workers=1) == (fmt.ZSTD, 6)  # 25 ms of packing would save 10 ms of sending
    assert _settled(12.5e6, _FILES) == (fmt.ZSTD, 9)
    assert _settled(4e9, _FILES) == (fmt.NONE, 0)
    assert _settled(1.5e8, _FILES) in ((fmt.LZ4, 1), (fmt.ZSTD, 1))


def test_data_that_does_not_pack_is_not_packed() -> None:
    for link in (1.25e6, 12.5e6, 4e9):
        assert _settled(link, [1.0] * 6) == (fmt.NONE, 0)


def test_what_lz4_finds_nothing_in_is_packed_by_zstd() -> None:
    assert _settled(12.5e6, [1.0, 1.0, 1.6, 1.6, 1.6, 1.6]) == (fmt.ZSTD, 1)


def test_a_slow_link_gets_there_within_its_first_batches() -> None:
    used = _batches(Choice(2), 12.5e6, lambda number: _FILES, 40)
    assert used.index(LADDER.index((fmt.ZSTD, 9))) <= 16


def test_files_that_pack_to_a_half_here_and_to_a_tenth_there_do_not_mislead_it() -> None:
    chance = random.Random(5)
    scale = [chance.choice((0.0, 0.2, 1.0, 5.0)) for _ in range(2000)]
    choice = Choice(2)
    used = _batches(choice, 12.5e6, lambda number: [1 + (ratio - 1) * scale[number] for ratio in _FILES])
    assert sum(step >= 4 for step in used[100:]) > 0.9 * len(used[100:])


def test_it_follows_data_that_changes() -> None:
    choice = Choice(2)
    _batches(choice, 12.5e6, lambda number: _FILES, 500)
    used = _batches(choice, 12.5e6, lambda number: [1.0] * 6, 500)
    assert LADDER[used[-1]] == (fmt.NONE, 0)
    used = _batches(choice, 12.5e6, lambda number: _FILES, 500)
    assert LADDER[used[-1]] == (fmt.ZSTD, 9)


def test_trials_are_few_once_it_has_settled() -> None:
    choice = Choice(2)
    _batches(choice, 4e9, lambda number: _FILES, 500)
    tried = [choice.next()[1] for _ in range(640)]
    assert sum(rival is not None for rival in tried) <= 10


@pytest.mark.parametrize("step", LADDER)
def test_a_frame_is_never_longer_than_its_raw_bytes_by_two_percent(step: tuple[int, int]) -> None:
    from secondsite.engine.batch import Batch
    from secondsite.engine.delta.writer import FrameBuffer

    for block_size in (4096, 65536):
        batch = Batch(block_size, 1 << 20)
        count = len(batch.payload) // block_size
        for index in range(count):
            batch.blocks[index], batch.lengths[index] = index * 3, block_size
        batch.payload[:] = random.Random(1).randbytes(len(batch.payload))
        batch.count, batch.used = count, len(batch.payload)
        batch.hashes[: 16 * count] = batch.rehash(1)
        buffer = FrameBuffer(*step)
        buffer.encode(batch, 1)
        assert buffer.used <= 1.02 * batch.used
