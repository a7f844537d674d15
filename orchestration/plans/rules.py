"""What a recovery plan and a consistency group must be, before anything of them runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Consistency, PlanGroup, RecoveryPlan, Step
from secondsite.orchestration.estate.pairs import Pair
from secondsite.orchestration.estate.references import Index

# R12.4: "up to seven groups" may be added to Group 1; whether seven counts that one is unclear. It does not here.
MOST_GROUPS = 8
# R12.8: 50, 100 tested, 100 today.
MOST_MACHINES = 100
# R12.7.
MOST_SECONDS = 600


def check(pairs: Sequence[Pair], index: Index) -> Iterator[Finding]:
    """Every plan and every consistency group of an estate."""
    protected = {machine.name: pair for pair in pairs for _, machine in pair.machines}
    for plan in index.estate.recovery:
        yield from _sizes(plan, index)
        yield from _once(plan, index)
        yield from _kinds(plan, protected, index)
        yield from _steps(plan, protected, index)
    yield from _together(index.estate.consistency, protected, index)


def _sizes(plan: RecoveryPlan, index: Index) -> Iterator[Finding]:
    where = index.place(plan, "group")
    if not plan.group:
        yield Finding("R12.4", index.place(plan), f"plan {plan.name!r} has no group")
    if len(plan.group) > MOST_GROUPS:
        yield Finding("R12.4", where, f"plan {plan.name!r} has {len(plan.group)} groups", f"at most {MOST_GROUPS}")
    count = sum(len(group.machines) for group in plan.group)
    if count > MOST_MACHINES:
        yield Finding("R12.8", where, f"plan {plan.name!r} has {count} machines", f"at most {MOST_MACHINES}")


def _once(plan: RecoveryPlan, index: Index) -> Iterator[Finding]:
    """R12.4: what a plan starts is in one of its groups; steps are confirmed by their names."""
    for key in ("machines", "groups"):
        counts = Counter(name for group in plan.group for name in getattr(group, key))
        for name in (name for name, count in counts.items() if count > 1):
            yield Finding("R12.4", index.place(plan, "group"), f"{name!r} is in plan {plan.name!r} more than once")
    names = Counter(step.name for group in plan.group for step in (*group.before, *group.after))
    for name in (name for name, count in names.items() if count > 1):
        yield Finding("R12.6", index.place(plan, "group"), f"plan {plan.name!r} has two steps {name!r}")


def _kinds(plan: RecoveryPlan, protected: Mapping[str, Pair], index: Index) -> Iterator[Finding]:
    """R12.9: one kind of source and target; plans over arrays list groups, the others machines."""
    scenarios = set()
    for place, group in enumerate(plan.group):
        where = index.place(plan, "group", place)
        for name in group.machines:
            pair = protected.get(name)
            if pair is None:
                if name in index.tables["machine"]:
                    yield Finding("R5.7", (*where, "machines"), f"machine {name!r} of {plan.name!r} is not protected")
                continue
            scenarios.add(pair.protection.scenario)
            if pair.source.array is not None:
                message = f"machine {name!r} fails over with its replication group"
                yield Finding("R12.9", (*where, "machines"), message, "list the group")
        if group.groups:
            scenarios.add("S3")
    if len(scenarios) > 1:
        message = f"plan {plan.name!r} mixes {' and '.join(sorted(scenarios))}"
        yield Finding("R12.9", index.place(plan, "group"), message, "a plan for each")


def _steps(plan: RecoveryPlan, protected: Mapping[str, Pair], index: Index) -> Iterator[Finding]:
    for place, group in enumerate(plan.group):
        for key in ("before", "after"):
            for number, step in enumerate(getattr(group, key)):
                where = index.place(plan, "group", place, key, number)
                yield from _step(step, plan, group, protected, where)


def _step(
    step: Step, plan: RecoveryPlan, group: PlanGroup, protected: Mapping[str, Pair], where: tuple[str | int, ...]
) -> Iterator[Finding]:
    """R12.6, R12.7."""
    said = [bool(step.script), step.manual is not None, step.http is not None]
    if sum(said) != 1:
        yield Finding("R12.6", where, f"step {step.name!r} is not one of script, manual and http")
    if not 1 <= step.seconds <= MOST_SECONDS:
        remedy = f"1 to {MOST_SECONDS}"
        yield Finding("R12.7", (*where, "seconds"), f"step {step.name!r} has {step.seconds} s", remedy)
    if step.http is not None and not step.http.startswith(("http://", "https://")):
        yield Finding("R12.6", (*where, "http"), f"step {step.name!r} calls {step.http[:80]!r}", "http:// or https://")
    if step.script and step.side == "source":
        machines = [name for one in plan.group for name in one.machines]
        pairs = [pair for name in machines if (pair := protected.get(name)) is not None]
        if any(pair.source.server is None for pair in pairs):
            message = f"script {step.name!r} of the source's side needs a management server there"
            yield Finding("R12.7", (*where, "side"), message)


def _together(groups: Sequence[Consistency], protected: Mapping[str, Pair], index: Index) -> Iterator[Finding]:
    """M13: machines that are cut together have one copy frequency and one place to go."""
    counts = Counter(name for group in groups for name in group.machines)
    for group in groups:
        where = index.place(group, "machines")
        for name in group.machines:
            if counts[name] > 1:
                yield Finding("M13", where, f"machine {name!r} is in {counts[name]} consistency groups", "one of them")
            elif name in index.tables["machine"] and name not in protected:
                yield Finding("R5.7", where, f"machine {name!r} of {group.name!r} is not protected")
        names = {protected[name].protection.name for name in group.machines if name in protected}
        if len(names) > 1:
            message = f"consistency group {group.name!r} is protected by {' and '.join(sorted(names))}"
            yield Finding("M13", where, message, "one protection for all of it")
