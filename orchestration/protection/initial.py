"""What comes before an item's first cycle (R5.1): seeds on a medium, copies that lie at the target, or nothing.

By the network the first cycle is the first copy. By media every disk goes to the medium, at one instant; cycles go on
and are held at the target until somebody has imported the seeds there (R5.4). An existing copy becomes a replica's
first content, and the first cycle compares with it, as a resync does (R5.6); on a host that is not reached somebody
adopts it. Each step may be repeated: what is there already is found, whoever did it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from secondsite.orchestration.health.states import State
from secondsite.orchestration.hosts.reaching import reach
from secondsite.orchestration.protection import lookup, strangers, turns
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.prerequisites import Prerequisites
from secondsite.orchestration.protection.said import Protected
from secondsite.orchestration.protection.turn import Turn
from secondsite.orchestration.protection.worker import Cut, Worker
from secondsite.orchestration.vault import locations
from secondsite.orchestration.vault.database import Database

# Every replica's first generation, whether a seed or a copy becomes it.
FIRST = 1


@dataclass(frozen=True)
class Waits:
    """The item waits for what somebody does at the target, `why` says what. `cut`: what was made for it meanwhile,
    which counts once that is done.
    """

    why: str
    cut: Cut | None = None


@dataclass(frozen=True)
class Initial:
    """First copies of items that `holder` has the lease of."""

    database: Database
    holder: str
    worker: Worker
    prerequisites: Prerequisites

    def begin(self, item: Held, said: Protected, turn: Turn) -> Held:
        """What a first copy needs, before there is one. Where its machine was protected here before, and failed over,
        its replicas know a later epoch than a new item: this one's is later still, so that nobody else sends into them
        any more (D9). Raises what the engine raises.
        """
        if item.state is not State.READY_FOR_INITIAL_REPLICATION:
            return item
        self.prerequisites.check(item, said)
        strangers.check(self.database, self.worker, item, self.holder, turn.began)
        seen = max(map(self.worker.epoch, item.disks.values()))
        if seen <= item.epoch:
            return item
        turns.later(self.database, self.holder, item.id, seen + 1)
        return replace(item, epoch=seen + 1)

    def before(self, item: Held, said: Protected, turn: Turn, cancel: Callable[[], bool]) -> Held | Waits:
        """The item as its cycle finds it, or why there is no ordinary one yet. Raises what the engine raises."""
        waits = item.state is State.WAITING_FOR_INITIAL_REPLICATION
        if not waits and (item.state is not State.READY_FOR_INITIAL_REPLICATION or said.policy.initial == "network"):
            return item
        missing = self._missing(item)
        if waits:
            return Waits(_told(item, said, missing)) if missing else self._arrived(item, said)
        if not missing:
            return item
        if said.policy.initial == "media":
            return self._export(item, said, missing, cancel)
        return self._adopt(item, said, missing, turn, cancel)

    def _missing(self, item: Held) -> list[str]:
        """Disks whose replicas have no point yet."""
        return [path for path, replica in item.disks.items() if not self.worker.arrived(replica)]

    def _arrived(self, item: Held, said: Protected) -> Held:
        """R5.4: what was held while it waited are points of the machine where all disks have theirs (P16)."""
        waited = lookup.points(self.database, item.id, dropped=True) if said.policy.initial == "media" else []
        there = {path: self.worker.generations(replica) for path, replica in item.disks.items()}
        whole = [one.number for one in waited if _all_in(one, there)]
        turns.arrive(self.database, self.holder, item.id, whole)
        return replace(item, state=State.REPLICATING)

    def _export(self, item: Held, said: Protected, missing: list[str], cancel: Callable[[], bool]) -> Waits:
        """R5.4. What is whole on the medium is found whole, and the target is told again to wait for it."""
        folders = locations.seeds(said.machine, said.item.medium or "")
        wanted = {path: (item.disks[path], folders[path]) for path in missing}
        cut = self.worker.export(said.machine, wanted, said.policy, cancel=cancel)
        return Waits(_told(item, said, missing), cut)

    def _adopt(
        self, item: Held, said: Protected, missing: list[str], turn: Turn, cancel: Callable[[], bool]
    ) -> Held | Waits:
        """R5.6. What the copies held is no point of the machine, and goes from the replicas later."""
        number = lookup.next_number(self.database, item.id)
        if number == 1:
            first = dict.fromkeys(item.disks, FIRST)
            turns.hold(self.database, self.holder, item.id, turn.made(item, number, first))
        copies = copies_of(said)
        left = [path for path in missing if not self._adopted(copies[path], item.disks[path], said, cancel)]
        return Waits(_told(item, said, left)) if left else item

    def _adopted(self, copy: str, replica: str, said: Protected, cancel: Callable[[], bool]) -> bool:
        """False where the replica's host is not reached by a command."""
        if not _elsewhere(replica):
            self.worker.adopt(copy, replica, cancel=cancel)
            return True
        address, name = replica.removeprefix("secondsite://").split("/", 1)
        for host in said.pair.target.hosts:
            if host.reach and host.path is not None and host.address == address:
                reach(host).call("replica.adopt", {"copy": copy, "replica": f"{host.path}/{name}"}, cancel=cancel)
                return True
        return False


def copies_of(said: Protected) -> dict[str, str]:
    """The copy of each disk, by its path: they are named in the order of the disks that are protected."""
    paths = [disk.path for disk in said.machine.disks if not disk.exclude]
    return dict(zip(paths, said.item.existing, strict=False))


def _elsewhere(replica: str) -> bool:
    return "://" in replica


def _all_in(one: Made, there: Mapping[str, set[int]]) -> bool:
    return all(one.generations.get(path) in found for path, found in there.items())


def _told(item: Held, said: Protected, missing: list[str]) -> str:
    """What an operator is to do, for each disk that waits."""
    if said.policy.initial == "existing":
        copies = copies_of(said)
        does = [f"secondsite adopt {copies.get(path, 'COPY')} {_there(item.disks[path])}" for path in missing]
    else:
        folders = locations.seeds(said.machine, said.item.medium or "MEDIUM")
        does = [f"secondsite import-seed {folders[path]} {_there(item.disks[path])}" for path in missing]
    return f"waits for its first copy; at the target: {'; '.join(does)}"


def _there(replica: str) -> str:
    """A replica as its own host calls it: below the folder of its agent."""
    return f"FOLDER/{replica.rpartition('/')[2]}" if _elsewhere(replica) else replica
