"""Histories of points for the tests of retention: cycles with gaps, and clocks that somebody steps."""

from __future__ import annotations

import random
from collections.abc import Iterator

from secondsite.orchestration.retention.point import Point
from secondsite.orchestration.retention.rules import HOUR, SECOND
from secondsite.orchestration.retention.timeline import Moment, Timeline

# 2026-03-28 20:00 UTC: in Europe the clocks go forward five hours later.
BEGIN = 1_774_728_000 * SECOND


def cycles(chance: random.Random, every: int, hours: int, *, gaps: bool, application: int = 0) -> Iterator[Point]:
    """Points of so many hours; `application` of them is one in so many. A gap is up to four hours."""
    at, number = BEGIN + chance.randrange(HOUR), 0
    end = at + hours * HOUR
    while at < end:
        number += 1
        yield Point(number, at, application=bool(application) and not chance.randrange(application))
        at += every
        if gaps and not chance.randrange(60):
            at += every * chance.randrange(4 * HOUR // every)


def stepped(chance: random.Random, points: list[Point]) -> list[Point]:
    """The same points as their timeline has them on a host whose wall clock is set on and back by up to two days."""
    skew, timeline, made = 0, None, []
    for point in points:
        if timeline is not None and not chance.randrange(25):
            skew = chance.randrange(-48 * HOUR, 48 * HOUR)
        moment = Moment(point.at + skew, point.at - BEGIN, "one boot")
        timeline = Timeline.begin(moment) if timeline is None else timeline.reach(moment)
        made.append(Point(point.number, timeline.at, point.application, point.pinned))
    return made
