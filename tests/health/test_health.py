"""States, statistics and health of a protected item, by their numbers."""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from secondsite.orchestration.health.rules import Facts, Level, judge, level
from secondsite.orchestration.health.states import ACTIONS, State, step
from secondsite.orchestration.health.statistics import Statistics, interval

NOW = 1_800_000_000.0
GOOD = Facts(State.REPLICATING, NOW, NOW - 40)


def counts(cycles: int, missed: int, latency: float = 1.0) -> Statistics:
    found = Statistics()
    for _ in range(cycles):
        found = found.cycle(1000, latency)
    return found.miss(missed)


CASES = [
    ({}, None, Level.NORMAL),
    ({"state": State.WAITING_FOR_START_RESYNCHRONIZE}, "R8.2", Level.CRITICAL),
    ({"state": State.RESYNCHRONIZE_SUSPENDED}, "R8.2", Level.CRITICAL),
    ({"state": State.ERROR}, "R8.2", Level.CRITICAL),
    ({"sending": False}, "R8.2", Level.CRITICAL),
    ({"replica_paused": True}, "R8.2", Level.CRITICAL),
    ({"statistics": counts(80, 20)}, None, Level.NORMAL),
    ({"statistics": counts(79, 21)}, "R8.3", Level.WARNING),
    ({"last": NOW - 3600}, None, Level.NORMAL),
    ({"last": NOW - 3601}, "R8.3", Level.WARNING),
    ({"state": State.READY_FOR_INITIAL_REPLICATION, "last": None}, "R8.3", Level.WARNING),
    ({"state": State.WAITING_FOR_INITIAL_REPLICATION, "last": None}, "R8.3", Level.WARNING),
    ({"state": State.FAILED_OVER}, "R8.3", Level.WARNING),
    ({"state": State.FAILED_OVER, "reversed": True}, None, Level.NORMAL),
    ({"state": State.SUSPENDED}, "R8.3", Level.WARNING),
    ({"statistics": counts(10, 0, 300.0)}, None, Level.NORMAL),
    ({"statistics": counts(10, 0, 301.0)}, "R8.4", Level.WARNING),
    ({"stuck": "cancel it"}, "R9.7", Level.CRITICAL),
    ({"rpo_threshold": 40}, None, Level.NORMAL),
    ({"rpo_threshold": 39}, "R8.7", Level.WARNING),
    ({"last": NOW + 500, "rpo_threshold": 1}, None, Level.NORMAL),
]


@pytest.mark.parametrize(("changes", "rule", "expected"), CASES, ids=[f"{c[1]}-{n}" for n, c in enumerate(CASES)])
def test_each_rule_at_its_edge(changes: dict[str, object], rule: str | None, expected: Level) -> None:
    reasons = judge(msgspec.structs.replace(GOOD, **changes))
    assert level(reasons) == expected
    assert {reason.rule for reason in reasons} == ({rule} if rule else set())


def test_the_worst_comes_first() -> None:
    reasons = judge(msgspec.structs.replace(GOOD, state=State.ERROR, rpo_threshold=1))
    assert [reason.level for reason in reasons] == [Level.CRITICAL, Level.WARNING]


def test_the_states_have_the_numbers_of_r8_1() -> None:
    assert [state.value for state in State] == list(range(12))
    assert State.WAITING_FOR_START_RESYNCHRONIZE.words == "waiting for start resynchronize"


def test_r8_8_what_may_not_be_read_as_consistent() -> None:
    assert {state for state in State if state.readable} == {
        State.REPLICATING, State.SYNCED_REPLICATION_COMPLETE, State.FAILED_OVER, State.SUSPENDED,
    }  # fmt: skip


def test_every_action_leads_somewhere_or_is_refused() -> None:
    for action in ACTIONS:
        results = [step(state, action) for state in State]
        assert any(result is not None for result in results), action
        assert any(result is None for result in results), action
    assert step(State.RESYNCHRONIZING, "pause") is State.RESYNCHRONIZE_SUSPENDED
    assert step(State.NOT_ENABLED, "disable") is None


def test_r8_6_averages_and_greatest() -> None:
    found = Statistics().cycle(10, 1.0).cycle(30, 3.0).miss().error()
    assert (found.average_bytes, found.max_bytes, found.average_latency, found.max_latency) == (20, 30, 2.0, 3.0)
    assert (found.total, found.errors) == (3, 1)


def at(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("now", "began"),
    [
        ("2026-11-26T09:00", "2026-11-26T09:00"),
        ("2026-11-26T08:59:59", "2026-11-25T21:00"),
        ("2026-11-26T21:30", "2026-11-26T21:00"),
        ("2026-03-29T03:30", "2026-03-28T21:00"),
        ("2026-10-25T03:30", "2026-10-24T21:00"),
        ("1999-12-31T10:00", "1999-12-31T09:00"),
    ],
)
def test_r8_5_intervals_begin_at_nine_by_the_wall_clock(now: str, began: str) -> None:
    """Also on both days on which the clocks change."""
    zone = ZoneInfo("Europe/Berlin")
    assert interval(at(now), zone) == at(began)


def test_r8_5_statistics_begin_anew_with_the_interval() -> None:
    zone = ZoneInfo("Europe/Berlin")
    found = Statistics(at("2026-11-26T09:00")).cycle(1, 1.0)
    assert found.of(at("2026-11-26T20:59"), zone) is found
    assert found.of(at("2026-11-26T21:00"), zone) == Statistics(
        at("2026-11-26T21:00"), first=at("2026-11-26T21:00")
    )
    ahead = found.miss(100).of(at("2027-11-26T10:00"), zone).miss(1000)
    assert ahead.of(at("2026-11-26T10:00"), zone).missed == 0, "P25: of a clock that was set on and back nothing stays"
