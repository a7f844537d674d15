"""A failover to the target and back from it: unplanned, its cancel and commit, planned, and tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import Bench, plain, plainly
from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.failover import running
from secondsite.orchestration.failover.intent import Options
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, note
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import holders


def noted(bench: Bench) -> list[note.Relation]:
    """Where the replicas say that their machine runs, for a vault that is lost (D8)."""
    said = [(replica, engine.read_note(replica)) for replica in bench.item.homes.values()]
    return [note.parse(one or {}, replica).relation for replica, one in said]


def test_unplanned_from_any_point_then_another_then_cancelled(bench: Bench) -> None:
    """R9.8, R9.10: it runs from the point, is changed to another, and cancelled: replication goes on as before."""
    first, second = bench.cycle(), bench.cycle()
    states = {one.number: bench.contents(one) for one in (first, second)}
    item = bench.failovers().fail_over("app1", "unplanned", point=first.number)
    assert (item.state, item.active) == (State.FAIL_OVER_WAITING_COMPLETION, "target")
    assert bench.runs("target") and not bench.runs("source")
    assert plainly(bench.away()) == {
        path: plain(data) for path, data in states[first.number].items()
    }
    assert bench.away() != states[first.number], "it has written"
    assert noted(bench) == [note.Relation(active="target", away=item.away, busy=True)] * 2
    bench.failovers().act("app1", "change-point", point=second.number)
    assert plainly(bench.away()) == {
        path: plain(data) for path, data in states[second.number].items()
    }
    item = bench.failovers().act("app1", "cancel")
    assert (item.state, item.active, item.failover, item.away) == (State.REPLICATING, "source", None, None)
    assert not bench.runs("target")
    assert not list(bench.folder.glob("run2/*"))
    assert noted(bench) == [note.Relation()] * 2
    third = bench.cycle()
    assert third.number == 3 and bench.contents(third) == bench.source()
    assert {one.number: bench.contents(one) for one in (first, second)} == states


def test_committed_it_has_one_point_and_is_not_replicated(bench: Bench) -> None:
    """R9.10 to R9.12."""
    points = [bench.cycle() for _ in range(3)]
    bench.failovers().fail_over("app1", "unplanned", point=points[1].number)
    runs_from = bench.contents(points[1])
    item = bench.failovers().act("app1", "commit")
    assert (item.state, item.active, item.direction) == (State.FAILED_OVER, "target", "forward")
    assert [one.number for one in bench.points] == [points[1].number]
    for path, replica in item.homes.items():
        kept = {points[1].generations[path], points[2].generations[path]}  # and the head
        assert {one.generation for one in engine.points(replica)} == kept
    assert noted(bench) == [note.Relation(active="target", away=item.away)] * 2
    assert bench.contents(bench.points[0]) == runs_from and bench.runs("target")
    with pytest.raises(errors.Refused, match=r"R9\.11"):
        bench.failovers().fail_over("app1", "unplanned")
    with pytest.raises(errors.Refused, match=r"R9\.10"):
        bench.failovers().act("app1", "cancel")


def test_the_old_side_can_no_longer_send(bench: Bench) -> None:
    """D9: neither an orchestrator that has not heard of the failover, nor somebody at the source."""
    bench.cycle()
    holder = holders.new()
    (stale,) = leases.claim(bench.database, holder, bench.clock.now + 1e9, 1)
    leases.give_back(bench.database, holder, [stale.id])
    bench.failovers().fail_over("app1", "unplanned")
    before = {replica: Path(replica, "head.raw").read_bytes() for replica in stale.disks.values()}
    bench.write()
    disks = {path: replica for path, replica in stale.disks.items() if path.endswith("data.raw")}
    policy, machine = bench.known().pair.policy, bench.known().machine
    with pytest.raises(errors.Error, match="epoch"):
        EngineWorker().replicate(
            machine, disks, policy, epoch=stale.epoch, resync=False, clock=bench.clock.clocks().datetime,
            cancel=lambda: False,
        )  # fmt: skip
    assert before == {replica: Path(replica, "head.raw").read_bytes() for replica in before}
    assert len(bench.points) == 1 and bench.runs("target")


def test_beside_a_source_that_runs_nothing_starts(bench: Bench) -> None:
    """R9.9."""
    bench.cycle()
    bench.start_home()
    with pytest.raises(errors.Refused, match=r"R9\.9"):
        bench.failovers().fail_over("app1", "unplanned")
    assert bench.runs("source") and not bench.runs("target")
    assert (bench.item.state, bench.item.failover) == (State.REPLICATING, None)


def test_planned_loses_nothing(bench: Bench) -> None:
    """R9.6: what the machine wrote until it stopped is there, and proved equal."""
    bench.cycle()
    bench.start_home()
    item = bench.failovers().fail_over("app1", "planned", options=Options(wait=True))
    assert item.failover is not None and item.failover.phase == "prepared"
    assert item.state is State.SYNCED_REPLICATION_COMPLETE and not bench.runs("source")
    assert bench.away() == bench.source()
    item = bench.failovers().start("app1")
    assert bench.runs("target") and not bench.runs("source")
    item = bench.failovers().act("app1", "cancel")
    assert bench.runs("source") and not bench.runs("target")
    assert (item.state, item.active) == (State.REPLICATING, "source")


def test_a_source_that_does_not_stop_is_never_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """R9.6: it is asked to stop; then the failover is refused, and the machine runs on where it is."""
    monkeypatch.setattr(running, "STOP_SECONDS", 6)
    bench.cycle()
    bench.start_home()
    deaf = 'stop = ["sh", "-c", "echo $SECONDSITE_HOW >> {folder}/asked"]'
    bench.text = lambda text: text.replace("stop = {stop}", deaf, 1)
    bench.apply()
    with pytest.raises(errors.Refused, match="acpi: it goes on"):
        bench.failovers().fail_over("app1", "planned")
    assert set((bench.folder / "asked").read_text().split()) == {"acpi"}
    assert bench.runs("source") and not bench.runs("target") and bench.item.active == "source"
    assert bench.failovers().act("app1", "cancel").state is State.REPLICATING and bench.runs("source")


def test_synchronized_first_where_that_is_possible(bench: Bench) -> None:
    """R9.8: shut down, its last changes sent; without them where the source does not answer."""
    bench.cycle()
    bench.start_home()
    bench.write()
    item = bench.failovers().fail_over("app1", "unplanned", options=Options(synchronize=True))
    assert item.failover is not None and item.failover.point == 2 and not bench.runs("source")
    assert plainly(bench.away()) == plainly(bench.source())
    bench.failovers().act("app1", "cancel")
    assert bench.runs("source"), "the failover had stopped it"


def test_a_planned_one_gives_way_to_an_unplanned_one(bench: Bench) -> None:
    """Its source died when it was prepared; of what was prepared nothing is left behind."""
    bench.cycle()
    bench.start_home()
    bench.failovers().fail_over("app1", "planned", options=Options(wait=True))
    item = bench.failovers().fail_over("app1", "unplanned", point=1)
    assert item.failover is not None and item.failover.kind == "unplanned" and bench.runs("target")
    item = bench.failovers().act("app1", "cancel")
    assert item.state is State.REPLICATING and bench.runs("source")
    assert not list(bench.folder.glob("run2/*"))


def test_the_vault_may_be_lost_while_it_runs_at_the_target(bench: Bench) -> None:
    """D8: the replicas know which point it runs from, and where."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    item = bench.failovers().act("app1", "commit")
    told = engine.read_note(next(iter(item.homes.values())))
    assert told is not None and told["relation"]["active"] == "target"
    assert [row[0] for row in told["points"] if not row[6]] == [1]
