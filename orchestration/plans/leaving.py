"""What a run leaves behind at its machines when it is given up, and the clean-up of their tests, all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.failover.situation import WORKING, onward
from secondsite.orchestration.failover.trying import Tests
from secondsite.orchestration.plans import journal
from secondsite.orchestration.plans.doing import PARALLEL
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.vault import audit, holders
from secondsite.orchestration.vault.database import Database


@dataclass(frozen=True)
class Left:
    """A machine with a test failover, or with a failover that waits: its phase, and what goes on with it in words."""

    machine: str
    test: str | None
    failover: str | None
    onward: str


def left(database: Database, names: Sequence[str]) -> list[Left]:
    """Of these machines those that something is under way of, in their order."""
    items = {item.machine: item for item in lookup.load(database)}
    found = [items[name] for name in names if name in items]
    return [_left(item) for item in found if item.test is not None or item.failover is not None]


def _left(item: Held) -> Left:
    way, test, machine = item.failover, item.test, item.machine
    if way is None:
        told = f"`secondsite failover test-cleanup {machine}` takes it away"
    elif way.phase in WORKING:
        told = onward(machine, way.kind, way.phase)
    else:
        on = {"prepared": "start", "copied": "complete", "running": "commit"}[way.phase]
        keeps = "keeps it" if on == "commit" else "goes on"
        told = f"`secondsite failover {on} {machine}` {keeps}, `secondsite failover cancel {machine}` takes it back"
    return Left(machine, test.phase if test else None, way.phase if way else None, told)


def clean(
    failovers: Failovers, plan: str, names: Sequence[str], notes: str | None,
    told: Callable[[str, errors.Error | None], object],
) -> dict[str, errors.Error | None]:  # fmt: skip
    """Take away the test failovers of these machines, beside each other; by machine why it could not be done (R9.3).
    `told` hears of each in their order. Raises Refused where a run of the plan is testing them yet.
    """
    database = failovers.database
    journal.refuse_unended(database, plan, kind="test")
    items = {item.machine: item for item in lookup.load(database) if item.test is not None}
    wanted = [items[name] for name in names if name in items]
    found: dict[str, errors.Error | None] = {}
    if wanted:
        with ThreadPoolExecutor(min(PARALLEL, len(wanted)), "machine") as pool:
            done = pool.map(lambda item: _clean(failovers, item, notes), wanted)
            for item, error in zip(wanted, done, strict=True):
                found[item.machine] = error
                told(item.machine, error)
    return found


def _clean(failovers: Failovers, item: Held, notes: str | None) -> errors.Error | None:
    """One that drills with it yet cleans up itself."""
    drill = item.test.drill if item.test is not None else None
    try:
        if failovers.stops():
            raise errors.Cancelled("stopped on request")
        if drill is not None and not holders.gone(drill):
            raise errors.Busy("a drill is at its test failover, and cleans up itself")
        with audit.action(failovers.database, "failover test-cleanup", item.machine, who=failovers.who):
            Tests(failovers).cleanup(item.machine, notes=notes)
    except errors.Error as error:
        return error
    return None
