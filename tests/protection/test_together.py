"""Consistency groups (M13): machines whose points are of one instant, and what becomes of one that has trouble."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_cycles import ESTATE, SIZE, Clock, wait

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.loading import parse
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.failover.trying import Tests
from secondsite.orchestration.health.states import State
from secondsite.orchestration.plans import machines
from secondsite.orchestration.protection import ledger, lookup
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.orchestrator import Orchestrator
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import database, holders, inventory
from secondsite.orchestration.vault.database import Database

GROUP = """
[[machine]]
name = "db1"
host = "h1"
disks = [{{ path = "{folder}/db.raw", os = true }}]
[[item]]
machine = "db1"
protection = "pair"
[[consistency]]
name = "shop"
machines = ["app1", "db1"]
"""
EVERY = 900
# One point an hour is kept (R3.2).
HOUR = 3600


class Shop:
    """Two machines of a group, and an orchestrator whose clock the test moves."""

    def __init__(self, folder: Path, vault: Database) -> None:
        self.folder, self.vault, self.clock = folder, vault, Clock()
        for name in ("system", "data", "db"):
            (folder / f"{name}.raw").write_bytes(os.urandom(SIZE))
        (folder / "replicas").mkdir()
        text = (ESTATE + GROUP).format(
            folder=folder, every=EVERY, additional=9, delete="false", hours=0, machine="", from_host="", host="",
            policy="", item="", more="",
        )  # fmt: skip
        inventory.apply(vault, parse(text.encode()), "me", self.clock.now)
        self.ended: list[errors.Error | None] = []
        self.reasons: list[str | None] = []

    def _told(self, item: Held, error: errors.Error | None) -> None:
        self.ended.append(error)
        self.reasons.append(self.item(item.machine).reason)

    @contextmanager
    def running(self) -> Iterator[None]:
        cycles = Cycles(self.vault, holders.new(), EngineWorker(), self.clock.clocks())
        orchestrator = Orchestrator(self.vault, cycles, told=self._told)
        thread = threading.Thread(target=orchestrator.run)
        thread.start()
        try:
            yield
        finally:
            orchestrator.stop()
            thread.join(60)
            assert not thread.is_alive()

    def item(self, machine: str) -> Held:
        return lookup.load(self.vault, machine)[0]

    def points(self, machine: str) -> list[Made]:
        return lookup.points(self.vault, self.item(machine).id)

    def write(self) -> None:
        """A transaction over all disks: the same words in each of them."""
        words = os.urandom(4096)
        for name in ("data", "db"):
            with (self.folder / f"{name}.raw").open("r+b") as file:
                file.seek(8192)
                file.write(words)

    def words(self, machine: str, name: str, point: Made) -> bytes:
        path = str(self.folder / f"{name}.raw")
        with engine.open_point(self.item(machine).disks[path], at=str(point.generations[path])) as image:
            return bytes(image.read(8192, 4096))

    def next(self, done: Callable[[], bool] = lambda: True) -> None:
        """An hour later, when all cycles that are due then have ended."""
        self.clock.now += HOUR
        wait(lambda: all(self.item(name).due > self.clock.now for name in ("app1", "db1")) and done())


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with database.create(str(tmp_path / "vault.db")) as vault:
        yield Shop(tmp_path, vault)


def test_points_of_a_group_are_of_one_instant(shop: Shop) -> None:
    with shop.running():
        wait(lambda: all(len(shop.points(name)) == 1 for name in ("app1", "db1")))  # first copies, each its own
        for _ in range(5):
            shop.write()
            shop.next()
    app, db = shop.points("app1"), shop.points("db1")
    assert [one.time for one in app[1:]] == [one.time for one in db[1:]] and len(app) > 5
    seen = [shop.words("app1", "data", one) for one in app[1:]]
    assert seen == [shop.words("db1", "db", one) for one in db[1:]] and len(set(seen)) == 5
    assert shop.item("app1").due == shop.item("db1").due
    assert not any(shop.ended)


def test_one_that_has_trouble_does_not_keep_the_others_from_their_points(shop: Shop) -> None:
    """The cut of all fails, so each is cut alone; the one that fails goes alone until it works, then all together."""
    with shop.running():
        wait(lambda: all(len(shop.points(name)) == 1 for name in ("app1", "db1")))
        (shop.folder / "db.raw").rename(shop.folder / "away.raw")
        shop.next(lambda: shop.item("db1").failures == 1)
        made = shop.points("app1")[-1].number
        assert made > 1 and len(shop.points("db1")) == 1
        assert any("M13: the group was not cut at one instant" in str(one) for one in shop.reasons)
        shop.next()
        assert shop.points("app1")[-1].number > made and shop.item("app1").reason is None
        (shop.folder / "away.raw").rename(shop.folder / "db.raw")
        for _ in range(3):
            shop.next()
    assert shop.item("db1").failures == 0 and shop.points("app1")[-1].time == shop.points("db1")[-1].time
    assert shop.item("app1").reason is None and shop.item("db1").state is State.REPLICATING


def test_one_that_is_paused_is_left_out(shop: Shop) -> None:
    with shop.running():
        wait(lambda: all(len(shop.points(name)) == 1 for name in ("app1", "db1")))
        ledger.act(shop.vault, "db1", "pause", shop.clock.now)
        shop.clock.now += HOUR
        wait(lambda: len(shop.points("app1")) > 1 and shop.item("app1").due > shop.clock.now)
        assert len(shop.points("db1")) == 1
        ledger.act(shop.vault, "db1", "resume", shop.clock.now)
        for _ in range(2):
            shop.next()
    assert shop.points("app1")[-1].time == shop.points("db1")[-1].time


def test_a_plan_goes_back_to_one_instant_though_cycles_go_on(shop: Shop) -> None:
    """M13: not each machine to its own newest point, and not the first of them to an older instant than the others."""
    names = ("app1", "db1")
    with pytest.raises(errors.Refused, match=r"M13: .* no instant in common"):
        machines.instant(shop.vault, names)
    with shop.running():
        wait(lambda: all(len(shop.points(name)) == 1 for name in names))
        shop.write()
        shop.next()
        common = {name: shop.points(name)[-1] for name in names}
        ledger.act(shop.vault, "db1", "pause", shop.clock.now)
        shop.clock.now += HOUR
        wait(lambda: shop.points("app1")[-1].number > common["app1"].number)
        at = machines.instant(shop.vault, names)
        assert at == f"consistent {common['db1'].time}" == f"consistent {common['app1'].time}"
        ledger.act(shop.vault, "db1", "resume", shop.clock.now)
        shop.write()
        for _ in range(2):
            shop.next()
    assert machines.instant(shop.vault, names) > at
    failovers = Failovers(shop.vault, "me", holders.new(), EngineWorker(), shop.clock.clocks())
    failing, chosen = machines.Failing(failovers, names, "run"), {}
    for name in names:  # R9.2, R11.1: tests of one run share their networks
        failing.prepare(name, "test", at)
        tried = shop.item(name).test
        assert tried is not None and (tried.group, tried.network) == ("run run", "isolated")
        Tests(failovers).cleanup(name)
    for name in names:
        failing.prepare(name, "unplanned", at)
        way = shop.item(name).failover
        chosen[name] = next(one for one in shop.points(name) if way is not None and one.number == way.point)
        failovers.act(name, "cancel")
    assert {f"consistent {one.time}" for one in chosen.values()} == {at}
    assert shop.words("app1", "data", chosen["app1"]) == shop.words("db1", "db", chosen["db1"])
    with pytest.raises(errors.Refused, match="M13: 'app1' has no point of 2020"):
        failing.prepare("app1", "unplanned", "consistent 2020-01-01T00:00:00+00:00")
