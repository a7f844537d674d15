"""What an agent counts, for its metrics and its log."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Of one replica since the agent began. `received` are bytes of frames, `twice` those of them that were lost before
    they were durable and had to come again. `running` streams come in just now. `last_done` is when the source was as
    the replica is, of the last that ended well, by the monotonic clock; None where that says nothing of the data: a
    point that was the source is as old as it is.
    """

    received: int = 0
    twice: int = 0
    cycles: int = 0
    cycle_seconds: float = 0.0
    running: int = 0
    last_done: float | None = None
    errors: Counter[str] = field(default_factory=Counter)
    _spooled: int | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begun(self, spooled: int) -> None:
        """An attempt begins with so many bytes in the spool; what came before and is not there comes again."""
        with self._lock:
            if self._spooled is not None:
                self.twice += max(self._spooled - spooled, 0)
            self._spooled = spooled
            self.running += 1

    def ended(self) -> None:
        """The attempt is over, whichever way."""
        with self._lock:
            self.running -= 1

    def add(self, count: int) -> None:
        """A frame came."""
        with self._lock:
            self.received += count
            self._spooled = (self._spooled or 0) + count

    def applied(self) -> None:
        """What came is the newest point now, whether its source hears of that or not."""
        with self._lock:
            self._spooled = None

    def done(self, seconds: float, *, looked: float | None) -> None:
        """The replica has the point; `seconds` after its last attempt began. `looked`: when the source was that."""
        with self._lock:
            self.cycles += 1
            self.cycle_seconds, self.last_done = seconds, looked
            self._spooled = None

    def failed(self, kind: str) -> None:
        """A request ended with an error of that class."""
        with self._lock:
            self.errors[kind] += 1


class Meter:
    """Counts by replica; those of what belongs to none, such as a refused peer, are under the empty name."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._counts: dict[str, Counts] = {}
        self._lock = threading.Lock()

    def of(self, replica: str) -> Counts:
        """For a name that somebody is allowed to use, so that there are not more of them than the book has."""
        with self._lock:
            return self._counts.setdefault(replica, Counts())

    def all(self) -> dict[str, Counts]:
        with self._lock:
            return dict(self._counts)
