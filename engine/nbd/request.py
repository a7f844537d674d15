"""A request to an NBD server while its reply comes in: what of it is there, and whether the reply may be believed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from secondsite.engine import errors
from secondsite.engine.nbd import protocol as p

Buffer = bytearray | memoryview

_VERBS = {
    p.CMD_READ: "read", p.CMD_WRITE: "write", p.CMD_TRIM: "trim", p.CMD_WRITE_ZEROES: "zero",
    p.CMD_BLOCK_STATUS: "get the status of",
}  # fmt: skip


class Violation(Exception):
    """The server sent what the protocol, or the request, does not allow."""


def split(offset: int, length: int, piece: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of a range in pieces that end at multiples of `piece`."""
    end = offset + length
    while offset < end:
        stop = min(offset - offset % piece + piece, end)
        yield offset, stop - offset
        offset = stop


class Request:
    """One command. `payload` is sent after it; `target`, of `length` bytes, is where a read goes.

    `statuses` are the (length, flags) by the number of their context, of at most `rest` bytes each. `error` is the
    server's, 0 for none, `message` what it said about it.
    """

    __slots__ = (
        "_covered", "_left", "command", "error", "flags", "length", "message", "offset", "payload", "rest",
        "statuses", "target",
    )  # fmt: skip

    def __init__(
        self,
        command: int,
        offset: int,
        length: int,
        flags: int = 0,
        *,
        payload: bytes | Buffer | None = None,
        target: memoryview | None = None,
    ) -> None:
        self.command, self.offset, self.length, self.flags = command, offset, length, flags
        self.payload, self.target = payload, target
        self.error, self.message = 0, ""
        self.rest = length
        self.statuses: dict[int, list[tuple[int, int]]] = {}
        self._left: dict[int, int] = {}
        # Boundaries of what was received, as start, end, start, end, in order; neighbours are joined.
        self._covered: list[int] = []

    def claim(self, at: int, length: int) -> memoryview:
        """The part of the target for `length` bytes from `at` of the disk. Raises Violation where the reply may not
        have it: outside of the request, or there already.
        """
        start = at - self.offset
        end = start + length
        if self.target is None or length <= 0 or start < 0 or end > self.length:
            raise Violation(f"{length} bytes at {at}, which were not asked for")
        covered = self._covered
        index = bisect_left(covered, start)
        if index < len(covered) and covered[index] == start and index % 2 == 0:
            raise Violation(f"{length} bytes at {at} twice")
        joins = index < len(covered) and covered[index] == start  # where an earlier chunk ends
        inside = index + 1 if joins else index
        if inside % 2 or (inside < len(covered) and covered[inside] < end):
            raise Violation(f"{length} bytes at {at} twice")
        meets = inside < len(covered) and covered[inside] == end
        covered[index : inside + meets] = ([] if joins else [start]) + ([] if meets else [end])
        return self.target[start:end]

    def begin_status(self, number: int) -> None:
        """A context's status comes, once."""
        if self.command != p.CMD_BLOCK_STATUS or number in self.statuses:
            raise Violation("a block status that was not asked for, or twice")
        self.statuses[number], self._left[number] = [], self.rest

    def add_status(self, number: int, descriptors: Iterable[tuple[int, ...]]) -> None:
        """The next stretches of a context, cut at the end of the disk."""
        found, left = self.statuses[number], self._left[number]
        for length, flags in descriptors:
            if not length or self.rest - left >= self.length:
                raise Violation("a block status with an empty stretch, or with more than was asked for")
            length = min(length, left)
            found.append((length, flags))
            left -= length
        self._left[number] = left

    def check_complete(self, contexts: Iterable[int]) -> None:
        """The reply is at its end: without an error, everything must be there."""
        if self.error:
            return
        if self.target is not None and self._covered != [0, self.length]:
            raise Violation("a reply to a read that leaves something out")
        if self.command == p.CMD_BLOCK_STATUS and not set(contexts) <= set(self.statuses):
            raise Violation("a block status without a context that was agreed on")

    def failure(self, name: str) -> errors.Error:
        """The server's error as ours."""
        what = f"{_VERBS[self.command]} {self.length} bytes at {self.offset}" if self.length else "flush"
        said = f" ({self.message})" if self.message else ""
        text = f"cannot {what}: {p.ERROR_TEXTS.get(self.error, f'error {self.error}')}{said}"
        kinds: dict[int, type[errors.Error]] = {p.ENOSPC: errors.Full, p.EPERM: errors.Refused}
        return kinds.get(self.error, errors.Unreachable)(text, path=name)
