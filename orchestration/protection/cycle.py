"""One cycle of a protected machine, and what the vault learns from it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.estate.model import Machine, Policy
from secondsite.orchestration.health.states import State, step
from secondsite.orchestration.protection import grid, ledger
from secondsite.orchestration.protection.ledger import Held, Made
from secondsite.orchestration.protection.worker import Cut, Worker
from secondsite.orchestration.retention.decision import dropped
from secondsite.orchestration.retention.policy import Policy as Keep
from secondsite.orchestration.retention.rules import SECOND
from secondsite.orchestration.retention.timeline import Moment, Timeline
from secondsite.orchestration.scenarios import points
from secondsite.orchestration.vault.database import Database

# Far enough that an item which an operator has to look at is not due before.
NEVER = 1e12


@dataclass(frozen=True)
class Protected:
    """What the estate says of an item: its machine, its policy, and what is kept."""

    machine: Machine
    policy: Policy
    keep: Keep

    @property
    def every(self) -> int:
        """Seconds between cycles: a policy of tiers is continuous, a point a second."""
        return self.policy.copy_frequency or (1 if self.policy.tiers else points.frequency(self.policy))


@dataclass(frozen=True)
class Clocks:
    """The present, three ways; tests pass their own (D13)."""

    utc: Callable[[], float] = time.time
    moment: Callable[[], Moment] = lambda: this_moment()

    def datetime(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.utc(), datetime.UTC)


def this_moment() -> Moment:
    """What this host's clocks say."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Moment(time.time_ns() // 1000, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000, boot)


@dataclass
class Cycles:
    """Runs cycles of items that `holder` has the lease of."""

    database: Database
    holder: str
    worker: Worker
    clocks: Clocks = Clocks()

    def run(self, item: Held, said: Protected, cancel: Callable[[], bool] = lambda: False) -> errors.Error | None:
        """One cycle. An error is written down with the item and returned; Cancelled is nobody's fault, and raised."""
        resync = item.state is State.RESYNCHRONIZING
        began, moment = self.clocks.utc(), self.clocks.moment()
        stamp = datetime.datetime.fromtimestamp(began, datetime.UTC)
        try:
            cut = self.worker.replicate(
                said.machine, item.disks, said.policy, epoch=item.epoch, resync=resync, clock=lambda: stamp,
                cancel=cancel,
            )  # fmt: skip
        except errors.Cancelled:
            ledger.end(self.database, self.holder, item.id, {})
            raise
        except errors.Error as error:
            self._failed(item, said, error)
            return error
        self._identify(item, cut)
        self._done(item, said, cut, began, moment, stamp)
        return None

    def _identify(self, item: Held, cut: Cut) -> None:
        """Which replicas they are: only those that are known are deleted one day (R1.10)."""
        new = [path for path, known in item.ids.items() if known is None or path in cut.begun]
        try:
            ids = {path: self.worker.identify(item.disks[path]) for path in new}
        except errors.Error:
            return  # the next cycle asks again
        if ids:
            ledger.know(self.database, self.holder, item.id, ids)

    def _done(
        self, item: Held, said: Protected, cut: Cut, began: float, moment: Moment, stamp: datetime.datetime
    ) -> None:
        """R2.1: every cycle that was applied yields a point, with the time at its source. What no rule keeps any more
        goes from the vault with that, so that nobody chooses it, and with the next cycle from the replicas.
        """
        ended = self.clocks.utc()
        timeline = Timeline.begin(moment) if item.timeline is None else item.timeline.reach(moment)
        held = ledger.points(self.database, item.id)
        made = Made(
            held[-1].number + 1 if held else 1, stamp.isoformat(), timeline.at, cut.application, None,
            dict(cut.generations), cut.changed_bytes,
        )  # fmt: skip
        first = item.state is State.READY_FOR_INITIAL_REPLICATION
        after = grid.first(item.id, said.every, ended) if first else grid.following(item.due, said.every, ended)
        statistics = item.statistics.miss(after.missed) if after.missed else item.statistics
        action = "resync done" if item.state is State.RESYNCHRONIZING else "first copy done"
        gone = dropped([*(one.point() for one in held), made.point()], said.keep.rules(), said.every * SECOND)
        spent = ledger.points(self.database, item.id, dropped=True)
        swept = [one.number for one in spent] if spent and self._sweep(item, [*held, made], spent) else []
        ledger.finish(self.database, self.holder, item.id, {
            "state": int(step(item.state, action) or item.state), "due": after.due, "last": began, "failures": 0,
            "sending": True, "reason": " ".join(cut.warnings) or None, "timeline": _packed(timeline),
            "statistics": msgspec.to_builtins(statistics.cycle(cut.changed_bytes, ended - began)),
            **({"application_last": began} if cut.application else {}),
        }, made, gone, swept)  # fmt: skip

    def _failed(self, item: Held, said: Protected, error: errors.Error) -> None:
        """R6.3, R6.4, R7.1f: what may pass is tried again, what does not waits for its operator."""
        failures, ended = item.failures + 1, self.clocks.utc()
        values: dict[str, Any] = {
            "failures": failures, "sending": False, "reason": str(error),
            "statistics": msgspec.to_builtins(item.statistics.error()),
            "due": grid.after_failure(failures, said.every, ended) if error.retryable else NEVER,
        }  # fmt: skip
        if not error.retryable:
            action = "resync required" if isinstance(error, errors.Damaged) else "fail"
            values["state"] = int(step(item.state, action) or State.ERROR)
        ledger.end(self.database, self.holder, item.id, values)

    def _sweep(self, item: Held, kept: list[Made], ending: list[Made]) -> bool:
        """Whether the replicas hold no point any more that only dropped ones of the machine had. What is busy or away
        now is asked again after the next cycle.
        """
        swept = True
        for path, replica in item.disks.items():
            wanted = {one.generations.get(path) for one in kept}
            spare = {generation for one in ending if (generation := one.generations.get(path)) is not None} - wanted
            try:
                if spare:
                    self.worker.drop(replica, sorted(spare))
            except errors.Error:
                swept = False
        return swept


def _packed(timeline: Timeline) -> Mapping[str, Any]:
    moment = timeline.moment
    return {"at": timeline.at, "moment": [moment.wall, moment.since_boot, moment.boot]}
