"""Failovers as the vault has them: each function is one transaction, which writes what is meant before it is done.

A failover holds the lease of its item, as a cycle does (../protection/leases.py), so two orchestrators never work on
one; an unplanned one takes the item from a cycle, whose point then does not count. Tests have a lease of their own.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select, update

from secondsite.engine import errors
from secondsite.orchestration.failover import table
from secondsite.orchestration.failover.effects import effects
from secondsite.orchestration.failover.intent import Intent, Placed
from secondsite.orchestration.failover.situation import RESTING, Situation
from secondsite.orchestration.failover.table import Refusal, Step
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import ledger
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.leases import FAILOVER, LEASE_SECONDS, NEVER
from secondsite.orchestration.scenarios.matrix import Abilities
from secondsite.orchestration.vault import audit, holders, schema
from secondsite.orchestration.vault.database import Database

_ITEM, _DISK, _POINT = schema.item, schema.disk, schema.point
# What may take an item from a running cycle.
_URGENT = ("unplanned", "cancel")

# The direction of a point that no replica has.
GONE = "gone"

Change = Callable[[Held, Situation], Intent]


@dataclass(frozen=True)
class Work:
    """An item as it is now, and what is to be done for it: nothing where it rests, and nobody has it then."""

    item: Held
    effects: tuple[str, ...]


def asked(connection: Connection, machine: str, action: str, abilities: Abilities) -> tuple[Held, Step]:
    """What an action would do now. Raises Refused with the rule's number."""
    item = ledger.find(connection, machine)
    chosen = _POINT.c.item == item.id, _POINT.c.dropped.is_(False), _POINT.c.direction == item.direction
    copied = bool(connection.execute(select(func.count()).select_from(_POINT).where(*chosen)).scalar())
    found = table.decide(ledger.situation(item, copied=copied), action, abilities)
    if isinstance(found, Refusal):
        raise errors.Refused(f"{found.rule}: {machine!r}: {found.words}")
    return item, found


def begin(
    database: Database, holder: str, machine: str, action: str, at: float, abilities: Abilities, change: Change
) -> Work:  # fmt: skip
    """Write down what an operator asks for, and take the item. Raises Refused where it may not be, and Busy where
    somebody else works on it.
    """
    with database.begin() as connection:
        item, step = asked(connection, machine, action, abilities)
        _free(item, connection, holder, at, urgent=action in _URGENT)
        intent = change(item, step.situation)
        return _write(connection, holder, item, step, intent, at)


def hold(database: Database, holder: str, machine: str, at: float, *, ending: bool = False) -> Held:
    """Take an item as it is (see ledger.find): nobody else works on it then, and nothing is meant. Raises Busy."""
    with database.begin() as connection:
        item = ledger.find(connection, machine, ending=ending)
        _free(item, connection, holder, at, urgent=False)
        update_item(connection, item.id, {"lease_holder": holder, "lease_until": at + LEASE_SECONDS, "doing": FAILOVER})
        return item


def let_go(database: Database, holder: str, item: Held) -> None:
    """What `hold` took, where it was not lost meanwhile."""
    with database.begin() as connection:
        if _owns(connection, holder, item.id):
            update_item(connection, item.id, {"lease_holder": None, "lease_until": 0.0, "doing": None})


def resume(database: Database, holder: str, machine: str, at: float) -> Work | None:
    """Take an item whose failover works, to go on with it; None where none does. Raises Busy."""
    with database.begin() as connection:
        item = ledger.find(connection, machine)
        if item.failover is None or not effects(ledger.situation(item)):
            return None
        _free(item, connection, holder, at, urgent=False)
        update_item(connection, item.id, {"lease_holder": holder, "lease_until": at + LEASE_SECONDS, "doing": FAILOVER})
        return Work(item, effects(ledger.situation(item)))


def advance(database: Database, holder: str, machine: str, at: float, abilities: Abilities) -> Work:
    """The effects of the phase are done: the next one, or rest. Raises Refused where the item was lost."""
    with database.begin() as connection:
        item, step = asked(connection, machine, "done", abilities)
        _check(connection, holder, item.id)
        intent = item.failover
        assert intent is not None, "the table refuses an item without one"
        if step.situation.phase == "prepared" and not intent.options.wait:
            step = followed(step.situation, "start", abilities)
        work = _write(connection, holder, item, step, intent, at)
        _settle(connection, item, step.situation)
        if intent.left and intent.phase in ("committing", "cancelling"):
            audit.note(connection, "failover left behind", machine, who=intent.who, at=at, detail=intent.left)
            update_item(connection, item.id, {"reason": f"left behind: {intent.left}"})
        return Work(ledger.find(connection, machine), work.effects)


def save(database: Database, holder: str, item: Held, intent: Intent, made: Made | None = None) -> Held:
    """Note more of what is meant, and a point that was made for it. Raises Refused where the item was lost."""
    with database.begin() as connection:
        _check(connection, holder, item.id)
        update_item(connection, item.id, {"failover": msgspec.to_builtins(intent)})
        if made is not None:
            connection.execute(insert(_POINT).values({**msgspec.to_builtins(made), "item": item.id}))
        return ledger.find(connection, item.machine)


def backs(database: Database, holder: str, item: Held, places: Mapping[str, tuple[str, str | None]]) -> Held:
    """Where the replicas of the way back lie, and which they are. Raises Refused where the item was lost."""
    with database.begin() as connection:
        _check(connection, holder, item.id)
        for path, (back, number) in places.items():
            chosen = update(_DISK).where(_DISK.c.item == item.id, _DISK.c.path == path)
            connection.execute(chosen.values(back=back, back_id=number))
        return ledger.find(connection, item.machine)


def aside(database: Database, item: Held, what: str, at: float) -> None:
    """Tell the audit log of what lay in the way, and where it is now."""
    with database.begin() as connection:
        who = item.failover.who if item.failover is not None else audit.operator()
        audit.note(connection, "failover set aside", item.machine, who=who, at=at, detail=what)


def hide(database: Database, holder: str, item: Held, keep: int | None, direction: str) -> None:
    """Nobody chooses another point than `keep` any more (R9.10), or any. Raises Refused where the item was lost."""
    with database.begin() as connection:
        _check(connection, holder, item.id)
        others = update(_POINT).where(_POINT.c.item == item.id, _POINT.c.direction == direction)
        if keep is not None:
            others = others.where(_POINT.c.number != keep)
        connection.execute(others.values(dropped=True))


def drop(database: Database, holder: str, item: Held, keep: int, direction: str) -> None:
    """No replica has another point than `keep` any more. Raises Refused where the item was lost."""
    with database.begin() as connection:
        _check(connection, holder, item.id)
        _forget(connection, item.id, _POINT.c.number != keep, _POINT.c.direction == direction)


def failed(database: Database, holder: str, item: Held, error: errors.Error, at: float) -> None:
    """It waits for its operator (R9.7); or, where it is being taken back or ended, for the next try in a minute."""
    with database.begin() as connection:
        now = ledger.find(connection, item.machine)
        if now.failover is None or not _owns(connection, holder, item.id):
            return
        again = now.failover.phase in ("cancelling", "committing", "reversing") and error.retryable
        intent = msgspec.structs.replace(now.failover, error=str(error))
        update_item(connection, item.id, {
            "failover": msgspec.to_builtins(intent), "reason": str(error), "doing": None, "lease_holder": None,
            "lease_until": 0.0, "due": at + LEASE_SECONDS if again else NEVER,
        })  # fmt: skip


def refused(
    database: Database, holder: str, item: Held, error: errors.Error, at: float, abilities: Abilities
) -> None:  # fmt: skip
    """Nothing was done for it yet, nobody had its epoch: it is as it was before it was begun, but for the reason."""
    with database.begin() as connection:
        now = ledger.find(connection, item.machine)
        if now.failover is None or not _owns(connection, holder, item.id):
            return
        _write(connection, holder, now, followed(ledger.situation(now), "refused", abilities), now.failover, at)
        update_item(connection, item.id, {"reason": str(error), "epoch": now.failover.epoch - 1})


def followed(situation: Situation, action: str, abilities: Abilities) -> Step:
    """What an action makes of a situation that allows it."""
    found = table.decide(situation, action, abilities)
    assert isinstance(found, Step), found
    return found


def _write(
    connection: Connection, holder: str, item: Held, step: Step, intent: Intent, at: float
) -> Work:
    """The situation that follows. Who has things to do holds the item; where it rests nobody does, and what cycles is
    due at once.
    """
    after = step.situation
    kept = None
    if after.phase is not None:
        kept = msgspec.to_builtins(msgspec.structs.replace(
            intent, kind=after.kind, phase=after.phase, to=after.to, before=after.before, error=None,
        ))  # fmt: skip
    values: dict[str, Any] = {
        "state": int(after.state), "active": after.active, "direction": after.direction, "failover": kept,
        "epoch": max(intent.epoch, item.epoch), "reason": None, "doing": None, "lease_holder": None,
        "lease_until": 0.0, "anew": False, "due": at if after.phase is None and _goes_on(after.state) else NEVER,
    }  # fmt: skip
    if after.phase is None:
        values |= {"failures": 0, "sending": True}
    elif after.phase not in RESTING:
        values |= {"doing": FAILOVER, "lease_holder": holder, "lease_until": at + LEASE_SECONDS, "due": at}
    update_item(connection, item.id, values)
    return Work(ledger.find(connection, item.machine), step.effects)


def _goes_on(state: State) -> bool:
    """Is there a cycle to come? Also of a resync, whose turn finds out when its window opens (R7.3)."""
    return state.cycles or state is State.WAITING_FOR_START_RESYNCHRONIZE


def _settle(connection: Connection, item: Held, after: Situation) -> None:
    """What else is so once a phase has ended: where the machine runs, and what there is no more."""
    intent = item.failover
    assert intent is not None
    moves = intent.phase in ("starting", "changing") or after.phase == "starting"
    if moves and intent.to == "target":
        update_item(connection, item.id, {"away": msgspec.to_builtins(intent.there)})
    if intent.phase == "cancelling" and intent.to == "target":
        update_item(connection, item.id, {"away": None})
    if after.phase is None and intent.phase == "committing" and intent.to == "source":
        # What came home is as old as the points that the target has, whatever came back meanwhile.
        update_item(connection, item.id, {"away": None, "last": _newest(connection, item.id)})
        _forget(connection, item.id, _POINT.c.direction == "reverse")
        connection.execute(update(_DISK).where(_DISK.c.item == item.id).values(back=None, back_id=None))


def _newest(connection: Connection, item: str) -> float | None:
    """The time of the newest point at the target that may be chosen, in UTC seconds."""
    chosen = _POINT.c.item == item, _POINT.c.direction == "forward", _POINT.c.dropped.is_(False)
    told = connection.execute(select(_POINT.c.time).where(*chosen).order_by(_POINT.c.number.desc()).limit(1)).scalar()
    return datetime.datetime.fromisoformat(told).timestamp() if told is not None else None


def _forget(connection: Connection, item: str, *which: ColumnElement[bool]) -> None:
    """Points whose replicas nobody has any more. The last number that was given stays, as one of no direction, since a
    number is never given twice.
    """
    newest = connection.execute(select(func.max(_POINT.c.number)).where(_POINT.c.item == item)).scalar()
    last = update(_POINT).where(_POINT.c.item == item, _POINT.c.number == newest, *which)
    connection.execute(last.values(direction=GONE, dropped=True))
    connection.execute(delete(_POINT).where(_POINT.c.item == item, _POINT.c.direction != GONE, *which))
    spent = delete(_POINT).where(_POINT.c.item == item, _POINT.c.direction == GONE, _POINT.c.number != newest)
    connection.execute(spent)


def place(database: Database, holder: str, item: Held, choose: Callable[[list[str]], Placed]) -> Held:
    """Where it goes, as `choose` says, which is told what is `taken`; nobody else chooses beside it. Raises Refused
    where the item was lost, and what `choose` raises.
    """
    assert item.failover is not None
    with database.alone() as connection:
        _check(connection, holder, item.id)
        intent = msgspec.structs.replace(item.failover, there=choose(_taken(connection, item.id)))
        update_item(connection, item.id, {"failover": msgspec.to_builtins(intent)})
        return ledger.find(connection, item.machine)


def taken(database: Database, item: str) -> list[str]:
    """Addresses that other machines have which run at their targets, or are about to (R11.7, R11.8)."""
    with database.reading() as connection:
        return _taken(connection, item)


def _taken(connection: Connection, item: str) -> list[str]:
    moved = select(_ITEM.c.away, _ITEM.c.failover).where(
        _ITEM.c.id != item, or_(_ITEM.c.away.is_not(None), _ITEM.c.failover.is_not(None))
    )  # fmt: skip
    found = set[str]()
    for row in connection.execute(moved):
        for placed in (row.away or {}, (row.failover or {}).get("there") or {}):
            made = placed.get("spec") or placed.get("definition") or {}  # in Azure it is no more than that
            found |= {nic["address"].partition("/")[0] for nic in made.get("nics", ()) if nic.get("address")}
    return sorted(found)


def _free(item: Held, connection: Connection, holder: str, at: float, *, urgent: bool) -> None:
    found = connection.execute(
        select(_ITEM.c.lease_holder, _ITEM.c.lease_until, _ITEM.c.doing).where(_ITEM.c.id == item.id)
    ).one()  # fmt: skip
    if found.lease_holder in (None, holder) or found.lease_until < at or holders.gone(found.lease_holder):
        return
    if found.doing == FAILOVER:
        raise errors.Busy(f"another orchestrator works on the failover of {item.machine!r}")
    if not urgent:
        raise errors.Busy(f"{item.machine!r} is being replicated")


def _owns(connection: Connection, holder: str, item: str) -> bool:
    return connection.execute(select(_ITEM.c.lease_holder).where(_ITEM.c.id == item)).scalar() == holder


def _check(connection: Connection, holder: str, item: str) -> None:
    if not _owns(connection, holder, item):
        raise errors.Refused("another orchestrator has this item now")


def update_item(connection: Connection, item: str, values: Mapping[str, Any]) -> None:
    """Inside a transaction."""
    connection.execute(update(_ITEM).where(_ITEM.c.id == item).values(dict(values)))

