"""Time as retention counts it: what passed between two moments, whatever somebody did to the wall clock (P25).

The wall clock begins the timeline. From then on what passes is taken from the clock that counts since boot, also in
suspend. Across a boot the wall clock is all there is, and never turns the timeline back. A timeline that was bent
once stays where it is: points are compared with each other, and only an hour's edge lies elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """What the clocks of a host said at one instant, in microseconds: since 1970 in UTC, since boot, and which boot."""

    wall: int
    since_boot: int
    boot: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Where the timeline was at one moment."""

    at: int
    moment: Moment

    @classmethod
    def begin(cls, moment: Moment) -> Timeline:
        return cls(moment.wall, moment)

    def reach(self, moment: Moment) -> Timeline:
        """Where it is at a later moment."""
        if moment.boot == self.moment.boot:
            passed = moment.since_boot - self.moment.since_boot
        else:
            passed = moment.wall - self.moment.wall
        return Timeline(self.at + max(passed, 0), moment)


def rebuilt(walls: Iterable[int], every: int) -> Iterator[int]:
    """A timeline made anew from the times of points, in their order, where nothing else is left of it: a time that
    does not ascend counts as one cycle later than the point before.
    """
    at, last = 0, None
    for wall in walls:
        if last is None:
            at = wall
        else:
            at += wall - last if wall > last else every
        last = wall
        yield at
