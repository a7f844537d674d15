"""What an operator is told of failovers: how one stands, and what one would do."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.failover import effects, record, seeing
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.failover.machines import Known
from secondsite.orchestration.failover.record import followed
from secondsite.orchestration.failover.situation import RESTING, Situation, onward, whereabouts
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held, Made


@dataclass(frozen=True)
class Plan:
    """What an action would do now: steps in words, the point it would take, where the machine goes, and how it would
    stand afterwards.
    """

    machine: str
    action: str
    steps: tuple[str, ...]
    state: str
    point: Made | None
    there: Placed | None


def plan(failovers: Failovers, machine: str, action: str, at: str | None, *, wait: bool = False) -> Plan:
    """Nothing is changed, and no host is asked. Raises Refused where it may not be done."""
    known, chosen = failovers.known(machine), failovers.chosen(machine, at)
    with failovers.database.reading() as connection:
        item, step = record.asked(connection, machine, action, known.abilities)
    after, found = step.situation, [*step.effects]
    test = action.startswith("test")
    while not _rests(after, test=test, wait=wait):
        event = "test-done" if test else "done"
        if (after.test if test else after.phase) == "prepared":
            event = "test-start" if test else "start"
        made = followed(after, event, known.abilities)
        after = made.situation
        found += made.effects
    there = _there(known, item, after, chosen, test=test)
    side = "target" if test else after.to or item.active
    told = [effects.words(effects.named(one, side, azure=known.azure)) for one in found]
    return Plan(machine, action, tuple(told), after.state.words, chosen, there)


def _rests(after: Situation, *, test: bool, wait: bool) -> bool:
    if test:
        return after.test in (None, "running") or (wait and after.test == "prepared")
    return after.phase is None or (after.phase in RESTING and (after.phase != "prepared" or wait))


def _there(known: Known, item: Held, after: Situation, chosen: Made | None, *, test: bool) -> Placed | None:
    if chosen is None:
        return None
    if test:
        return known.test(item, chosen, "plan", network="none")
    if after.to == "target":
        return known.away(item, chosen, "plan", ())
    return known.home() if after.to == "source" else None


def standing(item: Held) -> dict[str, Any]:
    """How it stands, as --json tells it (R9.12, R9.13)."""
    way, test = item.failover, item.test
    return {
        "machine": item.machine, "state": item.state.words, "active": item.active,
        "where": _where(item), "direction": item.direction,
        "reason": item.reason, "epoch": item.epoch,
        "runs_on": item.away.host if item.away and item.active == "target" else None,
        "away": _placed(item.away),
        "failover": None if way is None else {
            "kind": way.kind, "phase": way.phase, "to": way.to, "point": way.point, "began": _time(way.began),
            "who": way.who, "error": way.error,
            "onward": onward(item.machine, way.kind, way.phase) if way.error is not None else None,
            "there": _placed(way.there),
        },
        "test": None if test is None else {
            "phase": test.phase, "point": test.point, "began": _time(test.began), "who": test.who,
            "drill": test.drill is not None, "network": test.network, "error": test.error, "there": _placed(test.there),
        },
    }  # fmt: skip


def _where(item: Held) -> str:
    """In words. What is made of its disks in Azure, and whether that runs, only Azure knows."""
    way = item.failover
    found = whereabouts(item.active, way.phase if way else None)
    away = item.away or (way.there if way and way.to == "target" else None)
    gone = found.startswith("runs") and item.active == "target" and away is not None and away.spec is None
    return "has its disks in Azure" if gone else found


def looked(failovers: Failovers, items: Sequence[Held]) -> list[dict[str, Any]]:
    """How each stands, with what is seen of it just now (R9.13)."""
    found = seeing.seen(failovers, items)
    told = [{**standing(item), "seen": found[item.machine]} for item in items]
    return [{**one, "where": seeing.whereabouts(one["where"], one["active"], one["seen"])} for one in told]


def seen(failovers: Failovers, item: Held) -> dict[str, str]:
    """Whether the machine is seen running at each side, just now (R9.13)."""
    return seeing.seen(failovers, [item])[item.machine]


def _placed(placed: Placed | None) -> Any:
    return None if placed is None else msgspec.to_builtins(placed)


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat()


def find(failovers: Failovers, machine: str | None) -> list[Held]:
    """A machine, or all of which something is under way or that run at their targets. Raises Refused."""
    items = lookup.load(failovers.database, machine)
    if machine is not None and not items:
        raise errors.Refused(f"no machine {machine!r} is protected")
    moved = [one for one in items if one.failover or one.test or one.active == "target" or one.direction == "reverse"]
    return items if machine is not None else moved
