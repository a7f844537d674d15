"""Reads that go on where others ended, and how far ahead of them to fetch."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from secondsite.engine.units import KIB, MIB

# A client sends several reads at once, which come in any order: so far from its place one still belongs to a stream.
_NEAR_BYTES = 2 * MIB
# The window doubles with each step of a stream, from the first to the last.
_FIRST_BYTES, _MOST_BYTES = 512 * KIB, 16 * MIB
_STREAMS = 4


@dataclass
class _Stream:
    """Read up to `end`, fetched up to `asked`, by so many reads that went on."""

    end: int
    asked: int = 0
    window: int = 0


class Streams:
    """The last few streams of reads of one image; safe from several threads."""

    def __init__(self) -> None:
        self._streams: list[_Stream] = []
        self._lock = threading.Lock()

    def read(self, start: int, end: int) -> range:
        """Somebody reads from `start` to `end`; what should be fetched meanwhile, beside it."""
        with self._lock:
            stream = self._of(start)
            if stream is None or end - stream.end < (end - start) // 2 or end <= stream.end:
                return range(0)  # the first one, or one that does not go on
            stream.end = end
            if stream.window == 0:
                stream.window = _FIRST_BYTES
                return range(0)
            stream.window = min(2 * stream.window, _MOST_BYTES)
            begin = max(stream.asked, end)
            # In pieces of half a window, not in a drip of single reads.
            if end + stream.window - begin < stream.window // 2:
                return range(0)
            stream.asked = end + stream.window
            return range(begin, stream.asked)

    def _of(self, start: int) -> _Stream | None:
        """The stream that it belongs to, now the youngest; None where it is the first of one."""
        for at, stream in enumerate(self._streams):
            if abs(start - stream.end) <= _NEAR_BYTES:
                self._streams.append(self._streams.pop(at))
                return stream
        self._streams.append(_Stream(start))
        del self._streams[:-_STREAMS]
        return None
