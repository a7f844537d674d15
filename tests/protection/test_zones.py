"""Both edges of summer time, in the zone of the host that runs cycles: they change no decision about a point (P25)."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_cycles import HOUR, Bench, Clock

from secondsite.orchestration import cli
from secondsite.orchestration.retention.decision import decide
from secondsite.orchestration.retention.point import Point
from secondsite.orchestration.retention.rules import SECOND
from secondsite.orchestration.vault.database import Database

CYCLES = 14
# Lord Howe's clocks change by half an hour.
EDGES = [
    ("Europe/Berlin", "2026-03-29T01:00", 60), ("Europe/Berlin", "2026-10-25T01:00", -60),
    ("America/New_York", "2026-03-08T07:00", 60), ("America/New_York", "2026-11-01T06:00", -60),
    ("Australia/Lord_Howe", "2026-10-03T15:30", 30), ("Australia/Lord_Howe", "2026-04-04T15:00", -30),
]  # fmt: skip


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the zone of this process, until the test ends."""

    def use(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield use
    monkeypatch.undo()
    time.tzset()


@pytest.mark.sweep(sample=2)
@pytest.mark.parametrize(("name", "edge", "minutes"), EDGES)
def test_an_edge_of_summer_time_changes_no_decision(
    name: str, edge: str, minutes: int, tmp_path: Path, vault: Database, url: str, zone: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Cycles each half an hour, from some hours before it to some after: what is kept, why and until when is what
    plain seconds say.
    """
    zone(name)
    at = datetime.datetime.fromisoformat(edge).replace(tzinfo=datetime.UTC).timestamp()
    before, after = (time.localtime(at + way * 1800).tm_gmtoff for way in (-1, 1))
    assert after - before == minutes * 60, "this is such an edge"
    begin = at - CYCLES // 2 * HOUR / 2
    bench = Bench(tmp_path, vault, every=900, additional=3, clock=Clock(now=begin))
    for number in range(CYCLES):
        bench.clock.now = begin + number * HOUR / 2
        bench.cycle()
    assert cli.run(["retention", "app1", "--json", "--vault", url]) == 0
    shown = json.loads(capsys.readouterr().out)["points"]
    assert [(one["number"], one["time"], one["dies"]) for one in shown] == expected(bench, begin)


def expected(bench: Bench, begin: float) -> list[tuple[int, str, str]]:
    """Numbers, times and ends of points, from the cycles' seconds alone."""
    points = [Point(number + 1, round((begin + number * HOUR / 2) * SECOND)) for number in range(CYCLES)]
    kept = [one for one in decide(points, bench.protected().keep.rules(), 900 * SECOND) if one.votes]
    assert 3 < len(kept) < CYCLES and all(one.until is not None for one in kept)
    return [(one.point.number, utc(one.point.at), utc(one.until or 0)) for one in kept]


def utc(at: int) -> str:
    return datetime.datetime.fromtimestamp(at / SECOND, datetime.UTC).isoformat()
