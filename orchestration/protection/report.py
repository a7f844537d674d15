"""What an operator is told of protected machines: state, health, age of the newest point, what is kept how long."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from secondsite.orchestration.failover.situation import onward, whereabouts
from secondsite.orchestration.health.outlook import Outlook, outlook
from secondsite.orchestration.health.rules import Facts, Level, Reason, judge, level
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import agents, alarms, leases, lookup
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.said import Protected, protected
from secondsite.orchestration.retention.decision import Kept, decide
from secondsite.orchestration.retention.point import Point, Vote
from secondsite.orchestration.retention.rules import HOUR, SECOND
from secondsite.orchestration.retention.rules import Plan as Planned
from secondsite.orchestration.vault.applied import last_estate
from secondsite.orchestration.vault.database import Database

# Longer than what any policy keeps by its rules: a day of points (R2), or three of continuous ones.
_HORIZON = 4 * 24 * HOUR
# What is late by more is not late by chance.
_LATE_SECONDS = 60.0
_LATE_CYCLES = 2


@dataclass(frozen=True)
class Row:
    """One machine. `rpo` is how old its newest point is, in seconds; None before the first. `disks` are replicas by
    path, `application_age` is that of the newest application-consistent point. `active` is the side where it runs,
    which `where` says in words, `direction` leads from there (R9.13); `failover` and `test` say what is under way
    (R9.12).
    """

    machine: str
    protection: str
    state: str
    level: Level
    reasons: tuple[Reason, ...]
    rpo: float | None
    cycles: int
    missed: int
    errors: int
    average_bytes: float
    doing: str | None
    reason: str | None
    disks: Mapping[str, str]
    application_age: float | None = None
    application: int = 0
    application_failed: int = 0
    tripwire: str = "learning"
    last: float | None = None
    interval_began: float = 0.0
    max_bytes: int = 0
    average_latency: float = 0.0
    max_latency: float = 0.0
    outlook: Outlook | None = None
    active: str = "source"
    where: str = "runs at the source"
    direction: str = "forward"
    failover: str | None = None
    test: str | None = None


def rows(database: Database, now: float, machine: str | None = None) -> list[Row]:
    """Of every machine, or of one, whoever runs its cycles."""
    with database.reading() as connection:
        estate = last_estate(connection)
    known = protected(estate) if estate is not None else {}
    return [row(item, known.get(item.machine), now) for item in lookup.load(database, machine)]


def row(item: Held, said: Protected | None, now: float) -> Row:
    """Computed from what was acknowledged (R8)."""
    threshold = said.policy.rpo_threshold if said else None
    counts = item.statistics.of(now, said.zone, last=item.last) if said else item.statistics
    alone = item.doing is None or item.held_until < now
    facts = Facts(
        item.state, now, item.last, counts, item.sending, rpo_threshold=threshold,
        application=_unmade(item, said), at_rest=item.at_rest is not None and alone,
        tripwire=item.tripwire.words,
        reversed=item.direction == "reverse" and item.active == "target", waited=_waited(item, said, now),
        stuck=_stuck(item),
    )  # fmt: skip
    reasons = judge(facts)
    reason = item.reason
    if item.state is State.WAITING_FOR_START_RESYNCHRONIZE and item.due < leases.NEVER:
        reason = f"{reason or ''}; R7.3: it begins at {_utc(item.due)}".removeprefix("; ")
    if item.ending is not None:
        reason = f"R1.10: it is being disabled; {reason or ''}".removesuffix("; ")
    if reason is None and item.state is State.READY_FOR_INITIAL_REPLICATION and now < item.due < leases.NEVER:
        reason = f"R5.2: the first copy begins at {_utc(item.due)}"
    return Row(
        item.machine, item.protection, item.state.words, level(reasons), tuple(reasons), facts.rpo, counts.cycles,
        counts.missed, counts.errors, counts.average_bytes, item.doing, reason, dict(sorted(item.disks.items())),
        _application_age(item, facts.rpo), counts.application, counts.application_failed,
        item.tripwire.state, item.last, counts.began, counts.max_bytes, counts.average_latency, counts.max_latency,
        outlook(counts, said.every, now, item.last) if said and item.state.cycles else None,
        item.active, whereabouts(item.active, item.failover.phase if item.failover else None), item.direction,
        _under_way(item), item.test.phase if item.test else None,
    )  # fmt: skip


def _waited(item: Held, said: Protected | None, now: float) -> float | None:
    """P43: how long its cycle has been due where nobody has it, as when no orchestrator runs. A dead one's items move
    within a minute, and busy ones begin late.
    """
    if item.held_until >= now or not (item.state.cycles or item.ending):
        return None
    waited = now - item.due
    return waited if waited > max(_LATE_SECONDS, _LATE_CYCLES * said.every if said else 0.0) else None


def _under_way(item: Held) -> str | None:
    """R9.12: what an operator is to do next is said with it."""
    if item.failover is None:
        return None
    told = {"running": "commit pending", "prepared": "to be started", "copied": "to be completed"}
    phase = item.failover.phase
    return f"{item.failover.kind or 'reverse'}: {told.get(phase, phase)}"


def _stuck(item: Held) -> str | None:
    way = item.failover
    return onward(item.machine, way.kind, way.phase) if way is not None and way.error is not None else None


def _unmade(item: Held, said: Protected | None) -> str | None:
    """Why the application-consistent point is not there that the policy asks for (R4.4)."""
    if said is None or not said.policy.application_consistent or not item.state.cycles:
        return None
    if not agents.restable(item, said):
        lacks = "neither guest_agent nor quiesce" if item.active == "source" else "no guest_agent where it runs now"
        return f"the machine has {lacks}"
    return (item.application.why or "it failed") if item.application.tries else None


def _application_age(item: Held, rpo: float | None) -> float | None:
    """By the item's own timeline until its newest point, and from there as that."""
    if item.application.made is None or item.timeline is None or rpo is None:
        return None
    return rpo + (item.timeline.at - item.application.made) / SECOND


def _utc(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Forecast:
    """A point, why it is kept, and when it dies: UTC, by the wall clock that its own time is of. `kept` has no votes
    where it would be dropped.
    """

    made: Made
    kept: Kept
    dies: datetime.datetime | None


def retention(
    item: Held, held: Sequence[Made], said: Protected, at: datetime.datetime | None = None
) -> Iterator[Forecast]:
    """Every point of an item (M9). With `at`, as it would be then if cycles went on as planned until then."""
    if not held:
        return
    points, every, skew = [one.point() for one in held], said.every * SECOND, _skew(held[-1])
    rests = agents.restable(item, said)
    hours, marks = said.policy.application_consistent if rests else 0, item.application
    if at is not None:
        for point in _until(points[-1], every, _micro(at) - skew):
            due = marks.due(item.id, hours, point.at)
            marks = marks.done(point.at) if due else marks
            points.append(replace(point, application=due))
    known, newest = {one.number: one for one in held}, Planned(points[-1].at, every)
    mark = newest.reach(marks.following(item.id, hours, newest.cycles(1))) if hours else None
    spared = alarms.spared(item.tripwire, held) if at is None else {}
    for kept in decide(points, said.keep.rules(), every, mark):
        made, cycles = known.get(kept.point.number), spared.get(kept.point.number)
        if cycles is not None:
            kept = kept.longer(Vote("M15", "of before what may trip the tripwire", newest.cycles(cycles)))
        if made is not None:
            yield Forecast(made, kept, _dies(kept, skew))


def _until(newest: Point, every: int, end: int) -> Iterator[Point]:
    """Points of planned cycles, which only push the others out. Of a far future only as many as a rule may look at."""
    skipped = max((end - newest.at - _HORIZON) // every, 0)
    at, number = newest.at + (skipped + 1) * every, newest.number + skipped + 1
    while at <= end:
        yield Point(number, at)
        at, number = at + every, number + 1


def _dies(kept: Kept, skew: int) -> datetime.datetime | None:
    if not kept.votes or kept.until is None:
        return None
    return datetime.datetime.fromtimestamp((kept.until + skew) / SECOND, datetime.UTC)


def _skew(newest: Made) -> int:
    """From the item's timeline to the wall clock, in microseconds."""
    return _micro(datetime.datetime.fromisoformat(newest.time)) - newest.at


def _micro(at: datetime.datetime) -> int:
    return round(at.timestamp() * SECOND)


