"""How many requests are on their way at once: more while all goes well, half as many when the store is busy.

A service that answers 503 to 128 threads is content with 8 (P40), and nobody knows beforehand with how many.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

# Where to begin, and the most: the SDK keeps 10 connections.
FIRST, MOST = 8, 16
_LOOK_SECONDS = 0.25


class Gate:
    """Enter it for each request. Safe from several threads. `check` raises where somebody asked to stop."""

    def __init__(
        self, first: int = FIRST, most: int = MOST, *, check: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.limit, self.most, self.check, self.clock = min(first, most), most, check, clock
        self._inside = self._well = 0
        self._resume = 0.0
        self._cut = clock()
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        with self._changed:
            while self._inside >= self.limit or self.clock() < self._resume:
                self._changed.wait(min(_LOOK_SECONDS, max(self._resume - self.clock(), 0.01)))
                self.check()
            self._inside += 1
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify()

    def well(self) -> None:
        """A request went well: after as many as may be on their way, one more may be."""
        with self._changed:
            self._well += 1
            if self._well >= self.limit and self.limit < self.most:
                self.limit, self._well = self.limit + 1, 0
                self._changed.notify()

    def busy(self, began: float, after: float | None) -> None:
        """The store was too busy for a request that began then, and wants to be left alone for `after` seconds.
        All that were on their way together count once.
        """
        with self._changed:
            now = self.clock()
            if after:
                self._resume = max(self._resume, now + after)
            if began >= self._cut:
                self.limit, self._well, self._cut = max(self.limit // 2, 1), 0, now
