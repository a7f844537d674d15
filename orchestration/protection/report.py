"""What an operator is told of protected machines: state, health, age of the newest point, what is kept how long."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from secondsite.orchestration.health.rules import Facts, Level, Reason, judge, level
from secondsite.orchestration.protection import ledger
from secondsite.orchestration.protection.cycle import Protected
from secondsite.orchestration.protection.ledger import Held, Made
from secondsite.orchestration.protection.said import protected
from secondsite.orchestration.retention.decision import Kept, decide
from secondsite.orchestration.retention.point import Point
from secondsite.orchestration.retention.rules import HOUR, SECOND
from secondsite.orchestration.vault import inventory
from secondsite.orchestration.vault.database import Database

# Longer than what any policy keeps by its rules: a day of points (R2), or three of continuous ones.
_HORIZON = 4 * 24 * HOUR


@dataclass(frozen=True)
class Row:
    """One machine. `rpo` is how old its newest point is, in seconds; None before the first."""

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


def rows(database: Database, now: float, machine: str | None = None) -> list[Row]:
    """Of every machine, or of one, whoever runs its cycles."""
    with database.reading() as connection:
        estate = inventory.last_estate(connection)
    known = protected(estate) if estate is not None else {}
    return [row(item, known.get(item.machine), now) for item in ledger.load(database, machine)]


def row(item: Held, said: Protected | None, now: float) -> Row:
    """Computed from what was acknowledged (R8)."""
    threshold = said.policy.rpo_threshold if said else None
    facts = Facts(item.state, now, item.last, item.statistics, item.sending, rpo_threshold=threshold)
    reasons = judge(facts)
    counts = item.statistics
    return Row(
        item.machine, item.protection, item.state.words, level(reasons), tuple(reasons), facts.rpo, counts.cycles,
        counts.missed, counts.errors, counts.average_bytes, item.doing, item.reason,
    )  # fmt: skip


@dataclass(frozen=True)
class Forecast:
    """A point, why it is kept, and when it dies: UTC, by the wall clock that its own time is of. `kept` has no votes
    where it would be dropped.
    """

    made: Made
    kept: Kept
    dies: datetime.datetime | None


def retention(held: Sequence[Made], said: Protected, at: datetime.datetime | None = None) -> Iterator[Forecast]:
    """Every point of an item (M9). With `at`, as it would be then if cycles went on as planned until then."""
    points = [one.point() for one in held]
    every = said.every * SECOND
    if at is not None and held:
        points = list(_until(points, every, _micro(at) - _skew(held[-1])))
    known = {one.number: one for one in held}
    skew = _skew(held[-1]) if held else 0
    for kept in decide(points, said.keep.rules(), every):
        made = known.get(kept.point.number)
        if made is not None:
            yield Forecast(made, kept, _dies(kept, skew))


def _until(points: list[Point], every: int, end: int) -> Iterator[Point]:
    """Points as they would be: those of planned cycles too, which only push the others out. Of a far future only as
    many as a rule may look at.
    """
    yield from points
    skipped = max((end - points[-1].at - _HORIZON) // every, 0)
    at, number = points[-1].at + (skipped + 1) * every, points[-1].number + skipped + 1
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


