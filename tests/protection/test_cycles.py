"""Cycles by policy over real images: points of a machine, what is pruned, what fails and is tried again."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.bench.protection.estates import PAIR
from secondsite.orchestration.estate.loading import parse
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, ledger, lookup, report, said
from secondsite.orchestration.protection.cycle import Clocks, Cycles
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.leases import NEVER
from secondsite.orchestration.protection.orchestrator import Orchestrator
from secondsite.orchestration.protection.said import Protected
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.retention.timeline import Moment
from secondsite.orchestration.vault import holders, inventory
from secondsite.orchestration.vault.database import Database

SIZE = 1 << 20
HOUR = 3600.0
ESTATE = PAIR + """
[[host]]
name = "h1"
cloud = "c1"
{from_host}
[[host]]
name = "h2"
cloud = "c2"
path = "{folder}/replicas"
{host}
[[machine]]
name = "app1"
host = "h1"
disks = [{{ path = "{folder}/system.raw", os = true }}, {{ path = "{folder}/data.raw" }}{more}]
{machine}
[[policy]]
name = "p"
copy_frequency = {every}
additional = {additional}
delete_replica = {delete}
application_consistent = {hours}
{policy}
[[item]]
machine = "app1"
protection = "pair"
{item}
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
    """A machine with two disks, protected in folders beside them. `from_host`, `host`, `policy` and `said` are further
    lines of the estate: of both hosts, the policy and the item. `state` is what the orchestrator knows of other hosts.
    """

    folder: Path
    database: Database
    every: int = 300
    additional: int = 3
    delete: bool = False
    hours: int = 0
    machine: str = ""
    enabled: bool = True
    more: str = ""
    from_host: str = ""
    host: str = ""
    policy: str = ""
    said: str = ""
    state: str | None = None
    clock: Clock = field(default_factory=Clock)
    holder: str = field(default_factory=holders.new)

    def __post_init__(self) -> None:
        for name in ("system", "data"):
            (self.folder / f"{name}.raw").write_bytes(os.urandom(SIZE))
        (self.folder / "replicas").mkdir(exist_ok=True)
        if self.enabled:
            self.apply()
        self.cycles = Cycles(self.database, self.holder, EngineWorker(self.state), self.clock.clocks())

    def apply(self, *, protect: bool = True) -> None:
        """The estate as the bench has it, with its item or without."""
        text = self.text if protect else self.text.partition("[[item]]")[0]
        inventory.apply(self.database, parse(text.encode()), "me", self.clock.now)

    @property
    def text(self) -> str:
        """The estate file."""
        return ESTATE.format(
            folder=self.folder, every=self.every, additional=self.additional, delete=str(self.delete).lower(),
            hours=self.hours, machine=self.machine, from_host=self.from_host, host=self.host, policy=self.policy,
            item=self.said, more=self.more,
        )  # fmt: skip

    def item(self) -> Held:
        return lookup.load(self.database, "app1")[0]

    def protected(self) -> Protected:
        with self.database.begin() as connection:
            estate = inventory.last_estate(connection)
        assert estate is not None
        return said.protected(estate)["app1"]

    def cycle(self) -> None:
        claimed = leases.claim(self.database, self.holder, self.clock.now + 1e9, 1)
        self.cycles.run(claimed[0], self.protected())
        leases.give_back(self.database, self.holder, [claimed[0].id])

    def write(self) -> None:
        with (self.folder / "data.raw").open("r+b") as file:
            file.seek(65536)
            file.write(os.urandom(65536))

    def points(self) -> list[Made]:
        return lookup.points(self.database, self.item().id)

    def contents(self, point: Made) -> dict[str, bytes]:
        found = {}
        for path, replica in self.item().disks.items():
            with engine.open_point(replica, at=str(point.generations[path])) as image:
                found[path] = image.read(0, SIZE)
        return found

    def source(self) -> dict[str, bytes]:
        return {path: Path(path).read_bytes() for path in self.item().disks}

    def to_span(self) -> None:
        """To the beginning of a span of its application-consistent points, one an hour: each item has its own."""
        self.clock.now += 2 * HOUR - (self.clock.now + HOUR * (zlib.crc32(self.item().id.encode()) / 2**32)) % HOUR + 1

    def damage(self) -> None:
        """A head that is not what it was; what verify finds in it, the next cycle is told."""
        replica = Path(self.item().disks[str(self.folder / "data.raw")])
        with (replica / "head.raw").open("r+b") as file:
            file.write(bytes(range(200)))
        engine.verify(str(replica))


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
        spent = lookup.points(bench.database, bench.item().id, dropped=True)
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


def test_a_damaged_replica_needs_a_resync_which_an_operator_begins(tmp_path: Path, vault: Database) -> None:
    """R7.1f, R7.9."""
    bench = Bench(tmp_path, vault, policy='resync_window = "never"')
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
    claimed = leases.claim(bench.database, bench.holder, bench.clock.now, 1)[0]
    assert leases.claim(bench.database, "other", bench.clock.now + 30, 1) == []
    assert len(leases.claim(bench.database, "other", bench.clock.now + 61, 1)) == 1
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
        # Its second cycle may be due at once: an item has a time of its own.
        assert set(told) == {None} and len(bench.points()) in (1, 2)
        assert bench.clock.now < bench.item().due < time.time() + 31
    finally:
        orchestrator.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert leases.claim(vault, "next", time.time() + 100, 1), "what was held is given back"


def test_a_point_that_an_overlay_stands_on_is_not_dropped_until_that_is_gone(tmp_path: Path) -> None:
    """A failover runs from it (issue 8); the others that are too old go all the same."""
    disk, replica, worker = tmp_path / "vm.raw", str(tmp_path / "replica"), EngineWorker()
    for _ in range(4):
        disk.write_bytes(os.urandom(SIZE))
        engine.replicate(disk, replica)
    engine.create_overlay(tmp_path / "vm.overlay", replica, "2")
    with pytest.raises(errors.Refused, match="points 2"):
        worker.drop(replica, [1, 2, 3, 99])
    assert [point.generation for point in engine.points(replica)] == [2, 4]
    engine.remove_overlay(tmp_path / "vm.overlay")
    worker.drop(replica, [1, 2, 3, 99])
    assert [point.generation for point in engine.points(replica)] == [4]


def test_statistics_are_those_of_the_monitoring_interval(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """R8.5: they begin anew at nine o'clock at the source; health goes by them, and M8 does not count a first copy."""
    monkeypatch.setenv("TZ", "UTC")
    bench.clock.now = 1_800_000_000.0 - 1_800_000_000 % 86400 + 9 * HOUR - 1500
    for _ in range(4):
        bench.cycle()
        bench.clock.now += 300
    before = bench.item().statistics
    assert before.cycles == 4 and before.measured == 3 and before.moved == 0 and before.bytes == 2 * SIZE
    bench.clock.now += 300
    bench.write()
    bench.cycle()
    after = bench.item().statistics
    assert (after.cycles, after.bytes, after.virtual_bytes) == (1, 65536, 2 * SIZE)
    assert after.began - before.began == 12 * HOUR and after.first == bench.clock.now - 600
    shown = report.rows(bench.database, bench.clock.now + 12 * HOUR)[0]
    assert shown.cycles == 0 and shown.last == bench.clock.now
