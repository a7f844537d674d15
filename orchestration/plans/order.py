"""The tasks of a plan, one after the other: pure, and the same each time that a run is gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from secondsite.orchestration.estate.model import RecoveryPlan, Step

Kind = Literal["test", "planned", "unplanned", "failback"]
KINDS: tuple[Kind, ...] = ("test", "planned", "unplanned", "failback")


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """`what` is prepare or start (of `machines`, all at once), or a `step` of a group. Groups count from 1."""

    number: int
    what: Literal["prepare", "start", "step"]
    name: str
    group: int = 0
    machines: tuple[str, ...] = ()
    step: Step | None = None

    @property
    def manual(self) -> bool:
        return self.step is not None and self.step.manual is not None


def tasks(plan: RecoveryPlan, kind: Kind) -> tuple[Task, ...]:
    """R12.5: the data of all groups is made ready in parallel, only the start goes by groups (the better RTO). Steps of
    planned failovers are those of the way back too, which is one (R10.1).
    """
    found = [Task(number, *one) for number, one in enumerate(_tasks(plan, kind), 1)]
    return tuple(found)


_Said = tuple[Literal["prepare", "start", "step"], str, int, tuple[str, ...], Step | None]


def _tasks(plan: RecoveryPlan, kind: Kind) -> Iterator[_Said]:
    meant = "planned" if kind == "failback" else kind
    everything = tuple(name for group in plan.group for name in group.machines)
    if everything:
        yield "prepare", f"make {_count(everything)} ready", 0, everything, None
    for number, group in enumerate(plan.group, 1):
        for step in group.before:
            if meant in step.kinds:
                yield "step", step.name, number, everything, step
        if group.machines:
            yield "start", f"start group {number}: {', '.join(group.machines)}", number, group.machines, None
        for step in group.after:
            if meant in step.kinds:
                yield "step", step.name, number, everything, step


def _count(names: tuple[str, ...]) -> str:
    return f"{len(names)} machine{'' if len(names) == 1 else 's'}"
