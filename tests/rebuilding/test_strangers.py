"""D8: a vault that was lost, and an estate applied to a new one instead of `vault rebuild`, loses no point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rebuildkit import ON_SQLITE, Killed, changes, differences, holds, rebuilt, restarted, snapshot
from test_cycles import Bench

from secondsite import engine
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, ledger, report
from secondsite.orchestration.vault import audit
from secondsite.orchestration.vault.database import Database

pytestmark = ON_SQLITE
Fresh = Callable[[], Database]


def ran(folder: Path, vault: Database) -> Bench:
    """Two points of a machine."""
    bench = Bench(folder, vault)
    for _ in range(2):
        bench.clock.now += 4000
        bench.write()
        bench.cycle()
    return bench


def notes(bench: Bench) -> list[object]:
    return [engine.read_note(replica) for replica in sorted(bench.item().disks.values())]


def test_a_first_cycle_does_not_write_over_what_another_vault_knew(
    tmp_path: Path, vault: Database, fresh: Fresh
) -> None:
    bench = ran(tmp_path, vault)
    before, noted = holds(bench, snapshot(vault)), notes(bench)
    again = restarted(bench, fresh())
    again.apply()
    again.cycle()
    assert again.item().state is State.ERROR and notes(bench) == noted
    [row] = report.rows(again.database, again.clock.now)
    assert row.level.name == "CRITICAL" and row.reason is not None
    assert "vault rebuild" in row.reason and "protection recover app1" in row.reason
    made = fresh()
    assert rebuilt(bench, made).written and changes(bench, made) == []
    assert differences(before, snapshot(made)) == []


def test_an_operator_may_begin_without_the_points_of_before(tmp_path: Path, vault: Database, fresh: Fresh) -> None:
    bench = ran(tmp_path, vault)
    again = restarted(bench, fresh())
    again.apply()
    again.cycle()
    with audit.action(again.database, "recover", "app1"):
        ledger.act(again.database, "app1", "recover", again.clock.now)
    again.clock.now += 600
    again.cycle()
    assert again.item().state is State.REPLICATING and again.item().reason is None
    assert again.contents(again.points()[-1]) == again.source()


def test_a_cycle_that_was_killed_behind_its_note_goes_on(tmp_path: Path, vault: Database) -> None:
    bench = Bench(tmp_path, vault)
    bench.write()

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ledger, "finish", killed)
        bench.cycle()
    assert bench.item().state is State.READY_FOR_INITIAL_REPLICATION
    assert all(notes(bench))
    bench.clock.now += leases.LEASE_SECONDS + 1
    bench.cycle()
    assert [one.number for one in bench.points()] == [1] and bench.item().state is State.REPLICATING
