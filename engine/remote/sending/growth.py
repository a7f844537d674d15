"""How many connections are worth it: one more is tried where the link is what is waited for, and stays if that pays.

What counts is what became durable at the other end: what goes into a new connection first is taken by buffers of the
system, which says nothing of the link.
"""

from __future__ import annotations

from dataclasses import dataclass

from secondsite.engine.units import MIB

# What is compared: at least so long, and so much that two acknowledgements of 4 MiB lie in it.
PERIOD_SECONDS, PERIOD_BYTES = 1.0, 8 * MIB
# Of the time, waiting for the link; below that packing or reading is what takes it.
_WAITED = 0.5
# What another connection must bring, and when one that did not is tried again.
_GAIN = 1.1
_REST_SECONDS = 60.0


@dataclass
class Growth:
    """Up to `most` connections. `waited`: seconds that who sends has waited, counted up."""

    most: int
    waited: float = 0.0
    _began: tuple[float, int, float] | None = None
    _before: float | None = None
    _settling: bool = True
    _asked: bool = False
    _rests: float = 0.0

    def durable(self, now: float, count: int, connections: int) -> int:
        """So many bytes are durable now, with these connections: 1 for one more, -1 for the newest to go, or 0."""
        if self._began is None or self._asked:
            self._began = now, count, self.waited
            return 0
        seconds, size, waited = now - self._began[0], count - self._began[1], self.waited - self._began[2]
        if seconds < PERIOD_SECONDS or size < PERIOD_BYTES:
            return 0
        self._began = now, count, self.waited
        if self._settling:
            self._settling = False
            return 0
        return self._judge(now, size / seconds, waited / seconds, connections)

    def _judge(self, now: float, rate: float, waited: float, connections: int) -> int:
        before, self._before = self._before, None
        if before is not None and rate < _GAIN * before:
            self._rests = now + _REST_SECONDS
            return -1
        if waited < _WAITED or connections >= self.most or now < self._rests:
            return 0
        self._before, self._asked = rate, True
        return 1

    def joined(self) -> None:
        """The one that was asked for is there: what it brings shows after a while."""
        self._began, self._settling, self._asked = None, True, False

    def refused(self) -> None:
        """The one that was asked for does not come, nor will others."""
        self.most, self._before, self._asked = 1, None, False
