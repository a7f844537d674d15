"""Retention against a model, over simulated days: pruned after each cycle, and by what the whole history says."""

from __future__ import annotations

import random
from collections.abc import Sequence

import histories
import model
import pytest

from secondsite.orchestration.retention.decision import decide, dropped
from secondsite.orchestration.retention.point import Point
from secondsite.orchestration.retention.policy import ByAmount, ByTime, Continuous
from secondsite.orchestration.retention.rules import HOUR, SECOND, Rule

MINUTE = 60 * SECOND
CHECKS = 40


def pruned(points: Sequence[Point], rules: Sequence[Rule], every: int) -> list[list[Point]]:
    """What is left after each cycle."""
    held: list[Point] = []
    states = []
    for point in points:
        held = [*held, point]
        gone = set(dropped(held, rules, every))
        held = [one for one in held if one.number not in gone]
        states.append(held)
    return states


@pytest.mark.parametrize("clock", ["steady", "stepped"])
@pytest.mark.parametrize("hours", [0, 1, 2, 24])
@pytest.mark.parametrize("seconds", [30, 300, 900])
def test_by_time_keeps_what_the_rules_say(seconds: int, hours: int, clock: str, seed: int, sweep: bool) -> None:
    """R2.1 to R2.7 for 72 hours with gaps; a clock that is set on and back changes nothing."""
    chance = random.Random(f"{seed} {seconds} {hours} {clock}")
    length = 72 if sweep or seconds > 30 else 30
    points = list(histories.cycles(chance, seconds * SECOND, length, gaps=True))
    shown = histories.stepped(chance, points) if clock == "stepped" else points
    states = pruned(shown, ByTime(seconds, hours).rules(), seconds * SECOND)
    for place in _places(chance, len(points)):
        history = model.recent(points[: place + 1])
        assert {one.number for one in states[place]} == model.by_time(history, seconds / 60, hours), place


@pytest.mark.parametrize("seconds", [30, 300, 900])
def test_by_time_with_application_points(seconds: int, seed: int) -> None:
    chance = random.Random(f"{seed} {seconds}")
    points = list(histories.cycles(chance, seconds * SECOND, 30, gaps=True, application=7))
    states = pruned(points, ByTime(seconds, 24).rules(), seconds * SECOND)
    for place in _places(chance, len(points)):
        kept = {one.number for one in states[place]}
        assert kept == model.by_time(model.recent(points[: place + 1]), seconds / 60, 24), place


@pytest.mark.parametrize("clock", ["steady", "stepped"])
@pytest.mark.parametrize("additional", range(25))
def test_by_amount_keeps_what_the_rules_say(additional: int, clock: str, seed: int) -> None:
    """R3.1 and R3.2, for 0 to 24 additional points, 72 hours with gaps and points that are application-consistent."""
    chance = random.Random(f"{seed} {additional} {clock}")
    points = list(histories.cycles(chance, 15 * MINUTE, 72, gaps=True, application=5))
    shown = histories.stepped(chance, points) if clock == "stepped" else points
    states = pruned(shown, ByAmount(additional, 24).rules(), 15 * MINUTE)
    assert max(len(held) for held in states) == additional + 1
    for place in _places(chance, len(points)):
        assert {one.number for one in states[place]} == model.by_amount(points[: place + 1], additional), place


@pytest.mark.parametrize(("seconds", "dense"), [(30, 180), (300, 18), (900, 6)])
def test_the_number_of_points_in_the_steady_state(seconds: int, dense: int) -> None:
    """R2.6: dense ones, and 22 or 23 hourly ones."""
    points = list(histories.cycles(random.Random(seconds), seconds * SECOND, 30, gaps=False))
    states = pruned(points, ByTime(seconds, 24).rules(), seconds * SECOND)
    assert {len(held) - dense for held in states[26 * 3600 // seconds :]} == {22, 23}


POLICIES = [
    *[(ByTime(300, hours), 300) for hours in (1, 2, 24)],
    *[(ByAmount(additional), 900) for additional in (0, 1, 3, 15)],
    (Continuous([(10, 600), (60, 3600), (600, 2 * 3600)]), 10),
    (ByTime(900, 5), 900),
]


@pytest.mark.parametrize("share", [None, 0.1, 0.4, 0.9])
@pytest.mark.parametrize(("policy", "seconds"), POLICIES, ids=str)
def test_a_point_dies_when_it_was_said_to(
    policy: ByTime | ByAmount | Continuous, seconds: int, share: float | None, seed: int
) -> None:
    """M9: every forecast comes true where cycles go on as planned; with a `share` of an hour until the next
    application-consistent one, and an hour from each to the next.
    """
    chance = random.Random(f"{seed} {policy}")
    rules, every = policy.rules(), seconds * SECOND
    application = 0 if isinstance(policy, Continuous) else 6
    held = list(histories.cycles(chance, every, 5, gaps=True, application=application))
    held = pruned(held, rules, every)[-1]
    mark = held[-1].at + max(int(share * HOUR) // every, 1) * every if share is not None else None
    said = {kept.point.number: kept.until for kept in decide(held, rules, every, mark)}
    for step in range(1, 26 * 3600 // seconds):
        if not said:
            break
        at = held[-1].at + every
        application = mark is not None and at >= mark and (at - mark) % HOUR == 0
        held = [*held, Point(held[-1].number + 1, at, application)]
        gone = dropped(held, rules, every)
        assert {number for number, until in said.items() if until == at} == said.keys() & set(gone), (step, gone)
        said = {number: until for number, until in said.items() if number not in gone}
        held = [one for one in held if one.number not in gone]
    assert not said


def test_pinned_points_stay_and_pruning_late_ends_with_the_same(seed: int) -> None:
    chance = random.Random(seed)
    points = [
        Point(one.number, one.at, pinned=not chance.randrange(50))
        for one in histories.cycles(chance, 5 * MINUTE, 40, gaps=True)
    ]
    rules = ByTime(300, 2).rules()
    late = set(dropped(points, rules, 5 * MINUTE))
    at_once = pruned(points, rules, 5 * MINUTE)[-1]
    assert [one for one in points if one.number not in late] == at_once
    assert {one.number for one in points if one.pinned} <= {one.number for one in at_once}


def _places(chance: random.Random, count: int) -> list[int]:
    return sorted(chance.sample(range(count), min(CHECKS, count)))


def test_nothing_is_dropped_while_no_point_comes() -> None:
    """Ages count from the newest point: a source that is away for a week costs no point."""
    points = list(histories.cycles(random.Random(1), 5 * MINUTE, 3, gaps=False))
    held = pruned(points, ByTime(300, 2).rules(), 5 * MINUTE)[-1]
    assert dropped(held, ByTime(300, 2).rules(), 5 * MINUTE) == []
    later = [*held, Point(held[-1].number + 1, held[-1].at + 7 * 24 * HOUR)]
    assert dropped(later, ByTime(300, 2).rules(), 5 * MINUTE) == [one.number for one in held]
