"""The time of a machine's point: nothing in it is of later (R2.1), however long its cycle took to come to the cut."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_cycles import Bench

sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))
from hosting import Site

from secondsite import engine
from secondsite.engine.source import Source
from secondsite.engine.trackers import served
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.hosts.reaching import reach
from secondsite.orchestration.protection import elsewhere, lookup
from secondsite.orchestration.protection.cycle import Clocks, Cycles
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault.database import Database

TICKS = 0.05
Write = Callable[[bytes], Any]


def late(real: Callable[..., Any], writes: list[Write]) -> Callable[..., Any]:
    """The cut, just before which each disk is written with the time."""

    def cut(*arguments: Any) -> Any:
        for write in writes:
            time.sleep(TICKS)
            write((time.time_ns() // 1000).to_bytes(8, "little"))
        time.sleep(TICKS)
        return real(*arguments)

    return cut


def bench_of(tmp_path: Path, vault: Database, **more: Any) -> Bench:
    """One that goes by the clocks of this host."""
    made = Bench(tmp_path, vault, **more)
    made.cycles = Cycles(vault, made.holder, EngineWorker(made.state), Clocks())
    return made


def into(path: str) -> Write:
    def write(data: bytes) -> None:
        with Path(path).open("r+b") as file:
            file.write(data)

    return write


def check(bench: Bench) -> None:
    """A cycle, and the record in each disk of its point against that point's time."""
    bench.cycle()
    point = bench.points()[-1]
    told = round(datetime.datetime.fromisoformat(point.time).timestamp() * 1e6)
    held = []
    for path, replica in bench.item().disks.items():
        with engine.open_point(replica, at=str(point.generations[path]), state=bench.state) as image:
            held.append(int.from_bytes(image.read(0, 8), "little"))
    assert 1 << 50 < max(held) <= told <= time.time_ns() // 1000


def settling(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are read as they are get a record before they are looked at."""
    real = Source.settled
    monkeypatch.setattr(Source, "settled", lambda it: late(real, [into(it.path)])(it))


def test_of_files_and_the_timeline_goes_on(tmp_path: Path, lite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of(tmp_path, lite)
    settling(bench, monkeypatch)
    found = []
    for _ in range(3):
        check(bench)
        found.append(bench.points()[-1])
    assert [one.at for one in found] == sorted({one.at for one in found})
    assert [one.time for one in found] == sorted({one.time for one in found})


def test_behind_a_tracking_server(tmp_path: Path, lite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of(tmp_path, lite)
    paths = list(bench.source())
    with engine.track(paths, socket=str(tmp_path / "socket")) as tracking:
        writes = [lambda data, one=image.disk: one.write(0, data) for image in tracking.images]
        monkeypatch.setattr(served, "begin_together", late(served.begin_together, writes))
        for _ in range(2):
            check(bench)


def test_to_an_agent(there: Site, lite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    state = there.host("source", "app1.system", "app1.data", allow="send,read,administer")
    bench = bench_of(there.folder, lite, host=f'address = "{there.address}"', state=str(state))
    settling(bench, monkeypatch)
    for _ in range(2):
        check(bench)


def test_on_another_host(tmp_path: Path, lite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock there, which is not asked of whoever calls it."""
    bench = bench_of(tmp_path, lite, from_host='reach = ["there"]')
    monkeypatch.setattr(elsewhere.hosts, "reach", lambda host: reach(Host("here")))
    settling(bench, monkeypatch)
    for _ in range(2):
        check(bench)
    assert lookup.load(lite, "app1")[0].failures == 0
