"""Tell the replicas of an item what the vault knows of it (note.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from secondsite.engine import errors
from secondsite.orchestration.protection import lookup, note
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.joining import without
from secondsite.orchestration.protection.worker import Worker
from secondsite.orchestration.vault.database import Database


def told(
    database: Database, item: Held, points: Iterable[Made], dropped: Iterable[Made], **more: Any
) -> dict[str, Any]:
    """The note with these points of the direction in which it replicates, and those of the other one as they are; see
    note.of.
    """
    other, gone = [], []
    if any(item.backs.values()):
        way = "reverse" if item.direction == note.FORWARD else note.FORWARD
        other = lookup.points(database, item.id, direction=way)
        gone = lookup.points(database, item.id, dropped=True, direction=way)
    return note.of(item, [*points, *other], [*dropped, *gone], **more)


def write(worker: Worker, item: Held, said: Mapping[str, Any]) -> list[str]:
    """Into the replicas of an item; warnings where one cannot keep it, as with an agent of an older version. What may
    pass is raised: a point is the machine's only when all replicas know it.
    """
    try:
        worker.note(list(item.disks.values()), said, item.epoch)
    except errors.Error as error:
        if error.retryable:
            raise
        return [f"the replicas could not be told of this point, and a lost vault would lose it: {error}"]
    return []


def refresh(database: Database, worker: Worker, machine: str) -> list[str]:
    """After somebody changed something of an item beside its cycles: tell the replicas as they are. What goes wrong is
    a warning, since the next cycle tells them anyway. One that runs meanwhile tells them once more.
    """
    items = lookup.load(database, machine)
    if not items or not any(items[0].ids.values()):
        return []
    item = without(items[0], [path for path, known in items[0].ids.items() if known is None])
    points, dropped = lookup.points(database, item.id), lookup.points(database, item.id, dropped=True)
    said = told(
        database, item, points, dropped, state=int(item.state), timeline=item.timeline, ids=item.ids,
        application=item.application,
    )  # fmt: skip
    try:
        return write(worker, item, said)
    except errors.Error as error:
        return [f"the replicas could not be told yet: {error}; the next cycle does"]
