"""R7.3: when a resync begins by itself, on ordinary days and at both edges of summer time (P25)."""

from __future__ import annotations

import datetime
import random
from zoneinfo import ZoneInfo

import pytest

from secondsite.orchestration.protection import window
from secondsite.orchestration.protection.window import Window

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
NIGHT = window.DEFAULT


def clock(hour: int, minute: int = 0) -> datetime.time:
    return datetime.time(hour, minute)


def utc(text: str) -> float:
    return datetime.datetime.fromisoformat(text + "+00:00").timestamp()


@pytest.mark.parametrize(
    ("at", "opened"),
    [
        ("2026-07-01T12:00", "2026-07-01T16:30"),
        ("2026-07-01T16:29:59", "2026-07-01T16:30"),
        ("2026-07-01T16:30", "2026-07-01T16:30"),
        ("2026-07-01T23:30", "2026-07-01T23:30"),
        ("2026-07-02T03:59:59", "2026-07-02T03:59:59"),
        ("2026-07-02T04:00", "2026-07-02T16:30"),
        ("2026-12-01T12:00", "2026-12-01T17:30"),
    ],
)
def test_the_default_crosses_midnight(at: str, opened: str) -> None:
    """18:30 to 06:00."""
    assert window.opens(utc(at), NIGHT, BERLIN) == utc(opened)


EDGES: list[tuple[ZoneInfo, Window, str, str]] = [
    # 29 March 2026, 02:00 to 03:00 is left out at 01:00 UTC.
    (BERLIN, (clock(2, 30), clock(4)), "2026-03-28T12:00", "2026-03-29T01:00"),
    (BERLIN, (clock(2, 15), clock(2, 45)), "2026-03-28T12:00", "2026-03-30T00:15"),
    (BERLIN, (clock(1, 30), clock(2, 30)), "2026-03-29T00:29", "2026-03-29T00:30"),
    (BERLIN, (clock(1, 30), clock(2, 30)), "2026-03-29T01:00", "2026-03-29T23:30"),
    (BERLIN, NIGHT, "2026-03-29T03:59", "2026-03-29T03:59"),
    (BERLIN, NIGHT, "2026-03-29T04:00", "2026-03-29T16:30"),
    # 25 October 2026, 02:00 to 03:00 is there twice, from 00:00 and from 01:00 UTC.
    (BERLIN, (clock(2, 30), clock(4)), "2026-10-24T12:00", "2026-10-25T00:30"),
    (BERLIN, (clock(2, 30), clock(4)), "2026-10-25T01:10", "2026-10-25T01:30"),
    (BERLIN, (clock(2, 10), clock(2, 20)), "2026-10-25T00:20", "2026-10-25T01:10"),
    (BERLIN, (clock(1), clock(2, 30)), "2026-10-25T00:40", "2026-10-25T01:00"),
    (BERLIN, NIGHT, "2026-10-25T04:59", "2026-10-25T04:59"),
    (BERLIN, NIGHT, "2026-10-25T05:00", "2026-10-25T17:30"),
    # The other side of the sea has its own days.
    (NEW_YORK, (clock(2), clock(3)), "2026-03-07T12:00", "2026-03-09T06:00"),
    (NEW_YORK, (clock(0), clock(0)), "2026-03-08T06:59", "2026-03-08T06:59"),
]


@pytest.mark.parametrize(("zone", "hours", "at", "opened"), EDGES)
def test_both_edges_of_summer_time(zone: ZoneInfo, hours: Window, at: str, opened: str) -> None:
    assert window.opens(utc(at), hours, zone) == utc(opened)


def test_it_is_never_early_nor_late() -> None:
    """Against a walk minute by minute, over all of 2026's changes of the clock."""
    chance = random.Random(7)
    for _ in range(300):
        zone = chance.choice([BERLIN, NEW_YORK])
        hours = clock(chance.randrange(6), chance.choice([0, 15, 30])), clock(chance.randrange(6), 45)
        day = chance.choice(["2026-03-07", "2026-03-08", "2026-03-28", "2026-03-29", "2026-10-24", "2026-10-25"])
        at = utc(day) + 60 * chance.randrange(24 * 60)
        walk = at
        while not window.inside(walk, hours, zone):
            walk += 60
        assert window.opens(at, hours, zone) == walk, (zone, hours, at)
