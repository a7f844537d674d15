"""Where a VHDX file has room: whole MiB that nothing refers to, and the end of the file (formats 1.1, 1.5).

Space that was freed comes back in two steps. Until the log has made the pointers that led to it unreachable, a crash
would bring them back, so nothing may be written there: `release` keeps it apart, and `settle` (after the log is
durable) makes it room.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from secondsite.engine import kernel

MIB = 1 << 20
# Files grow by this much at a time: each growth is a change of the file system's metadata (Windows does the same).
GROW_BYTES = 32 * MIB
# How many runs of room one request looks at, so that a fragmented file costs no search; then the file grows.
_LOOK = 64


class Room(NamedTuple):
    """Space that was found: `fresh` lies behind everything ever written and reads as zeros without doing anything."""

    offset: int
    fresh: bool


class Space:
    """All sizes and offsets are bytes, and multiples of 1 MiB. Not thread-safe: the writer's lock is around it."""

    def __init__(self, file_size: int, used: Iterable[tuple[int, int]]) -> None:
        """`used` names (offset, length) of everything in the file; what lies between is room with unknown bytes."""
        total = -(-file_size // MIB)
        ranges = [(offset // MIB, -(-(offset + length) // MIB)) for offset, length in used]
        total = max([total, *(end for _, end in ranges)])
        bits = kernel.Bitmap(total)
        for start, end in ranges:
            bits.set(start, end)
        self._runs: list[tuple[int, int]] = []
        self._released: list[tuple[int, int]] = []
        at = 0
        while (found := bits.next_range(at, total + 1) if at < total else None) is not None:
            if found[0] > at:
                self._runs.append((at * MIB, (found[0] - at) * MIB))
            at = found[1]
        if at < total:
            self._runs.append((at * MIB, (total - at) * MIB))
        self.end = total * MIB

    def take(self, length: int) -> Room:
        """Room for `length` bytes, from what was freed or from the end."""
        for index in range(len(self._runs) - 1, max(len(self._runs) - 1 - _LOOK, -1), -1):
            offset, room = self._runs[index]
            if room >= length:
                if room == length:
                    del self._runs[index]
                else:
                    self._runs[index] = (offset + length, room - length)
                return Room(offset, False)
        return self.take_end(length)

    def take_end(self, length: int) -> Room:
        """Room behind everything else."""
        self.end += length
        return Room(self.end - length, True)

    def release(self, offset: int, length: int) -> None:
        """Nothing will lead here once the next log entry is durable."""
        self._released.append((offset, length))

    def settle(self) -> list[tuple[int, int]]:
        """The log is durable: what was released is room. Returns it, so that its bytes can be given back."""
        settled, self._released = self._released, []
        self._runs.extend(settled)
        return settled

    def used_end(self) -> int:
        """The end of the last thing in use: what a closed file is cut to."""
        end = self.end
        for offset, length in sorted(self._runs, reverse=True):
            if offset + length != end:
                break
            end = offset
        return end
