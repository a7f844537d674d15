"""What is expected of an item, against a link and a machine that are made up (M8)."""

from __future__ import annotations

import random

import pytest

from secondsite.orchestration.health.outlook import LEAST_CYCLES, Outlook, outlook
from secondsite.orchestration.health.statistics import Statistics

MB = 1_000_000
DISK = 100_000 * MB


def measured(
    churn: float, rate: float, fixed: float, *, every: float = 300.0, cycles: int = 100, spread: float = 0.5
) -> tuple[Statistics, float]:
    """The statistics of cycles over such a link, and the time of the newest point."""
    chance = random.Random(1)
    counts, now = Statistics(0.0, first=0.0, virtual_bytes=DISK), 0.0
    for _ in range(cycles):
        size = round(churn * every * chance.uniform(1 - spread, 1 + spread))
        counts, now = counts.cycle(size, fixed + size / rate), now + every
    return counts, now


def known(counts: Statistics, now: float, last: float, every: float = 300.0) -> Outlook:
    found = outlook(counts, every, now, last)
    assert found is not None
    return found


@pytest.mark.parametrize("churn", [0.1 * MB, 2 * MB, 8 * MB])
@pytest.mark.parametrize("fixed", [0.0, 3.0, 20.0])
def test_link_and_overhead_are_told_apart(churn: float, fixed: float) -> None:
    counts, last = measured(churn, 10 * MB, fixed)
    found = known(counts, last, last)
    assert found.churn == pytest.approx(churn, rel=0.1) and found.rate == pytest.approx(10 * MB, rel=0.01)
    assert found.worst_rpo == pytest.approx(300 + fixed + churn * 30 / MB, rel=0.05)
    # A cycle that sends what changed while the one before ran: simulated, not computed.
    length = fixed
    for _ in range(2000):
        length = fixed + found.churn * length / found.rate
    assert found.achievable_rpo == pytest.approx(2 * length, rel=0.01, abs=0.01)


def test_more_change_than_the_link_carries_never_catches_up() -> None:
    counts, last = measured(20 * MB, 10 * MB, 1.0)
    found = known(counts, last + 60, last)
    assert found.achievable_rpo is None and found.catch_up is None


def test_after_an_outage_it_catches_up_and_the_log_fills_meanwhile() -> None:
    counts, last = measured(4 * MB, 10 * MB, 0.0)
    found = known(counts, last + 1000, last)
    backlog, seconds = found.churn * 1000, 0.0
    while backlog > 0:
        backlog, seconds = backlog + found.churn - found.rate, seconds + 1
    assert found.catch_up == pytest.approx(seconds, abs=2)
    assert found.log_half_full == pytest.approx(DISK / 2 / found.churn - 1000, rel=0.001)
    assert known(counts, last + 1e9, last).log_half_full == 0


def test_cycles_of_one_size_err_to_the_slow_side() -> None:
    counts, last = measured(1 * MB, 10 * MB, 5.0, spread=0.0)
    assert known(counts, last, last).rate == pytest.approx(300 * MB / 35, rel=0.01)


def test_too_little_is_known_of_a_new_interval() -> None:
    counts, last = measured(1 * MB, 10 * MB, 1.0, cycles=LEAST_CYCLES - 1)
    assert outlook(counts, 300, last, last) is None
    assert outlook(Statistics(), 300, 0.0, None) is None
    counts, last = measured(0, 10 * MB, 1.0)
    assert outlook(counts, 300, last, last) is None
