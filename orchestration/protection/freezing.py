"""A machine's rest around the cut of a cycle, and what the vault knows of it: a cycle that is killed meanwhile leaves a
note, by which whoever takes the item next lets the machine go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.protection import keeper, ledger, rest
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.rest import Plan
from secondsite.orchestration.vault import audit
from secondsite.orchestration.vault.database import Database


@dataclass
class Freezing:
    """For one cycle of an item that `holder` has. `tried` and `warnings` are of all the cuts that it took."""

    database: Database
    holder: str
    item: Held
    plan: Plan
    tried: bool = False
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def quiesce(self) -> Iterator[engine.Freeze]:
        """Around the instant. Raises Refused where the lease was lost, before anything stands still."""
        ledger.rest(self.database, self.holder, self.item.id, self.plan)
        self.tried = True
        with keeper.kept(self.plan) as found:
            yield found
        self.warnings += [one for one in found.warnings if one not in self.warnings]
        if found.thawed:
            ledger.rest(self.database, self.holder, self.item.id, None)

    def begin(self, host: Host) -> None:
        """It is about to be done on another host. Raises Refused where the lease was lost."""
        self.plan = msgspec.structs.replace(self.plan, host=host.name, reach=host.reach)
        ledger.rest(self.database, self.holder, self.item.id, self.plan)
        self.tried = True

    def end(self) -> None:
        """The machine goes on there. Raises Refused where the lease was lost."""
        ledger.rest(self.database, self.holder, self.item.id, None)


def _let_go(plan: Plan) -> str | None:
    """What went wrong, or None."""
    if not plan.reach:
        return rest.go_on(plan)
    calls = hosts.reach(Host(plan.host, reach=plan.reach))
    try:
        problem = calls.call("replica.go-on", {"rest": msgspec.to_builtins(plan)})["problem"]
    except errors.Error as error:
        return str(error)
    return None if problem is None else str(problem)


def go_on(database: Database, holder: str, item: Held, now: float) -> None:
    """Let the machine of an item go on that a killed cycle, or one that failed to do so, left at rest. After so many
    tries that is left to a person, and told. Raises Refused where the lease was lost.
    """
    if item.at_rest is None:
        return
    problem, tries = _let_go(item.at_rest), item.at_rest.tries + 1
    ended = problem is None or tries >= rest.MOST_TRIES
    left = None if ended else msgspec.structs.replace(item.at_rest, tries=tries)
    ledger.rest(database, holder, item.id, left)
    if ended:
        with database.begin() as connection:
            detail = f"given up after {tries} tries: {problem}" if problem else "a cycle had ended while it was at rest"
            audit.note(connection, "let go on", item.machine, who=holder, at=now, detail=detail)
