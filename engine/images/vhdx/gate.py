"""Payload and metadata take turns: transfers run side by side, and a commit runs alone.

A log entry must not name a block whose payload is still on its way, and a block must not be given to another while
somebody reads or writes it. So who looks up where a block lies does it inside `locked`, and says with `admit`, before
leaving it, that a transfer follows; a commit inside `alone` waits for the transfers that were admitted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """One lock, a count of transfers under way, and who waits to be alone. Nothing here may be nested."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._transfers = 0
        self._waiting = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else looks at or changes metadata; transfers go on. Lets those in first who want to be alone."""
        with self._lock:
            while self._waiting:
                self._changed.wait()
            yield

    def admit(self) -> None:
        """Inside `locked`: a transfer of what was looked up follows, and ends with `leave`."""
        self._transfers += 1

    def leave(self) -> None:
        with self._lock:
            self._transfers -= 1
            self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """As `locked`, with no transfer under way."""
        with self._lock:
            self._waiting += 1
            try:
                while self._transfers:
                    self._changed.wait()
            finally:
                self._waiting -= 1
            try:
                yield
            finally:
                self._changed.notify_all()
