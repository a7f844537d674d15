"""What R2 and R3 ask for, once more, in their own words and over the whole history: what the code is held to."""

from __future__ import annotations

from collections.abc import Sequence

from secondsite.orchestration.retention.point import Point
from secondsite.orchestration.retention.rules import HOUR, SECOND


def by_time(history: Sequence[Point], minutes: float, hours: int) -> set[int]:
    """R2.2 to R2.5 and R2.7."""
    newest = history[-1]
    if hours == 0:
        return {newest.number}
    kept = {newest.number}
    for place, point in enumerate(history):
        if newest.at - point.at >= hours * HOUR:
            continue
        if len(history) - place <= {0.5: 180, 5: 18, 15: 6}[minutes]:
            kept.add(point.number)
        same = [other for other in history if other.at // HOUR == point.at // HOUR]
        best = [other for other in same if other.application] or same
        if point is best[-1]:
            kept.add(point.number)
    return kept


def by_amount(history: Sequence[Point], additional: int) -> set[int]:
    """R3.1 and R3.2."""
    *older, newest = history
    hours = sorted({point.at // HOUR for point in older})
    firsts = []
    for hour in hours:
        same = [point for point in older if point.at // HOUR == hour]
        best = [point for point in same if point.application] or same
        firsts.append(best[0].number)
    return {newest.number, *(firsts[-additional:] if additional else [])}


def recent(history: Sequence[Point], hours: int = 26) -> Sequence[Point]:
    """As much of a history as any rule of the above looks at, whole hours of it: the model is quadratic."""
    edge = (history[-1].at // HOUR - hours) * HOUR
    return [point for point in history if point.at >= edge]


def minutes_of(every: int) -> float:
    return every / 60 / SECOND
