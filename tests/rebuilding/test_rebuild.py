"""D8, M16: the vault is lost after any history, and all that it had comes back from the replicas."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rebuildkit import (
    ON_SQLITE,
    Killed,
    Worker,
    away,
    changes,
    differences,
    estate,
    holds,
    rebuilt,
    restarted,
    snapshot,
)
from test_cycles import Bench

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, ledger, lookup, noting
from secondsite.orchestration.protection.leases import NEVER
from secondsite.orchestration.rebuilding import restoring
from secondsite.orchestration.retention.decision import dropped
from secondsite.orchestration.vault import audit, inventory
from secondsite.orchestration.vault.database import Database

Fresh = Callable[[], Database]


@pytest.fixture
def bench(tmp_path: Path, vault: Database) -> Bench:
    return Bench(tmp_path, vault)


def run(bench: Bench, cycles: int) -> None:
    for _ in range(cycles):
        bench.clock.now += 4000
        bench.write()
        bench.cycle()


def history(bench: Bench, chance: random.Random, steps: int) -> None:
    """Cycles with writes to one disk, both or none; failures, pauses, pins, and an application at rest now and then."""
    worker = Worker(chance, applications=0.3)
    bench.cycles = replace(bench.cycles, worker=worker)
    for _ in range(steps):
        bench.clock.now += chance.choice([300, 1200, 4000])
        bench.clock.skew = chance.choice([bench.clock.skew, bench.clock.skew, 0.0, -7200.0])
        for disk in chance.sample(["system", "data"], chance.randrange(3)):
            with (bench.folder / f"{disk}.raw").open("r+b") as file:
                file.seek(65536 * chance.randrange(16))
                file.write(os.urandom(4096))
        what = chance.choice(["cycle"] * 6 + ["away", "note", "pin", "half"])
        away_disk = bench.folder / "data.raw"
        if what == "away":
            away_disk.rename(bench.folder / "away.raw")
        worker.note_fails = lambda number, fails=what == "note": away() if fails else None  # type: ignore[misc]
        if what == "half" and bench.points():  # one disk was committed, and then the process was gone
            engine.replicate(bench.folder / "system.raw", bench.item().disks[str(bench.folder / "system.raw")])
        bench.cycle()
        if what == "away":
            (bench.folder / "away.raw").rename(away_disk)
        if what == "pin" and bench.points():
            point = chance.choice(bench.points())
            ledger.pin(bench.database, bench.item().id, point.number, None if point.pinned else "for the test")
            assert noting.refresh(bench.database, worker, "app1") == []
    worker.note_fails = lambda number: None
    if not bench.points():
        bench.cycle()


@pytest.mark.sweep(sample=2)
@pytest.mark.parametrize("seed", range(12))
def test_after_any_history_the_vault_is_what_it_was(bench: Bench, fresh: Fresh, seed: int, sweep: bool) -> None:
    chance = random.Random(seed)
    history(bench, chance, 40 if sweep else 15)
    before, made = holds(bench, snapshot(bench.database)), fresh()
    found = rebuilt(bench, made)
    assert found.written and not found.left and found.restored[0].lost == ()
    assert differences(before, snapshot(made)) == [], seed
    assert changes(bench, made) == []
    assert rebuilt(bench, made).restored == ()
    assert differences(before, snapshot(made)) == [], "once more changes nothing"
    # The next retention drops what it would have dropped, and the next cycle sends what changed.
    said, points = bench.protected(), lookup.points(made, before["items"][0]["id"])
    assert dropped([one.point() for one in points], said.keep.rules(), 1) == dropped(
        [one.point() for one in bench.points()], said.keep.rules(), 1
    )
    again, heads = restarted(bench, made), points[-1].generations
    bench.clock.now += 600
    bench.write()
    again.cycle()
    assert again.points()[-1].changed_bytes <= 2 * 65536 * 2, "nothing was copied anew"
    assert all(again.points()[-1].generations[path] >= number for path, number in heads.items())
    assert again.contents(again.points()[-1]) == bench.source()
    for point in again.points()[:-1]:
        assert all(len(data) == 1 << 20 for data in again.contents(point).values())


@ON_SQLITE
@pytest.mark.parametrize("told", [0, 1, 2])
def test_killed_before_the_vault_knows_the_point_is_kept_or_not_but_whole(
    bench: Bench, fresh: Fresh, told: int
) -> None:
    """P16: with so many of two replicas told; where a note names the point, both disks have committed it."""
    run(bench, 3)
    known = [one.number for one in bench.points()]
    worker = Worker(random.Random(1), note_fails=lambda number: Killed() if number == told else None)
    if told == 2:
        worker.note_fails = lambda number: None
    bench.cycles = replace(bench.cycles, worker=worker)
    bench.write()
    bench.clock.now += 4000
    item = leases.claim(bench.database, bench.holder, bench.clock.now + 1e9, 1)[0]
    if told == 2:
        with bench.database.begin() as connection:  # the lease is lost between the notes and the vault
            connection.exec_driver_sql("UPDATE item SET lease_holder = lease_holder")
        bench.cycles.run(item, bench.protected())
    else:
        with pytest.raises(Killed):
            bench.cycles.run(item, bench.protected())
    made = fresh()
    found = rebuilt(bench, made).restored[0]
    assert [one.number for one in found.points] == (known if told == 0 else [*known, 4])
    worker.note_fails = lambda number: None
    again = restarted(bench, made)
    if told:
        assert again.contents(again.points()[-1]) == bench.source()
    again.clock.now += 1200
    again.cycle()
    assert again.item().failures == 0 and again.contents(again.points()[-1]) == bench.source()


@ON_SQLITE
def test_half_a_cycle_is_no_point(bench: Bench, fresh: Fresh) -> None:
    """P16: one disk has a generation more than the machine has points."""
    run(bench, 2)
    bench.write()
    data = str(bench.folder / "data.raw")
    assert engine.replicate(data, bench.item().disks[data]).generation == 3
    made = fresh()
    rebuilt(bench, made)
    assert [one.generations[data] for one in lookup.points(made, bench.item().id)] == [1, 2]


@ON_SQLITE
def test_a_disk_that_did_not_change_has_its_part_of_every_point(bench: Bench, fresh: Fresh) -> None:
    run(bench, 4)
    system = str(bench.folder / "system.raw")
    assert [one.generations[system] for one in bench.points()] == [1, 1, 1, 1]
    made = fresh()
    rebuilt(bench, made)
    assert [one.generations for one in restarted(bench, made).points()] == [one.generations for one in bench.points()]


@ON_SQLITE
def test_replicas_of_before_hold_no_note_and_nothing_of_them_is_dropped(bench: Bench, fresh: Fresh) -> None:
    """Points are matched by their time, and are pinned: what was pinned nobody knows any more."""
    worker = Worker(random.Random(1))
    worker.note = lambda *arguments: None  # type: ignore[method-assign]
    bench.cycles = replace(bench.cycles, worker=worker)
    for _ in range(3):
        bench.clock.now += 4000
        for name in ("system", "data"):
            (bench.folder / f"{name}.raw").write_bytes(os.urandom(1 << 20))
        bench.cycle()
    data = bench.folder / "data.raw"
    data.write_bytes(os.urandom(1 << 20))
    engine.replicate(data, bench.item().disks[str(data)])  # half a cycle, of another time
    was, made = bench.points(), fresh()
    found = rebuilt(bench, made).restored[0]
    assert "hold no note" in found.told[0] and "single disks" in found.told[1]
    again = restarted(bench, made)
    assert [one.generations for one in again.points()] == [one.generations for one in was]
    assert [one.at for one in again.points()] == [one.at for one in was]
    bench.clock.now += 48 * 3600
    again.cycle()
    assert [one.generations for one in again.points()][:3] == [one.generations for one in was]
    assert changes(bench, made) == []


@ON_SQLITE
def test_after_a_failover_that_no_note_tells_of_nothing_is_written(bench: Bench, fresh: Fresh) -> None:
    """D9: the epoch is the highest that a replica knows, and somebody looks before cycles go on."""
    run(bench, 2)
    engine.raise_epoch(bench.item().disks[str(bench.folder / "data.raw")], 5)
    made = fresh()
    found = rebuilt(bench, made).restored[0]
    assert (found.state, found.epoch) == (State.ERROR, 5) and "failover" in str(found.reason)
    item = restarted(bench, made).item()
    assert (item.due, item.epoch) == (NEVER, 5) and len(restarted(bench, made).points()) == 2
    ledger.act(made, "app1", "recover", bench.clock.now)
    restarted(bench, made).cycle()
    assert restarted(bench, made).item().state is State.REPLICATING


@ON_SQLITE
def test_a_paused_machine_stays_paused(bench: Bench, fresh: Fresh) -> None:
    run(bench, 1)
    ledger.act(bench.database, "app1", "pause", bench.clock.now)
    assert noting.refresh(bench.database, Worker(random.Random(1)), "app1") == []
    made = fresh()
    rebuilt(bench, made)
    assert restarted(bench, made).item().state is State.SUSPENDED and restarted(bench, made).item().due == NEVER


@ON_SQLITE
def test_points_whose_parts_are_gone_are_told(bench: Bench, fresh: Fresh) -> None:
    run(bench, 3)
    engine.prune(bench.item().disks[str(bench.folder / "data.raw")], drop=["2"])
    made = fresh()
    assert rebuilt(bench, made).restored[0].lost == (2,)
    assert [one.number for one in restarted(bench, made).points()] == [1, 3]


@ON_SQLITE
def test_a_replica_that_is_missing_changes_nothing_but_with_partial(bench: Bench, fresh: Fresh) -> None:
    """Nothing is written before the operator has said so; once it is there again its machine comes back whole."""
    run(bench, 2)
    before, made = snapshot(bench.database), fresh()
    data = Path(bench.item().disks[str(bench.folder / "data.raw")])
    data.rename(bench.folder / "elsewhere")
    found = rebuilt(bench, made)
    assert not found.written and str(data) in found.left[0].why
    with made.reading() as connection:
        assert inventory.items(connection) == [] and inventory.last_estate(connection) is None
    assert not rebuilt(bench, made, partial=True).written
    moved = rebuilt(bench, made, str(bench.folder / "elsewhere"))
    assert moved.written and "elsewhere" in moved.restored[0].told[0]
    expected = snapshot(made)
    for disk in expected["disks"]:
        if disk["path"].endswith("data.raw"):
            disk["replica"] = str(data)
    assert expected == before
    again = restarted(bench, made)
    again.clock.now += 1200
    again.cycle()
    assert again.item().failures == 0


@ON_SQLITE
def test_another_replica_in_its_place_is_not_taken(bench: Bench, fresh: Fresh) -> None:
    run(bench, 2)
    data = Path(bench.item().disks[str(bench.folder / "data.raw")])
    shutil.rmtree(data)
    engine.replicate(bench.folder / "data.raw", data)
    found = rebuilt(bench, fresh())
    assert not found.written and "another replica" in found.left[0].why


@ON_SQLITE
def test_an_estate_that_is_another_or_broken_is_refused(bench: Bench, fresh: Fresh) -> None:
    run(bench, 1)
    with pytest.raises(errors.Refused, match="another estate"):
        restoring.rebuild(bench.database, replace(estate(bench), estate=replaced(bench)), (), partial=False, who="me",
                          now=1.0)  # fmt: skip
    told = rebuilt(bench, bench.database)
    assert told.there == ("app1",) and not told.written, "what is there stays as it is"
    assert audit.newest(bench.database, 10) == []
    assert fresh is not None


def replaced(bench: Bench) -> object:
    import msgspec

    found = estate(bench).estate
    return msgspec.structs.replace(found, vault=msgspec.structs.replace(found.vault, name="other"))


@ON_SQLITE
def test_disks_that_came_or_left_are_what_they_were(bench: Bench, fresh: Fresh) -> None:
    """P3, R1.10: older points have the one that left, newer ones the one that came; a third has not been copied yet."""
    run(bench, 2)
    (bench.folder / "added.raw").write_bytes(os.urandom(1 << 20))
    bench.more = f', {{ path = "{bench.folder}/added.raw" }}'
    bench.apply()
    run(bench, 1)
    bench.cycles.joined()
    run(bench, 1)
    left = str(bench.folder / "added.raw")
    assert left in bench.points()[-1].generations
    (bench.folder / "third.raw").write_bytes(os.urandom(1 << 20))
    bench.more = f', {{ path = "{bench.folder}/third.raw" }}'
    bench.apply()
    worker = Worker(random.Random(1))
    bench.cycles = replace(bench.cycles, worker=worker)
    assert noting.refresh(bench.database, worker, "app1") == []
    before, made = snapshot(bench.database), fresh()
    assert rebuilt(bench, made).written
    after = snapshot(made)
    for disk in (*before["disks"], *after["disks"]):
        disk["leaving"] = disk["leaving"] is not None
    assert differences(before, after) == []
    assert changes(bench, made) == []
    again = restarted(bench, made)
    assert left in again.item().leaving
    run(again, 1)
    assert again.item().failures == 0
