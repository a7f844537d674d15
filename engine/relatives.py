"""Replicas of one disk that share the secret of their hashes: what the block map of one says is true of the other.

A machine that fails over and goes back has two replicas, one in each direction. Where the second was made `like` the
first (adoption.py), equal hashes in their maps are equal blocks, and so a map tells where two disks may differ without
a byte of either being read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from secondsite.engine import errors
from secondsite.engine.blockmap import DIGEST_BYTES, BlockMap, differing_blocks
from secondsite.engine.files import LocalFiles
from secondsite.engine.images.overlay import OverlayImage
from secondsite.engine.remote import reach
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.view import point_map
from secondsite.engine.store.place import finding_logs, is_place
from secondsite.engine.trackers.base import Have

State = str | os.PathLike[str] | None
Ranges = Iterable[tuple[int, int]]
T = TypeVar("T")


@finding_logs
def open_map(
    replica: str, have: Have, state: State, stack: ExitStack, *, lazily: bool = False
) -> tuple[Identity, BlockMap]:
    """What a replica is, and the block map of its point `have`, until the stack is closed; no cycle is applied to it
    for so long. `lazily`: its pages raise Damaged when they are read. Raises Refused where it holds that point no more,
    and what opening a replica does.
    """
    if is_place(replica):
        identity, found, seal = _stored(replica, have, state, stack)
    else:
        opened = Replica.open(*stack.enter_context(reach.files_of(replica, None, state)))
        stack.enter_context(opened.reading(proving=True))
        point = opened.choose(str(have.generation))
        identity, seal = opened.identity, point.seal
        found = stack.enter_context(point_map(opened, point, lazily=lazily))
    if (identity.replica_id.hex(), seal) != (have.replica_id, have.seal):
        raise errors.Refused(f"holds another point {have.generation} than was looked for", path=replica)
    return identity, found


def _stored(replica: str, have: Have, state: State, stack: ExitStack) -> tuple[Identity, BlockMap, str]:
    from secondsite.engine.store.log.reading import Replica as StoredReplica
    from secondsite.engine.store.log.session import Opened

    opened = stack.enter_context(Opened(replica, None, state))
    held = StoredReplica.open(opened.store)
    point = stack.enter_context(held.reading(str(have.generation), opened.say))
    found = stack.enter_context(point.block_map(LocalFiles().temporary(".")))
    return held.identity, found, point.point.seal


def differing(one: BlockMap, other: BlockMap) -> Iterator[tuple[int, int]]:
    """(start, length) in bytes of the blocks whose hashes differ, ascending, neighbours as one."""
    size, first, end = one.image_size, 0, 0
    left, right = one.digests(), other.digests()
    for page in range(one.pages):
        at = DIGEST_BYTES * page
        if left[at : at + DIGEST_BYTES] == right[at : at + DIGEST_BYTES]:
            continue  # of 4,096 pages a few hold something; to ask each map for each takes half a second
        for blocks in differing_blocks(one, other, page):
            for block in blocks:
                if block != end:
                    if end > first:
                        yield _bytes(first, end, one.block_size, size)
                    first = block
                end = block + 1
    if end > first:
        yield _bytes(first, end, one.block_size, size)


def _bytes(first: int, end: int, block: int, size: int) -> tuple[int, int]:
    return first * block, min(end * block, size) - first * block


def merged(*given: Ranges) -> Iterator[tuple[int, int]]:
    """Ranges in any order, as ranges that ascend and are apart."""
    at = -1
    start = 0
    for low, length in sorted(pair for ranges in given for pair in ranges):
        if low > at:
            if at > start:
                yield start, at - start
            start, at = low, low
        at = max(at, low + length)
    if at > start:
        yield start, at - start


@dataclass(frozen=True)
class Basis:
    """The point `have` of a `replica`, over which the overlay `path` lies."""

    path: str
    replica: str
    have: Have
    state: str | None = None

    @classmethod
    def of(cls, image: object) -> Basis | None:
        """Of an open overlay that says where its replica is."""
        over = image.over if isinstance(image, OverlayImage) else {}
        if not isinstance(image, OverlayImage) or "place" not in over:
            return None
        have = Have(str(over["replica"]), int(over["generation"]), str(over["seal"]))
        return cls(image.path, str(over["place"]), have, str(over["state"]) if "state" in over else None)

    def changed_from(self, written: Ranges, previous: BlockMap, seed: int, warnings: list[str]) -> Ranges | None:
        """Where the overlay may differ from what `previous` is the map of: what was `written` into it, and where that
        map is not the point's. None where their hashes have nothing to do with each other.
        """
        if self.have.replica_id == previous.replica_id.hex():
            return None  # it is held by the cycle itself
        try:
            apart = in_turn(lambda lazily: self._apart(previous, seed, lazily=lazily))
            return None if apart is None else merged(written, apart)
        except errors.Error as error:
            warnings.append(f"{self.path}: the map of what lies below it cannot be read ({error}); all is scanned")
            return None

    def _apart(self, previous: BlockMap, seed: int, *, lazily: bool) -> list[tuple[int, int]] | None:
        with ExitStack() as stack:
            identity, base = open_map(self.replica, self.have, self.state, stack, lazily=lazily)
            shape = identity.seed, base.block_size, base.image_size
            if shape != (seed, previous.block_size, previous.image_size):
                return None
            return list(differing(base, previous))


def in_turn(read: Callable[[bool], T]) -> T:
    """What comes of reading a map lazily; where it is damaged, of another look, which makes it anew if that can be."""
    try:
        return read(True)
    except errors.Damaged:
        return read(False)
