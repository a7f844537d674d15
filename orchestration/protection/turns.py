"""What an item comes to besides its cycles: a first copy that has arrived, a resync that begins. Each function is one
transaction of who has its lease, as in leases.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import delete, insert, or_, select, update

from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection.item import Made
from secondsite.orchestration.protection.leases import ours
from secondsite.orchestration.vault import schema
from secondsite.orchestration.vault.database import Database

_ITEM, _DISK, _POINT = schema.item, schema.disk, schema.point
# Of operators: a cycle that runs is not to go on in it.
_STOPPED = (State.SUSPENDED, State.RESYNCHRONIZE_SUSPENDED, State.WAITING_FOR_START_RESYNCHRONIZE)


def hold(database: Database, holder: str, item: str, made: Made) -> None:
    """What replicas hold and nobody may choose: it goes from them once the machine has a point. Raises Refused where
    the lease was lost.
    """
    with database.begin() as connection:
        ours(connection, holder, item, {})
        connection.execute(insert(_POINT).values({**msgspec.to_builtins(made), "item": item, "dropped": True}))


def arrive(database: Database, holder: str, item: str, whole: Sequence[int]) -> None:
    """Every disk has its first copy (R5.7), and these points, which waited for that, can be chosen. The item stays
    ours. Raises Refused where the lease was lost.
    """
    with database.begin() as connection:
        ours(connection, holder, item, {"state": int(State.REPLICATING), "reason": None})
        chosen = update(_POINT).where(_POINT.c.item == item, _POINT.c.number.in_(list(whole)))
        connection.execute(chosen.values(dropped=False))


def later(database: Database, holder: str, item: str, epoch: int) -> None:
    """It sends in this epoch from now on. Raises Refused where the lease was lost."""
    with database.begin() as connection:
        ours(connection, holder, item, {"epoch": epoch})


def forget(database: Database, holder: str, item: str, numbers: Sequence[int]) -> None:
    """Points that no replica has any more: nothing is left to be dropped. Raises Refused where the lease was lost."""
    with database.begin() as connection:
        ours(connection, holder, item, {})
        connection.execute(delete(_POINT).where(_POINT.c.item == item, _POINT.c.number.in_(list(numbers))))


def resync(database: Database, holder: str, item: str) -> None:
    """A resync that was required begins by itself. Raises Refused where the lease was lost, or somebody was faster."""
    with database.begin() as connection:
        waits = _ITEM.c.state == int(State.WAITING_FOR_START_RESYNCHRONIZE)
        ours(connection, holder, item, {"state": int(State.RESYNCHRONIZING), "doing": "resync", "anew": False}, waits)


def stopped(database: Database, running: Mapping[str, State]) -> set[str]:
    """Of items in the states that their cycles began with, those that were paused since, or left the estate."""
    ended = or_(_ITEM.c.state.in_([int(state) for state in _STOPPED]), _ITEM.c.ending.is_not(None))
    wanted = select(_ITEM.c.id, _ITEM.c.state).where(_ITEM.c.id.in_(list(running)), ended)
    with database.reading() as connection:
        return {row.id for row in connection.execute(wanted) if running[row.id] != row.state}


def join(database: Database, item: str, path: str, replica_id: str) -> None:
    """A disk that was added has its first copy. Nobody's lease is needed for what is so, whoever says it."""
    with database.begin() as connection:
        chosen = update(_DISK).where(_DISK.c.item == item, _DISK.c.path == path, _DISK.c.replica_id.is_(None))
        connection.execute(chosen.values(replica_id=replica_id))


def wanted(database: Database, item: str, path: str) -> bool:
    """Is a disk to be copied, as far as the vault says?"""
    there = select(_ITEM.c.id).join(_DISK, _DISK.c.item == _ITEM.c.id).where(
        _ITEM.c.id == item, _DISK.c.path == path, _DISK.c.leaving.is_(None), _ITEM.c.ending.is_(None),
        _ITEM.c.state.not_in([int(state) for state in _STOPPED]),
    )  # fmt: skip
    with database.reading() as connection:
        return connection.execute(there).first() is not None


def left(database: Database, holder: str, item: str, path: str) -> None:
    """Nothing needs the replica of a disk any more that left its machine. Raises Refused where the lease was lost."""
    with database.begin() as connection:
        ours(connection, holder, item, {})
        chosen = delete(_DISK).where(_DISK.c.item == item, _DISK.c.path == path, _DISK.c.leaving.is_not(None))
        connection.execute(chosen)
