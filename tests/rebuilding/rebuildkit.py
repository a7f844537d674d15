"""What a vault holds of its items, to be compared with one that was made anew; and disasters for its cycles."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import select
from test_cycles import Bench

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.loading import Loaded, parse
from secondsite.orchestration.protection.worker import Cut, EngineWorker
from secondsite.orchestration.rebuilding import restoring
from secondsite.orchestration.vault import inventory, schema
from secondsite.orchestration.vault.database import Database

# Where nothing depends on the kind of the database; the property and the command are tried on both.
ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
# What no replica knows, or what a cycle makes anew.
_NOT_NOTED = {"statistics", "due", "doing", "reason", "failures", "sending", "enabled", "lease_holder", "lease_until",
               "application_last", "tripwire"}  # fmt: skip


def snapshot(database: Database) -> dict[str, Any]:
    """All that must survive: items, their disks, and their points with generations, pins and all flags."""
    with database.begin() as connection:
        items = [dict(row._mapping) for row in connection.execute(select(schema.item))]
        disks = [dict(row._mapping) for row in connection.execute(select(schema.disk))]
        points = [dict(row._mapping) for row in connection.execute(select(schema.point))]
    for item in items:
        for name in _NOT_NOTED:
            del item[name]
    return {
        "items": sorted(items, key=lambda one: str(one["id"])),
        "disks": sorted(disks, key=lambda one: (one["item"], one["path"])),
        "points": sorted(points, key=lambda one: (one["item"], one["number"])),
    }


def holds(bench: Bench, found: dict[str, Any]) -> dict[str, Any]:
    """The same without dropped points that no replica holds any more: their rows wait for a cycle that ends well."""
    there = {
        path: {point.generation for point in engine.points(replica)} for path, replica in bench.item().disks.items()
    }
    points = [
        row for row in found["points"]
        if not row["dropped"] or any(number in there[path] for path, number in row["generations"].items())
    ]  # fmt: skip
    return {**found, "points": points}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Between two snapshots, in words that a failed test can show."""
    found = []
    for table in one:
        rows = [(a, b) for a, b in itertools.zip_longest(one[table], other[table], fillvalue={})]
        for a, b in rows:
            found += [f"{table}.{key}: {a.get(key)} and {b.get(key)}" for key in {*a, *b} if a.get(key) != b.get(key)]
    return found


def estate(bench: Bench) -> Loaded:
    """The file that a bench has applied."""
    return parse(bench.text.encode())


def rebuilt(bench: Bench, database: Database, *places: str, **more: Any) -> restoring.Outcome:
    """What is found for a vault of the bench's estate."""
    given = {"partial": False, "who": "me", "now": bench.clock.now, **more}
    return restoring.rebuild(database, estate(bench), places, **given)


def changes(bench: Bench, database: Database) -> list[str]:
    """What a plan of the same estate would change."""
    with database.reading() as connection:
        before, held = inventory.last_estate(connection), inventory.items(connection)
    found = inventory.plan(estate(bench), before, held, bench.clock.now)
    assert not found.findings
    return [str(one) for one in found.changes]


def restarted(bench: Bench, database: Database) -> Bench:
    """The same machine, with another vault."""
    made = object.__new__(Bench)
    made.__dict__.update(bench.__dict__)
    made.database = database
    made.cycles = replace(bench.cycles, database=database)
    return made


class Killed(BaseException):
    """As if the process ended here."""


@dataclass
class Worker(EngineWorker):
    """For real, but for what a test wants to go wrong. `generations` are those of the last cycle."""

    chance: random.Random
    applications: float = 0.0
    note_fails: Callable[[int], BaseException | None] = lambda number: None
    state: str | None = None
    results: list[Cut] = field(default_factory=list)

    def replicate(self, *arguments: Any, **more: Any) -> Cut:
        cut = super().replicate(*arguments, **more)
        self.results.append(cut)
        return replace(cut, application=self.chance.random() < self.applications)

    def note(self, replicas: Sequence[str], note: Mapping[str, Any], epoch: int) -> None:
        for number, replica in enumerate(replicas):
            error = self.note_fails(number)
            if error is not None:
                raise error
            super().note([replica], note, epoch)


def away() -> errors.Error:
    return errors.Unreachable("the host does not answer")
