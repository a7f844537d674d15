"""A machine's rest around the cut of a cycle, and what the vault knows of it: a cycle that is killed meanwhile leaves a
note, by which whoever takes the item next lets the machine go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

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

# What the guest agent may take at most to let a machine go on, a command's time not counted.
_AGENT_SECONDS = 120.0
AGAIN_SECONDS = 60.0


@dataclass
class Freezing:
    """For one cycle of an item that `holder` has. `tried` and `warnings` are of all the cuts that it took; `stands`:
    the machine may stand still.
    """

    database: Database
    holder: str
    item: Held
    plan: Plan
    tried: bool = False
    stands: bool = False
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def quiesce(self) -> Iterator[engine.Freeze]:
        """Around the instant. Raises Refused where the lease was lost, before anything stands still."""
        self._note(self.plan)
        self.tried = True
        with keeper.kept(self.plan) as found:
            yield found
        self.warnings += [one for one in found.warnings if one not in self.warnings]
        if found.thawed:
            self._note(None)

    @contextmanager
    def on(self, host: Host) -> Iterator[Freezing]:
        """Around a cycle on another host, where a keeper does that. A host that answered has let the machine go on;
        whether one did that does not, nobody knows. Raises Refused as `quiesce`.
        """
        self.plan = msgspec.structs.replace(self.plan, host=host.name, reach=host.reach)
        self._note(self.plan)
        self.tried = True
        try:
            yield self
        except (errors.Unreachable, errors.Cancelled):
            raise
        except errors.Error:
            self._note(None)
            raise

    def ended(self) -> None:
        """The machine goes on, as that host says."""
        self._note(None)

    def _note(self, plan: Plan | None) -> None:
        ledger.rest(self.database, self.holder, self.item.id, plan)
        self.stands = plan is not None


def _let_go(plan: Plan, cancel: Callable[[], bool]) -> str | None:
    """What went wrong, or None."""
    if not plan.reach:
        return rest.go_on(plan)
    calls = hosts.reach(Host(plan.host, reach=plan.reach))
    try:
        said, most = {"rest": msgspec.to_builtins(plan)}, plan.seconds + _AGENT_SECONDS
        problem = calls.call("replica.go-on", said, seconds=most, cancel=cancel)["problem"]
    except errors.Cancelled:
        raise
    except errors.Error as error:
        return str(error)
    return None if problem is None else str(problem)


def go_on(
    database: Database, holder: str, item: Held, now: float, cancel: Callable[[], bool] = lambda: False
) -> Held:  # fmt: skip
    """Let the machine of an item go on that a killed cycle, or one that failed to do so, left at rest: the item as it
    is then. That is tried for as long as it takes, as nobody else does it. Raises Refused where the lease was lost.
    """
    if item.at_rest is None:
        return item
    problem, tries = _let_go(item.at_rest, cancel), item.at_rest.tries + 1
    left = None if problem is None else msgspec.structs.replace(item.at_rest, tries=tries)
    ledger.rest(database, holder, item.id, left)
    if problem is None or tries == rest.MANY_TRIES:
        with database.begin() as connection:
            detail = f"not after {tries} tries: {problem}" if problem else "a cycle had ended while it was at rest"
            audit.note(connection, "let go on", item.machine, who=holder, at=now, detail=detail)
    return replace(item, at_rest=left)


def due(item: Held, at: float, now: float) -> float:
    """When an item is looked at again that was to be at `at`: soon, where its machine may stand still."""
    return at if item.at_rest is None else min(at, now + AGAIN_SECONDS)
