"""Disks in Azure: the disks of a point become page blobs there, and go once nobody is to run from them any more.

Whoever works on an item has its lease in the vault, so a lease on a blob that is not a machine's is left from somebody
who was killed, or lost the item: it is taken, and what that one writes yet counts no more.
"""

from __future__ import annotations

from collections.abc import Callable

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.protection.item import Held, Made

Cancel = Callable[[], bool]


def make(item: Held, point: Made, placed: Placed, cancel: Cancel, state: str | None) -> None:
    """Each disk of the point as a page blob, which is compared and gone on with where it is there."""
    for path, blob in placed.disks.items():
        at = str(point.generations[path])
        engine.materialize(item.homes[path], blob, at=at, in_place=True, take=True, state=state, cancel=cancel)


def delete(item: Held, placed: Placed, cancel: Cancel) -> None:
    """R10.6: the page blobs go that were made for a machine; one that is not there is fine. Raises Held where a machine
    in Azure has one yet, Refused for what somebody else put there.
    """
    for path, blob in placed.disks.items() if placed.spec is None else ():
        number = item.ids.get(path)
        if number is not None:  # without its replica no disk was ever made
            engine.delete_disk(blob, replica_id=number, take=True, cancel=cancel)


def check_free(placed: Placed) -> None:
    """Before anything is taken away. Raises Busy where a machine in Azure has a disk: until it is gone there."""
    for blob in placed.disks.values() if placed.spec is None else ():
        if engine.disk_in_use(blob):
            raise errors.Busy("a machine in Azure has it; delete that machine there, and keep its disks", path=blob)


def state(placed: Placed) -> tuple[str, str]:
    """(stopped or unknown, why): nothing of ours runs in Azure; what somebody made of the definition has the disks."""
    for blob in placed.disks.values():
        if engine.disk_in_use(blob):
            return "unknown", f"a machine there has {blob}; delete that machine, and keep its disks"
    return "stopped", "nothing of ours runs in Azure"
