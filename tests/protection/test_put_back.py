"""A vault or a replica that was put back from a backup: no point is lost by it, and none is listed with other bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_cycles import HOUR, Bench

from secondsite import engine
from secondsite.orchestration.health.rules import Level
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, ledger, report
from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Database]:
    with database.create(str(tmp_path / "lite.db")) as made:
        yield made


def cycles(bench: Bench, count: int) -> None:
    for _ in range(count):
        bench.clock.now += HOUR
        bench.write()
        bench.cycle()


def put_back(replica: Path, older: Path) -> None:
    shutil.rmtree(replica)
    shutil.copytree(older, replica)


def test_d8_cycles_of_a_vault_that_was_put_back_drop_no_point_that_it_never_heard_of(tmp_path: Path) -> None:
    where, older = tmp_path / "vault.db", tmp_path / "older.db"
    with database.create(str(where)) as made:
        bench = Bench(tmp_path, made, additional=9)
        cycles(bench, 2)
    shutil.copy(where, older)
    replicas = bench.folder / "replicas/app1"
    with database.opened(str(where)) as made:
        bench.database, bench.cycles = made, replace(bench.cycles, database=made)
        cycles(bench, 3)
    there = {path.name: engine.points(str(path)) for path in replicas.iterdir()}
    shutil.copy(older, where)
    with database.opened(str(where)) as made:
        bench.database, bench.cycles = made, replace(bench.cycles, database=made)
        cycles(bench, 1)
        item = bench.item()
        assert item.state is State.ERROR and "vault rebuild" in str(item.reason)
        assert {path.name: engine.points(str(path)) for path in replicas.iterdir()} == there


def test_the_point_of_a_cycle_that_was_killed_is_no_sign_of_an_older_vault(tmp_path: Path, lite: Database) -> None:
    """The replicas are told of a point before the vault."""
    bench = Bench(tmp_path, lite, additional=9)
    cycles(bench, 2)
    with lite.begin() as connection:
        connection.exec_driver_sql("DELETE FROM point WHERE number = 2")
    bench.cycles = replace(bench.cycles)
    cycles(bench, 1)
    assert bench.item().state is State.REPLICATING and len(bench.points()) == 2


@pytest.mark.parametrize("resync", [False, True])
def test_r7_1f_a_replica_put_back_by_one_cycle_is_noticed(tmp_path: Path, lite: Database, resync: bool) -> None:
    """Its next generation has the number of the one that it lost, and other bytes."""
    bench = Bench(tmp_path, lite, additional=9, policy='resync_window = "never"')
    replica = tmp_path / "replicas/app1/data"
    cycles(bench, 2)
    shutil.copytree(replica, tmp_path / "older")
    cycles(bench, 1)
    kept = {point.number: bench.contents(point) for point in bench.points()[:2]}
    put_back(replica, tmp_path / "older")
    if resync:
        ledger.act(lite, "app1", "resync", bench.clock.now)
    cycles(bench, 1)
    assert bench.item().state is (State.REPLICATING if resync else State.WAITING_FOR_START_RESYNCHRONIZE)
    assert {point.number: bench.contents(point) for point in bench.points()[:2]} == kept
    for point in bench.points()[2:]:
        assert resync and bench.contents(point) == bench.source()


def test_p43_a_cycle_that_nobody_begins_is_a_warning(tmp_path: Path, lite: Database) -> None:
    bench = Bench(tmp_path, lite, every=30)
    cycles(bench, 1)
    due = bench.item().due

    def level(late: float) -> Level:
        return report.rows(lite, due + late)[0].level

    assert (level(0), level(60), level(61)) == (Level.NORMAL, Level.NORMAL, Level.WARNING)
    (claimed,) = leases.claim(lite, bench.holder, due + 50, 1)
    assert level(61) is Level.NORMAL, "a cycle runs"
    assert level(111) is Level.WARNING, "who had it is dead"
    leases.give_back(lite, bench.holder, [claimed.id])
    bench.apply(protect=False)
    assert "it is being disabled" in str(report.rows(lite, due)[0].reason)
