"""The machines of a run, through their failovers: each call looks where its machine stands, and does what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.orchestration.estate.pairs import Sides
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.failover import again
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.failover.intent import Options
from secondsite.orchestration.failover.trying import Tests
from secondsite.orchestration.plans.journal import Run
from secondsite.orchestration.plans.order import Kind
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.vault import inventory
from secondsite.orchestration.vault.database import Database

# The newest instant that is a point of every machine of the plan (M13). A run that has begun names it behind that word:
# all go back to the same one, also where cycles go on meanwhile.
CONSISTENT = "consistent"
# How long a machine is waited for that another process works on.
BUSY_SECONDS = 600.0
# How long a host is waited for that is asked whether a machine is still up.
ANSWER_SECONDS = 15.0
_LOOK_SECONDS = 0.2


@dataclass
class Failing:
    """`names` are all machines of the plan; its tests share their networks, which nothing else reaches."""

    failovers: Failovers
    names: Sequence[str]
    run: str

    def prepare(self, machine: str, kind: Kind, at: str) -> None:
        """Until it only has to be started. What is up already, or was brought over before, stays as it is (R12.8)."""
        self._patiently(lambda: self._prepare(machine, kind, at))

    def start(self, machine: str, kind: Kind) -> None:
        """Start it, where it is not up: also one that went down where an earlier failover had brought it."""
        self._patiently(lambda: self._start(machine, kind))

    def lost(self, machine: str, kind: Kind) -> str | None:
        """What its host sees of it just now; one that does not answer in time is not known to be lost."""
        try:
            known, item = self.failovers.known(machine), self._item(machine)
            if kind != "test" and _taken_back(item, kind):
                return "was started, and taken back since"
            tested = item.test.there if item.test is not None else None
            placed = tested if kind == "test" else again.where(known, item)
            if placed is None or placed.spec is None:
                return None
            found = known.ask(placed, "status", cancel=self.failovers.stops, within=ANSWER_SECONDS)
        except errors.Error:
            return None
        if found["state"] == "stopped":
            return "was started, and does not run any more"
        return f"runs, but {found['wrong']}" if found["state"] == "running" and found["wrong"] else None

    def _patiently(self, call: Callable[[], None]) -> None:
        """Again, where another process is at the machine: one that goes on with what a killed run left there, or a
        cycle. Raises Busy at last.
        """
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return call()
            except errors.Busy:
                if time.monotonic() > until:
                    raise
            if self.failovers.stops():
                raise errors.Cancelled("stopped on request")
            time.sleep(_LOOK_SECONDS)

    def _prepare(self, machine: str, kind: Kind, at: str) -> None:
        item = self._item(machine)
        point = self._point(machine, at)
        if kind == "test":
            if item.test is None or item.test.phase == "preparing":
                tests = Tests(self.failovers)
                tests.test(machine, point=point, network="isolated", wait=True, together=f"run {self.run}")
        elif not _over(item, kind):
            begun = item.failover is not None and item.failover.phase in ("prepared", "starting", "running")
            if not begun:
                chosen = point if kind == "unplanned" else None
                self.failovers.begin(machine, kind, point=chosen, options=Options(wait=True))
            self.failovers.prepare(machine)

    def _start(self, machine: str, kind: Kind) -> None:
        if kind == "test":
            Tests(self.failovers).start(machine)
        elif _taken_back(item := self._item(machine), kind):
            raise errors.Refused(
                f"R9.6: {machine!r} is not prepared, or was taken back since; fail it over, then resume the run"
            )
        elif not _over(item, kind) or self.lost(machine, kind) is not None:
            try:
                self.failovers.start(machine)
            except errors.Refused:
                way = self._item(machine).failover
                started = way is not None and way.phase == "running"  # by another process meanwhile
                if not started or self.lost(machine, kind) is not None:
                    raise

    def _item(self, machine: str) -> Held:
        found = lookup.load(self.failovers.database, machine)
        if not found:
            raise errors.Refused(f"no machine {machine!r} is protected")
        return found[0]

    def _point(self, machine: str, at: str) -> int | str | None:
        """What is meant of this machine; None is the newest, where none is under way yet. Raises Refused where it has
        no point of the instant of the run any more.
        """
        word, _, moment = (at if at != CONSISTENT else instant(self.failovers.database, self.names)).partition(" ")
        if word != CONSISTENT:
            return at if at != "latest" else None
        for one in reversed(lookup.points(self.failovers.database, self._item(machine).id)):
            if one.time == moment:
                return one.number
        raise errors.Refused(f"M13: {machine!r} has no point of {moment} any more")


def instant(database: Database, names: Sequence[str]) -> str:
    """`consistent` with the newest instant of which all these machines have a point. Raises Refused."""
    items = [item for item in lookup.load(database) if item.machine in names]
    times = [{one.time for one in lookup.points(database, item.id)} for item in items]
    common = set.intersection(*times) if times else set()
    if not common:
        raise errors.Refused("M13: the machines of the plan have no instant in common; cut them together, as a "
                             "consistency group")  # fmt: skip
    return f"{CONSISTENT} {max(common)}"


def _over(item: Held, kind: Kind) -> bool:
    """Whether it runs already where such a failover would bring it."""
    return item.failover is None and item.active == ("source" if kind == "failback" else "target")


def _taken_back(item: Held, kind: Kind) -> bool:
    """Whether it is where it was before, and nothing is under way."""
    return item.failover is None and not _over(item, kind)


def reaches(database: Database, run: Run) -> Mapping[str, Sequence[str]]:
    """The command that runs scripts of each side: on the management server there, else on this machine (R12.7)."""
    names = {name for group in run.said.group for name in group.machines}
    with database.reading() as connection:
        estate = inventory.last_estate(connection)
    found: dict[str, Sequence[str]] = {"source": (), "target": ()}
    if estate is None:
        return found
    for pair in Sides(Index(estate)).pairs():
        if names & {machine.name for _, machine in pair.machines}:
            for key, side in pair.sides:
                found[key] = side.server.reach if side.server is not None else ()
    return found
