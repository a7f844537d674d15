"""Objects go up no faster than a pace allows: a large body piece by piece as it is sent, a small one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.engine.remote.link.schedule import Throttle
from secondsite.engine.units import KIB

# What is no longer goes at once: its burst is over before anybody notices.
SMALL_BYTES = 256 * KIB
_TINY_BYTES = 4 * KIB


@dataclass(frozen=True)
class Pace:
    """`throttle` says how fast; `cancel` ends a wait."""

    throttle: Throttle
    cancel: Callable[[], bool] = lambda: False

    def take(self, count: int) -> None:
        """Wait until so many bytes may go. Raises Cancelled."""
        while count > 0:
            piece = min(self.throttle.piece, count)
            self.throttle.take(piece, self._check)
            count -= piece

    def before(self, size: int) -> None:
        """Wait before an object is sent as a whole. Tiny ones, of which fences are, never wait."""
        if size > _TINY_BYTES:
            self.take(size)

    def _check(self) -> None:
        if self.cancel():
            raise errors.Cancelled("stopped on request")


class Body:
    """Bytes for a request, which the client reads as it sends them. Waits for the first of them when it is made."""

    def __init__(self, data: bytes | memoryview, pace: Pace) -> None:
        self._data, self._pace, self._at, self._free = memoryview(data), pace, 0, 0
        self._more()

    def __len__(self) -> int:
        return len(self._data)

    def _more(self) -> None:
        self._free = min(self._pace.throttle.piece, len(self._data) - self._at)
        self._pace.take(self._free)

    def read(self, count: int = -1) -> bytes:
        """As of a file, but less at once. Where nothing may go any more, what was begun goes on: no service waits for
        hours.
        """
        if not self._free and self._at < len(self._data):
            if self._pace.throttle.rate == 0:
                self._free = len(self._data) - self._at
            else:
                self._more()
        start, taken = self._at, self._free if count < 0 else min(count, self._free)
        self._at, self._free = start + taken, self._free - taken
        return bytes(self._data[start : start + taken])

    def __iter__(self) -> Iterator[bytes]:
        while part := self.read(64 * KIB):
            yield part
