"""Policies and their bounds, the timeline, and what is said of a point."""

from __future__ import annotations

import pytest

from secondsite.engine import errors
from secondsite.orchestration.retention.decision import decide, dropped
from secondsite.orchestration.retention.point import Point
from secondsite.orchestration.retention.policy import ArrayManaged, ByAmount, ByTime, Continuous
from secondsite.orchestration.retention.rules import HOUR, SECOND
from secondsite.orchestration.retention.timeline import Moment, Timeline, rebuilt

WRONG = [
    ByTime(300, 25), ByTime(300, -1), ByTime(0, 2), ByAmount(16), ByAmount(25, 30), ByAmount(-1),
    Continuous([]), Continuous([(0, 10)]), Continuous([(60, 30)]), Continuous([(2, 60), (3, 120)]),
    Continuous([(1, 60), (120, 3600)]), Continuous([(60, 3600), (60, 7200)]), Continuous([(1, 60), (60, 60)]),
]  # fmt: skip


@pytest.mark.parametrize("policy", WRONG, ids=str)
def test_a_policy_out_of_its_bounds_is_refused(policy: ByTime | ByAmount | Continuous) -> None:
    with pytest.raises(errors.Usage):
        policy.rules()


def test_the_later_profile_has_24_additional_points() -> None:
    """R3.1."""
    assert ByAmount(24, most=24).rules()


def test_points_of_an_array_are_its_own() -> None:
    points = [Point(number, number * HOUR) for number in range(1, 90)]
    assert not dropped(points, ArrayManaged().rules(), HOUR)
    assert decide([], ByTime(300, 2).rules(), 300 * SECOND) == []


def test_points_out_of_order_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="order"):
        decide([Point(2, 0), Point(1, 1)], ByTime(300, 2).rules(), 300 * SECOND)


def test_every_vote_is_told_the_longest_first() -> None:
    """A point that is in the dense tier and is its hour's, of a policy of 24 hours (M9)."""
    points = [Point(number, number * 300 * SECOND) for number in range(1, 25)]
    kept = {one.point.number: one for one in decide(points, ByTime(300, 24).rules(), 300 * SECOND)}
    assert [vote.rule for vote in kept[11].votes] == ["R2.3", "R2.2"]
    assert [vote.rule for vote in kept[10].votes] == ["R2.2"] and kept[10].until == (24 + 4) * 300 * SECOND
    assert kept[3].votes == ()
    assert [vote.rule for vote in kept[24].votes] == ["R2.2", "R2.7", "R2.3"]


def test_a_step_of_the_clock_is_not_time_that_passed() -> None:
    """P25: an hour passes while the wall clock is set on by a day, and half an hour while it is set back by two."""
    at = Timeline.begin(Moment(1000 * HOUR, 5 * HOUR, "a"))
    at = at.reach(Moment(1025 * HOUR, 6 * HOUR, "a"))
    assert at.at == 1001 * HOUR
    at = at.reach(Moment(977 * HOUR, 6 * HOUR + HOUR // 2, "a"))
    assert at.at == 1001 * HOUR + HOUR // 2


def test_over_a_boot_the_wall_clock_counts_and_never_backwards() -> None:
    at = Timeline.begin(Moment(1000 * HOUR, 5 * HOUR, "a")).reach(Moment(1001 * HOUR, 6 * HOUR, "a"))
    assert at.reach(Moment(1003 * HOUR, 1, "b")).at == 1003 * HOUR
    assert at.reach(Moment(900 * HOUR, 1, "b")).at == 1001 * HOUR


def test_a_timeline_is_made_anew_from_the_times_of_points() -> None:
    assert list(rebuilt([100, 400, 350, 650], 300)) == [100, 400, 700, 1000]
