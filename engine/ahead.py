"""Short spans that lie apart are asked for before they are read, some at once: a disk that knows of several is faster
than one that learns of each when the one before has come.

64 pieces of 1 MiB of a clone that nobody had read yet took 0.93 s as they came, on XFS on a loop device, since the
kernel guesses what comes next and reads that too, and 0.08 s when they had been named.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from secondsite.engine.images import Image
from secondsite.engine.units import MIB

# So much is asked for ahead of who reads, in so many pieces.
AHEAD_BYTES, AHEAD_PIECES = 8 * MIB, 64
# Of a longer piece this is asked for: who goes on reads in order, and that the file system guesses well.
_PIECE_BYTES = 1 * MIB

T = TypeVar("T")


def asked(image: Image, pieces: Iterable[T], place: Callable[[T], tuple[int, int]]) -> Iterator[T]:
    """The pieces as they come, each asked for some before it is given out; `place` says where one lies, as (offset,
    length), of length 0 where there is nothing to read.
    """
    waiting: deque[tuple[T, int]] = deque()
    held = 0
    for piece in pieces:
        offset, length = place(piece)
        length = min(length, _PIECE_BYTES)
        if length:
            image.expect(offset, length)
        waiting.append((piece, length))
        held += length
        while held > AHEAD_BYTES or len(waiting) > AHEAD_PIECES:
            first, length = waiting.popleft()
            held -= length
            yield first
    for first, _ in waiting:
        yield first


def groups(places: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Places (offset, length) in order, so many together as are asked for at once."""
    group: list[tuple[int, int]] = []
    held = 0
    for place in places:
        if group and (held + place[1] > AHEAD_BYTES or len(group) == AHEAD_PIECES):
            yield group
            group, held = [], 0
        group.append(place)
        held += place[1]
    if group:
        yield group
