"""What an estate changes in the vault: a plan that is a pure comparison, and its one transaction.

The vault remembers the estate that was applied last, and the items that are protected. Where replicas lie is decided
once, when an item is enabled; a later change of the mapping or the account is for those enabled afterwards (R1.6).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update

from secondsite.engine import errors
from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.loading import Loaded
from secondsite.orchestration.estate.model import Estate, Mappings
from secondsite.orchestration.failover.situation import Situation
from secondsite.orchestration.failover.table import Refusal, decide
from secondsite.orchestration.health.states import State
from secondsite.orchestration.mapping.explain import Mapper
from secondsite.orchestration.mapping.placement import Facts
from secondsite.orchestration.scenarios.check import check
from secondsite.orchestration.vault import beginning, frequencies, keys, locations, schema, versions
from secondsite.orchestration.vault.applied import last_estate as last_estate
from secondsite.orchestration.vault.database import Database
from secondsite.orchestration.vault.ending import Ending, ending
from secondsite.orchestration.vault.keys import Registered


@dataclass(frozen=True, slots=True)
class Change:
    """`what`: add, change or remove of a `kind` of table, by name; of items: enable, disable, add disk, remove disk."""

    what: str
    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"{self.what} {self.kind}{name}{': ' + self.detail if self.detail else ''}"


@dataclass(frozen=True)
class Plan:
    """`findings` are the rules that are broken: with one, nothing is applied."""

    changes: tuple[Change, ...]
    findings: tuple[Finding, ...]
    placed: Mapping[str, Mapping[str, str]]


class Broken(errors.Refused):
    """An estate breaks rules: all of them are in `findings`, the first one in the message."""

    def __init__(self, findings: Sequence[Finding], loaded: Loaded) -> None:
        self.findings = tuple(findings)
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        super().__init__(findings[0].line(loaded.line(findings[0].where)) + more, path=loaded.path)


@dataclass(frozen=True)
class Item:
    """What the vault has of a protected machine; `disks` are replicas by path. `home`: it runs where the estate says,
    and nothing is under way.
    """

    id: str
    machine: str
    protection: str
    state: State
    disks: Mapping[str, str]
    ending: bool = False
    left: Mapping[str, str] = field(default_factory=dict)
    stays: Refusal | None = None
    home: bool = True


def plan(
    loaded: Loaded, before: Estate | None, items: Iterable[Item], now: float, registered: Iterable[Registered] = ()
) -> Plan:
    """What would change, and what forbids it. Nothing is asked or written; `now` is the present in UTC seconds, and
    `registered` what did so at the vault.
    """
    held = {item.machine: item for item in items}
    findings = list(check(loaded.estate).findings)
    findings += versions.differing(loaded.estate, registered)
    findings += _moved(loaded.estate, before, held)
    findings += _needed(loaded.estate, held)
    findings += _back(loaded.estate, held)
    findings += _other_disks(loaded.estate, held)
    findings += [] if findings else beginning.late(loaded.estate, held, now)
    placed, problems = ({}, []) if findings else _place(loaded.estate, held)
    changes = [*_tables(before, loaded.estate), *_items(loaded.estate, before, held, placed)]
    return Plan(tuple(changes), tuple([*findings, *problems]), placed)


def _moved(estate: Estate, before: Estate | None, held: Mapping[str, Item]) -> Iterator[Finding]:
    """R1.5: what a pair leads from and to stays, as long as something is protected by it."""
    olds = {one.name: one for one in before.protection} if before else {}
    used = {item.protection for item in held.values()}
    for place, now in enumerate(estate.protection):
        old = olds.get(now.name)
        if old is None or now.name not in used:
            continue
        for key in ("scenario", "source", "target"):
            if getattr(old, key) != getattr(now, key):
                message = f"{key} of {now.name!r} was {getattr(old, key)!r}, and machines are protected by it"
                yield Finding("R1.5", ("protection", place, key), message, "remove the items, apply, then change it")
    yield from _other_pair(estate, held)


def _other_pair(estate: Estate, held: Mapping[str, Item]) -> Iterator[Finding]:
    """R1.5, for a single machine."""
    for place, one in enumerate(estate.item):
        item = held.get(one.machine)
        if item is not None and item.protection != one.protection:
            message = f"machine {one.machine!r} is protected by {item.protection!r}"
            yield Finding("R1.5", ("item", place, "protection"), message, "remove the item, apply, then add it again")


def _needed(estate: Estate, held: Mapping[str, Item]) -> Iterator[Finding]:
    """What fails over, or runs from its replica, is not disabled (R1.10, R9.12)."""
    wanted = {one.machine for one in estate.item}
    for machine, item in held.items():
        if machine not in wanted and not item.ending and item.stays is not None:
            message = f"machine {machine!r} cannot be disabled: {item.stays.words}"
            yield Finding(item.stays.rule, ("item",), message, "secondsite failover status says how it stands")


def _back(estate: Estate, held: Mapping[str, Item]) -> Iterator[Finding]:
    """R1.10: what is ending ends first; its replica may be half deleted."""
    for place, one in enumerate(estate.item):
        if one.machine in held and held[one.machine].ending:
            message, remedy = f"machine {one.machine!r} is being disabled", "apply again once that has ended"
            yield Finding("R1.10", ("item", place, "machine"), message, remedy)


def _other_disks(estate: Estate, held: Mapping[str, Item]) -> Iterator[Finding]:
    """A machine that failed over has the disks there that it had then, and comes home with those."""
    items = {one.machine: held[one.machine] for one in estate.item if one.machine in held}
    for place, machine in enumerate(estate.machine):
        item, now = items.get(machine.name), {disk.path for disk in machine.disks if not disk.exclude}
        if item is not None and not item.home and now != item.disks.keys():
            other = ", ".join(sorted(now ^ item.disks.keys()))
            message = f"machine {machine.name!r} fails over, or runs at its target, with the disks of before: {other}"
            yield Finding("R9.12", ("machine", place, "disks"), message, "change them once it is at home again")


def _place(estate: Estate, held: Mapping[str, Item]) -> tuple[dict[str, dict[str, str]], list[Finding]]:
    """Where the disks of each machine go: where they are, or where the mapping says."""
    mapper = Mapper.of(estate)
    hosts = {host.name: host for host in estate.host}
    found: dict[str, dict[str, str]] = {}
    problems = []
    for pair in mapper.pairs():
        for item, machine in pair.machines:
            placement = mapper.place(pair, item, machine, Facts())
            item_now = held.get(machine.name)
            known = {**item_now.left, **item_now.disks} if item_now else {}
            found[machine.name] = locations.replicas(pair, machine, placement, hosts, known)
            for problem in placement.all_problems:
                rule, _, words = problem.partition(": ")
                where = mapper.index.place(item)
                problems.append(Finding(rule, where, f"machine {machine.name!r}: {words}"))
    return found, problems


def _tables(before: Estate | None, now: Estate) -> Iterator[Change]:
    """Tables by kind and name. Of items `_items` tells."""
    for kind in Estate.__struct_fields__:
        new = getattr(now, kind)
        old = getattr(before, kind) if before else type(new)() if isinstance(new, tuple) else None
        if kind == "item":
            continue
        if isinstance(new, tuple):
            yield from _rows(kind, {one.name: one for one in old or ()}, {one.name: one for one in new})
        elif old is None:
            if new != Mappings():
                yield Change("add", kind, getattr(new, "name", ""))
        elif old != new:
            yield Change("change", kind, getattr(new, "name", ""), _differs(old, new))


def _rows(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name, row in new.items():
        if name not in old:
            yield Change("add", kind, name)
        elif old[name] != row:
            yield Change("change", kind, name, _differs(old[name], row))
    for name in old:
        if name not in new:
            yield Change("remove", kind, name)


def _differs(old: Any, new: Any) -> str:
    """Keys, with their values where those are short."""
    parts = []
    for key in type(new).__struct_fields__:
        one, two = getattr(old, key), getattr(new, key)
        if one != two:
            plain = all(isinstance(value, str | int | None) for value in (one, two))
            parts.append(f"{key} {one!r} to {two!r}" if plain else key)
    return ", ".join(parts)


def _items(
    estate: Estate, before: Estate | None, held: Mapping[str, Item], placed: Mapping[str, Mapping[str, str]]
) -> Iterator[Change]:
    wanted = {one.machine for one in estate.item}
    for one in estate.item:
        disks = placed.get(one.machine, {})
        item = held.get(one.machine)
        if item is None:
            yield Change("enable", "item", one.machine, f"by {one.protection}")
        known = item.disks if item else {}
        for path, replica in disks.items():
            if path not in known:
                yield Change("add disk", "item", one.machine, f"{path} to {replica}")
        for path in known if placed else ():
            if path not in disks:
                yield Change("remove disk", "item", one.machine, path)
    for machine, item in held.items():
        if machine not in wanted and not item.ending:
            yield Change("disable", "item", machine, _ends(item, ending(machine, before)))


def _ends(item: Item, said: Ending) -> str:
    """R1.10."""
    if said.delete and (stay := [one for one in item.disks.values() if said.spares(one)]):
        return f"replicas stay that only their host can delete, as no reach is said for it: {', '.join(stay)} (R1.10)"
    return f"the replica {'is deleted' if said.delete else 'stays'} (R1.10)"


def items(connection: Connection) -> list[Item]:
    disks: dict[str, dict[str, str]] = {}
    left: dict[str, dict[str, str]] = {}
    disk = schema.disk.c
    for row in connection.execute(select(disk.item, disk.path, disk.replica, disk.leaving)):
        (disks if row.leaving is None else left).setdefault(row.item, {})[row.path] = row.replica
    table = schema.item
    wanted = select(
        table.c.id, table.c.machine, table.c.protection, table.c.state, table.c.ending, table.c.active,
        table.c.direction, table.c.failover, table.c.test,
    )  # fmt: skip
    return [
        Item(
            row.id, row.machine, row.protection, State(row.state), disks.get(row.id, {}), row.ending is not None,
            left.get(row.id, {}), _stays(row), row.active == "source" and row.failover is None,
        ) for row in connection.execute(wanted)
    ]  # fmt: skip


def _stays(row: Any) -> Refusal | None:
    """Why the item may not be disabled now, by the table of failovers."""
    if row.active == "source" and row.failover is None and row.test is None:
        return None
    now = Situation(
        state=State(row.state), active=row.active, direction=row.direction, phase=(row.failover or {}).get("phase"),
        test=(row.test or {}).get("phase"),
    )  # fmt: skip
    found = decide(now, "disable")
    return found if isinstance(found, Refusal) else None


def apply(database: Database, loaded: Loaded, who: str, now: float) -> Plan:
    """Make the vault say what the estate says, all of it or nothing. A plan without changes writes nothing. Raises
    Broken where a rule is.
    """
    with database.alone() as connection:
        before = last_estate(connection)
        made = plan(loaded, before, held := items(connection), now, keys.known(connection))
        if made.findings:
            raise Broken(made.findings, loaded)
        if made.changes:
            remember(connection, loaded, who, now)
            _write_items(connection, loaded.estate, {one.machine: one for one in held}, made, now)
            _begin_later(connection, before, loaded.estate, now)
            frequencies.hasten(connection, before, loaded.estate, now)
            gone = {one.machine for one in held if not one.ending} - {one.machine for one in loaded.estate.item}
            for machine in gone:
                _end(connection, machine, before, now)
    return made


def remember(connection: Connection, loaded: Loaded, who: str, now: float) -> None:
    said = msgspec.structs.asdict(loaded.estate.vault)
    if connection.execute(update(schema.vault).values(said).where(schema.vault.c.id == 1)).rowcount == 0:
        connection.execute(insert(schema.vault).values(id=1, created=now, **said))
    digest = hashlib.sha256(loaded.text.encode()).hexdigest()
    connection.execute(insert(schema.revision).values(
        at=now, who=who, digest=digest, estate=loaded.text, packed=msgspec.json.encode(loaded.estate).decode(),
    ))  # fmt: skip


def _write_items(
    connection: Connection, estate: Estate, held: Mapping[str, Item], made: Plan, now: float
) -> None:
    for one in estate.item:
        item = held.get(one.machine)
        number = item.id if item else uuid.uuid4().hex
        if item is None:
            state = State.READY_FOR_INITIAL_REPLICATION
            connection.execute(insert(schema.item).values(
                id=number, machine=one.machine, protection=one.protection, state=int(state), enabled=now, due=now,
                statistics={},
            ))  # fmt: skip
        known = item.disks if item else {}
        for path, replica in made.placed.get(one.machine, {}).items():
            if item is not None and path in item.left:
                here = schema.disk.c.item == number, schema.disk.c.path == path
                connection.execute(update(schema.disk).where(*here).values(leaving=None))
            elif path not in known:
                connection.execute(insert(schema.disk).values(item=number, path=path, replica=replica))
        for path in known.keys() - made.placed.get(one.machine, {}).keys():
            here = schema.disk.c.item == number, schema.disk.c.path == path
            connection.execute(update(schema.disk).where(*here).values(leaving=now))


def _begin_later(connection: Connection, before: Estate | None, estate: Estate, now: float) -> None:
    """R5.2: what has not begun yet is due at the time that its policy names now."""
    old, new = beginning.times(before), beginning.times(estate)
    for machine in old.keys() | new.keys():
        if old.get(machine) != new.get(machine):
            wanted = schema.item.c.machine == machine, schema.item.c.state == int(State.READY_FOR_INITIAL_REPLICATION)
            connection.execute(update(schema.item).where(*wanted).values(due=max(now, new.get(machine, now))))


def _end(connection: Connection, machine: str, before: Estate | None, now: float) -> None:
    """Mark an item that goes, with what was said of it: who runs cycles ends it."""
    marked = update(schema.item).where(schema.item.c.machine == machine)
    connection.execute(marked.values(ending=msgspec.to_builtins(ending(machine, before)), due=now))
