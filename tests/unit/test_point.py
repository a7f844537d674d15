"""Which point a word names."""

from __future__ import annotations

import datetime

import pytest

from secondsite.engine import errors
from secondsite.engine.replica.point import Point, choose, data_time, format_time, parse_time


def made(generation: int, time: str) -> Point:
    return Point(generation, time, 4096, "0" * 64, "delta", "scan", 0, 0, 0, 1, "ab" * 16)


POINTS = [
    made(3, "2026-11-22T09:00:00.000000Z"),
    made(4, "2026-11-22T10:00:00.000000Z"),
    made(7, "2026-11-22T10:30:00.500000Z"),
    made(20261122, "2026-11-23T00:00:00.000000Z"),
]


@pytest.mark.parametrize(
    ("at", "generation"),
    [
        ("latest", 20261122), ("3", 3), ("7", 7), ("007", 7),
        ("2026-11-22T09:00:00Z", 3), ("2026-11-22T09:00", 3), ("2026-11-22 09:59:59.999999", 3),
        ("2026-11-22T10:00:00+00:00", 4), ("2026-11-22T11:00:00+01:00", 4), ("2026-11-22T10:30:00-05:00", 7),
        ("2026-11-22T10:30:00.5", 7), ("2030-01-01", 20261122), ("9999-12-31T23:59:59-23:59", 20261122),
        # Eight digits that are a date are one, also where a generation has the same; its own name still has a way.
        ("20261123", 20261122), ("020261122", 20261122),
    ],
)  # fmt: skip
def test_choose(at: str, generation: int) -> None:
    assert choose(POINTS, at, "/r").generation == generation


@pytest.mark.parametrize(
    ("at", "what"),
    [
        ("5", "no point 5; there are 3 to 20261122"), ("0", "no point 0"), ("99999999", "no point 99999999"),
        ("2026-11-22T08:59:59Z", "no point is as old as"), ("2026-11-22T09:00:00+01:00", "no point is as old as"),
        ("20261122", "no point is as old as"), ("0001-01-01T00:00:00+23:59", "no point is as old as"),
    ],
)  # fmt: skip
def test_a_point_that_is_not_there(at: str, what: str) -> None:
    with pytest.raises(errors.Refused, match=what):
        choose(POINTS, at, "/r")


@pytest.mark.parametrize("at", ["", "yesterday", "-1", "1.5", "²", "٣", "2026-13-01", "9" * 30, "LATEST"])
def test_what_names_no_point(at: str) -> None:
    with pytest.raises(errors.Usage, match="neither a point"):
        choose(POINTS, at, "/r")


def test_no_points_and_one_point() -> None:
    with pytest.raises(errors.Refused, match="no recovery point yet"):
        choose([], "latest", "/r")
    with pytest.raises(errors.Refused, match="the only one is 3"):
        choose(POINTS[:1], "9", "/r")


def test_a_clock_that_stepped_back() -> None:
    """Of the points that are not after a time the newest generation counts, not the latest clock."""
    points = [
        made(1, "2026-11-22T09:00:00Z"),
        made(2, "2026-11-22T12:00:00Z"),
        made(3, "2026-11-22T08:00:00Z"),
    ]
    assert choose(points, "2026-11-22T10:00", "/r").generation == 3
    assert choose(points, "2026-11-22T12:00", "/r").generation == 3


def test_times() -> None:
    moment = datetime.datetime(
        2026, 11, 22, 10, 14, 0, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=1))
    )
    assert format_time(moment) == "2026-11-22T09:14:00.000005Z"
    assert parse_time(format_time(moment)) == moment
    with pytest.raises(errors.Damaged, match=r"x\.json"):
        parse_time("noon", "x.json")


def test_records_of_points() -> None:
    point = POINTS[0]
    assert Point.parse(point.fields(), "x", "ab" * 16, 3) == point
    for replica, generation in (("cd" * 16, 3), ("ab" * 16, 4)):
        with pytest.raises(errors.Damaged, match="another replica's point"):
            Point.parse(point.fields(), "x", replica, generation)
    for changes in ({"seal": "A" * 64}, {"seal": "0" * 63}, {"time": "noon"}, {"virtual_bytes": -1}):
        with pytest.raises(errors.Damaged, match="x: "):
            Point.parse({**point.fields(), **changes}, "x", "ab" * 16, 3)


def test_the_time_of_a_point_that_goes_on_is_that_of_its_data():
    """R2.1. What has not come yet by the clock here is now, and what is no time is refused."""
    now = datetime.datetime(2026, 11, 26, 9, 0, tzinfo=datetime.UTC)
    for told, time in (
        (None, "2026-11-26T09:00:00.000000Z"),
        ("2026-11-26T09:30:00.5+01:00", "2026-11-26T08:30:00.500000Z"),
        ("2026-11-26T09:00:01Z", "2026-11-26T09:00:00.000000Z"),
    ):
        assert data_time(told, now, "peer") == time
    for bad in ("", "yesterday", "0001-01-01T00:00:00+23:00", "2026-13-01T00:00:00Z"):
        with pytest.raises(errors.Damaged, match="peer"):
            data_time(bad, now, "peer")
