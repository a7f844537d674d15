"""A copy frequency that went up counts from now on, and not only after the cycle that was due by the one before."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select, update

from secondsite.orchestration.estate.model import Estate
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection.said import protected
from secondsite.orchestration.vault import schema

_ITEM = schema.item


def hasten(connection: Connection, before: Estate | None, estate: Estate, now: float) -> None:
    """Items come to the new grid where they are on the old one, so that those apart stay apart. What waits after an
    error goes on waiting (R6.4), as does what fails over.
    """
    if before is None or (before.policy, before.protection) == (estate.policy, estate.protection):
        return
    old, new = protected(before), protected(estate)
    every = {name: one.every for name, one in new.items() if name in old and one.every < old[name].every}
    waits = _ITEM.c.state == int(State.REPLICATING), _ITEM.c.failures == 0, _ITEM.c.failover.is_(None)
    rows = connection.execute(select(_ITEM.c.machine, _ITEM.c.due).where(*waits)) if every else ()
    sooner = [
        {"name": row.machine, "at": now + (row.due - now) % every[row.machine]}
        for row in rows if row.machine in every and row.due > now + every[row.machine]
    ]  # fmt: skip
    if sooner:
        chosen = update(_ITEM).where(_ITEM.c.machine == bindparam("name"))
        connection.execute(chosen.values(due=bindparam("at")), sooner)
