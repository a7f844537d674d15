"""R7: what needs a resync, when it begins by itself, and what an operator does to one that runs."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cycles import SIZE, Bench, Clock, wait

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.health.rules import Level
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, ledger, report
from secondsite.orchestration.protection.cycle import Clocks, Cycles
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.leases import NEVER
from secondsite.orchestration.protection.orchestrator import Orchestrator
from secondsite.orchestration.protection.worker import Cut, EngineWorker
from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database

HOUR = 3600.0
BERLIN = 'resync_window = [22:00:00, 05:00:00]'


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Database]:
    with database.create(str(tmp_path / "lite.db")) as made:
        yield made


def due(bench: Bench) -> list[State]:
    """What is due is run, as by an orchestrator; the states behind it."""
    found = []
    for item in leases.claim(bench.database, bench.holder, bench.clock.now, 1):
        bench.cycles.run(item, bench.protected())
        leases.give_back(bench.database, bench.holder, [item.id])
        found.append(bench.item().state)
    return found


def test_r7_3_it_begins_by_itself_in_the_window_of_the_source_host(tmp_path: Path, vault: Database) -> None:
    """The bench begins at 08:00 UTC, and 22:00 is 21:00 UTC in Berlin."""
    bench = Bench(tmp_path, vault, policy=BERLIN, from_host='zone = "Europe/Berlin"')
    bench.cycle()
    bench.damage()
    bench.write()
    bench.cycle()
    item = bench.item()
    assert item.state is State.WAITING_FOR_START_RESYNCHRONIZE and item.due == bench.clock.now + 13 * HOUR
    (row,) = report.rows(vault, bench.clock.now)
    assert row.level is Level.CRITICAL and "R7.3: it begins at 2027-01-15T21:00:00+00:00" in str(row.reason)
    bench.clock.now += 13 * HOUR - 1
    assert due(bench) == [], "R7.2: nothing is sent"
    bench.clock.now += 1
    assert due(bench) == [State.REPLICATING]
    assert bench.contents(bench.points()[-1]) == bench.source() and bench.item().reason is None


def test_an_item_that_is_claimed_outside_its_window_waits_for_the_next_one(tmp_path: Path, lite: Database) -> None:
    """A window that was changed meanwhile, or an orchestrator that did not run all night."""
    bench = Bench(tmp_path, lite, policy=BERLIN, from_host='zone = "Europe/Berlin"')
    bench.cycle()
    bench.damage()
    bench.cycle()
    bench.clock.now += 24 * HOUR
    assert due(bench) == [State.WAITING_FOR_START_RESYNCHRONIZE]
    assert bench.item().due == bench.clock.now + 13 * HOUR


def test_r7_1f_a_replica_that_was_put_back_loses_its_newer_points_and_is_compared(
    tmp_path: Path, vault: Database
) -> None:
    bench = Bench(tmp_path, vault, additional=9, policy='resync_window = "never"')
    replica = tmp_path / "replicas/app1/data"
    for number in range(4):
        bench.clock.now += HOUR
        bench.write()
        bench.cycle()
        if number == 1:
            shutil.copytree(replica, tmp_path / "older")
    kept = {point.number: bench.contents(point) for point in bench.points()}
    shutil.rmtree(replica)
    (tmp_path / "older").rename(replica)
    bench.clock.now += HOUR
    bench.write()
    bench.cycle()
    item = bench.item()
    assert (item.state, item.due) == (State.WAITING_FOR_START_RESYNCHRONIZE, NEVER) and "R7.1f" in str(item.reason)
    assert {point.number for point in bench.points()} == {1, 2}, "the replica has another third generation now"
    for point in bench.points():
        assert bench.contents(point) == kept[point.number]
    ledger.act(vault, "app1", "resync", bench.clock.now)
    bench.cycle()
    assert bench.item().state is State.REPLICATING
    assert bench.contents(bench.points()[-1]) == bench.source()


def served(bench: Bench) -> Any:
    paths = [str(bench.folder / f"{name}.raw") for name in ("system", "data")]
    return engine.track(paths, socket=str(bench.folder / "socket"))


def test_r7_1b_more_than_half_changed_and_r7_8_so_it_did_again(tmp_path: Path, lite: Database) -> None:
    """Half of what both disks have together, not of each."""
    bench = Bench(tmp_path, lite)
    with served(bench) as tracking:
        disk = tracking.images[1].disk
        bench.cycle()
        disk.write(0, bytes(SIZE))
        assert due(bench) == []
        bench.cycle()
        assert bench.item().state is State.REPLICATING and len(bench.points()) == 2, "half is not more than half"
        for image in tracking.images:
            image.disk.write(0, b"\1" * (SIZE * 3 // 4))
        bench.cycle()
        item = bench.item()
        assert item.state is State.WAITING_FOR_START_RESYNCHRONIZE and len(bench.points()) == 2
        assert item.reason == "R7.1b: 1.5 MiB of 2.0 MiB changed since the last cycle, more than half"
        bench.cycles.worker = Writes(lambda: [image.disk.write(0, b"\2" * SIZE) for image in tracking.images])
        ledger.act(lite, "app1", "resync", bench.clock.now)
        bench.cycle()
        assert bench.item().state is State.WAITING_FOR_START_RESYNCHRONIZE and len(bench.points()) == 2
        bench.cycles.worker = EngineWorker()
        ledger.act(lite, "app1", "resync", bench.clock.now)
        bench.cycle()
        assert bench.item().state is State.REPLICATING and bench.points()[-1].number == 3


class Writes(EngineWorker):
    """Somebody writes while the cycle runs."""

    def __init__(self, write: Callable[[], object]) -> None:
        super().__init__()
        self.write = write

    def replicate(self, *plain: Any, **named: Any) -> Cut:
        try:
            return super().replicate(*plain, **named)
        finally:
            self.write()


def test_a_tracker_that_was_lost_is_no_reason(tmp_path: Path, lite: Database) -> None:
    """R7.1d, D7: the cycle reads all, and sends what differs."""
    bench = Bench(tmp_path, lite)
    with served(bench):
        bench.cycle()
    for name in ("system", "data"):
        (tmp_path / f"{name}.raw").write_bytes(bytes(SIZE))
    with served(bench):
        bench.cycle()
    assert bench.item().state is State.REPLICATING and bench.contents(bench.points()[-1]) == bench.source()


class Slow(EngineWorker):
    """A cycle that takes until it is cancelled, the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.let = threading.Event(), threading.Event()

    def replicate(self, *plain: Any, **named: Any) -> Cut:
        self.began.set()
        while not self.let.is_set():
            if named["cancel"]():
                raise errors.Cancelled("stopped")
            time.sleep(0.01)
        return super().replicate(*plain, **named)


@pytest.fixture
def running(tmp_path: Path, lite: Database) -> Iterator[tuple[Bench, Slow]]:
    """A resync that runs, in an orchestrator."""
    bench, slow = Bench(tmp_path, lite, clock=Clock(now=time.time())), Slow()
    bench.cycle()
    ledger.act(lite, "app1", "resync", time.time())
    orchestrator = Orchestrator(lite, Cycles(lite, bench.holder, slow, Clocks()))
    thread = threading.Thread(target=orchestrator.run)
    thread.start()
    try:
        assert slow.began.wait(30)
        yield bench, slow
    finally:
        orchestrator.stop()
        thread.join(30)


def test_r7_6_a_pause_stops_it_and_resume_goes_on(running: tuple[Bench, Slow], lite: Database) -> None:
    bench, slow = running
    ledger.act(lite, "app1", "pause", time.time())
    wait(lambda: bench.item().doing is None, 20)
    assert bench.item().state is State.RESYNCHRONIZE_SUSPENDED and len(bench.points()) == 1
    slow.let.set()
    assert ledger.act(lite, "app1", "resume", time.time()) is State.RESYNCHRONIZING
    wait(lambda: bench.item().state is State.REPLICATING, 20)
    assert len(bench.points()) >= 2


def test_a_resume_that_comes_while_the_paused_one_is_looked_at_is_not_put_off(
    tmp_path: Path, lite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was paused stays due until it is claimed once more, and put to rest."""
    bench = Bench(tmp_path, lite, clock=Clock(now=time.time()))
    bench.cycle()
    ledger.act(lite, "app1", "resync", time.time())
    ledger.act(lite, "app1", "pause", time.time())
    claim = leases.claim

    def resumed(*arguments: Any) -> list[Held]:
        claimed = claim(*arguments)
        if claimed and claimed[0].state is State.RESYNCHRONIZE_SUSPENDED:
            ledger.act(lite, "app1", "resume", time.time())
        return claimed

    monkeypatch.setattr(leases, "claim", resumed)
    orchestrator = Orchestrator(lite, Cycles(lite, bench.holder, EngineWorker(), Clocks()))
    thread = threading.Thread(target=orchestrator.run)
    thread.start()
    try:
        wait(lambda: bench.item().state is State.REPLICATING, 20)
    finally:
        orchestrator.stop()
        thread.join(30)


def test_r7_5_one_that_was_cancelled_waits_for_who_begins_the_next(
    running: tuple[Bench, Slow], lite: Database
) -> None:
    bench, _ = running
    ledger.act(lite, "app1", "cancel resync", time.time())
    wait(lambda: bench.item().doing is None, 20)
    item = bench.item()
    assert (item.state, item.due) == (State.WAITING_FOR_START_RESYNCHRONIZE, NEVER)


def test_a_pause_that_comes_while_a_cycle_runs_stays(tmp_path: Path, lite: Database) -> None:
    """Whatever the cycle ends with: the operator has said the last word."""
    bench = Bench(tmp_path, lite)
    bench.cycle()
    bench.cycles.worker = Writes(lambda: ledger.act(lite, "app1", "pause", bench.clock.now))
    bench.write()
    bench.cycle()
    assert bench.item().state is State.SUSPENDED and len(bench.points()) == 2
