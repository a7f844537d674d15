"""Progress, cancellation and rate: what a caller may watch and steer while a long call runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from secondsite.engine import errors

_EVERY_SECONDS = 0.1
_MAX_SLEEP = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` bytes looked at; `changed` bytes were found to differ; `stage` is a word for people."""

    stage: str
    done: int
    total: int
    changed: int


class Monitor:
    """Passed down into long calls. `progress` is called from worker threads, one at a time, ten times a second.

    `cancel` is asked between spans (and while a rate limit waits); once it returns True the call ends with
    Cancelled. `limit` is in bytes a second.
    """

    def __init__(
        self,
        progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
        limit: int | None = None,
    ) -> None:
        self._report, self.cancel = progress, cancel
        self.limiter = Limiter(limit) if limit else None
        self._stage, self._done, self._total, self._changed = "", 0, 0, 0
        self._last = 0.0
        self._lock = threading.Lock()

    def begin(self, stage: str, total: int) -> None:
        """Start a stage of `total` bytes."""
        with self._lock:
            self._stage, self._done, self._total, self._changed = stage, 0, total, 0
            self._last = 0.0
            self._tell()

    def advance(self, count: int) -> None:
        """`count` more bytes were looked at."""
        if self._report is None:
            return
        with self._lock:
            self._done = min(self._done + count, self._total)
            if time.monotonic() - self._last >= _EVERY_SECONDS or self._done == self._total:
                self._tell()

    def _wait(self) -> None:
        """Asked while the rate limit waits: whoever watches sees that it goes on."""
        self.check()
        self.advance(0)

    def found(self, count: int) -> None:
        """`count` more bytes differed."""
        with self._lock:
            self._changed += count

    def _tell(self) -> None:
        self._last = time.monotonic()
        if self._report is not None:
            self._report(Progress(self._stage, self._done, self._total, self._changed))

    def check(self) -> None:
        """Raises Cancelled once the caller asked to stop."""
        if self.cancel is not None and self.cancel():
            raise errors.Cancelled("stopped on request; nothing was changed")

    def take(self, count: int) -> None:
        """Wait until the rate limit lets `count` bytes pass."""
        if self.limiter is not None:
            self.limiter.take(count, self._wait)


class Limiter:
    """A token bucket. It holds a quarter of a second's worth, so a pause earns no burst worth noticing (P17)."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._clock = rate, clock
        self._burst = max(rate / 4, 1)
        self._level, self._at = self._burst, clock()
        self._lock = threading.Lock()

    @property
    def piece(self) -> int:
        """Bytes that a caller should take at a time."""
        return max(int(self._burst), 1)

    def take(self, count: int, check: Callable[[], None]) -> None:
        """Take `count` tokens, sleeping as long as that needs; `check` may end the wait by raising."""
        with self._lock:
            now = self._clock()
            self._level = min(self._burst, self._level + (now - self._at) * self.rate) - count
            self._at = now
            wait = -self._level / self.rate
        end = self._clock() + wait
        while (left := end - self._clock()) > 0:
            check()
            time.sleep(min(left, _MAX_SLEEP))
