"""Test failovers as the vault has them: each function is one transaction (R9.1, R9.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select

from secondsite.engine import errors
from secondsite.orchestration.failover import record
from secondsite.orchestration.failover.effects import TEST_EFFECTS
from secondsite.orchestration.failover.intent import Test
from secondsite.orchestration.failover.record import Work, asked, followed
from secondsite.orchestration.failover.situation import Situation
from secondsite.orchestration.failover.table import Step
from secondsite.orchestration.protection import ledger
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.leases import LEASE_SECONDS
from secondsite.orchestration.scenarios.matrix import Abilities
from secondsite.orchestration.vault import audit, holders, schema
from secondsite.orchestration.vault.database import Database

# R9.3: so long a test failover may stand.
LONGEST_SECONDS = 14 * 24 * 3600.0


def begin(
    database: Database, holder: str, machine: str, action: str, at: float, abilities: Abilities,
    change: Callable[[Held, Situation], Test],
) -> Work:  # fmt: skip
    """As `begin`, of a test failover or its clean-up. Nobody chooses an address beside it (R9.4)."""
    with database.alone() as connection:
        item, step = asked(connection, machine, action, abilities)
        _free(item, holder, at)
        return _write(connection, holder, item, step, change(item, step.situation), at)


def advance(database: Database, holder: str, machine: str, at: float, abilities: Abilities) -> Work:
    """As `advance`; a test that was cleaned up leaves its notes (R9.3)."""
    with database.begin() as connection:
        item, step = asked(connection, machine, "test-done", abilities)
        if item.test is None or item.test.holder != holder:
            raise errors.Refused("another orchestrator has this test failover now")
        if step.situation.test is None:
            connection.execute(insert(schema.rehearsal).values(
                machine=machine, began=item.test.began, ended=at, who=item.test.who, point=item.test.point,
                forced=item.test.forced, notes=item.test.notes, drill=item.test.drill is not None,
            ))  # fmt: skip
        if step.situation.test == "prepared" and not item.test.wait:
            step = followed(step.situation, "test-start", abilities)
        return _write(connection, holder, item, step, item.test, at)


def left(database: Database, item: Held, what: str, who: str, at: float) -> None:
    """Tell the audit log of what stays where nobody answers any more."""
    with database.begin() as connection:
        audit.note(connection, "failover left behind", item.machine, who=who, at=at, detail=what)


def resume(database: Database, holder: str, machine: str, at: float) -> Work | None:
    """Take a test failover that works, to go on with it; None where none does. Raises Busy."""
    with database.begin() as connection:
        item = ledger.find(connection, machine)
        if item.test is None or item.test.phase not in TEST_EFFECTS:
            return None
        _free(item, holder, at)
        taken = msgspec.structs.replace(item.test, holder=holder, until=at + LEASE_SECONDS)
        record.update_item(connection, item.id, {"test": msgspec.to_builtins(taken)})
        return Work(ledger.find(connection, machine), TEST_EFFECTS[item.test.phase])


def renew(database: Database, holder: str, machine: str, at: float) -> bool:
    """Hold it a minute longer, if it is ours yet."""
    with database.begin() as connection:
        item = ledger.find(connection, machine)
        if item.test is None or item.test.holder != holder:
            return False
        kept = msgspec.structs.replace(item.test, until=at + LEASE_SECONDS)
        record.update_item(connection, item.id, {"test": msgspec.to_builtins(kept)})
        return True


def failed(
    database: Database, holder: str, machine: str, error: errors.Error, at: float, abilities: Abilities
) -> None:  # fmt: skip
    """It waits for its operator, who begins it again or cleans it up. What was refused before anything was done was
    never begun.
    """
    with database.begin() as connection:
        item = ledger.find(connection, machine)
        if item.test is None or item.test.holder != holder:
            return
        if not item.test.touched and not isinstance(error, errors.Cancelled):
            _write(connection, holder, item, followed(ledger.situation(item), "test-refused", abilities), item.test, at)
            return
        told = msgspec.structs.replace(item.test, error=str(error), holder=None, until=0.0)
        record.update_item(connection, item.id, {"test": msgspec.to_builtins(told)})


def notes(database: Database, machine: str, most: int = 100) -> list[dict[str, Any]]:
    """Test failovers that ended, the newest first (R9.3)."""
    table = schema.rehearsal
    wanted = select(table).where(table.c.machine == machine).order_by(table.c.id.desc()).limit(most)
    with database.reading() as connection:
        return [dict(row) for row in connection.execute(wanted).mappings()]


def save(database: Database, holder: str, item: Held, test: Test) -> Held:
    """As `save`."""
    with database.begin() as connection:
        now = ledger.find(connection, item.machine)
        if now.test is None or now.test.holder != holder:
            raise errors.Refused("another orchestrator has this test failover now")
        record.update_item(connection, item.id, {"test": msgspec.to_builtins(test)})
        return ledger.find(connection, item.machine)


def _free(item: Held, holder: str, at: float) -> None:
    other = item.test.holder if item.test is not None and item.test.until >= at else None
    if other not in (None, holder) and not holders.gone(str(other)):
        raise errors.Busy(f"another orchestrator works on the test failover of {item.machine!r}")


def taken(database: Database, item: str, network: str, group: str | None) -> list[str]:
    """Addresses of other tests that are on the same networks as one that begins (R9.4)."""
    if network == "none" or (network == "isolated" and group is None):
        return []
    with database.reading() as connection:
        wanted = select(schema.item.c.test).where(schema.item.c.id != item, schema.item.c.test.is_not(None))
        others = [row.test for row in connection.execute(wanted) if row.test]
    found = set[str]()
    for test in others:
        if test.get("network", "none") == network and (network != "isolated" or test.get("group") == group):
            nics = ((test.get("there") or {}).get("spec") or {}).get("nics", ())
            found |= {nic["address"].partition("/")[0] for nic in nics if nic.get("address")}
    return sorted(found)


def _write(
    connection: Connection, holder: str, item: Held, step: Step, test: Test, at: float
) -> Work:
    after, kept = step.situation, None
    if after.test is not None:
        works = bool(step.effects)
        kept = msgspec.to_builtins(msgspec.structs.replace(
            test, phase=after.test, error=None, holder=holder if works else None,
            until=at + LEASE_SECONDS if works else 0.0,
        ))  # fmt: skip
    record.update_item(connection, item.id, {"test": kept})
    return Work(ledger.find(connection, item.machine), step.effects)

