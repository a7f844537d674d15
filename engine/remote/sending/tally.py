"""What all attempts of one cycle sent, for the figure of bytes that went over twice (P14)."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Sent:
    """What all attempts of one cycle gave to the link, in bytes of frames; `again`: those of them that the replica had
    not got when the next attempt began, so that they were sent another time. `durable` is how long the replica's spool
    is known to be: an attempt that moved it got further. `all_bytes` and `all_again` count on over all cycles.
    """

    bytes: int = 0
    again: int = 0
    attempts: int = 0
    durable: int = 0
    all_bytes: int = 0
    all_again: int = 0
    _spooled: int = field(default=0, repr=False)
    _generation: int = field(default=0, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def resumed(self, spooled: int, generation: int = 0) -> None:
        """At the beginning of an attempt the replica has this point, and so many bytes in its spool for the next one.
        Where the point is new, what had gone became it, and only that it did was lost.
        """
        with self._lock:
            if self.attempts and generation == self._generation:
                lost = max(self._spooled - spooled, 0)
                self.again += lost
                self.all_again += lost
            self.attempts += 1
            self._generation = generation
            self._spooled = self.durable = spooled

    def add(self, count: int) -> None:
        """So much was given to the link, by whichever thread."""
        with self._lock:
            self.bytes += count
            self.all_bytes += count
            self._spooled += count

    def begin(self) -> None:
        """Another cycle: nothing was sent."""
        with self._lock:
            self.bytes = self.again = self.attempts = self.durable = self._spooled = self._generation = 0
