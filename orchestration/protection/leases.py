"""A lease says which orchestrator runs an item. Each function is one transaction.

Who holds it renews it; one that is older than a minute is nobody's, as is that of a process of this host that is gone,
and whoever takes it sees in `doing` what its dead holder was at. Only the clock of the database's host counts, where it
is a server.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, case, select, text, update

from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.vault import holders, schema
from secondsite.orchestration.vault.database import Database

LEASE_SECONDS = 60.0
# Far enough that an item which an operator has to look at is not due before.
NEVER = 1e12
# What a holder is at who works on a failover; nobody takes the item away from him.
FAILOVER = "failover"
_ITEM = schema.item


def now(database: Database, clock: float | None = None) -> float:
    """The present by the clock that leases count by."""
    if not database.shared:
        return time.time() if clock is None else clock
    with database.reading() as connection:
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar() or 0)


def set_back(database: Database, at: float) -> None:
    """What has a point of later than now is due: the clock was set back, and nothing waits for the time that was. All
    items are looked at for it, which is not for each claim.
    """
    plain = and_(_ITEM.c.state == int(State.REPLICATING), _ITEM.c.ending.is_(None), _ITEM.c.failover.is_(None))
    later = and_(_ITEM.c.last > at, _ITEM.c.due > at, _ITEM.c.due < NEVER, plain)
    with database.reading() as connection:
        found = connection.execute(select(_ITEM.c.id).where(later).limit(1)).first()
    if found is not None:
        with database.begin() as connection:
            connection.execute(update(_ITEM).where(later, holders.free(connection, at)).values(due=at))


def claim(database: Database, holder: str, at: float, most: int, running: Collection[str] = ()) -> list[Held]:
    """At most so many items that are due and nobody's, the longest due first; they are ours for a minute. What is
    `running` here was given back, or lost, a moment ago; it is taken when that has ended.
    """
    with database.begin() as connection:
        free = holders.free(connection, at)
        due = select(_ITEM.c.id).where(_ITEM.c.due <= at, free, _ITEM.c.id.not_in(running))
        wanted = due.order_by(_ITEM.c.due).limit(most)
        if database.shared:
            wanted = wanted.with_for_update(skip_locked=True)
        ids = list(connection.execute(wanted).scalars())
        if not ids:
            return []
        found = lookup.among(connection, ids)
        doing = case(
            (_ITEM.c.ending.is_not(None), "disable"), (_ITEM.c.failover.is_not(None), FAILOVER),
            (_ITEM.c.state == int(State.RESYNCHRONIZING), "resync"),
            else_="cycle",
        )  # fmt: skip
        taking = update(_ITEM).where(_ITEM.c.id.in_(ids))
        connection.execute(taking.values(lease_holder=holder, lease_until=at + LEASE_SECONDS, doing=doing))
        return found


def claim_named(database: Database, holder: str, at: float, machines: Sequence[str], state: State) -> list[Held]:
    """Those of some machines that are nobody's and in this state, due or not; they are ours for a minute."""
    with database.begin() as connection:
        free = holders.free(connection, at)
        wanted = select(_ITEM.c.id).where(_ITEM.c.machine.in_(machines), _ITEM.c.state == int(state), free)
        wanted = wanted.order_by(_ITEM.c.machine)
        if database.shared:
            wanted = wanted.with_for_update(skip_locked=True)
        ids = list(connection.execute(wanted).scalars())
        taking = update(_ITEM).where(_ITEM.c.id.in_(ids))
        connection.execute(taking.values(lease_holder=holder, lease_until=at + LEASE_SECONDS, doing="cycle"))
        return lookup.among(connection, ids)


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


def look(database: Database, holder: str, item: str) -> None:
    """Raises Refused where the lease was lost."""
    with database.reading() as connection:
        held = select(_ITEM.c.id).where(_ITEM.c.id == item, _ITEM.c.lease_holder == holder)
        if connection.execute(held).first() is None:
            raise _lost()


def anybody(database: Database, at: float) -> bool:
    """Whether somebody runs an item now."""
    with database.reading() as connection:
        held = select(_ITEM.c.id).where(_ITEM.c.lease_holder.is_not(None), _ITEM.c.lease_until >= at)
        return connection.execute(held.limit(1)).first() is not None


def ours(connection: Connection, holder: str, item: str, values: Mapping[str, Any], *also: Any) -> None:
    """Change an item that is ours, or look whether it is. Raises Refused."""
    ours = and_(_ITEM.c.id == item, _ITEM.c.lease_holder == holder, *also)
    changed = {"lease_holder": holder, **values}
    if connection.execute(update(_ITEM).where(ours).values(changed)).rowcount != 1:
        raise _lost()


def _lost() -> errors.Refused:
    return errors.Refused("another orchestrator has this item now")
