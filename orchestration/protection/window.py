"""The window in which a resynchronization begins by itself (R7.3), by the wall clock of the source host.

What counts is what the clock on the wall shows: a window may cross midnight, it is longer or shorter by an hour in the
nights in which the clocks change, and one that lies whole in the hour that is left out does not open that day (P25).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

Window = tuple[datetime.time, datetime.time]
# The sources contradict each other on whether there is one without anybody's asking: there is.
DEFAULT: Window = (datetime.time(18, 30), datetime.time(6))
_DAY = datetime.timedelta(days=1)
# Days to look ahead for a window that opens: not every day has all times.
_DAYS = 3


def inside(at: float, window: Window, zone: datetime.tzinfo) -> bool:
    """Of UTC seconds. A window whose ends are equal is open all day."""
    begins, ends = window
    now = datetime.datetime.fromtimestamp(at, zone).time()
    if begins < ends:
        return begins <= now < ends
    return now >= begins or now < ends


def opens(at: float, window: Window, zone: datetime.tzinfo) -> float:
    """UTC seconds from which on it is open, at `at` or after that."""
    if inside(at, window, zone):
        return at
    today = datetime.datetime.fromtimestamp(at, zone).date()
    days = (today + day * _DAY for day in range(_DAYS))
    found = sorted(one for day in days for one in _moments(day, window[0], zone))
    return next(one for one in found if one >= at and inside(one, window, zone))


def _moments(day: datetime.date, time: datetime.time, zone: datetime.tzinfo) -> Iterator[float]:
    """When the wall clock of a day comes to this time, once, twice or never, and when it jumps."""
    plain = datetime.datetime.combine(day, time)
    for fold in (0, 1):
        at = plain.replace(tzinfo=zone, fold=fold).timestamp()
        if datetime.datetime.fromtimestamp(at, zone).replace(tzinfo=None) == plain:
            yield at
    yield from _jumps(day, zone)


def _jumps(day: datetime.date, zone: datetime.tzinfo) -> Iterator[float]:
    midnights = (datetime.datetime.combine(day + one * _DAY, datetime.time(), zone) for one in range(2))
    before, after = (int(one.timestamp()) for one in midnights)
    if _offset(before, zone) == _offset(after, zone):
        return
    was = _offset(before, zone)
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if _offset(middle, zone) == was else (before, middle)
    yield float(after)


def _offset(at: float, zone: datetime.tzinfo) -> datetime.timedelta | None:
    return datetime.datetime.fromtimestamp(at, zone).utcoffset()
