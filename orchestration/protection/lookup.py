"""Items and points are read from the vault."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from secondsite.engine import errors
from secondsite.orchestration.failover.intent import Intent, Placed, Test
from secondsite.orchestration.failover.situation import Direction
from secondsite.orchestration.health.states import State
from secondsite.orchestration.health.statistics import Statistics
from secondsite.orchestration.health.tripwire import Tripwire
from secondsite.orchestration.protection.application import Application
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.rest import Plan
from secondsite.orchestration.retention.timeline import Moment, Timeline
from secondsite.orchestration.vault import schema
from secondsite.orchestration.vault.database import Database
from secondsite.orchestration.vault.ending import Ending
from secondsite.orchestration.vault.sound import sound

_ITEM, _DISK, _POINT = schema.item, schema.disk, schema.point


def load(database: Database, machine: str | None = None) -> list[Held]:
    """Items, by machine, whoever has them."""
    with database.reading() as connection:
        items, disks = select(_ITEM).order_by(_ITEM.c.machine), select(_DISK).order_by(_DISK.c.path)
        if machine is not None:
            items = items.where(_ITEM.c.machine == machine)
            disks = disks.where(_DISK.c.item.in_(select(_ITEM.c.id).where(_ITEM.c.machine == machine)))
        return _held_all(connection.execute(items).all(), connection.execute(disks))


def among(connection: Connection, ids: Sequence[str]) -> list[Held]:
    """Those of these ids, in their order, in a transaction."""
    disks = connection.execute(select(_DISK).where(_DISK.c.item.in_(ids)).order_by(_DISK.c.path))
    found = _held_all(connection.execute(select(_ITEM).where(_ITEM.c.id.in_(ids))).all(), disks)
    places = {one: place for place, one in enumerate(ids)}
    return sorted(found, key=lambda item: places[item.id])


def points(
    database: Database, item: str, *, dropped: bool = False, direction: Direction | None = None
) -> list[Made]:
    """Oldest first: those that can be chosen, or those that are dropped and whose replicas may hold them yet; of the
    direction in which the item replicates now, if none is named.
    """
    with database.reading() as connection:
        return _points(connection, item, dropped, direction=direction)


def point(database: Database, item: str, number: int | None, direction: Direction | None = None) -> Made:
    """One of those that can be chosen. Raises Refused where it is none of them."""
    found = next((one for one in points(database, item, direction=direction) if one.number == number), None)
    if found is None:
        raise errors.Refused(f"point {number} is gone")
    return found


def next_number(database: Database, item: str) -> int:
    """Of a point: they go on in whatever direction it replicates."""
    with database.reading() as connection:
        newest = connection.execute(select(func.max(_POINT.c.number)).where(_POINT.c.item == item)).scalar()
        return (newest or 0) + 1


def newest(database: Database, item: str) -> Made | None:
    """The newest point that can be chosen; None before the first."""
    with database.reading() as connection:
        return next(iter(_points(connection, item, dropped=False, most=1)), None)


def _points(
    connection: Connection, item: str, dropped: bool, most: int | None = None, direction: Direction | None = None
) -> list[Made]:
    """Oldest first; the newest so many."""
    now = select(_ITEM.c.direction).where(_ITEM.c.id == item).scalar_subquery()
    chosen = select(_POINT).where(
        _POINT.c.item == item, _POINT.c.dropped.is_(dropped), _POINT.c.direction == (direction or now)
    )  # fmt: skip
    rows = sound(_POINT, connection.execute(chosen.order_by(_POINT.c.number.desc()).limit(most)))
    return [
        Made(
            row.number, _time(row.time), row.at, row.application, row.pinned, row.generations, row.changed_bytes,
            row.direction,
        ) for row in rows
    ][::-1]  # fmt: skip


def _time(said: str) -> str:
    try:
        datetime.datetime.fromisoformat(said)
    except ValueError as error:
        raise msgspec.ValidationError(f"point.time: {error}") from None
    return said


def _held_all(rows: Sequence[Any], disks: Iterable[Any]) -> list[Held]:
    of: dict[str, list[Any]] = {row.id: [] for row in sound(_ITEM, rows)}
    for disk in sound(_DISK, disks):
        if disk.item in of:
            of[disk.item].append(disk)
    try:
        return [_held(row, of[row.id]) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise msgspec.ValidationError(f"an item: {error}") from error


def _read(said: Any, kind: type[Any]) -> Any:
    """A column of JSON. Not by a union with None, which msgspec would work out anew for each row."""
    return None if said is None else msgspec.convert(said, kind)


def _held(row: Any, disks: Sequence[Any]) -> Held:
    timeline = Timeline(row.timeline["at"], Moment(*row.timeline["moment"])) if row.timeline is not None else None
    forward = row.direction == "forward"
    # Where all of the item goes, what left it before goes too.
    gone = [disk for disk in disks if disk.leaving is not None and row.ending is None]
    disks = [disk for disk in disks if disk not in gone]
    homes, ids = {disk.path: disk.replica for disk in disks}, {disk.path: disk.replica_id for disk in disks}
    backs, back_ids = {disk.path: disk.back for disk in disks}, {disk.path: disk.back_id for disk in disks}
    return Held(
        row.id, row.machine, row.protection, State(row.state), row.doing, row.epoch, row.due, row.last,
        row.failures, row.sending, row.reason, msgspec.convert(row.statistics, Statistics), timeline,
        homes if forward else {path: back or "" for path, back in backs.items()}, ids if forward else back_ids,
        _read(row.ending, Ending), _read(row.application or None, Application) or Application(),
        _read(row.at_rest, Plan), Tripwire.read(row.tripwire or {}),
        row.active, row.direction, _read(row.failover, Intent), _read(row.test, Test), _read(row.away, Placed),
        homes, backs, back_ids, {disk.path: (disk.replica, disk.replica_id) for disk in gone}, row.lease_until,
        row.anew,
    )  # fmt: skip
