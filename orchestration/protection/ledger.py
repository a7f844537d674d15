"""Items as the vault has them: leases, what a cycle did, points. Each function is one transaction.

A lease says which orchestrator runs an item. Who holds it renews it; one that is older than a minute is nobody's, and
whoever takes it sees in `doing` what its dead holder was at. Only the clock of the database's host counts, where it is
a server.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, case, delete, insert, or_, select, text, update

from secondsite.engine import errors
from secondsite.orchestration.health.states import State, step
from secondsite.orchestration.health.statistics import Statistics
from secondsite.orchestration.retention.point import Point
from secondsite.orchestration.retention.timeline import Moment, Timeline
from secondsite.orchestration.vault import audit, schema
from secondsite.orchestration.vault.database import Database
from secondsite.orchestration.vault.ending import Ending

LEASE_SECONDS = 60.0
_ITEM, _DISK, _POINT = schema.item, schema.disk, schema.point
_FREE: Mapping[str, Any] = {"doing": None, "lease_holder": None, "lease_until": 0.0}


@dataclass(frozen=True)
class Held:
    """An item that this orchestrator has the lease of. `doing` is what a holder before was at when it ended."""

    id: str
    machine: str
    protection: str
    state: State
    doing: str | None
    epoch: int
    due: float
    last: float | None
    failures: int
    sending: bool
    reason: str | None
    statistics: Statistics
    timeline: Timeline | None
    disks: Mapping[str, str]
    ids: Mapping[str, str | None]
    ending: Ending | None = None


@dataclass(frozen=True)
class Made:
    """A point of a machine: generations by path of the disk. `at` is on the item's timeline."""

    number: int
    time: str
    at: int
    application: bool
    pinned: str | None
    generations: Mapping[str, int]
    changed_bytes: int

    def point(self) -> Point:
        """As retention knows it."""
        return Point(self.number, self.at, self.application, self.pinned is not None)


def now(database: Database, clock: float | None = None) -> float:
    """The present by the clock that leases count by."""
    if not database.shared:
        return time.time() if clock is None else clock
    with database.reading() as connection:
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar() or 0)


def claim(database: Database, holder: str, at: float, most: int, running: Collection[str] = ()) -> list[Held]:
    """At most so many items that are due and nobody's, the longest due first; they are ours for a minute. What is
    `running` here was given back, or lost, a moment ago; it is taken when that has ended.
    """
    free = or_(_ITEM.c.lease_until < at, _ITEM.c.lease_holder.is_(None))
    with database.begin() as connection:
        due = select(_ITEM.c.id).where(_ITEM.c.due <= at, free, _ITEM.c.id.not_in(running))
        wanted = due.order_by(_ITEM.c.due).limit(most)
        if database.shared:
            wanted = wanted.with_for_update(skip_locked=True)
        ids = list(connection.execute(wanted).scalars())
        if not ids:
            return []
        found = _load(connection, ids)
        doing = case(
            (_ITEM.c.ending.is_not(None), "disable"), (_ITEM.c.state == int(State.RESYNCHRONIZING), "resync"),
            else_="cycle",
        )  # fmt: skip
        taking = update(_ITEM).where(_ITEM.c.id.in_(ids))
        connection.execute(taking.values(lease_holder=holder, lease_until=at + LEASE_SECONDS, doing=doing))
        return found


def renew(database: Database, holder: str, ids: Iterable[str], at: float) -> set[str]:
    """Hold items a minute longer. What is not in the answer was lost: its cycle must not be written down."""
    held = and_(_ITEM.c.id.in_(list(ids)), _ITEM.c.lease_holder == holder)
    with database.begin() as connection:
        connection.execute(update(_ITEM).where(held).values(lease_until=at + LEASE_SECONDS))
        return set(connection.execute(select(_ITEM.c.id).where(held)).scalars())


def give_back(database: Database, holder: str, ids: Iterable[str]) -> None:
    """Let others have them at once."""
    held = and_(_ITEM.c.id.in_(list(ids)), _ITEM.c.lease_holder == holder)
    with database.begin() as connection:
        connection.execute(update(_ITEM).where(held).values(lease_holder=None, lease_until=0.0))


def end(database: Database, holder: str, item: str, values: Mapping[str, Any]) -> None:
    """What became of it, and it is given back. Raises Refused where the lease was lost."""
    with database.begin() as connection:
        _ours(connection, holder, item, {**_said(values), **_FREE})


def finish(
    database: Database, holder: str, item: str, values: Mapping[str, Any], made: Made, gone: Sequence[int],
    swept: Sequence[int],
) -> None:  # fmt: skip
    """A cycle that was applied, in one transaction: what became of the item, its point, which points nobody chooses any
    more (`gone`) and which the replicas do not hold any more (`swept`); it is given back. Raises Refused where the
    lease was lost.
    """
    with database.begin() as connection:
        _ours(connection, holder, item, {**_said(values), **_FREE})
        connection.execute(insert(_POINT).values({**msgspec.to_builtins(made), "item": item}))
        of_item = _POINT.c.item == item
        if swept:
            connection.execute(delete(_POINT).where(of_item, _POINT.c.number.in_(swept), _POINT.c.dropped))
        if gone:  # one that was pinned just now stays
            chosen = update(_POINT).where(of_item, _POINT.c.number.in_(gone), _POINT.c.pinned.is_(None))
            connection.execute(chosen.values(dropped=True))


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    """An item that left the estate meanwhile stays due as it is."""
    changed = {"doing": None, **values}
    if "due" in values:
        changed["due"] = case((_ITEM.c.ending.is_(None), values["due"]), else_=_ITEM.c.due)
    return changed


def know(database: Database, holder: str, item: str, ids: Mapping[str, str]) -> None:
    """Note which replicas there are, by path of the disk. Raises Refused where the lease was lost."""
    with database.begin() as connection:
        _ours(connection, holder, item, {})
        for path, replica in ids.items():
            chosen = update(_DISK).where(_DISK.c.item == item, _DISK.c.path == path)
            connection.execute(chosen.values(replica_id=replica))


def drop_all(database: Database, holder: str, item: str) -> None:
    """Nobody chooses a point of it any more: its replicas are about to go. Raises Refused where the lease was lost."""
    with database.begin() as connection:
        _ours(connection, holder, item, {})
        connection.execute(update(_POINT).where(_POINT.c.item == item).values(dropped=True))


def remove(database: Database, holder: str, item: Held, at: float, detail: str | None) -> None:
    """It is not protected any more, and nothing is left of it but a line in the audit log. Raises Refused where the
    lease was lost.
    """
    with database.begin() as connection:
        _ours(connection, holder, item.id, {})
        for table in (_POINT, _DISK):
            connection.execute(delete(table).where(table.c.item == item.id))
        connection.execute(delete(_ITEM).where(_ITEM.c.id == item.id))
        audit.note(connection, "disable", item.machine, who=holder, at=at, detail=detail)


def postpone(database: Database, holder: str, item: str, due: float, failures: int, reason: str) -> None:
    """An item that could not be ended is tried again at `due`. Raises Refused where the lease was lost."""
    with database.begin() as connection:
        values = {"due": due, "failures": failures, "reason": reason, "lease_holder": None, "lease_until": 0.0}
        _ours(connection, holder, item, values)


def _ours(connection: Connection, holder: str, item: str, values: Mapping[str, Any]) -> None:
    """Change an item that is ours, or look whether it is."""
    ours = and_(_ITEM.c.id == item, _ITEM.c.lease_holder == holder)
    changed = {"lease_holder": holder, **values}
    if connection.execute(update(_ITEM).where(ours).values(changed)).rowcount != 1:
        raise errors.Refused("another orchestrator has this item now")


def act(database: Database, machine: str, action: str, at: float) -> State:
    """An operator's action on an item (health/states.py); what it makes runnable is due at once. Raises Refused where
    its state does not allow it.
    """
    with database.begin() as connection:
        wanted = select(_ITEM.c.id, _ITEM.c.state, _ITEM.c.ending).where(_ITEM.c.machine == machine)
        found = connection.execute(wanted).first()
        if found is None:
            raise errors.Refused(f"no machine {machine!r} is protected")
        if found.ending is not None:
            raise errors.Refused(f"R1.10: {machine!r} is being disabled")
        state = step(State(found.state), action)
        if state is None:
            raise errors.Refused(f"R8.1: {machine!r} is {State(found.state).words}; cannot {action}")
        changed = update(_ITEM).where(_ITEM.c.id == found.id, _ITEM.c.state == found.state)
        values = {"state": int(state), **({"due": at, "failures": 0} if state.cycles else {})}
        if connection.execute(changed.values(values)).rowcount != 1:
            raise errors.Busy(f"{machine!r} changed just now")
        return state


def points(database: Database, item: str, *, dropped: bool = False) -> list[Made]:
    """Oldest first: those that can be chosen, or those that are dropped and whose replicas may hold them yet."""
    with database.reading() as connection:
        return _points(connection, item, dropped)


def pin(database: Database, item: str, number: int, why: str | None) -> None:
    """Keep a point until it is unpinned (`why` None). Raises Refused where there is no such point."""
    with database.begin() as connection:
        chosen = update(_POINT).where(_POINT.c.item == item, _POINT.c.number == number, _POINT.c.dropped.is_(False))
        if connection.execute(chosen.values(pinned=why)).rowcount != 1:
            raise errors.Refused(f"there is no point {number}")


def load(database: Database, machine: str | None = None) -> list[Held]:
    """Items, by machine, whoever has them."""
    with database.reading() as connection:
        wanted = select(_ITEM.c.id).order_by(_ITEM.c.machine)
        if machine is not None:
            wanted = wanted.where(_ITEM.c.machine == machine)
        return _load(connection, list(connection.execute(wanted).scalars()))


def _points(connection: Connection, item: str, dropped: bool) -> list[Made]:
    chosen = select(_POINT).where(_POINT.c.item == item, _POINT.c.dropped.is_(dropped))
    rows = connection.execute(chosen.order_by(_POINT.c.number))
    return [
        Made(row.number, row.time, row.at, row.application, row.pinned, row.generations, row.changed_bytes)
        for row in rows
    ]


def _load(connection: Connection, ids: Sequence[str]) -> list[Held]:
    disks: dict[str, list[Any]] = {one: [] for one in ids}
    for row in connection.execute(select(_DISK).where(_DISK.c.item.in_(ids)).order_by(_DISK.c.path)):
        disks[row.item].append(row)
    rows = {row.id: row for row in connection.execute(select(_ITEM).where(_ITEM.c.id.in_(ids)))}
    return [_held(rows[one], disks[one]) for one in ids if one in rows]


def _held(row: Any, disks: Sequence[Any]) -> Held:
    timeline = None
    if row.timeline is not None:
        timeline = Timeline(row.timeline["at"], Moment(*row.timeline["moment"]))
    return Held(
        row.id, row.machine, row.protection, State(row.state), row.doing, row.epoch, row.due, row.last,
        row.failures, row.sending, row.reason, msgspec.convert(row.statistics, Statistics), timeline,
        {disk.path: disk.replica for disk in disks}, {disk.path: disk.replica_id for disk in disks},
        msgspec.convert(row.ending, Ending | None),
    )  # fmt: skip
