"""The present, as cycles are told it, and the turn of one of them: when it began, and what it brings to rest."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from secondsite import engine
from secondsite.orchestration.health.statistics import Statistics
from secondsite.orchestration.protection.freezing import Freezing
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.said import Protected
from secondsite.orchestration.protection.worker import Cut
from secondsite.orchestration.retention.timeline import Moment, Timeline


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


@dataclass(frozen=True)
class Turn:
    """When a cycle began, by two clocks, and what brings its machine to rest (None: it is not to be)."""

    began: float
    timeline: Timeline
    freezing: Freezing | None

    @property
    def quiesce(self) -> engine.Quiesce | None:
        return self.freezing.quiesce if self.freezing is not None else None

    def made(self, item: Held, number: int, generations: Mapping[str, int], cut: Cut | None = None) -> Made:
        """A point of the instant of a cut; without one, of this turn."""
        application, changed = (cut.application, cut.changed_bytes) if cut is not None else (False, 0)
        stamp = cut.at if cut is not None and cut.at is not None else self.stamp
        at = self.timeline.at
        return Made(number, stamp.isoformat(), at, application, None, dict(generations), changed, item.direction)

    @property
    def stamp(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.began, datetime.UTC)

    def counted(self, statistics: Statistics, cut: Cut | None) -> Statistics:
        return statistics.frozen(made=cut is not None and cut.application) if self._tried else statistics

    def frozen(self, item: Held, said: Protected, cut: Cut | None) -> dict[str, Any]:
        """What the vault notes of the application-consistent point of this cycle; nothing where it was not to have
        one. A cycle that failed before its machine was at rest has not tried.
        """
        if not self._tried or self.freezing is None:
            return {}
        at = self.timeline.at
        if cut is not None and cut.application:
            return {"application": msgspec.to_builtins(item.application.done(at))}
        why = "; ".join(self.freezing.warnings or (cut.warnings if cut is not None else ())) or "its cycle failed"
        hours = said.policy.application_consistent
        return {"application": msgspec.to_builtins(item.application.failed(item.id, hours, at, why))}

    @property
    def _tried(self) -> bool:
        return self.freezing is not None and self.freezing.tried


def packed(timeline: Timeline) -> Mapping[str, Any]:
    """As the vault has it."""
    moment = timeline.moment
    return {"at": timeline.at, "moment": [moment.wall, moment.since_boot, moment.boot]}
