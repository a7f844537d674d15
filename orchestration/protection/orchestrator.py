"""Runs the cycles of a vault's items when they are due: never two of one item at once, the longest due first.

Several orchestrators may work on one vault: each claims what is due and nobody's, holds it by a lease that it renews,
and leaves the rest to the others. What one that died had is claimed a minute later, and run again: a cycle goes on
where its replica stands, and everything else is a step that may be repeated.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import func, select

from secondsite.engine import errors
from secondsite.orchestration.protection import ledger, said
from secondsite.orchestration.protection.cycle import NEVER, Cycles, Protected
from secondsite.orchestration.protection.disabling import Disabling
from secondsite.orchestration.protection.ledger import Held
from secondsite.orchestration.vault import inventory, schema
from secondsite.orchestration.vault.database import Database

# How long it sleeps at most; a new item, or one of an orchestrator that died, is seen so late.
_LOOK_SECONDS = 0.5
_RENEW_SECONDS = ledger.LEASE_SECONDS / 4
PARALLEL = 4


@dataclass
class Lags:
    """How late cycles began, in seconds: the newest so many."""

    most: int = 10_000
    seconds: list[float] = field(default_factory=list)

    def add(self, lag: float) -> None:
        self.seconds.append(max(lag, 0.0))
        del self.seconds[: -self.most]

    def quantile(self, share: float) -> float:
        found = sorted(self.seconds)
        return found[min(int(share * len(found)), len(found) - 1)] if found else 0.0


class Orchestrator:
    """`told` hears of each cycle that ended: the item, and the error if there was one."""

    def __init__(
        self, database: Database, cycles: Cycles, *, parallel: int = PARALLEL,
        told: Callable[[Held, errors.Error | None], object] = lambda item, error: None,
    ) -> None:  # fmt: skip
        self.database, self.cycles, self.parallel, self.told = database, cycles, parallel, told
        self.lags = Lags()
        self._disabling = Disabling(database, cycles.holder, cycles.worker)
        self._running: dict[str, Future[None]] = {}
        self._stop, self._wake = threading.Event(), threading.Event()
        self._lost: set[str] = set()
        self._revision, self._said = -1, dict[str, Protected]()
        self._renewed = 0.0

    def stop(self) -> None:
        """Cycles that run are cancelled, which takes them back or parks them."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Until `stop`. Raises Unreachable where the vault does not answer."""
        with ThreadPoolExecutor(self.parallel, "cycle") as pool:
            try:
                while not self._stop.is_set():
                    self._refresh()
                    self._begin(pool)
                    self._renew()
                    self._wake.wait(self._pause())
                    self._wake.clear()
            finally:
                self._stop.set()
        ledger.give_back(self.database, self.cycles.holder, list(self._running))

    def _refresh(self) -> None:
        """The estate as it was applied last."""
        with self.database.reading() as connection:
            newest = connection.execute(select(func.max(schema.revision.c.id))).scalar() or 0
            if newest != self._revision:
                estate = inventory.last_estate(connection)
                self._said = dict(said.protected(estate)) if estate is not None else {}
                self._revision = newest

    def _begin(self, pool: ThreadPoolExecutor) -> None:
        """Give free places to what is due."""
        for number in [number for number, future in self._running.items() if future.done()]:
            self._running.pop(number).result()
            self._lost.discard(number)
        free = self.parallel - len(self._running)
        if free <= 0:
            return
        at = self._now()
        for item in ledger.claim(self.database, self.cycles.holder, at, free, list(self._running)):
            self.lags.add(at - item.due)
            self._running[item.id] = future = pool.submit(self._cycle, item)
            future.add_done_callback(lambda _: self._wake.set())

    def _cycle(self, item: Held) -> None:
        found = self._said.get(item.machine)
        try:
            if item.ending is not None:
                self.told(item, self._disabling.run(item, item.ending, self._now()))
                return
            if found is None or not item.state.cycles:
                ledger.end(self.database, self.cycles.holder, item.id, {"due": NEVER})
                return
            stops = lambda: self._stop.is_set() or item.id in self._lost  # noqa: E731
            self.told(item, self.cycles.run(item, found, stops))
        except errors.Error as error:
            with suppress(errors.Error):
                ledger.give_back(self.database, self.cycles.holder, [item.id])
            self.told(item, error)

    def _renew(self) -> None:
        if self._running and time.monotonic() - self._renewed > _RENEW_SECONDS:
            self._renewed = time.monotonic()
            held = ledger.renew(self.database, self.cycles.holder, list(self._running), self._now())
            self._lost |= self._running.keys() - held

    def _pause(self) -> float:
        """Until the next one is due, or somebody may have changed something."""
        if len(self._running) >= self.parallel:
            return _LOOK_SECONDS
        with self.database.reading() as connection:
            due = connection.execute(select(func.min(schema.item.c.due)).where(
                schema.item.c.id.not_in(list(self._running)))).scalar()  # fmt: skip
        wait = _LOOK_SECONDS if due is None else due - self._now()
        return max(min(wait, _LOOK_SECONDS), 0.001)

    def _now(self) -> float:
        return ledger.now(self.database, self.cycles.clocks.utc())


def new_holder() -> str:
    """A name for an orchestrator, unlike any other."""
    return f"{socket.gethostname()[:40]}-{secrets.token_hex(8)}"
