"""Memory for what comes in, used again: fresh memory for each message costs more than to decrypt it.

A buffer is free again when nobody holds it or a view of it any more, which is what its count of references says. So who
takes a message may keep it, and then another buffer is made.
"""

from __future__ import annotations

import sys

from secondsite.engine.units import KIB, MIB

# Smaller ones are as cheap from the allocator.
_SMALL = 64 * KIB
_ROUND = 64 * KIB
# What is kept: what may lie in a window, and one more that is worked on.
KEPT_BYTES = 20 * MIB


class Buffers:
    """For one thread; `kept` may be changed by another."""

    def __init__(self, kept: int = KEPT_BYTES) -> None:
        self.kept, self._held = kept, 0
        self._made: list[bytearray] = []

    def take(self, length: int) -> memoryview:
        """A writable view of `length` bytes, with anything in it."""
        if length < _SMALL:
            return memoryview(bytearray(length))
        for at in range(len(self._made)):
            if len(self._made[at]) >= length and self._free(at):
                return memoryview(self._made[at])[:length]
        self._trim(length)
        made = bytearray(-(-length // _ROUND) * _ROUND)
        if self._held + len(made) <= self.kept:
            self._made.append(made)
            self._held += len(made)
        return memoryview(made)[:length]

    def _free(self, at: int) -> bool:
        # The list's own reference and the argument's.
        return sys.getrefcount(self._made[at]) == 2

    def _trim(self, length: int) -> None:
        """Free ones that are too small give way."""
        for at in reversed(range(len(self._made))):
            if len(self._made[at]) < length and self._free(at):
                self._held -= len(self._made.pop(at))
