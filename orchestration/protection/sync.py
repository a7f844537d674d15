"""A cycle of one machine at once, as an operator asks for it: it is made due, whoever runs cycles takes it, and its
point is waited for. All of that goes by the vault, so it works from every host, and whoever waits may be killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, ledger, lookup
from secondsite.orchestration.protection.item import Made
from secondsite.orchestration.protection.ledger import Asked
from secondsite.orchestration.vault.database import Database

_LOOK_SECONDS = 0.1
# An orchestrator that has nothing to do looks twice a second.
_NOBODY_SECONDS = 10.0


@dataclass
class Sync:
    """`seconds` is how long it waits at most; `utc` the present, `cancelled` asks whether to go on."""

    database: Database
    machine: str
    seconds: float
    cancelled: Callable[[], bool] = lambda: False
    utc: Callable[[], float] = time.time

    def run(self) -> Made:
        """The point of a cycle that began after this call. Raises Refused where the item's state has no cycles, what
        the cycle ended with, and Unreachable where nobody runs cycles or it takes longer.
        """
        until = time.monotonic() + self.seconds
        while (asked := ledger.hurry(self.database, self.machine, self._now())) is None:
            self._wait(until)  # a cycle runs that began before
        alone = time.monotonic() + _NOBODY_SECONDS
        while (made := self._point(asked)) is None:
            if leases.anybody(self.database, self._now()):
                alone = time.monotonic() + _NOBODY_SECONDS
            elif time.monotonic() > alone:
                raise errors.Unreachable("nobody runs the cycles of this vault; it is due once `secondsite run` does")
            self._wait(until)
        return made

    def _wait(self, until: float) -> None:
        if self.cancelled():
            raise errors.Cancelled("interrupted; the cycle goes on")
        if time.monotonic() > until:
            raise errors.Unreachable(f"{self.machine}: no point within {self.seconds:g} s; the cycle goes on")
        time.sleep(_LOOK_SECONDS)

    def _point(self, asked: Asked) -> Made | None:
        """None while nothing became of it."""
        items = lookup.load(self.database, self.machine)
        if not items or items[0].id != asked.item or items[0].ending is not None:
            raise errors.Refused(f"{self.machine!r} is not protected any more")
        made = lookup.newest(self.database, asked.item)
        if made is not None and made.number > asked.point:
            return made
        # One that waits for its first copy ends its cycle in order, and is due later.
        if items[0].failures > asked.failures or not items[0].state.cycles or items[0].due > asked.due:
            raise _failed(items[0].state, f"{self.machine}: {items[0].reason or items[0].state.words}")
        return None

    def _now(self) -> float:
        return leases.now(self.database, self.utc())


def _failed(state: State, reason: str) -> errors.Error:
    """What may pass is tried again by itself (R6.4); for the rest the state says what it was."""
    if state.cycles:
        return errors.Unreachable(f"{reason}; it is tried again")
    return errors.Damaged(reason) if state is State.WAITING_FOR_START_RESYNCHRONIZE else errors.Refused(reason)
