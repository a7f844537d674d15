"""Runs the cycles of a vault's items when they are due: never two of one item at once, the longest due first.

Several orchestrators may work on one vault: each claims what is due and nobody's, holds it by a lease that it renews,
and leaves the rest to the others. What one that died had is claimed a minute later, and run again: a cycle goes on
where its replica stands, and everything else is a step that may be repeated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import freezing, leases, ledger, parties, said, turns
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.disabling import Disabling
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.meeting import Meeting
from secondsite.orchestration.protection.said import Protected
from secondsite.orchestration.vault import inventory, schema
from secondsite.orchestration.vault.database import Database

if TYPE_CHECKING:
    from secondsite.orchestration.failover.failovers import Failovers
    from secondsite.orchestration.plans.taking_over import Runs

# How long it sleeps at most; a new item, or one of an orchestrator that died, is seen so late.
_LOOK_SECONDS = 0.5
# A clock that was set back is seen so late.
_CLOCK_SECONDS = 5.0
_RENEW_SECONDS = leases.LEASE_SECONDS / 4
PARALLEL = 4
# How long it waits for a vault that does not answer, and how often it asks.
AWAY_SECONDS = 600.0
_AGAIN_SECONDS = 1.0


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
    """`told` hears of each cycle that ended: the item, and the error if there was one. `plans` goes on with runs of
    recovery plans that were left behind.
    """

    def __init__(
        self, database: Database, cycles: Cycles, *, parallel: int = PARALLEL,
        told: Callable[[Held, errors.Error | None], object] = lambda item, error: None, state: str | None = None,
        away: Callable[[errors.Error], object] = lambda error: None, patience: float = AWAY_SECONDS,
        plans: Runs | None = None,
    ) -> None:  # fmt: skip
        self.database, self.cycles, self.parallel, self.told, self.state = database, cycles, parallel, told, state
        self.lags = Lags()
        self._disabling = Disabling(database, cycles.holder, cycles.worker)
        self._running: dict[str, Future[None]] = {}
        self._stop, self._wake = threading.Event(), threading.Event()
        self._lost: set[str] = set()
        self._states: dict[str, State] = {}
        self._revision, self._said = -1, dict[str, Protected]()
        self._renewed = self._looked = self._tried = self._compared = 0.0
        self._tests: Future[None] | None = None
        self._away, self._patience, self._silent = away, patience, 0.0
        self._plans = plans

    def stop(self) -> None:
        """Cycles that run are cancelled, which takes them back or parks them."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Until `stop`. Raises Unreachable where the vault has not answered for so long as it has patience."""
        with ThreadPoolExecutor(self.parallel, "cycle") as pool:
            try:
                while not self._stop.is_set():
                    self._wake.wait(self._step(pool))
                    self._wake.clear()
            finally:
                self._stop.set()
                self.cycles.stop()
                if self._plans is not None:
                    self._plans.stop()
        leases.give_back(self.database, self.cycles.holder, list(self._running))

    def _step(self, pool: ThreadPoolExecutor) -> float:
        """What there is to do now, and for how long there is nothing then."""
        try:
            self._begin(pool)
            self._try(pool)
            if self._plans is not None:
                self._plans.look()
            self._renew()
            self._interrupt()
            pause = self._pause()
            self._silent = 0.0
        except errors.Unreachable as error:
            # A database that is restarted, or a disk that is full for a while.
            now = time.monotonic()
            if not self._silent:
                self._silent = now
                self._away(error)
            if now - self._silent >= self._patience:
                raise
            return _AGAIN_SECONDS
        return pause

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
            self._states.pop(number, None)
        free = self.parallel - len(self._running)
        if free <= 0:
            return
        at = self._now()
        if time.monotonic() > self._compared:
            leases.set_back(self.database, at)
            self._compared = time.monotonic() + _CLOCK_SECONDS
        claimed = leases.claim(self.database, self.cycles.holder, at, free, list(self._running))
        if claimed:  # behind it, or an estate that was applied just now would have items that nothing is said of
            self._refresh()
        for item in claimed:
            self.lags.add(at - item.due)
        for party in parties.of(self.database, self.cycles.holder, claimed, self._said, at):
            alone = len(party) == 1
            future = pool.submit(self._keyed, party[0], at) if alone else pool.submit(self._meet, party, at)
            self._states.update({item.id: item.state for item in party})
            self._running.update({item.id: future for item in party})
            future.add_done_callback(lambda _: self._wake.set())

    def _meet(self, party: list[Held], began: float) -> None:
        """Cycles of a consistency group, beside each other and cut at one instant (M13)."""
        meeting = Meeting(self.cycles.worker, [item.machine for item in party], self.cycles.clocks.datetime)

        def attend(item: Held) -> None:
            try:
                self._keyed(item, began, self.cycles.through(meeting.worker(item.machine)))
            finally:
                meeting.leave(item.machine)

        with ThreadPoolExecutor(len(party), "meeting") as pool:
            for future in [pool.submit(attend, item) for item in party]:
                future.result()

    def _keyed(self, item: Held, began: float, cycles: Cycles | None = None) -> None:
        """One key may be in the environment for all items; it is for those whose policy encrypts, and no reason to
        refuse the others.
        """
        found = self._said.get(item.machine)
        with engine.using_key(engine.Key(plain=found is None or not found.policy.encrypt)):
            self._cycle(item, cycles or self.cycles, began)

    def _cycle(self, item: Held, cycles: Cycles, began: float) -> None:
        found = self._said.get(item.machine)
        try:
            item = freezing.go_on(self.database, self.cycles.holder, item, self._now(), self._stop.is_set)
            if item.ending is not None:
                self.told(item, self._disabling.run(item, item.ending, self._now()))
                return
            if item.failover is not None:
                self._failover(item)
                return
            if found is None or not (item.state.cycles or item.state is State.WAITING_FOR_START_RESYNCHRONIZE):
                again = freezing.due(item, leases.NEVER, self._now())
                ledger.end(self.database, self.cycles.holder, item.id, {"due": again}, since=item.state)
                return
            stops = lambda: self._stop.is_set() or item.id in self._lost  # noqa: E731
            self.told(item, cycles.run(item, found, stops, began=began))
        except errors.Error as error:
            with suppress(errors.Error):
                leases.give_back(self.database, self.cycles.holder, [item.id])
            self.told(item, error)

    def _failover(self, item: Held) -> None:
        """Go on with what somebody left behind. What keeps it from being done is noted with it."""
        from secondsite.orchestration.failover import going_on  # which asks hosts, and is not needed before

        error: errors.Error | None = None
        try:
            going_on.failover(self._failovers(item.id), item.machine)
        except errors.Error as found:
            error = found
        with suppress(errors.Error):
            leases.give_back(self.database, self.cycles.holder, [item.id])
        self.told(item, error)

    def _failovers(self, item: str | None = None) -> Failovers:
        from secondsite.orchestration.failover.failovers import Failovers

        cycles = self.cycles
        return Failovers(
            self.database, cycles.holder, cycles.holder, cycles.worker, cycles.clocks, self.state,
            stops=lambda: self._stop.is_set() or item in self._lost,
        )  # fmt: skip

    def _try(self, pool: ThreadPoolExecutor) -> None:
        """Tests of failovers, now and then."""
        if (self._tests is None or self._tests.done()) and time.monotonic() > self._tried:
            from secondsite.orchestration.failover import going_on

            if self._tests is not None:
                self._tests.result()
            self._tried = time.monotonic() + going_on.LOOK_SECONDS
            self._tests = pool.submit(going_on.tests, self._failovers(), self.told)

    def _renew(self) -> None:
        if self._running and time.monotonic() - self._renewed > _RENEW_SECONDS:
            self._renewed = time.monotonic()
            held = leases.renew(self.database, self.cycles.holder, list(self._running), self._now())
            self._lost |= self._running.keys() - held

    def _interrupt(self) -> None:
        """R7.6: cycles of what was paused meanwhile, or left the estate, are cancelled; a resync goes on later where it
        stopped.
        """
        if self._running and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._lost |= turns.stopped(self.database, self._states)

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
        return leases.now(self.database, self.cycles.clocks.utc())
