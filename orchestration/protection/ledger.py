"""What becomes of an item, as it is written down: cycles, points, what an operator asks. Each function is one
transaction, and one that a cycle ends with raises Refused where the lease was lost (leases.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, case, delete, func, insert, select, true, update

from secondsite.engine import errors
from secondsite.orchestration.failover.situation import Situation
from secondsite.orchestration.failover.table import Refusal, decide
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.leases import NEVER, ours
from secondsite.orchestration.protection.rest import Plan
from secondsite.orchestration.vault import audit, holders, schema
from secondsite.orchestration.vault.database import Database

_ITEM, _DISK, _POINT = schema.item, schema.disk, schema.point
_FREE: Mapping[str, Any] = {"doing": None, "lease_holder": None, "lease_until": 0.0}


def end(
    database: Database, holder: str, item: str, values: Mapping[str, Any], *, since: State | None = None
) -> None:
    """What became of it, and it is given back. Its state becomes another one only where it is still the one that the
    cycle began with (`since`): an operator who paused it meanwhile has said the last word. Raises Refused where the
    lease was lost.
    """
    with database.begin() as connection:
        ours(connection, holder, item, {**_said(values, since), **_FREE})


def finish(
    database: Database, holder: str, item: str, values: Mapping[str, Any], made: Made, gone: Sequence[int],
    swept: Sequence[int], *, since: State | None = None, also: Callable[[Connection], None] = lambda connection: None,
) -> None:  # fmt: skip
    """A cycle that was applied, in one transaction: what became of the item, its point, which points nobody chooses any
    more (`gone`) and which the replicas do not hold any more (`swept`); `also` is done before those go. It is given
    back. Raises Refused where the lease was lost.
    """
    with database.begin() as connection:
        ours(connection, holder, item, {**_said(values, since), **_FREE})
        connection.execute(insert(_POINT).values({**msgspec.to_builtins(made), "item": item}))
        also(connection)
        of_item = _POINT.c.item == item
        if swept:
            connection.execute(delete(_POINT).where(of_item, _POINT.c.number.in_(swept), _POINT.c.dropped))
        if gone:  # one that was pinned just now stays
            chosen = update(_POINT).where(of_item, _POINT.c.number.in_(gone), _POINT.c.pinned.is_(None))
            connection.execute(chosen.values(dropped=True))


def _said(values: Mapping[str, Any], since: State | None) -> dict[str, Any]:
    """An item that left the estate meanwhile stays due as it is, and so does one whose operator put it into another
    state than `since`: what he made due at once is not put off.
    """
    changed = {"doing": None, **values}
    if since is not None and "state" in values:
        changed["state"] = case((_ITEM.c.state == int(since), values["state"]), else_=_ITEM.c.state)
    if since is not None and "anew" in values:
        changed["anew"] = case((_ITEM.c.state == int(since), values["anew"]), else_=_ITEM.c.anew)
    if "due" in values:
        same = and_(_ITEM.c.ending.is_(None), true() if since is None else _ITEM.c.state == int(since))
        changed["due"] = case((same, values["due"]), else_=_ITEM.c.due)
    return changed


def know(database: Database, holder: str, item: str, ids: Mapping[str, str]) -> None:
    """Note which replicas there are, by path of the disk. Raises Refused where the lease was lost."""
    with database.begin() as connection:
        ours(connection, holder, item, {})
        direction = connection.execute(select(_ITEM.c.direction).where(_ITEM.c.id == item)).scalar()
        for path, replica in ids.items():
            chosen = update(_DISK).where(_DISK.c.item == item, _DISK.c.path == path)
            connection.execute(chosen.values({"replica_id" if direction == "forward" else "back_id": replica}))


def rest(database: Database, holder: str, item: str, plan: Plan | None) -> None:
    """Note that a machine is about to stand still, and how it goes on; or that it did (None). Raises Refused where the
    lease was lost.
    """
    with database.begin() as connection:
        ours(connection, holder, item, {"at_rest": None if plan is None else msgspec.to_builtins(plan)})


def drop_all(database: Database, holder: str, item: str) -> None:
    """Nobody chooses a point of it any more: its replicas are about to go. Raises Refused where the lease was lost."""
    with database.begin() as connection:
        ours(connection, holder, item, {})
        connection.execute(update(_POINT).where(_POINT.c.item == item).values(dropped=True))


def remove(database: Database, holder: str, item: Held, at: float, detail: str | None, who: str | None = None) -> None:
    """It is not protected any more, and nothing is left of it but a line in the audit log, of who had that done. Raises
    Refused where the lease was lost.
    """
    with database.begin() as connection:
        ours(connection, holder, item.id, {})
        for table in (_POINT, _DISK):
            connection.execute(delete(table).where(table.c.item == item.id))
        connection.execute(delete(_ITEM).where(_ITEM.c.id == item.id))
        audit.note(connection, "disable", item.machine, who=who or holder, at=at, detail=detail)


def postpone(database: Database, holder: str, item: str, due: float, failures: int, reason: str) -> None:
    """An item that could not be ended is tried again at `due`. Raises Refused where the lease was lost."""
    with database.begin() as connection:
        values = {"due": due, "failures": failures, "reason": reason, "lease_holder": None, "lease_until": 0.0}
        ours(connection, holder, item, values)


def act(database: Database, machine: str, action: str, at: float) -> State:
    """An operator's action on what protection does (failover/table.py); what it makes runnable is due at once. Raises
    Refused where the situation does not allow it.
    """
    with database.begin() as connection:
        item = find(connection, machine)
        state = _decided(item, action).state
        if action == "recover" and item.last is None:
            state = State.READY_FOR_INITIAL_REPLICATION  # R5.7: what has no first copy yet does not replicate
        changed = update(_ITEM).where(_ITEM.c.id == item.id, _ITEM.c.state == int(item.state))
        values = {"state": int(state), **({"due": at, "failures": 0} if state.cycles else {})}
        # R7.9: it takes an operator's word that a replica is lost, of this resync and of no other.
        values["anew"] = action == "resync" or (item.anew and action in ("pause", "resume"))
        if action == "cancel resync":
            values["due"] = NEVER  # who cancelled it begins the next one, too (R7.5)
        if connection.execute(changed.values(values)).rowcount != 1:
            raise errors.Busy(f"{machine!r} changed just now")
        return state


@dataclass(frozen=True)
class Asked:
    """An item as it was when a cycle was asked for: its newest point (0 without one), its failures in a row, and when
    it was due from then on.
    """

    item: str
    point: int
    failures: int
    due: float


def hurry(database: Database, machine: str, at: float) -> Asked | None:
    """Make an item due at once; None while somebody runs it. Raises Refused where its state has no cycles."""
    with database.begin() as connection:
        found = find(connection, machine)
        _decided(found, "cycle")
        free = holders.free(connection, at)
        due = case((_ITEM.c.due < at, _ITEM.c.due), else_=at)
        chosen = update(_ITEM).where(_ITEM.c.id == found.id, free)
        if connection.execute(chosen.values(due=due)).rowcount != 1:
            return None
        newest = select(func.max(_POINT.c.number)).where(_POINT.c.item == found.id)
        return Asked(found.id, connection.execute(newest).scalar() or 0, found.failures, min(found.due, at))


def find(connection: Connection, machine: str, *, ending: bool = False) -> Held:
    """The item of a machine, which nobody else changes as long as the transaction lasts. Raises Refused where it is not
    protected, or (unless `ending` is meant too) not for much longer.
    """
    wanted = select(_ITEM.c.id).where(_ITEM.c.machine == machine).with_for_update()
    ids = list(connection.execute(wanted).scalars())
    if not ids:
        raise errors.Refused(f"no machine {machine!r} is protected")
    item = lookup.among(connection, ids)[0]
    if item.ending is not None and not ending:
        raise errors.Refused(f"R1.10: {machine!r} is being disabled")
    return item


def _decided(item: Held, action: str) -> Situation:
    """What follows by the table of failovers. Raises Refused where nothing does."""
    made = decide(situation(item), action)
    if isinstance(made, Refusal):
        raise errors.Refused(f"{made.rule}: {item.machine!r}: {made.words}")
    return made.situation


def situation(item: Held, *, copied: bool = True) -> Situation:
    """Where it stands, for the table of failovers."""
    way, test = item.failover, item.test
    return Situation(
        state=item.state, active=item.active, direction=item.direction, kind=way.kind if way else None,
        phase=way.phase if way else None, to=way.to if way else None, before=way.before if way else None,
        test=test.phase if test else None, copied=copied,
    )  # fmt: skip


def pin(database: Database, item: str, number: int, why: str | None) -> None:
    """Keep a point until it is unpinned (`why` None). Raises Refused where there is no such point."""
    with database.begin() as connection:
        chosen = update(_POINT).where(_POINT.c.item == item, _POINT.c.number == number, _POINT.c.dropped.is_(False))
        if connection.execute(chosen.values(pinned=why)).rowcount != 1:
            raise errors.Refused(f"there is no point {number}")
