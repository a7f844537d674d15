"""What a running orchestrator does about failovers: it goes on with what was left behind, and ends tests in time."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from secondsite.engine import errors
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.failover.trying import Tests
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.vault import audit, schema

# A test stands for two weeks; whether one has is looked at so often.
LOOK_SECONDS = 30.0


def failover(failovers: Failovers, machine: str) -> None:
    """Complete a failover, or its taking back, whose orchestrator died. Raises what keeps it from being done."""
    with audit.action(failovers.database, "failover resume", machine, who=failovers.who):
        failovers.resume(machine)


def tests(failovers: Failovers, told: Callable[[Held, errors.Error | None], object]) -> None:
    """Go on with tests whose orchestrator died, and clean up those that stand for two weeks (R9.3)."""
    table, trying = schema.item, Tests(failovers)
    with failovers.database.reading() as connection:
        machines = list(connection.execute(select(table.c.machine).where(table.c.test.is_not(None))).scalars())
    for machine in machines:
        found = lookup.load(failovers.database, machine)
        if found and not failovers.stops():
            error = _test(trying, failovers, found[0])
            if error is not None:
                told(found[0], error)


def _test(trying: Tests, failovers: Failovers, item: Held) -> errors.Error | None:
    """Why it could not be done; it is tried again."""
    test = item.test
    if test is None or test.until >= failovers.now() or (test.error is not None and not trying.overdue(item)):
        return None
    try:
        if trying.overdue(item):
            with audit.action(failovers.database, "failover test-cleanup", item.machine, who=failovers.who):
                trying.cleanup(item.machine, forced=True)
        else:
            trying.resume(item.machine)
    except errors.Error as error:
        return error
    return None
