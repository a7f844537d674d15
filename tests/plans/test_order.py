"""The tasks of a plan in their order."""

from __future__ import annotations

import pytest

from secondsite.orchestration.estate.model import PlanGroup, RecoveryPlan, Step
from secondsite.orchestration.plans.order import KINDS, Kind, tasks


def test_nothing_starts_before_all_is_ready_and_steps_stand_around_their_group() -> None:
    """R12.5, R12.6."""
    first = PlanGroup(machines=("a", "b"), after=(Step(name="x", manual="look"),))
    second = PlanGroup(before=(Step(name="y", script=("s",)),), machines=("c",))
    found = tasks(RecoveryPlan(name="p", group=(first, second)), "planned")
    assert [task.number for task in found] == [1, 2, 3, 4, 5]
    assert [(task.what, task.group, task.machines) for task in found] == [
        ("prepare", 0, ("a", "b", "c")), ("start", 1, ("a", "b")), ("step", 1, ("a", "b", "c")),
        ("step", 2, ("a", "b", "c")), ("start", 2, ("c",)),
    ]  # fmt: skip
    assert [task.manual for task in found] == [False, False, True, False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_belong_to_kinds_of_failover(kind: Kind) -> None:
    steps = tuple(Step(name=one, manual="?", kinds=(one,)) for one in KINDS if one != "failback")
    found = tasks(RecoveryPlan(name="p", group=(PlanGroup(before=steps),)), kind)
    assert [task.name for task in found] == ["planned" if kind == "failback" else kind]
