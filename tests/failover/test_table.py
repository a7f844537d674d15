"""The state machine of failovers: every action in every situation that can be reached, for each scenario (R9)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from secondsite.orchestration.estate.model import ScenarioName
from secondsite.orchestration.failover import effects, table
from secondsite.orchestration.failover.situation import KINDS, RESTING, WORKING, Situation
from secondsite.orchestration.failover.table import ACTIONS, OPERATOR, Refusal, Step, decide
from secondsite.orchestration.health import states
from secondsite.orchestration.health.states import State
from secondsite.orchestration.scenarios import matrix
from secondsite.orchestration.scenarios.matrix import SCENARIOS, Abilities

ALL = matrix.load().failover
REPLICATING = Situation(state=State.REPLICATING)
AWAY = Situation(state=State.REPLICATING, active="target", direction="reverse")
# What an operator may do with a failover of a kind in a phase; written down by hand, from R9 and R10.
UNDER_WAY: dict[tuple[str | None, str], set[str]] = {
    ("planned", "preparing"): {"planned", "unplanned", "cancel"},
    ("planned", "prepared"): {"start", "unplanned", "cancel"},
    ("planned", "starting"): {"start", "cancel"},
    ("planned", "running"): {"commit", "cancel"},
    ("planned", "cancelling"): {"cancel", "unplanned"},
    ("planned", "committing"): {"commit"},
    ("planned", "reversing"): {"reverse", "cancel"},
    ("unplanned", "preparing"): {"unplanned", "cancel"},
    ("unplanned", "prepared"): {"start", "cancel"},
    ("unplanned", "starting"): {"start", "cancel"},
    ("unplanned", "running"): {"change-point", "commit", "cancel"},
    ("unplanned", "changing"): {"change-point", "cancel"},
    ("unplanned", "cancelling"): {"cancel", "unplanned"},
    ("unplanned", "committing"): {"commit"},
    ("failback", "copying"): {"copy-back", "cancel"},
    ("failback", "copied"): {"complete", "cancel"},
    ("failback", "preparing"): {"failback", "planned", "unplanned", "cancel"},
    ("failback", "prepared"): {"start", "unplanned", "cancel"},
    ("failback", "starting"): {"start", "cancel"},
    ("failback", "running"): {"commit", "cancel"},
    ("failback", "cancelling"): {"cancel", "unplanned"},
    ("failback", "committing"): {"commit"},
    (None, "reversing"): {"reverse", "cancel"},
}


def allowed(now: Situation, abilities: Abilities) -> set[str]:
    """The operator's actions that are taken, told once more in other words than the table's."""
    if now.phase is not None:
        found = UNDER_WAY[now.kind, now.phase] | {"give-up"}
        if "unplanned" not in (abilities.forward if now.active == "source" else abilities.back):
            found -= {"unplanned"}
    elif now.state is State.FAILED_OVER:
        away = {"planned", "failback", "copy-back"} | ({"reverse"} if abilities.reverse else set())
        found = {"reverse"} if now.active == "source" else away
    elif not now.copied or now.state in table.NOT_COPIED:
        found = {"cancel"} if (now.active, now.direction) == ("target", "reverse") else set()
    else:
        found = {"unplanned"}
        if now.state in (State.REPLICATING, State.SUSPENDED):
            found |= {"test"}
        if now.state is State.REPLICATING:
            found |= {"planned"} | ({"failback"} if now.active == "target" else set())
        found &= {*(abilities.forward if now.active == "source" else abilities.back), "failback"}
    if now.phase is None and now.active == "target":
        found |= {"give-up"}
    if now.test is not None:
        found = (found - {"commit", "reverse", "test", "give-up"}) | {"test-cleanup"}
        ready = now.phase is None and now.state in (State.REPLICATING, State.SUSPENDED)
        found |= {"test"} if now.test == "preparing" and ready else set()
        found |= {"test-start"} if now.test in ("prepared", "starting") else set()
    return found


def reached(abilities: Abilities) -> Iterator[Situation]:
    """Every situation that actions lead to from a new item."""
    first = Situation(state=State.READY_FOR_INITIAL_REPLICATION, copied=False)
    seen, new = {first}, [first]
    while new:
        now = new.pop()
        yield now
        for action in ACTIONS:
            found = decide(now, action, abilities)
            if isinstance(found, Refusal):
                continue
            after = _copied(now, action, found.situation)
            if after not in seen:
                seen.add(after)
                new.append(after)


def _copied(now: Situation, action: str, after: Situation) -> Situation:
    """Points come with the first copy, and are others where the direction turns."""
    copied = {"first copy done": True, "enable": False}.get(action, now.copied)
    if after.direction != now.direction:
        copied = after.direction == "forward"
    return msgspec.structs.replace(after, copied=copied)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_action_in_every_situation(scenario: ScenarioName) -> None:
    """R9.1 to R9.13, R10: taken exactly where it should be; whatever is refused says why, with the rule's number."""
    abilities, pairs = ALL[scenario], 0
    for situation in reached(abilities):
        found = {action: decide(situation, action, abilities) for action in ACTIONS}
        taken = {action for action in OPERATOR if isinstance(found[action], Step)}
        assert taken == allowed(situation, abilities), situation
        for action, one in found.items():
            pairs += 1
            if isinstance(one, Refusal):
                assert one.rule.startswith("R") and one.words, (situation, action)
            else:
                _holds(situation, action, one)
    assert pairs > 1000


def _holds(now: Situation, action: str, step: Step) -> None:
    after = step.situation
    assert (after.phase is None) == (after.to is None) or after.phase == "reversing", (now, action)
    assert after.phase in (None, *RESTING, *WORKING)
    for one in step.effects:
        assert effects.words(one)
    if after.state.cycles and after.phase is None:
        assert (after.active == "source") == (after.direction == "forward"), "cycles run from where the machine is"
    if after.active != now.active:
        assert action in ("start", "cancel", "give-up"), "sides change when it starts, is cancelled, or given up"
    if action == "give-up":
        assert after == Situation(state=State.NOT_ENABLED, copied=False) and not step.effects, (now, after)
    if "start there" in step.effects and after.phase == "starting":
        assert now.phase in ("prepared", "starting"), "whatever starts was fenced before"
    if action.startswith("test"):
        assert msgspec.structs.replace(after, test=now.test) == now, "a test changes nothing else (R9.1)"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_failovers_under_way_are_these_and_no_others(scenario: ScenarioName) -> None:
    abilities = ALL[scenario]
    found = {(one.kind, one.phase) for one in reached(abilities) if one.phase is not None}
    backwards = {(None, "reversing"), ("planned", "reversing")}
    assert found == UNDER_WAY.keys() - (set() if abilities.reverse else backwards)


def test_what_cannot_be_reached_is_answered_too() -> None:
    """Whatever a vault may hold, the table has an answer."""
    phases: tuple[Any, ...] = (None, *WORKING, *RESTING)
    kinds: tuple[Any, ...] = (None, *KINDS)
    sides: tuple[Any, ...] = ("source", "target")
    for state, phase, kind, active in itertools.product(State, phases, kinds, sides):
        now = Situation(state=state, phase=phase, kind=kind, active=active)
        for action in ACTIONS:
            assert isinstance(decide(now, action, ALL["S2"]), Step | Refusal)


def test_protection_goes_where_its_own_table_says() -> None:
    """One truth: health/states.py leads, failover only forbids."""
    for situation in reached(ALL["S2"]):
        for action in states.ACTIONS:
            found = decide(situation, action, ALL["S2"])
            if isinstance(found, Step):
                assert found.situation.state is states.step(situation.state, action)
            elif situation.phase is None and situation.test is None and situation.active == "source":
                assert states.step(situation.state, action) is None


RULES = [
    (Situation(state=State.RESYNCHRONIZING), "planned", "R7.7"),
    (Situation(state=State.RESYNCHRONIZING), "test", "R7.7"),
    (Situation(state=State.READY_FOR_INITIAL_REPLICATION, copied=False), "unplanned", "R5.7"),
    (Situation(state=State.ERROR, copied=False), "unplanned", "R5.7"),
    (Situation(state=State.REPLICATING, test="running"), "test", "R9.1"),
    (Situation(state=State.REPLICATING), "test-cleanup", "R9.3"),
    (Situation(state=State.SUSPENDED), "planned", "R9.6"),
    (Situation(state=State.ERROR), "planned", "R9.6"),
    (Situation(state=State.FAILED_OVER, active="target"), "unplanned", "R9.11"),
    (Situation(state=State.REPLICATING), "commit", "R9.12"),
    (Situation(state=State.REPLICATING), "cancel", "R9.10"),
    (Situation(state=State.REPLICATING), "change-point", "R9.10"),
    (Situation(state=State.REPLICATING), "failback", "R10.1"),
    (Situation(state=State.REPLICATING), "reverse", "R10.1"),
    (Situation(state=State.REPLICATING), "complete", "R10.4"),
    (Situation(state=State.REPLICATING, active="target", direction="reverse"), "copy-back", "R10.4"),
    (Situation(state=State.FAILED_OVER, active="target"), "disable", "R1.10"),
    (Situation(state=State.REPLICATING, test="running"), "disable", "R9.3"),
    (Situation(state=State.SUSPENDED), "pause", "R8.1"),
    (Situation(state=State.ERROR), "give-up", "R1.10"),
    (Situation(state=State.REPLICATING, active="target", test="running"), "give-up", "R9.3"),
]


@pytest.mark.parametrize(("now", "action", "rule"), RULES)
def test_a_refusal_has_the_number_of_its_rule(now: Situation, action: str, rule: str) -> None:
    found = decide(now, action, ALL["S2"])
    assert isinstance(found, Refusal) and found.rule == rule


@pytest.mark.parametrize("scenario", ["S1", "S4"])
def test_from_azure_a_machine_comes_back_by_a_planned_failover_alone(scenario: ScenarioName) -> None:
    """R9's table."""
    away = Situation(state=State.FAILED_OVER, active="target")
    for action, rule in (("test", "R9"), ("unplanned", "R9"), ("reverse", "R10.3")):
        found = decide(away, action, ALL[scenario])
        assert isinstance(found, Refusal) and found.rule == rule
    back = decide(away, "planned", ALL[scenario])
    assert isinstance(back, Step) and back.situation.kind == "failback"


def test_an_unplanned_failover_ends_a_resync_which_begins_anew_when_it_is_cancelled() -> None:
    """R7.7."""
    now = _through(Situation(state=State.RESYNCHRONIZING), ["unplanned", "done", "start", "done", "cancel", "done"])
    assert now == Situation(state=State.WAITING_FOR_START_RESYNCHRONIZE)


def test_the_whole_way_there_and_back() -> None:
    """R9.6, R10.1: planned, and replication runs back at once; then home again, and it runs forward at once."""
    now = _through(REPLICATING, ["planned", "done", "start", "done", "commit", "done", "done"])
    assert now == Situation(state=State.RESYNCHRONIZING, active="target", direction="reverse")
    home = _through(AWAY, ["failback", "done", "start", "done", "commit", "done"])
    assert home == Situation(state=State.RESYNCHRONIZING)


def test_after_an_unplanned_one_nothing_replicates_until_somebody_says_so() -> None:
    """R9.11."""
    now = _through(REPLICATING, ["unplanned", "done", "start", "done", "commit", "done"])
    assert now == Situation(state=State.FAILED_OVER, active="target")
    back = _through(now, ["reverse", "done"])
    assert back == Situation(state=State.RESYNCHRONIZING, active="target", direction="reverse")


@pytest.mark.parametrize("done", [0, 1])
def test_a_planned_one_whose_source_dies_goes_on_unplanned(done: int) -> None:
    after = _through(REPLICATING, ["planned", *["done"] * done, "unplanned"])
    assert (after.kind, after.phase, after.before) == ("unplanned", "preparing", State.REPLICATING)


def _through(now: Situation, actions: list[str]) -> Situation:
    for action in actions:
        found = decide(now, action, ALL["S2"])
        assert isinstance(found, Step), (now, action, found)
        now = found.situation
    return now
