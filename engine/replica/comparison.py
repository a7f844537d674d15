"""What the head really holds, hashed step by step for a resync that may be interrupted (semantics R7.4 to R7.6).

`resync.map` is a block map of what was read, and `resync.json` says of which point, and how far it goes. Nothing else
of the replica is touched, so that dropping the two takes everything back.
"""

from __future__ import annotations

import posixpath
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import NamedTuple

from secondsite.engine import errors, scan
from secondsite.engine.blockmap import PAGE_BLOCKS, BlockMap
from secondsite.engine.images import Image
from secondsite.engine.progress import Monitor
from secondsite.engine.replica import mend, record
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point
from secondsite.engine.units import MIB

# How much of the work a crash may cost, in time; and what is read between two looks at the clock.
NOTE_SECONDS = 2.0
_STEP_BYTES = 256 * MIB


class Pending(NamedTuple):
    """A resync that was begun and not committed: bytes of the head that were compared, of so many."""

    compared: int
    total: int

    @property
    def fraction(self) -> float:
        """From 0 to 1."""
        return self.compared / self.total if self.total else 1.0

    def __str__(self) -> str:
        # Rounded down: all of it is what is there in full.
        return f"a resync is pending, {int(100 * self.fraction)} % compared"


def _path(replica: Replica, kind: str) -> str:
    return posixpath.join(replica.layout.root, f"resync.{kind}")


def pending(replica: Replica) -> Pending | None:
    """Of the newest point; what was compared of another one means nothing any more."""
    if replica.files.size(_path(replica, "json")) < 0:
        return None
    try:
        newest = replica.newest()
        return _noted(replica, newest) if newest is not None else None
    except errors.Damaged:
        return None


def _noted(replica: Replica, point: Point) -> Pending | None:
    path = _path(replica, "json")
    if replica.files.size(path) < 0:
        return None
    try:
        fields, _ = record.read(replica.files, path)
        whose = record.field(fields, "generation", int, path), record.field(fields, "seal", str, path)
        compared = record.field(fields, "compared", int, path)
        epoch = record.field(fields, "epoch", int, path)
    except errors.Damaged:
        return None
    ours = whose == (point.generation, point.seal) and epoch == replica.identity.epoch
    return Pending(compared, point.virtual_bytes) if ours and compared <= point.virtual_bytes else None


def _head_stamp(replica: Replica) -> str:
    """What changes when somebody writes the head: a machine that runs from it, or whoever copied another one there."""
    if replica.files.size(replica.layout.head) < 0:
        return ""
    with replica.files.open(replica.layout.head, "r") as file:
        return str(file.stamps() or "")


def drop(replica: Replica) -> bool:
    """Forget what was compared; was there anything? The replica stays as it is."""
    files, paths = replica.files, [_path(replica, kind) for kind in ("json", "map")]
    there = any(files.size(path) >= 0 for path in paths)
    if there:
        for path in paths:
            files.unlink(path)
        files.flush_dir(replica.layout.root)
    return there


class Comparison:
    """Of the head and the newest point `old`, taken up where the last attempt stopped. The caller keeps writers away.

    `held` is the map of what the head holds, whole once `run` has returned.
    """

    def __init__(self, replica: Replica, old: Point, workers: int = 1) -> None:
        self.replica, self.old, self.workers = replica, old, workers
        self.block = replica.identity.block_size
        self.blocks = -(-old.virtual_bytes // self.block)
        self.done = 0  # blocks; whole pages of the map, unless it is all of them
        self.stamp = _head_stamp(replica)
        self._noted = time.monotonic()
        self.held = self._take_up() or self._begin()

    def _begin(self) -> BlockMap:
        drop(self.replica)
        path, replica = _path(self.replica, "map"), self.replica
        file = replica.files.open(path, "create")
        made = BlockMap.create(file, path, replica.identity.replica_id, self.block, self.old.virtual_bytes)
        self._note(made)
        return made

    def _take_up(self) -> BlockMap | None:
        """What is noted, as far as it is whole. What was written after the note was is forgotten."""
        noted, path = _noted(self.replica, self.old), _path(self.replica, "map")
        if noted is None or record.read(self.replica.files, _path(self.replica, "json"))[0].get("head") != self.stamp:
            return None
        try:
            found = self.replica.open_map(path, "rw")
        except errors.Damaged:
            return None
        if found.image_size != self.old.virtual_bytes:
            found.close()
            return None
        self.done = _whole(found, -(-noted.compared // self.block))
        if self.done < self.blocks:
            found.resize(self.done * self.block)
            found.resize(self.old.virtual_bytes)
        return found

    def _note(self, held: BlockMap) -> None:
        """Durable, what it is about before it."""
        held.write_out()
        held.file.flush()
        fields = {
            "generation": self.old.generation, "seal": self.old.seal, "epoch": self.replica.identity.epoch,
            "head": self.stamp, "compared": min(self.done * self.block, self.old.virtual_bytes),
        }  # fmt: skip
        record.write(self.replica.files, _path(self.replica, "json"), fields)
        self.replica.files.flush_dir(self.replica.layout.root)
        self._noted = time.monotonic()

    def run(self, monitor: Monitor) -> None:
        """Hash the rest of the head. What ends it before finds what is done by then the next time."""
        monitor.begin("compare", self.old.virtual_bytes)
        monitor.advance(min(self.done * self.block, self.old.virtual_bytes))
        try:
            with self._head() as head:
                while self.done < self.blocks:
                    self._step(head, monitor)
                    if time.monotonic() - self._noted >= NOTE_SECONDS:
                        self._note(self.held)
        except BaseException:
            with suppress(errors.Error):
                self._note(self.held)
            raise
        self._note(self.held)

    def _head(self) -> AbstractContextManager[Image | None]:
        """To be read; None where there is nothing that could be."""
        try:
            return self.replica.open_head()
        except errors.Damaged as error:
            self.replica.warn(str(error))
            return nullcontext()

    def _step(self, head: Image | None, monitor: Monitor) -> None:
        """Whole pages, since a page that is noted does not change any more."""
        pages = max(_STEP_BYTES // (PAGE_BLOCKS * self.block), self.blocks // PAGE_BLOCKS // 4096, 1)
        first, end = self.done, min(self.done + pages * PAGE_BLOCKS, self.blocks)
        # Of a head that is too short the rest will be zeros, and the block where it ends is none that anybody has.
        there = min(head.size if head is not None else 0, self.old.virtual_bytes)
        short = there < self.old.virtual_bytes
        stop = min(end, there // self.block if short else end)
        if head is not None and stop > first:
            seed = self.replica.identity.seed
            scan.rebuild(head, self.held, seed, workers=self.workers, monitor=monitor, runs=[(first, stop)])
        monitor.check()
        if short and there % self.block and first <= there // self.block < end:
            mend.doubt_block(self.held, there // self.block)
        self.done = end

    def stands(self) -> bool:
        """Is the head still the one that was compared?"""
        return _head_stamp(self.replica) == self.stamp

    def doubted(self) -> tuple[BlockMap, int]:
        """What a source is to be compared with, in a temporary file, which is the caller's: what the head holds, and
        where that is not what its own map says a hash that no block has. How many such blocks there are.
        """
        files, root = self.replica.files, self.replica.layout.root
        made = self.held.copy_to(files.temporary(root), self.held.path)
        try:
            with mend.open_checked(self.replica, self.old) as logical:
                return made, mend.doubt(made, logical)
        except errors.Damaged as error:
            self.replica.warn(f"{error}; what the head holds is compared all the same")
            return made, 0
        except BaseException:
            made.close()
            raise

    def close(self) -> None:
        self.held.close()

    def __enter__(self) -> Comparison:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _whole(held: BlockMap, blocks: int) -> int:
    """How many of these blocks lie in pages, from the first on, that read as they were written."""
    for first in range(0, blocks, PAGE_BLOCKS):
        try:
            held.read(first, min(PAGE_BLOCKS, held.blocks - first))
        except errors.Damaged:
            return first
    return blocks
