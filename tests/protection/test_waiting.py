"""What an orchestrator waits for: a vault that is away for a while, and the rate that a policy allows (R12.15)."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))

from hosting import Site
from test_cycles import Bench, Clock, wait

from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.hosts import replicas
from secondsite.orchestration.protection.cycle import Clocks, Cycles
from secondsite.orchestration.protection.orchestrator import Orchestrator
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database

ON_POSTGRESQL = pytest.mark.parametrize(
    "url", [pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))], indirect=True
)


def shut(server: str, url: str, *, out: bool) -> None:
    """Nobody gets into a database any more, and who is in it is put out; or all get in again."""
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {str(not out).lower()}')
        if out:
            connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


@ON_POSTGRESQL
@pytest.mark.parametrize("patience", [600.0, 0.5])
def test_a_vault_that_is_away_is_waited_for_so_long(
    tmp_path: Path, vault: Database, url: str, server: str, patience: float
) -> None:
    bench = Bench(tmp_path, vault, every=30, clock=Clock(now=time.time()))
    told, failed = list[errors.Error](), list[errors.Error]()
    runs = Orchestrator(
        vault, Cycles(vault, bench.holder, EngineWorker(), Clocks()), away=told.append, patience=patience
    )

    def run() -> None:
        try:
            runs.run()
        except errors.Unreachable as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait(lambda: len(bench.points()) == 1)
    shut(server, url, out=True)
    wait(lambda: bool(told))
    time.sleep(2.5)
    shut(server, url, out=False)
    if patience > 1:
        assert len(told) == 1 and thread.is_alive()
        with vault.begin() as connection:
            connection.exec_driver_sql("UPDATE item SET due = 0")
        wait(lambda: len(bench.points()) == 2)
        runs.stop()
    thread.join(30)
    assert bool(failed) is (patience < 1)


def test_r12_15_the_disks_of_a_machine_share_the_rate_of_its_policy(there: Site, lite: Database) -> None:
    """Two disks of a MiB that do not pack."""
    state = there.host("source", "app1.system", "app1.data", allow="send,read,administer")
    bench = Bench(
        there.folder, lite, host=f'address = "{there.address}"', state=str(state), policy='limit = "700K"',
    )  # fmt: skip
    began = time.monotonic()
    bench.cycle()
    assert bench.item().state is State.REPLICATING and time.monotonic() - began > 2.4


def test_r12_15_so_do_they_where_another_host_sends_them(there: Site) -> None:
    state, root = there.host("source", "app1.system", "app1.data", allow="send,read,administer"), there.folder
    disks = []
    for name in ("system", "data"):
        (root / f"{name}.raw").write_bytes(os.urandom(1 << 20))
        replica = f"secondsite://{there.address}/app1.{name}"
        disks.append({"source": f"{root}/{name}.raw", "replica": replica, "options": {"schedule": "700K"}})
    began = time.monotonic()
    done = replicas.replicate({"disks": disks, "state": str(state)}, lambda: False)["results"]
    assert [one["generation"] for one in done] == [1, 1] and time.monotonic() - began > 2.4


def test_a_vault_whose_file_was_deleted_is_not_waited_for(tmp_path: Path) -> None:
    """SQLite would go on in the file that has no name any more, or in a new and empty one."""
    place = tmp_path / "vault.db"
    with database.create(str(place)) as vault:
        bench = Bench(tmp_path, vault, every=30, clock=Clock(now=time.time()))
        told = list[errors.Error]()
        runs = Orchestrator(vault, Cycles(vault, bench.holder, EngineWorker(), Clocks()), away=told.append)
        failed = list[errors.Error]()

        def run() -> None:
            try:
                runs.run()
            except errors.Refused as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        wait(lambda: len(bench.points()) == 1)
        place.rename(tmp_path / "away.db")
        thread.join(20)
        assert not thread.is_alive() and not told
        assert str(failed[0]) == f"{place}: the vault's file was deleted"
        assert not place.exists()
        place.write_bytes((tmp_path / "away.db").read_bytes())
        with pytest.raises(errors.Refused, match="replaced by another one"), vault.reading():
            pass
