"""The folder of the replicas is not mounted: no cycle begins others in the empty place, or forgets points for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_cycles import Bench

from secondsite.engine import errors
from secondsite.orchestration.failover import looking
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, ledger
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault.database import Database


@pytest.fixture
def away(tmp_path: Path, lite: Database) -> Bench:
    """Two points, and an empty folder in the place of the replicas, in which two cycles were tried."""
    bench = Bench(tmp_path, lite)
    for _ in range(2):
        bench.clock.now += 3600
        bench.write()
        bench.cycle()
    (tmp_path / "replicas").rename(tmp_path / "elsewhere")
    (tmp_path / "replicas").mkdir()
    for _ in range(2):
        bench.clock.now += 3600
        bench.write()
        bench.cycle()
    return bench


def test_once_it_is_there_again_replication_goes_on(away: Bench, tmp_path: Path) -> None:
    item = away.item()
    assert (item.state, item.sending) == (State.REPLICATING, False)
    assert "is not there, and none is begun in its place; is its folder mounted?" in str(item.reason)
    assert [one.number for one in away.points()] == [1, 2] and not list((tmp_path / "replicas").iterdir())
    shutil.rmtree(tmp_path / "replicas")
    (tmp_path / "elsewhere").rename(tmp_path / "replicas")
    away.clock.now += 3600
    away.cycle()
    assert [one.number for one in away.points()] == [1, 2, 3]
    assert away.contents(away.points()[-1]) == away.source()


def test_a_replica_that_is_lost_is_begun_anew_by_a_resync(away: Bench) -> None:
    """R7.9: it takes an operator's word that the old points are gone."""
    ledger.act(away.database, "app1", "resync", away.clock.now)
    away.cycle()
    (found,) = away.points()
    assert (away.item().state, found.number) == (State.REPLICATING, 1)
    assert away.contents(found) == away.source()


def test_a_resync_that_began_by_itself_begins_no_other_either(tmp_path: Path, lite: Database) -> None:
    """The last points of a machine lie in what is away, until an operator says that they are gone."""
    bench = Bench(tmp_path, lite, policy="resync_window = [00:00:00, 23:59:59]")
    bench.cycle()
    bench.damage()
    bench.clock.now += 3600
    bench.cycle()
    assert bench.item().state is State.WAITING_FOR_START_RESYNCHRONIZE
    (tmp_path / "replicas").rename(tmp_path / "elsewhere")
    (tmp_path / "replicas").mkdir()
    for _ in range(2):
        bench.clock.now += 3600
        bench.cycle()
        assert bench.item().state is State.RESYNCHRONIZING
        assert "is its folder mounted?" in str(bench.item().reason)
        assert len(bench.points()) == 1 and not list((tmp_path / "replicas").iterdir())
    shutil.rmtree(tmp_path / "replicas")
    (tmp_path / "elsewhere").rename(tmp_path / "replicas")
    bench.clock.now += 3600
    bench.cycle()
    assert bench.item().state is State.REPLICATING
    assert bench.contents(bench.points()[-1]) == bench.source()


def test_an_operator_may_say_so_of_a_resync_that_waits_for_its_folder(tmp_path: Path, lite: Database) -> None:
    bench = Bench(tmp_path, lite, policy="resync_window = [00:00:00, 23:59:59]")
    bench.cycle()
    bench.damage()
    for _ in range(2):
        bench.clock.now += 3600
        bench.cycle()
        shutil.rmtree(tmp_path / "replicas", ignore_errors=True)
    ledger.act(lite, "app1", "resync", bench.clock.now)
    bench.cycle()
    (found,) = bench.points()
    assert bench.item().state is State.REPLICATING and bench.contents(found) == bench.source()
    assert not bench.item().anew


@pytest.fixture
def begun(tmp_path: Path, lite: Database, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Two points whose replicas are gone; an operator's resync that began others, and that was killed behind that."""
    bench = Bench(tmp_path, lite)
    for _ in range(2):
        bench.clock.now += 3600
        bench.write()
        bench.cycle()
    shutil.rmtree(tmp_path / "replicas")
    bench.write()
    ledger.act(lite, "app1", "resync", bench.clock.now)
    with monkeypatch.context() as patch:
        patch.setattr(Cycles, "_identify", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.cycle()
    leases.give_back(lite, bench.holder, [bench.item().id])
    return bench


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_points_of_replicas_that_are_gone_are_none_of_others(begun: Bench) -> None:
    """Their generations have the same numbers, and other contents."""
    old = begun.points()
    with pytest.raises(errors.Refused, match="which its points are of"):
        looking.point(None, old[0], begun.item().disks, bool, ids=begun.item().ids)
    for _ in range(2):
        begun.clock.now += 3600
        begun.cycle()
        assert begun.item().state is State.REPLICATING, begun.item().reason
        assert begun.contents(begun.points()[-1]) == begun.source()
    assert {one.time for one in begun.points()}.isdisjoint({one.time for one in old})


def test_whose_replicas_cannot_be_asked_is_asked_again(begun: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(EngineWorker, "identify", away_just_now)
        begun.cycle()
    item = begun.item()
    assert item.state is State.RESYNCHRONIZING and item.anew and "not just now" in str(item.reason)
    for _ in range(2):
        begun.clock.now += 3600
        begun.cycle()
    assert begun.item().state is State.REPLICATING and not begun.item().anew
    assert len(begun.points()) == 2


def away_just_now(*_: object) -> str:
    raise errors.Unreachable("not just now")


def refused(*_: object, **__: object) -> None:
    raise errors.Refused("follows another image")


def test_to_recover_is_no_word_that_replicas_are_gone(away: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operator said of a resync is of that one, which failed."""
    ledger.act(away.database, "app1", "resync", away.clock.now)
    with monkeypatch.context() as patch:
        patch.setattr(EngineWorker, "replicate_machines", refused)
        away.cycle()
    assert away.item().state is State.ERROR
    ledger.act(away.database, "app1", "recover", away.clock.now)
    away.cycle()
    assert "is its folder mounted?" in str(away.item().reason) and len(away.points()) == 2


def test_a_pause_keeps_what_the_operator_said_and_a_cancelled_resync_does_not(away: Bench) -> None:
    now = away.clock.now
    for action, anew in (("resync", True), ("pause", True), ("resume", True), ("cancel resync", False)):
        ledger.act(away.database, "app1", action, now)
        assert away.item().anew == anew, action


def test_an_operators_word_while_a_cycle_fails_is_kept(away: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(*_: object, **__: object) -> None:
        ledger.act(away.database, "app1", "resync", away.clock.now)
        raise errors.Refused("follows another image")

    with monkeypatch.context() as patch:
        patch.setattr(EngineWorker, "replicate_machines", meanwhile)
        away.cycle()
    assert (away.item().state, away.item().anew) == (State.RESYNCHRONIZING, True)
