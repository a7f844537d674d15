"""The keep rules (R2, R3, R13). Each says which points it keeps, and until when if cycles go on as planned.

A rule sees all points, oldest first, and counts ages from the newest: while no point comes, none goes. What it keeps
depends on nothing that was dropped before, so that pruning late or often ends with the same points. Times are
microseconds on the replica's timeline; spans are whole hours or what the policy says, on that timeline and in UTC, so
that no summer time moves them. The end of a vote is an instant of the plan: whole cycles after the newest point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from secondsite.orchestration.retention.point import Point, Vote

SECOND = 1_000_000
HOUR = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Plan:
    """When the newest point is from, and how far apart cycles are planned. `mark` is when the next one comes that is
    application-consistent; None: not within what is looked at.
    """

    newest: int
    every: int
    mark: int | None = None

    def cycles(self, count: int) -> int:
        return self.newest + count * self.every

    def reach(self, at: int) -> int:
        """The first planned point at that time or later."""
        return self.cycles(max(-(-(at - self.newest) // self.every), 1))

    def marked(self, at: int, span: int) -> int | None:
        """The next application-consistent point, where it is of the same span of time."""
        return self.mark if self.mark is not None and self.mark // span == at // span else None


class Rule(Protocol):
    def votes(self, points: Sequence[Point], plan: Plan) -> dict[int, Vote]:
        """By number of the point."""


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest point is the base of the next delta (R2.7), and all there is where nothing else is kept (R2.5)."""

    def votes(self, points: Sequence[Point], plan: Plan) -> dict[int, Vote]:
        return {points[-1].number: Vote("R2.7", "the newest point", plan.cycles(1))} if points else {}


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a person, or the tripwire, pinned (M15)."""

    def votes(self, points: Sequence[Point], plan: Plan) -> dict[int, Vote]:
        return {point.number: Vote("M15", "pinned", None) for point in points if point.pinned}


@dataclass(frozen=True, slots=True)
class Dense:
    """The newest `count` points (R2.2), as far as they are younger than `span` (R2.4)."""

    count: int
    span: int

    def votes(self, points: Sequence[Point], plan: Plan) -> dict[int, Vote]:
        why = f"one of the newest {self.count}"
        return {
            point.number: Vote("R2.2", why, min(plan.cycles(self.count - rank), plan.reach(point.at + self.span)))
            for rank, point in enumerate(reversed(points[-self.count :]))
            if plan.newest - point.at < self.span
        }


@dataclass(frozen=True, slots=True)
class Spread:
    """One of each whole `every`, the newest of them, as far as it is younger than `span` (R2.3, R2.4, R13.2).

    One that is application-consistent goes before one that is not.
    """

    every: int
    span: int
    rule: str
    why: str

    def votes(self, points: Sequence[Point], plan: Plan) -> dict[int, Vote]:
        chosen = _choose(points, self.every, _later)
        return {
            point.number: Vote(self.rule, self.why, self._until(point, plan))
            for point in chosen
            if plan.newest - point.at < self.span
        }

    def _until(self, point: Point, plan: Plan) -> int:
        """It stands until it is too old; where its span of time is not over, until the next planned point in it that
        is no worse.
        """
        following = plan.cycles(1)
        if following // self.every == point.at // self.every and not point.application:
            return following
        ends, mark = plan.reach(point.at + self.span), plan.marked(point.at, self.every)
        return ends if mark is None else min(mark, ends)


@dataclass(frozen=True, slots=True)
class Amount:
    """Beside the newest point the newest `additional` that are each an hour's (R3.1, R3.2): `additional` + 1 in all.

    An hour's is the first that is application-consistent, or the first. So it is known when it comes, as in Hyper-V,
    which makes one each hour; were it the last, nothing older than minutes might be there at `additional` = 1.
    """

    additional: int

    def votes(self, points: Sequence[Point], plan: Plan) -> dict[int, Vote]:
        if not points or not self.additional:
            return {}
        newest = points[-1]
        before = list(_choose(points[:-1], HOUR, _sooner))
        following = list(_choose(points, HOUR, _sooner))
        ends = self._ends(newest, plan)
        votes = {}
        for point in before[-self.additional :]:
            votes[point.number] = self._vote(plan.cycles(1), point, plan)
        for rank, point in enumerate(reversed(following[-self.additional :])):
            if point.number in votes or point is newest:
                votes[point.number] = self._vote(ends[self.additional - rank - 1], point, plan)
        return votes

    def _vote(self, until: int, point: Point, plan: Plan) -> Vote:
        mark = None if point.application else plan.marked(point.at, HOUR)
        if mark is not None:  # that takes its place once it is not the newest one any more
            until = min(until, mark + plan.every)
        return Vote("R3.2", f"one of {self.additional} additional, an hour each", until)

    def _ends(self, newest: Point, plan: Plan) -> list[int]:
        """When hours to come take the place of older ones: when their first point is not the newest any more."""
        ends: list[int] = []
        hour = newest.at // HOUR
        while len(ends) < self.additional:
            first = plan.reach((hour + 1) * HOUR)
            ends.append(first + plan.every)
            hour = first // HOUR
        return ends


def _sooner(held: Point, point: Point) -> bool:
    return point.application and not held.application


def _later(held: Point, point: Point) -> bool:
    return point.application or not held.application


def _choose(points: Sequence[Point], every: int, better: Callable[[Point, Point], bool]) -> Iterator[Point]:
    """Of each whole `every` one point: the first, unless a later one is better than what was held until then."""
    found: dict[int, Point] = {}
    for point in points:
        held = found.get(point.at // every)
        if held is None or better(held, point):
            found[point.at // every] = point
    yield from found.values()
