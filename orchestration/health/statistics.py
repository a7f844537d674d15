"""What happened in the monitoring interval (R8.5, R8.6)."""

from __future__ import annotations

import datetime

import msgspec

INTERVAL_HOURS = 12
MIN_HOURS, MAX_HOURS = 1, 7 * 24
BEGINS_AT = datetime.time(9)


class Statistics(msgspec.Struct, frozen=True):
    """Times are UTC seconds, latency and sizes those of cycles that were acknowledged. `began` is of the interval."""

    began: float = 0.0
    cycles: int = 0
    missed: int = 0
    errors: int = 0
    bytes: int = 0
    max_bytes: int = 0
    latency: float = 0.0
    max_latency: float = 0.0

    def cycle(self, size: int, latency: float) -> Statistics:
        """One more that was acknowledged."""
        return msgspec.structs.replace(
            self, cycles=self.cycles + 1, bytes=self.bytes + size, max_bytes=max(self.max_bytes, size),
            latency=self.latency + latency, max_latency=max(self.max_latency, latency),
        )  # fmt: skip

    def miss(self, count: int = 1) -> Statistics:
        """Cycles that were due and did not begin in time (R6.2)."""
        return msgspec.structs.replace(self, missed=self.missed + count)

    def error(self) -> Statistics:
        return msgspec.structs.replace(self, errors=self.errors + 1)

    @property
    def average_bytes(self) -> float:
        return self.bytes / self.cycles if self.cycles else 0.0

    @property
    def average_latency(self) -> float:
        return self.latency / self.cycles if self.cycles else 0.0

    @property
    def total(self) -> int:
        """Cycles that were due."""
        return self.cycles + self.missed

    def of(self, now: float, zone: datetime.tzinfo, hours: int = INTERVAL_HOURS) -> Statistics:
        """These, or new ones where another interval has begun since."""
        began = interval(now, zone, hours)
        return self if self.began >= began else Statistics(began)


def interval(now: float, zone: datetime.tzinfo, hours: int = INTERVAL_HOURS) -> float:
    """When the monitoring interval of a moment began: whole intervals from 09:00 on, by the wall clock of `zone`, so
    that both days on which the clocks change have one of another length.
    """
    local = datetime.datetime.fromtimestamp(now, zone)
    anchor = datetime.datetime.combine(datetime.date(2000, 1, 3), BEGINS_AT)
    plain = local.replace(tzinfo=None)
    steps = (plain - anchor) // datetime.timedelta(hours=hours)
    began = (anchor + steps * datetime.timedelta(hours=hours)).replace(tzinfo=zone).timestamp()
    return min(began, now)
