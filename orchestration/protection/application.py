"""When a machine's next application-consistent point is due (R4): one in each span of the policy's hours.

Spans are counted on the item's timeline, so that no step of a clock makes two of one or leaves one out, and each item
has its own place in them: machines that were enabled together do not stand still together. A failed one is tried again
with the next cycles of its span, so often; all other cycles freeze nothing.
"""

from __future__ import annotations

import zlib

import msgspec

from secondsite.orchestration.retention.rules import HOUR
from secondsite.orchestration.typed import ready

MOST_TRIES = 3


class Application(msgspec.Struct, frozen=True):
    """When the newest such point was `made`, and when one was `tried` in vain last, in microseconds of the timeline;
    how often in that span, and why.
    """

    made: int | None = None
    tried: int | None = None
    tries: int = 0
    why: str | None = None

    def due(self, item: str, hours: int, at: int) -> bool:
        """Whether a cycle at that time is to make one. `hours` 0: never (R4.1)."""
        if not hours:
            return False
        span = _span(item, hours, at)
        if self.made is not None and _span(item, hours, self.made) >= span:
            return False
        return not (self.tries >= MOST_TRIES and self.tried is not None and _span(item, hours, self.tried) >= span)

    def following(self, item: str, hours: int, at: int) -> int:
        """The first time from `at` on at which a cycle is to make one."""
        if self.due(item, hours, at):
            return at
        every = hours * HOUR
        return (_span(item, hours, at) + 1) * every - every * zlib.crc32(item.encode()) // 2**32

    def done(self, at: int) -> Application:
        return Application(made=at)

    def failed(self, item: str, hours: int, at: int, why: str) -> Application:
        again = self.tried is not None and _span(item, hours, self.tried) == _span(item, hours, at)
        return Application(self.made, at, self.tries + 1 if again else 1, why)


def _span(item: str, hours: int, at: int) -> int:
    every = hours * HOUR
    return (at + every * zlib.crc32(item.encode()) // 2**32) // every


ready(Application)
