"""Disks that are added, taken away, grown and shrunk while their machine is protected (P3, M11, R3.8)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cycles import SIZE, Bench

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import ledger, turns
from secondsite.orchestration.protection.joining import missing
from secondsite.orchestration.protection.worker import Cut, EngineWorker
from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Database]:
    with database.create(str(tmp_path / "lite.db")) as made:
        yield made


def step(bench: Bench) -> None:
    bench.clock.now += 3600
    bench.write()
    bench.cycle()


def add(bench: Bench) -> str:
    """Another disk, in the estate too."""
    path = bench.folder / "added.raw"
    path.write_bytes(os.urandom(SIZE))
    bench.more = f', {{ path = "{path}" }}'
    bench.apply()
    return str(path)


class Held(EngineWorker):
    """First copies of the added disk wait until they are let go, or cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.let = threading.Event(), threading.Event()

    def replicate(self, machine: Any, disks: Any, policy: Any, **named: Any) -> Cut:
        if list(disks) == [path for path in disks if path.endswith("added.raw")]:
            self.began.set()
            while not self.let.wait(0.02):
                if named["cancel"]():
                    raise errors.Cancelled("stopped")
        return super().replicate(machine, disks, policy, **named)


def test_p3_the_other_disks_go_on_while_an_added_one_is_copied(tmp_path: Path, vault: Database) -> None:
    bench, slow = Bench(tmp_path, vault, additional=9), Held()
    bench.cycles = type(bench.cycles)(vault, bench.holder, slow, bench.clock.clocks())
    bench.cycle()
    added = add(bench)
    for _ in range(3):
        step(bench)
        item, newest = bench.item(), bench.points()[-1]
        assert item.state is State.REPLICATING and missing(newest, item) == (added,)
        assert f"P3: this point is without {added}" in str(item.reason)
    assert slow.began.is_set() and [point.number for point in bench.points()] == [1, 2, 3, 4]
    slow.let.set()
    bench.cycles.joined()
    step(bench)
    item, newest = bench.item(), bench.points()[-1]
    assert missing(newest, item) == () and item.reason is None
    assert bench.contents(newest) == bench.source() and len(newest.generations) == 3


def test_an_added_disk_whose_copy_fails_is_tried_again_and_told(tmp_path: Path, lite: Database) -> None:
    bench = Bench(tmp_path, lite)
    bench.cycle()
    added = Path(add(bench))
    added.rename(tmp_path / "away")
    step(bench)
    bench.cycles.joined()
    step(bench)
    assert "failed, and is tried again" in str(bench.item().reason) and bench.item().state is State.REPLICATING
    (tmp_path / "away").rename(added)
    bench.cycles.joined()
    step(bench)
    bench.cycles.joined()
    step(bench)
    assert len(bench.points()[-1].generations) == 3


def test_a_pause_ends_the_copy_of_an_added_disk(tmp_path: Path, lite: Database) -> None:
    bench, slow = Bench(tmp_path, lite), Held()
    bench.cycles = type(bench.cycles)(lite, bench.holder, slow, bench.clock.clocks())
    bench.cycle()
    added = add(bench)
    step(bench)
    assert slow.began.wait(10) and turns.wanted(lite, bench.item().id, added)
    ledger.act(lite, "app1", "pause", bench.clock.now)
    bench.cycles.joined()
    assert bench.item().ids[added] is None


@pytest.mark.parametrize("delete", [False, True], ids=["stays", "deleted"])
def test_a_disk_that_left_is_kept_as_long_as_a_point_needs_it(tmp_path: Path, vault: Database, delete: bool) -> None:
    """R1.10, for one disk. Applying again changes nothing meanwhile, and one that comes back goes on."""
    bench = Bench(tmp_path, vault, delete=delete)
    added = add(bench)
    step(bench)
    replica = bench.item().disks[added]
    bench.more = ""
    bench.apply()
    bench.apply()
    step(bench)
    item = bench.item()
    assert added not in item.disks and item.leaving[added][0] == replica
    assert [len(point.generations) for point in bench.points()] == [3, 2]
    with engine.open_point(replica, at=str(bench.points()[0].generations[added])) as image:
        assert image.read(0, SIZE) == Path(added).read_bytes()
    bench.more = f', {{ path = "{added}" }}'
    bench.apply()
    assert bench.item().disks[added] == replica and not bench.item().leaving
    bench.more = ""
    bench.apply()
    for _ in range(5):
        step(bench)
    assert not bench.item().leaving and all(len(point.generations) == 2 for point in bench.points())
    assert Path(replica).exists() is not delete


def test_one_that_leaves_with_its_whole_item_ends_with_it(tmp_path: Path, lite: Database) -> None:
    bench = Bench(tmp_path, lite, delete=True)
    added = add(bench)
    step(bench)
    bench.more = ""
    bench.apply()
    step(bench)
    bench.apply(protect=False)
    assert added in bench.item().disks and not bench.item().leaving


def test_r3_8_a_disk_that_grew_goes_on_and_its_older_points_stay(tmp_path: Path, lite: Database) -> None:
    bench = Bench(tmp_path, lite, additional=9)
    step(bench)
    before = bench.source()
    with (tmp_path / "data.raw").open("ab") as file:
        file.write(os.urandom(SIZE))
    step(bench)
    old, new = bench.points()
    data = str(tmp_path / "data.raw")
    assert bench.contents(old) == before and bench.item().state is State.REPLICATING
    with engine.open_point(bench.item().disks[data], at=str(new.generations[data])) as image:
        assert image.size == 2 * SIZE and image.read(0, 2 * SIZE) == Path(data).read_bytes()
