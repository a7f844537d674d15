"""One orchestrator over a vault in its steady state, with cycles that do nothing: a process of its own, whose last line
is JSON.

    python -m secondsite.orchestration.bench.protection.serve VAULT ITEMS SECONDS
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import insert, select, update

from secondsite.orchestration.bench.protection.estates import estate
from secondsite.orchestration.estate.loading import parse
from secondsite.orchestration.health.states import State
from secondsite.orchestration.health.statistics import Statistics
from secondsite.orchestration.health.tripwire import KEPT, Seen, Tripwire
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.orchestrator import Orchestrator
from secondsite.orchestration.protection.turn import this_moment
from secondsite.orchestration.protection.worker import Cut, EngineWorker
from secondsite.orchestration.vault import database, holders, inventory, schema
from secondsite.orchestration.vault.database import Database

EVERY, ADDITIONAL = 30, 15
_HOUR = 3_600_000_000
# Cycles of a day.
_DAY = 24 * 3600 // EVERY


class Nothing(EngineWorker):
    """A worker whose cycles are over at once."""

    def __init__(self, generation: int) -> None:
        super().__init__()
        self.generation = generation

    def replicate(self, machine: object, disks: Mapping[str, str], policy: object, **more: object) -> Cut:
        self.generation += 1
        return _cut(disks, self.generation)

    def drop(self, replica: str, generations: Sequence[int]) -> None:
        pass

    def identify(self, replica: str) -> str:
        return "0" * 32

    def epoch(self, replica: str) -> int:
        return 0

    def noted(self, replica: str) -> None:
        return None

    def note(self, replicas: Sequence[str], note: Mapping[str, object], epoch: int) -> None:
        pass

    def release(self, disk: str, replica_id: str, qmp: str | None) -> None:
        pass

    def delete(self, replica: str, replica_id: str, epoch: int) -> None:
        pass


def _cut(disks: Iterable[str], generation: int) -> Cut:
    """Of two disks of 20 GiB in which a MiB changed, a quarter of it with what does not pack."""
    made = dict.fromkeys(disks, generation)
    return Cut(made, 1 << 20, False, data_bytes=1 << 20, sealed_bytes=1 << 18, virtual_bytes=40 << 30)


def fill(vault: Database, items: int) -> None:
    """As after a day: all points that the policy keeps, full histories, and cycles spread over the half minute."""
    inventory.apply(vault, parse(estate(items, EVERY, ADDITIONAL).encode()), "bench", time.time())
    moment = this_moment()
    timeline = {"at": moment.wall, "moment": [moment.wall, moment.since_boot, moment.boot]}
    with vault.begin() as connection:
        connection.execute(update(schema.disk).values(replica_id="0" * 32))
        connection.execute(update(schema.item).values(timeline=timeline, **_history(time.time())))
        for place, one in enumerate(connection.execute(select(schema.item.c.id)).scalars().all()):
            due = time.time() + EVERY * (place + 1) / items
            connection.execute(update(schema.item).where(schema.item.c.id == one).values(due=due))
            connection.execute(insert(schema.point), list(_points(one, place, moment.wall)))


def _history(now: float) -> dict[str, Any]:
    """What cycles left of themselves: the statistics of the interval, and as much as the tripwire remembers."""
    statistics, tripwire = Statistics(now, first=now - _DAY * EVERY), Tripwire()
    for place in range(_DAY):
        cut, began = _cut((), place), now - (_DAY - place) * EVERY
        statistics = statistics.cycle(cut.changed_bytes + place, 1 + place / _DAY)
        if place >= _DAY - KEPT:
            seen = Seen(cut.data_bytes + place * 4099, cut.sealed_bytes + place * 1031)
            tripwire = tripwire.after(seen, cut.virtual_bytes, began)
    statistics = msgspec.structs.replace(statistics, virtual_bytes=40 << 30)
    return {
        "state": int(State.REPLICATING), "last": now - EVERY, "statistics": msgspec.to_builtins(statistics),
        "tripwire": msgspec.to_builtins(tripwire),
    }  # fmt: skip


def _points(item: str, machine: int, now: int) -> list[dict[str, Any]]:
    disks = (f"/vm/m{machine}/system.vhdx", f"/vm/m{machine}/data.vhdx")
    return [
        {
            "item": item, "number": number, "time": "2026-01-01T00:00:00+00:00", "changed_bytes": 1 << 20,
            "at": now - (ADDITIONAL + 1 - number) * _HOUR, "generations": dict.fromkeys(disks, number),
        }
        for number in range(1, ADDITIONAL + 2)
    ]  # fmt: skip


def serve(vault: Database, items: int, seconds: float) -> dict[str, float]:
    """Run it so long; what it took."""
    cycles = Cycles(vault, holders.new(), Nothing(ADDITIONAL + 1))
    orchestrator = Orchestrator(vault, cycles)
    threading.Timer(seconds, orchestrator.stop).start()
    began, spent = time.monotonic(), time.process_time()
    orchestrator.run()
    took = time.monotonic() - began
    lags = orchestrator.lags
    return {
        "items": items, "seconds": took, "cycles": len(lags.seconds), "lag_p50": lags.quantile(0.5),
        "lag_p99": lags.quantile(0.99), "lag_most": lags.quantile(1.0),
        "cores": (time.process_time() - spent) / took,
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip


def main() -> None:
    place, items, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    with database.create(place) as vault:
        if not inventory_items(vault):
            fill(vault, items)
        print(json.dumps(serve(vault, items, seconds)))


def inventory_items(vault: Database) -> int:
    with vault.begin() as connection:
        return len(inventory.items(connection))


if __name__ == "__main__":
    main()
