"""What is kept and what goes: every rule is asked, and a point is dropped only where none keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from secondsite.orchestration.retention.point import Point, Vote
from secondsite.orchestration.retention.rules import Plan, Rule


@dataclass(frozen=True, slots=True)
class Kept:
    """A point and the votes for it, the one that holds longest first; without votes it is dropped."""

    point: Point
    votes: tuple[Vote, ...]

    @property
    def until(self) -> int | None:
        """When it dies if cycles go on as planned; None: never."""
        return self.votes[0].until

    def longer(self, vote: Vote) -> Kept:
        """With one more vote, which no rule of the policy has."""
        return Kept(self.point, tuple(sorted([*self.votes, vote], key=_longest)))


def decide(
    points: Sequence[Point], rules: Sequence[Rule] | None, every: int, mark: int | None = None
) -> list[Kept]:
    """About each point, oldest first. `every` is how far apart cycles are planned, in microseconds, and `mark` when the
    next application-consistent one is, for when they die. Without rules (array-managed points) all are kept. Raises
    ValueError for points that are not in order.
    """
    if any(one.number >= two.number or one.at > two.at for one, two in pairwise(points)):
        raise ValueError("points are not in order")
    if not points:
        return []
    if rules is None:
        return [Kept(point, (Vote("SEED", "the array's own", None),)) for point in points]
    plan = Plan(points[-1].at, every, mark)
    found: dict[int, list[Vote]] = {point.number: [] for point in points}
    for rule in rules:
        for number, vote in rule.votes(points, plan).items():
            found[number].append(vote)
    return [Kept(point, tuple(sorted(found[point.number], key=_longest))) for point in points]


def dropped(points: Sequence[Point], rules: Sequence[Rule] | None, every: int) -> list[int]:
    """The numbers of the points that go."""
    return [kept.point.number for kept in decide(points, rules, every) if not kept.votes]


def _longest(vote: Vote) -> tuple[bool, int]:
    return (False, 0) if vote.until is None else (True, -vote.until)
