"""Policies of recovery points: by time, by amount, continuous, or the array's own. Each is a list of keep rules.

Which of them a scenario takes, and in which bounds, the scenarios' table says; here are the bounds that hold anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.orchestration.retention.rules import HOUR, SECOND, Amount, Dense, Latest, Pinned, Rule, Spread

# "90/copy_frequency" of the overview, read as a count: the newest 90 minutes' worth of cycles (R2.2).
DENSE_WINDOW_MINUTES = 90
MAX_HOURS = 24
MAX_TIER_SECONDS = 3 * 86400
MAX_ADDITIONAL = 24


@dataclass(frozen=True, slots=True)
class ByTime:
    """A point a cycle for 90 minutes' worth of cycles, then one an hour, for `hours` in all (R2.1 to R2.5)."""

    copy_seconds: int
    hours: int

    def rules(self) -> list[Rule]:
        """Raises Usage."""
        _within("retention in hours", self.hours, 0, MAX_HOURS)
        _within("copy frequency in seconds", self.copy_seconds, 1, 3600)
        if not self.hours:
            return [Latest(), Pinned()]
        count = DENSE_WINDOW_MINUTES * 60 // self.copy_seconds
        span = self.hours * HOUR
        return [Latest(), Dense(count, span), Spread(HOUR, span, "R2.3", "the hour's point"), Pinned()]


@dataclass(frozen=True, slots=True)
class ByAmount:
    """The newest point and `additional` hourly ones (R3.1, R3.2)."""

    additional: int
    most: int = 15

    def rules(self) -> list[Rule]:
        """Raises Usage."""
        _within("additional recovery points", self.additional, 0, min(self.most, MAX_ADDITIONAL))
        return [Latest(), Amount(self.additional), Pinned()]


@dataclass(frozen=True, slots=True)
class Continuous:
    """Thinned with age: `tiers` are pairs of seconds, one point of each so many for so long, finest first (R13.2)."""

    tiers: Sequence[tuple[int, int]]

    def rules(self) -> list[Rule]:
        """Raises Usage."""
        self._check()
        tiers = [Spread(every * SECOND, span * SECOND, "R13.2", f"one of each {every} s") for every, span in self.tiers]
        return [Latest(), *tiers, Pinned()]

    def _check(self) -> None:
        """A span of time is over before a coarser tier alone decides about it, or its last point would be gone."""
        before: tuple[int, int] | None = None
        for every, span in self.tiers:
            if every < 1 or not every <= span <= MAX_TIER_SECONDS:
                raise errors.Usage(f"a tier of one point each {every} s for {span} s makes no sense")
            if before and (every % before[0] or every <= before[0] or span <= before[1] or before[1] < every):
                raise errors.Usage(
                    f"one point each {every} s for {span} s does not follow one each {before[0]} s for {before[1]} s: "
                    "spans are multiples of the finer ones, and each tier reaches as far as the next one's span"
                )
            before = every, span
        if before is None:
            raise errors.Usage("continuous protection has at least one tier")


@dataclass(frozen=True, slots=True)
class ArrayManaged:
    """The storage array keeps its own points ("Configured in array storage settings"): nothing is dropped here."""

    def rules(self) -> list[Rule] | None:
        return None


Policy = ByTime | ByAmount | Continuous | ArrayManaged


def _within(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise errors.Usage(f"{what}: {value} is not in {least} to {most}")
