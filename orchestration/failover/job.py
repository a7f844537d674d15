"""A failover at work: the item, what is meant, and the hosts that it is done on."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import msgspec

from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.failover import record
from secondsite.orchestration.failover.intent import Intent, Placed
from secondsite.orchestration.failover.machines import Known
from secondsite.orchestration.failover.renewing import Lease
from secondsite.orchestration.hosts import Calls
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.turn import Clocks
from secondsite.orchestration.protection.worker import Worker
from secondsite.orchestration.retention.timeline import Timeline
from secondsite.orchestration.vault.database import Database


@dataclass
class Job:
    """One phase after another of an item that `holder` has."""

    database: Database
    holder: str
    known: Known
    item: Held
    worker: Worker
    clocks: Clocks
    lease: Lease
    state: str | None = None

    @property
    def intent(self) -> Intent:
        assert self.item.failover is not None, "only what has begun is worked on"
        return self.item.failover

    @property
    def there(self) -> Placed:
        """Where the machine goes. Only once its disks were begun."""
        assert self.intent.there is not None
        return self.intent.there

    @property
    def here(self) -> Placed:
        assert self.intent.here is not None
        return self.intent.here

    @property
    def replicas(self) -> dict[str, str]:
        """Those that it fails over to, by path of the disk."""
        if self.intent.to == "target":
            return dict(self.item.homes)
        return {path: back for path, back in self.item.backs.items() if back is not None}

    @property
    def direction(self) -> Any:
        """Of the points that it fails over to."""
        return "forward" if self.intent.to == "target" else "reverse"

    def save(self, made: Made | None = None, **changes: Any) -> None:
        """Note more of what is meant, before it is done."""
        intent = msgspec.structs.replace(self.intent, **changes)
        self.item = record.save(self.database, self.holder, self.item, intent, made)

    def touch(self, **changes: Any) -> None:
        """From here on something is done: what fails is there to be gone on with, or taken back."""
        if not self.intent.touched or changes:
            self.save(touched=True, **changes)

    def point(self) -> Made:
        """The point that it fails over to. Raises Refused where nobody has it any more."""
        return lookup.point(self.database, self.item.id, self.intent.point, self.direction)

    def new_point(self, generations: dict[str, int], changed: int, at: datetime.datetime) -> Made:
        """A point of the last delta, on the item's timeline."""
        moment = self.clocks.moment()
        timeline = Timeline.begin(moment) if self.item.timeline is None else self.item.timeline.reach(moment)
        number = lookup.next_number(self.database, self.item.id)
        return Made(number, at.isoformat(), timeline.at, False, None, generations, changed, self.direction)

    def host(self, placed: Placed) -> Host:
        assert placed.host is not None
        return self.known.host(placed.host)

    def calls(self, placed: Placed) -> Calls:
        """The host of a machine."""
        return hosts.reach(self.host(placed))

    def machine(self, placed: Placed, operation: str, **more: Any) -> dict[str, Any]:
        """An operation of a machine on its host. Raises what that raises."""
        return self.known.ask(placed, operation, cancel=self.lease.cancelled, **more)
