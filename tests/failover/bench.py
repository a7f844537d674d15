"""A protected pair on this machine: an estate, its vault, disks, and machines that are processes (guest.py)."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guest import BLOCK, BOOTS, free
from killing import end_servers

from secondsite import engine
from secondsite.orchestration import hosts
from secondsite.orchestration.bench.protection.estates import PAIR
from secondsite.orchestration.estate.loading import parse
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.failover.machines import Known
from secondsite.orchestration.failover.trying import Tests
from secondsite.orchestration.hosts.spec import packed
from secondsite.orchestration.protection import leases, lookup, said
from secondsite.orchestration.protection.cycle import Clocks, Cycles
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.retention.timeline import Moment
from secondsite.orchestration.vault import holders, inventory
from secondsite.orchestration.vault.database import Database

SIZE = 1 << 20
GUEST = Path(__file__).with_name("guest.py")
ESTATE = PAIR + """
[[host]]
name = "h1"
cloud = "c1"
run = "{folder}/run1"
hypervisor = "external"
commands = {{ start = {start}, stop = {stop}, status = {status} }}
[[host]]
name = "h2"
cloud = "c2"
path = "{folder}/replicas"
run = "{folder}/run2"
hypervisor = "external"
commands = {{ start = {start}, stop = {stop}, status = {status} }}
[[host]]
name = "h3"
cloud = "c1"
run = "{folder}/run3"
hypervisor = "external"
commands = {{ start = {start}, stop = {stop}, status = {status} }}
[[machine]]
name = "app1"
host = "h1"
disks = [{{ path = "{folder}/system.raw", os = true }}, {{ path = "{folder}/data.raw" }}]
[[policy]]
name = "p"
copy_frequency = 300
additional = 15
[[item]]
machine = "app1"
protection = "pair"
"""


@dataclass
class Clock:
    """Time that the test moves."""

    now: float = 1_800_000_000.0

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now, lambda: Moment(round(self.now * 1e6), round(self.now * 1e6), "boot"))


@dataclass
class Bench:
    """A machine with two disks of `size` bytes, a MiB of which is data."""

    folder: Path
    database: Database
    clock: Clock = field(default_factory=Clock)
    text: Callable[[str], str] = lambda text: text
    size: int = SIZE

    def __post_init__(self) -> None:
        for name in ("system", "data"):
            (self.folder / f"{name}.raw").write_bytes(os.urandom(SIZE) + bytes(self.size - SIZE))
        for name in ("replicas", "guests", "run1", "run2", "run3"):
            (self.folder / name).mkdir()
        self.apply()

    def apply(self, *, protect: bool = True) -> None:
        """The estate, as the test changes it; with its item or without."""
        guest = [sys.executable, "-I", "-S", str(GUEST), str(self.folder / "guests")]
        words = {what: json.dumps([*guest, what]) for what in ("start", "stop", "status")}
        text = self.text(ESTATE if protect else ESTATE.partition("[[item]]")[0]).format(folder=self.folder, **words)
        inventory.apply(self.database, parse(text.encode()), "me", self.clock.now)

    def failovers(self) -> Failovers:
        """Of a process of its own."""
        return Failovers(self.database, "me", holders.new(), EngineWorker(), self.clock.clocks())

    def tests(self) -> Tests:
        return Tests(self.failovers())

    @property
    def item(self) -> Held:
        return lookup.load(self.database, "app1")[0]

    @property
    def points(self) -> list[Made]:
        return lookup.points(self.database, self.item.id)

    def known(self) -> Known:
        return self.failovers().known("app1")

    def cycle(self, *, write: bool = True) -> Made:
        """An hour later something was written, and it is replicated."""
        self.clock.now += 4000
        if write:
            self.write()
        holder = holders.new()
        claimed = leases.claim(self.database, holder, self.clock.now + 1e9, 1)
        with self.database.reading() as connection:
            estate = inventory.last_estate(connection)
        assert estate is not None
        cycles = Cycles(self.database, holder, EngineWorker(), self.clock.clocks())
        error = cycles.run(claimed[0], said.protected(estate)["app1"])
        if error is not None:
            raise error
        return self.points[-1]

    def write(self) -> None:
        with (self.folder / "data.raw").open("r+b") as file:
            file.seek(16 * BLOCK)
            file.write(os.urandom(BLOCK))

    def source(self) -> dict[str, bytes]:
        """What lies at home."""
        return {path: Path(path).read_bytes() for path in self.item.homes}

    def contents(self, point: Made) -> dict[str, bytes]:
        """What a point has."""
        places = self.item.homes if point.direction == "forward" else self.item.backs
        found = {}
        for path, replica in places.items():
            with engine.open_point(replica or "", at=str(point.generations[path])) as image:
                found[path] = image.read(0, image.size)
        return found

    def away(self) -> dict[str, bytes]:
        """What the machine has at the target."""
        placed = self.placed("target")
        assert placed is not None
        return self.images(placed)

    @staticmethod
    def images(placed: Placed) -> dict[str, bytes]:
        """What the disks of a machine have, by their paths at the source."""
        found = {}
        for path, overlay in placed.disks.items():
            with engine.open_image(overlay) as image:
                found[path] = bytes(image.read(0, image.size))
        return found

    def runs(self, side: str) -> bool:
        """Is the machine seen running there?"""
        placed = self.placed(side)
        return placed is not None and bool(self.machine(placed, "status")["state"] == "running")

    def start_home(self) -> None:
        """As its owner does."""
        self.machine(self.known().home(), "start")

    def move(self, *, reverse: bool) -> None:
        """Over to the target for good, without a last delta; with `reverse` it is protected there."""
        self.cycle()
        self.failovers().fail_over("app1", "unplanned")
        self.failovers().act("app1", "commit")
        if reverse:
            self.failovers().act("app1", "reverse")
            self.cycle(write=False)

    def power_off(self, side: str) -> None:
        """As when its site is lost."""
        placed = self.placed(side)
        assert placed is not None
        self.machine(placed, "stop", how=("kill",), seconds=20)

    def placed(self, side: str) -> Placed | None:
        """The machine of a side; None at the target where it never was."""
        if side == "source":
            return self.known().home()
        item = self.item
        under_way = item.failover is not None and item.failover.to == "target"
        return item.failover.there if under_way and item.failover else item.away

    def machine(self, placed: Placed, operation: str, **more: object) -> dict[str, Any]:
        """An operation of its host."""
        assert placed.host is not None
        assert placed.spec is not None
        arguments = {"machine": packed(placed.spec), **more}
        return hosts.reach(self.known().host(placed.host)).call(f"machine.{operation}", arguments)

    def end(self) -> None:
        """No machine of the test is left, and never were there two of one."""
        for file in (self.folder / "guests").glob("*.pid"):
            number = file.read_text()
            line = Path(f"/proc/{number}/cmdline")
            if number and line.exists() and b"guest.py" in line.read_bytes():
                os.kill(int(number), signal.SIGKILL)
        end_servers(self.folder)
        assert not (self.folder / "guests/violation").exists(), (self.folder / "guests/violation").read_text()


def plain(data: bytes) -> bytes:
    """Without what starts write."""
    return data[:BLOCK] + data[BOOTS * BLOCK :]


def plainly(disks: dict[str, bytes]) -> dict[str, bytes]:
    """Each disk so."""
    return {path: plain(bytes(data)) for path, data in disks.items()}


def starts(disks: dict[str, bytes]) -> dict[str, list[bytes]]:
    """What the starts of a machine wrote on each disk, in their order: none twice, and none is like another."""
    return {path: [data[at * BLOCK : (at + 1) * BLOCK] for at in range(1, free(data))] for path, data in disks.items()}
