"""What happened in the monitoring interval (R8.5, R8.6)."""

from __future__ import annotations

import datetime

import msgspec

from secondsite.orchestration.typed import ready

INTERVAL_HOURS = 12
MIN_HOURS, MAX_HOURS = 1, 7 * 24
BEGINS_AT = datetime.time(9)


class Statistics(msgspec.Struct, frozen=True):
    """Times are UTC seconds, latency and sizes those of cycles that were acknowledged. `began` is of the interval,
    `first` when what was `moved` began to change, by the `measured` cycles that were no first copy and no resync; they
    took `taken` seconds. `squares` and `products` are sums of size × size and size × latency, for the line through
    them. `virtual_bytes` are the disks'.
    """

    began: float = 0.0
    cycles: int = 0
    missed: int = 0
    errors: int = 0
    bytes: int = 0
    max_bytes: int = 0
    latency: float = 0.0
    max_latency: float = 0.0
    measured: int = 0
    moved: int = 0
    taken: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    first: float = 0.0
    virtual_bytes: int = 0
    application: int = 0
    application_failed: int = 0

    def cycle(self, size: int, latency: float, whole: float | None = None) -> Statistics:
        """One more that was acknowledged. `whole`: the time of one that sent what was not changed just now."""
        if whole is not None:
            counted = msgspec.structs.replace(self.cycle(size, latency), first=whole, measured=0, moved=0)
            return msgspec.structs.replace(counted, taken=0.0, squares=0.0, products=0.0)
        return msgspec.structs.replace(
            self, cycles=self.cycles + 1, bytes=self.bytes + size, max_bytes=max(self.max_bytes, size),
            latency=self.latency + latency, max_latency=max(self.max_latency, latency),
            measured=self.measured + 1, moved=self.moved + size, taken=self.taken + latency,
            squares=self.squares + float(size) ** 2, products=self.products + size * latency,
        )  # fmt: skip

    def miss(self, count: int = 1) -> Statistics:
        """Cycles that were due and did not begin in time (R6.2)."""
        return msgspec.structs.replace(self, missed=self.missed + count)

    def frozen(self, *, made: bool) -> Statistics:
        """An application-consistent point that was made, or not (R4.4)."""
        if made:
            return msgspec.structs.replace(self, application=self.application + 1)
        return msgspec.structs.replace(self, application_failed=self.application_failed + 1)

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

    def of(
        self, now: float, zone: datetime.tzinfo, hours: int = INTERVAL_HOURS, last: float | None = None
    ) -> Statistics:
        """These, or new ones where another interval began since, or these by a clock that was set back; `last` is the
        newest point's time.
        """
        began = interval(now, zone, hours)
        return self if began <= self.began <= now else Statistics(
            began, first=began if last is None else last, virtual_bytes=self.virtual_bytes
        )


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


ready(Statistics)
