"""What lets an orchestrator serve many items: due times apart, readers that do not wait, leases that are believed."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from test_cycles import Bench, Clock, wait

from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import grid, leases, lookup, orchestrator
from secondsite.orchestration.protection.cycle import Clocks, Cycles
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.worker import Cut, EngineWorker
from secondsite.orchestration.vault import database, inventory, schema
from secondsite.orchestration.vault.database import Database


def test_items_that_were_enabled_together_are_not_due_together() -> None:
    dues = [grid.first(uuid.uuid4().hex, 30, 1000.0).due for _ in range(2000)]
    assert all(1000 < due <= 1030 for due in dues)
    counts = [sum(1000 + 3 * tenth < due <= 1003 + 3 * tenth for due in dues) for tenth in range(10)]
    assert sum(counts) == 2000 and min(counts) > 100 and max(counts) < 320


def test_whose_clock_goes_apart_from_that_of_the_vault_keeps_the_frequency(vault: Database, tmp_path: Path) -> None:
    """An item is due by the clock that it is claimed by; of several hosts each has its own."""
    bench = Bench(tmp_path, vault)
    for skew in (0.0, 3600.0, -3600.0):
        bench.clock.skew = skew
        for _ in range(2):
            claimed = leases.claim(vault, bench.holder, bench.clock.now, 1)
            bench.cycles.run(claimed[0], bench.protected(), began=bench.clock.now)
            item = bench.item()
            assert 0 < item.due - bench.clock.now <= bench.every and item.last == bench.clock.now
            assert item.statistics.missed == 0
            bench.clock.now = item.due


def test_a_clock_that_was_set_back_stops_no_cycles(vault: Database, tmp_path: Path) -> None:
    """Nothing waits for the time that was before; what fails then has its pauses."""
    bench = Bench(tmp_path, vault)
    bench.cycle()
    for skew in (-3600.0, -3612.0):
        bench.clock.skew = skew
        at = bench.clock.now + skew
        leases.set_back(vault, at)
        claimed = leases.claim(vault, bench.holder, at, 1)
        bench.cycles.run(claimed[0], bench.protected())
        item = bench.item()
        assert 0 < item.due - at <= bench.every and item.last == at and item.statistics.missed == 0
        leases.set_back(vault, at)
        assert leases.claim(vault, bench.holder, at, 1) == []
    (tmp_path / "data.raw").rename(tmp_path / "away")
    bench.clock.skew, at = -7200.0, bench.clock.now - 7200
    leases.set_back(vault, at)
    claimed = leases.claim(vault, bench.holder, at, 1)
    assert bench.cycles.run(claimed[0], bench.protected()) is not None
    leases.set_back(vault, at)
    assert 0 < bench.item().due - at <= bench.every and leases.claim(vault, bench.holder, at, 1) == []


def test_an_orchestrator_sees_that_the_clock_was_set_back(vault: Database, tmp_path: Path) -> None:
    bench = Bench(tmp_path, vault, clock=Clock(now=time.time() + 3600))
    bench.cycle()
    runs = orchestrator.Orchestrator(vault, Cycles(vault, bench.holder, EngineWorker(), Clocks()))
    thread = threading.Thread(target=runs.run)
    thread.start()
    try:
        wait(lambda: len(bench.points()) == 2, 20)
    finally:
        runs.stop()
        thread.join(30)


def test_who_only_looks_waits_for_no_writer(vault: Database, url: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, vault)
    item, began = bench.item(), time.monotonic()
    with vault.begin() as connection:
        connection.execute(update(schema.item).values(failures=7))
        with database.opened(url) as other:
            assert lookup.load(other, "app1") == [item]
            assert lookup.points(other, item.id) == []
    assert time.monotonic() - began < 10
    assert bench.item().failures == 7


def test_the_last_estate_is_the_same_packed_and_from_its_text(vault: Database, tmp_path: Path) -> None:
    """A vault of before has the text alone; what another version packed is read from that too."""
    Bench(tmp_path, vault)
    found = []
    for packed in ("as it is", None, '{"unheard": 1}'):
        with vault.begin() as connection:
            if packed != "as it is":
                connection.execute(update(schema.revision).values(packed=packed))
            found.append(inventory.last_estate(connection))
    assert found[0] is not None and found[0].item and found == [found[0]] * 3


class Waiting(EngineWorker):
    """Its cycle lasts until it is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()

    def replicate(self, *arguments: Any, cancel: Callable[[], bool], **more: Any) -> Cut:
        self.began.set()
        wait(cancel)
        raise errors.Cancelled("told to end")


def test_a_cycle_ends_whose_item_another_orchestrator_took(
    tmp_path: Path, vault: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes nothing down: the item is the other one's."""
    monkeypatch.setattr(orchestrator, "_RENEW_SECONDS", 0.05)
    bench, worker = Bench(tmp_path, vault, clock=Clock(now=time.time())), Waiting()
    told: list[errors.Error | None] = []
    runs = orchestrator.Orchestrator(
        vault, Cycles(vault, bench.holder, worker, Clocks()), told=lambda item, error: told.append(error)
    )
    thread = threading.Thread(target=runs.run)
    thread.start()
    try:
        assert worker.began.wait(30)
        with vault.begin() as connection:
            taken = {"lease_holder": "other", "lease_until": time.time() + 600, "doing": "theirs"}
            connection.execute(update(schema.item).values(taken))
        wait(lambda: bool(told))
    finally:
        runs.stop()
        thread.join(30)
    assert isinstance(told[0], errors.Refused) and bench.item().doing == "theirs"


def test_an_item_that_runs_here_is_not_claimed_again(tmp_path: Path, vault: Database) -> None:
    """Its cycle was late and it is due again before the thread that gave it back has ended."""
    bench = Bench(tmp_path, vault)
    item = bench.item()
    assert leases.claim(vault, bench.holder, bench.clock.now, 4, [item.id]) == []
    assert [one.id for one in leases.claim(vault, bench.holder, bench.clock.now, 4, ["another"])] == [item.id]


def test_an_estate_that_is_applied_while_it_claims_is_known_to_its_cycles(
    tmp_path: Path, lite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was enabled by it would never be due again."""
    bench = Bench(tmp_path, lite, enabled=False, clock=Clock(now=time.time()))
    claim = leases.claim

    def late(*arguments: Any) -> list[Held]:
        monkeypatch.setattr(leases, "claim", claim)
        bench.apply()
        return claim(*arguments)

    monkeypatch.setattr(leases, "claim", late)
    runs = orchestrator.Orchestrator(lite, Cycles(lite, bench.holder, EngineWorker(), Clocks()))
    thread = threading.Thread(target=runs.run)
    thread.start()
    try:
        wait(lambda: bool(lookup.load(lite, "app1")) and bench.item().due > time.time() + 5)
    finally:
        runs.stop()
        thread.join(30)
    assert bench.item().state is State.REPLICATING and bench.points()
