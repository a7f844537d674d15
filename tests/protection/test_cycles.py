"""Cycles by policy over real images: points of a machine, what is pruned, what fails and is tried again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.loading import parse
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import ledger, said
from secondsite.orchestration.protection.cycle import NEVER, Clocks, Cycles, Protected
from secondsite.orchestration.protection.ledger import Held
from secondsite.orchestration.protection.orchestrator import Orchestrator, new_holder
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.retention.timeline import Moment
from secondsite.orchestration.vault import inventory
from secondsite.orchestration.vault.database import Database

SIZE = 1 << 20
HOUR = 3600.0
ESTATE = """
[vault]
name = "v"
region = "r"
subscription = "s"
[[site]]
name = "one"
[[site]]
name = "two"
[[server]]
name = "vmm-1"
site = "one"
version = "2012 R2"
provider = "3"
[[server]]
name = "vmm-2"
site = "two"
version = "2012 R2"
provider = "3"
[[cloud]]
name = "c1"
server = "vmm-1"
[[cloud]]
name = "c2"
server = "vmm-2"
[[host]]
name = "h1"
cloud = "c1"
[[host]]
name = "h2"
cloud = "c2"
path = "{folder}/replicas"
[[network]]
name = "n1"
server = "vmm-1"
[[network]]
name = "n2"
server = "vmm-2"
[[classification]]
name = "k1"
server = "vmm-1"
[[classification]]
name = "k2"
server = "vmm-2"
[[machine]]
name = "app1"
host = "h1"
disks = [{{ path = "{folder}/system.raw", os = true }}, {{ path = "{folder}/data.raw" }}]
[[policy]]
name = "p"
copy_frequency = {every}
additional = {additional}
delete_replica = {delete}
[[protection]]
name = "pair"
scenario = "S2"
source = "c1"
target = "c2"
policy = "p"
[[item]]
machine = "app1"
protection = "pair"
"""


@dataclass
class Clock:
    """Time that the test moves; the wall clock may be set apart from it."""

    now: float = 1_800_000_000.0
    skew: float = 0.0

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now + self.skew, self.moment)

    def moment(self) -> Moment:
        return Moment(round((self.now + self.skew) * 1e6), round(self.now * 1e6), "boot")


@dataclass
class Bench:
    """A machine with two disks, protected in folders beside them."""

    folder: Path
    database: Database
    every: int = 300
    additional: int = 3
    delete: bool = False
    enabled: bool = True
    clock: Clock = field(default_factory=Clock)
    holder: str = field(default_factory=new_holder)

    def __post_init__(self) -> None:
        for name in ("system", "data"):
            (self.folder / f"{name}.raw").write_bytes(os.urandom(SIZE))
        (self.folder / "replicas").mkdir()
        if self.enabled:
            self.apply()
        self.cycles = Cycles(self.database, self.holder, EngineWorker(), self.clock.clocks())

    def apply(self, *, protect: bool = True) -> None:
        """The estate as the bench has it, with its item or without."""
        text = ESTATE.format(
            folder=self.folder, every=self.every, additional=self.additional, delete=str(self.delete).lower()
        )
        text = text if protect else text.partition("[[item]]")[0]
        inventory.apply(self.database, parse(text.encode()), "me", self.clock.now)

    def item(self) -> Held:
        return ledger.load(self.database, "app1")[0]

    def protected(self) -> Protected:
        with self.database.begin() as connection:
            estate = inventory.last_estate(connection)
        assert estate is not None
        return said.protected(estate)["app1"]

    def cycle(self) -> None:
        claimed = ledger.claim(self.database, self.holder, self.clock.now + 1e9, 1)
        self.cycles.run(claimed[0], self.protected())
        ledger.give_back(self.database, self.holder, [claimed[0].id])

    def write(self) -> None:
        with (self.folder / "data.raw").open("r+b") as file:
            file.seek(65536)
            file.write(os.urandom(65536))

    def points(self) -> list[ledger.Made]:
        return ledger.points(self.database, self.item().id)

    def contents(self, point: ledger.Made) -> dict[str, bytes]:
        found = {}
        for path, replica in self.item().disks.items():
            with engine.open_point(replica, at=str(point.generations[path])) as image:
                found[path] = image.read(0, SIZE)
        return found

    def source(self) -> dict[str, bytes]:
        return {path: Path(path).read_bytes() for path in self.item().disks}


@pytest.fixture
def bench(tmp_path: Path, vault: Database) -> Bench:
    return Bench(tmp_path, vault)


def test_ten_cycles_keep_what_the_policy_says_and_every_point_restores(bench: Bench) -> None:
    """R2.1, R3: by amount; the replicas hold no point that none of the machine's needs."""
    states: dict[int, dict[str, bytes]] = {}
    for number in range(1, 31):
        bench.clock.now += 600
        bench.write()
        bench.cycle()
        states[number] = bench.source()
    kept = bench.points()
    assert [point.number for point in kept][-1] == 30 and len(kept) == 4
    for point in kept:
        assert bench.contents(point) == states[point.number]
    for path, replica in bench.item().disks.items():
        wanted = {point.generations[path] for point in kept}
        # What the last cycle dropped goes with the next one.
        spent = ledger.points(bench.database, bench.item().id, dropped=True)
        assert len(spent) <= 1
        found = {point.generation for point in engine.points(replica)}
        assert wanted <= found <= wanted | {point.generations[path] for point in spent}
    assert bench.item().state is State.REPLICATING


def test_a_step_of_the_wall_clock_drops_no_point(bench: Bench) -> None:
    """P25: two days forward, then back; the same points stay as if nobody had touched the clock."""
    for number in range(1, 25):
        bench.clock.now += 600
        bench.clock.skew = {6: 48 * HOUR, 12: -24 * HOUR, 18: 0.0}.get(number, bench.clock.skew)
        bench.cycle()
    assert [point.number for point in bench.points()] == _plain(bench)


def _plain(bench: Bench) -> list[int]:
    from secondsite.orchestration.retention.decision import decide
    from secondsite.orchestration.retention.point import Point

    begin = 1_800_000_000
    points = [Point(number, (begin + number * 600) * 1_000_000) for number in range(1, 25)]
    rules = bench.protected().keep.rules()
    return [one.point.number for one in decide(points, rules, bench.every * 1_000_000) if one.votes]


def test_a_source_that_is_away_is_tried_again_and_no_point_is_made(bench: Bench) -> None:
    """R6.4, P16: one disk of two is not there; the machine has no point of the other."""
    bench.cycle()
    (bench.folder / "data.raw").rename(bench.folder / "away.raw")
    pauses = []
    for _ in range(4):
        bench.clock.now += 10_000
        bench.cycle()
        pauses.append(bench.item().due - bench.clock.now)
    assert pauses == [300, 300, 300, 480]
    item = bench.item()
    assert (item.failures, item.state, item.statistics.errors) == (4, State.REPLICATING, 4)
    assert len(bench.points()) == 1
    (bench.folder / "away.raw").rename(bench.folder / "data.raw")
    bench.cycle()
    assert bench.item().failures == 0 and len(bench.points()) == 2


def test_what_does_not_pass_waits_for_its_operator(bench: Bench) -> None:
    """R6.3, D9: a higher epoch fences it off; nothing is tried again until somebody says so."""
    bench.cycle()
    replica = bench.item().disks[str(bench.folder / "data.raw")]
    engine.raise_epoch(replica, 5)
    bench.cycle()
    item = bench.item()
    assert (item.state, item.due) == (State.ERROR, NEVER)
    assert ledger.act(bench.database, "app1", "recover", bench.clock.now) is State.REPLICATING
    assert bench.item().due == bench.clock.now
    with pytest.raises(errors.Refused, match=r"R8\.1"):
        ledger.act(bench.database, "app1", "resume", bench.clock.now)


def test_a_damaged_replica_needs_a_resync_which_an_operator_begins(bench: Bench) -> None:
    """R7.1f, R7.9."""
    bench.cycle()
    replica = Path(bench.item().disks[str(bench.folder / "data.raw")])
    with (replica / "head.raw").open("r+b") as file:
        file.write(bytes(range(200)))
    engine.verify(str(replica))
    bench.write()
    bench.cycle()
    item = bench.item()
    assert (item.state, item.due) == (State.WAITING_FOR_START_RESYNCHRONIZE, NEVER)
    assert ledger.act(bench.database, "app1", "resync", bench.clock.now) is State.RESYNCHRONIZING
    bench.cycle()
    assert bench.item().state is State.REPLICATING
    assert bench.contents(bench.points()[-1]) == bench.source()


def test_another_orchestrator_has_taken_it(bench: Bench) -> None:
    claimed = ledger.claim(bench.database, bench.holder, bench.clock.now, 1)[0]
    assert ledger.claim(bench.database, "other", bench.clock.now + 30, 1) == []
    assert len(ledger.claim(bench.database, "other", bench.clock.now + 61, 1)) == 1
    with pytest.raises(errors.Refused, match="another orchestrator"):
        bench.cycles.run(claimed, bench.protected())
    assert bench.points() == []


def wait(what: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_an_orchestrator_runs_what_is_due_and_stops(tmp_path: Path, vault: Database) -> None:
    bench = Bench(tmp_path, vault, every=30, clock=Clock(now=time.time()))
    told: list[errors.Error | None] = []
    cycles = Cycles(vault, bench.holder, EngineWorker(), Clocks())
    orchestrator = Orchestrator(vault, cycles, told=lambda item, error: told.append(error))
    thread = threading.Thread(target=orchestrator.run)
    thread.start()
    try:
        wait(lambda: bool(told))
        assert told == [None] and len(bench.points()) == 1
        assert bench.clock.now < bench.item().due < time.time() + 31
    finally:
        orchestrator.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert ledger.claim(vault, "next", time.time() + 100, 1), "what was held is given back"
