"""A point of a replica, wherever that lies, chosen to be written elsewhere: its bytes stay while cycles go on.

It is written whole, against the map of what is there already, or as the step from an older point that is there.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from secondsite.engine import errors, scan, serving
from secondsite.engine.blockmap import PAGE_BLOCKS, BlockMap
from secondsite.engine.files import LocalFiles
from secondsite.engine.filling import Filling
from secondsite.engine.progress import Monitor
from secondsite.engine.remote import reach
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point
from secondsite.engine.replica.view import point_map
from secondsite.engine.store.again import Again
from secondsite.engine.store.place import finding_logs, is_place
from secondsite.engine.units import MIB

if TYPE_CHECKING:
    from secondsite.engine.batch import Batch
    from secondsite.engine.images import Image
    from secondsite.engine.store.log.reading import Replica as StoredReplica
    from secondsite.engine.store.log.rows import Row

State = str | os.PathLike[str] | None

# What one request of a page blob takes; a disk elsewhere takes no harm of it.
_BATCH_BYTES = 4 * MIB
# The hash of no block: it differs from whatever a point has there.
_UNLIKE = b"\xff" * 16


@dataclass
class Held:
    """An older point that a disk holds, but for the blocks `unsure`, which a step away from it may have written."""

    generation: int
    time: str
    seal: str
    bytes: int
    unsure: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, point: Point) -> Held:
        """All of a point."""
        return cls(point.generation, point.time, point.seal, point.virtual_bytes)

    @property
    def called(self) -> tuple[int, str]:
        """What tells it from other points of its replica."""
        return self.generation, self.time

    def doubt(self, have: BlockMap) -> None:
        """Let a map say of the unsure blocks that nobody knows."""
        blocks = array("Q", sorted(block for block in self.unsure if block < have.blocks))
        have.store(blocks, _UNLIKE * len(blocks), len(blocks))


class Chosen(Protocol):
    """A point whose bytes stay as they are."""

    point: Point
    identity: Identity

    @property
    def warnings(self) -> list[str]:
        """What was met while it was read."""

    def fill(self, disk: Image, have: BlockMap | None) -> int:
        """Make the disk equal to it, every block proved and read back; the bytes written. `have` is the map of what the
        disk holds, None for zeros.
        """

    def follow(self, disk: Image, held: Held) -> int | None:
        """The same of a disk that holds an older point, by what differs; None where the replica has that no more."""


@finding_logs
def choose(
    replica: str, at: str, state: State, workers: int, monitor: Monitor, stack: ExitStack, held: Held | None = None,
) -> Chosen:  # fmt: skip
    """Open it, until the stack is closed. It may then `follow` from `held`. Raises what opening a replica does."""
    if is_place(replica):
        told = Again()
        found = stack.enter_context(_stored(replica, state, monitor, told))
        return _Stored(found, at, told, workers, monitor, stack)
    return _Mapped(replica, at, state, workers, monitor, stack, held)


@dataclass(frozen=True)
class Newest:
    """What a replica is, and its newest point, if there is one."""

    identity: Identity
    point: Point | Row | None


@finding_logs
def newest(replica: str, state: State, monitor: Monitor, told: Again) -> Newest:
    """A look that costs little. Raises what opening a replica does."""
    if is_place(replica):
        with _stored(replica, state, monitor, told) as found:
            return Newest(found.identity, found.head.newest)
    with reach.files_of(replica, None, state, monitor.cancel) as (root, files):
        opened = Replica.open(root, files)
        return Newest(opened.identity, opened.newest())


@finding_logs
def kept(
    replica: str, state: State, monitor: Monitor, told: Again, wanted: Iterable[tuple[int, str]]
) -> set[tuple[int, str]]:
    """Those of these points, by generation and time, that the replica has, or may have: its record cannot be read."""
    if is_place(replica):
        with _stored(replica, state, monitor, told) as found:
            return {point for point in wanted if _has(found, point)}
    with reach.files_of(replica, None, state, monitor.cancel) as (root, files):
        opened = Replica.open(root, files)
        there = {(point.generation, point.time) for point in opened.points()}
        return {point for point in wanted if point in there or point[0] in opened.unreadable}


@contextmanager
def _stored(replica: str, state: State, monitor: Monitor, told: Again) -> Iterator[StoredReplica]:
    from secondsite.engine.store.log.reading import Replica as StoredReplica
    from secondsite.engine.store.opening import open_replica

    with open_replica(replica, told=told.told, cancel=monitor.cancel or (lambda: False), state=state) as store:
        yield StoredReplica.open(store)


def _has(replica: StoredReplica, point: tuple[int, str]) -> bool:
    try:
        row = replica.catalogue.find(point[0])
    except errors.Damaged:
        return True
    return row is not None and row.time == point[1]


def map_of(disk: Image, identity: Identity, size: int, workers: int, monitor: Monitor) -> BlockMap:
    """The map of the first `size` bytes of a disk, which are read."""
    made = LocalFiles().temporary(disk.path)
    have = BlockMap.create(made, disk.path, identity.replica_id, identity.block_size, size)
    try:
        monitor.begin("compare", size)
        scan.rebuild(disk, have, identity.seed, workers=workers, monitor=monitor)
        return have
    except BaseException:
        have.close()
        raise


class _Mapped:
    """Of a replica in a folder or on another host: its maps are copied, so that cycles may go on."""

    def __init__(
        self, replica: str, at: str, state: State, workers: int, monitor: Monitor, stack: ExitStack, held: Held | None
    ) -> None:  # fmt: skip
        self.workers, self.monitor = workers, monitor
        with reach.files_of(replica, None, state, monitor.cancel) as (root, files):
            self.opened = Replica.open(root, files)
            self.identity = self.opened.identity
            with self.opened.reading(proving=True):
                self.point = self.opened.choose(at)
                self.want = self._copied(self.point, root, stack)
                self.have = self._map_of(held, root, stack) if held else None
        self.view = serving.open_steady(replica, self.point.name, state, self.opened.warn)
        stack.enter_context(self.view)
        stack.enter_context(serving.following(self.view))
        if self.view.over["seal"] != self.point.seal:
            raise errors.Busy("was replaced while it was opened", path=self.view.path)

    def _copied(self, point: Point, root: str, stack: ExitStack) -> BlockMap:
        with point_map(self.opened, point) as found:
            return stack.enter_context(found.copy_to(LocalFiles().temporary(root), found.path))

    def _map_of(self, held: Held, root: str, stack: ExitStack) -> BlockMap | None:
        for point in self.opened.points():
            if (point.generation, point.seal) == (held.generation, held.seal):
                try:
                    return self._copied(point, root, stack)
                except errors.Damaged:
                    return None
        return None

    @property
    def warnings(self) -> list[str]:
        return self.opened.warnings

    def fill(self, disk: Image, have: BlockMap | None) -> int:
        filling = Filling(
            self.view, self.want, self.identity.seed, workers=self.workers, monitor=self.monitor,
            batch_bytes=_BATCH_BYTES,
        )  # fmt: skip
        return filling.copy(have, disk)

    def follow(self, disk: Image, held: Held) -> int | None:
        if self.have is None:
            return None
        self.have.resize(self.point.virtual_bytes)
        held.doubt(self.have)
        return self.fill(disk, self.have)


class _Stored:
    """Of a replica in a store, which proves each block that it gives."""

    def __init__(
        self, replica: StoredReplica, at: str, told: Again, workers: int, monitor: Monitor, stack: ExitStack
    ) -> None:  # fmt: skip
        self.replica, self.told, self.workers, self.monitor = replica, told, workers, monitor
        self.view = stack.enter_context(replica.reading(at, told.say))
        self.point, self.identity = self.view.point, self.view.identity

    @property
    def warnings(self) -> list[str]:
        return self.told.warnings

    def fill(self, disk: Image, have: BlockMap | None) -> int:
        with ExitStack() as stack:
            have = have or stack.enter_context(self._map(disk))
            self.monitor.begin("restore", self.point.virtual_bytes)
            sink = _Sink(disk, have, self.identity.seed)
            tally = scan.Scan(
                self.view, have, sink, size=self.point.virtual_bytes, block_size=self.identity.block_size,
                seed=self.identity.seed, workers=self.workers, batch_bytes=_BATCH_BYTES, monitor=self.monitor,
            ).run()  # fmt: skip
            if have.seal().hex() != self.point.seal:
                raise errors.Damaged("what was written has not the seal of the point", path=disk.path)
            return tally.sent_bytes

    def follow(self, disk: Image, held: Held) -> int | None:
        try:
            older = self.replica.point(held.generation)
        except (errors.Refused, errors.Damaged):
            return None
        with older, self._map(disk) as have, self._map(disk) as want:
            if older.point.seal != held.seal:
                return None
            pages = self.view.differing(older) | {block // PAGE_BLOCKS for block in held.unsure}
            try:
                older.load(pages, have)
            except errors.Damaged:
                return None
            self.view.load(pages, want)
            held.doubt(have)
            filling = Filling(
                self.view, want, self.identity.seed, workers=self.workers, monitor=self.monitor,
                batch_bytes=_BATCH_BYTES,
            )  # fmt: skip
            return filling.copy(have, disk)

    def _map(self, disk: Image) -> BlockMap:
        made, identity = LocalFiles().temporary(disk.path), self.identity
        return BlockMap.create(made, disk.path, identity.replica_id, identity.block_size, self.point.virtual_bytes)


class _Sink:
    """Writes what it gets into the disk, reads it back, and notes its hashes."""

    def __init__(self, disk: Image, have: BlockMap, seed: int) -> None:
        self.disk, self.have, self.seed = disk, have, seed

    def put(self, batch: Batch, worker: int) -> None:
        given, size = (batch.blocks, batch.lengths), self.have.image_size
        self.disk.write_blocks(*given, batch.count, batch.block_size, size, batch.payload)
        bad = self.disk.check_blocks(*given, batch.hashes, batch.count, batch.block_size, size, self.seed)
        if bad >= 0:
            offset = batch.blocks[bad] * batch.block_size
            raise errors.Damaged("what was written reads back differently", path=self.disk.path, offset=offset)
        self.have.store(batch.blocks, batch.hashes, batch.count)
