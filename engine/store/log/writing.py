"""A cycle into a store: what is there already, the scan against it, segments, the map, the manifest, the head.

Each attempt plans again from what the store holds (DESIGN D12). Nothing that it writes is seen before the head moves.
"""

from __future__ import annotations

import datetime
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from secondsite.engine import errors, scan
from secondsite.engine.batch import SMALL_BATCH_BYTES, Batch
from secondsite.engine.blockmap import PAGE_BLOCKS, BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import Frame
from secondsite.engine.delta.writer import FrameBuffer
from secondsite.engine.files import Files
from secondsite.engine.images.base import Image
from secondsite.engine.progress import Monitor
from secondsite.engine.remote import talk
from secondsite.engine.remote.sending.mapcache import MapCache
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point, format_time
from secondsite.engine.store.base import MAX_FENCE, Absent, Fence, Store
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log import layout, manifest, segment, tree
from secondsite.engine.store.log.layout import HEAD, PLACE, Place
from secondsite.engine.store.log.uploads import Uploads
from secondsite.engine.workers import looking

_RENEWALS = 4


@dataclass(frozen=True)
class Wish:
    """How a replica is made and written: `source` is the name of what it follows."""

    source: str
    block_size: int = 65536
    codec: tuple[int, int] = (fmt.LZ4, 1)
    epoch: int | None = None
    workers: int = 1


@dataclass(frozen=True)
class Written:
    """How a cycle came out. `point` is None where nothing changed. Bytes of segments and of maps that were sent, and
    how many blocks lay there from an attempt before.
    """

    head: heads.Head
    point: Point | None
    sent_bytes: int
    map_bytes: int
    resumed_blocks: int


class Log:
    """A replica in a store, opened for writing. `files` is where its temporary files and the `cache` of maps lie."""

    def __init__(
        self, store: Store, files: Files, cache: MapCache, *,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        monitor: Monitor | None = None,
    ) -> None:  # fmt: skip
        self.store, self.files, self.cache, self.clock = store, files, cache, clock
        self.monitor = monitor or Monitor()

    def replicate(self, image: Image, wish: Wish, fence_seconds: int = MAX_FENCE) -> Written:
        """Make the store's newest point equal to the image, which nobody writes meanwhile. Raises Held where somebody
        else does this now, Refused for another source or a higher epoch, Fenced or Changed where he took over.
        """
        identity = self._identity(wish)
        with holding(self.store, identity, fence_seconds) as fence:
            head = heads.load(self.store, identity)
            _admit(self.store, identity, head, wish)
            return _Cycle(self, identity, head, image, wish).run(fence)

    def _identity(self, wish: Wish) -> Identity:
        try:
            return heads.load_identity(self.store)
        except Absent:
            made = Identity.new(wish.block_size, format_time(self.clock()), wish.source, "log")
            return heads.create(self.store, made)


def take_over(store: Store) -> heads.Head:
    """Raise the epoch after a failover, whoever holds the fence: what he writes from now on is refused (M14).
    Raises Changed where the head moved at that very moment.
    """
    identity = heads.load_identity(store)
    fence = store.fence(HEAD, take=True)
    try:
        return heads.raise_epoch(store, heads.load(store, identity), fence)
    finally:
        fence.release()


@contextmanager
def holding(store: Store, identity: Identity, seconds: int) -> Iterator[Fence]:
    """Hold the head's fence for a block, renewed by a thread. What the head's etag does not let pass fails anyway."""
    try:
        fence = store.fence(HEAD, seconds)
    except Absent:
        heads.begin(store, identity)
        fence = store.fence(HEAD, seconds)

    def renew() -> bool:
        try:
            fence.renew()
        except errors.Error:
            return False  # the next write says so
        return True

    with looking(seconds / _RENEWALS, renew, "fence"):
        try:
            yield fence
        finally:
            try:
                fence.release()
            except errors.Error:
                pass  # it runs out by itself


def _admit(store: Store, identity: Identity, head: heads.Head, wish: Wish) -> None:
    if identity.source != wish.source:
        raise errors.Refused(f"is the replica of {identity.source}, not of {wish.source}", path=store.label)
    if wish.epoch is not None and wish.epoch < head.epoch:
        raise errors.Refused(f"is in epoch {head.epoch}; epoch {wish.epoch} is over", path=store.label)


class _Cycle:
    """One attempt."""

    def __init__(self, log: Log, identity: Identity, head: heads.Head, image: Image, wish: Wish) -> None:
        self.log, self.store, self.identity, self.head, self.image = log, log.store, identity, head, image
        self.wish, self.began = wish, log.clock()
        self.newest = head.points[-1] if head.points else None
        base = self.newest.virtual_bytes if self.newest else 0
        self.header = fmt.Header(
            identity.replica_id, identity.block_size, head.generation, head.generation + 1, base, image.size, head.epoch
        )

    def run(self, fence: Fence) -> Written:
        with ExitStack() as stack:
            before = None
            if self.newest is not None:
                before = manifest.load(self.store, self.newest, self.identity.replica_id.hex())
            old = tree.Tree(self.store, self.identity, before)
            stack.callback(old.close)
            held = stack.enter_context(self._held(old, before))
            changes = stack.enter_context(self._temporary("places", self.image.size))
            uploads = Uploads(self.store)
            stack.callback(uploads.close)
            outlet = Outlet(self, held, changes, uploads)
            resumed = outlet.resume()
            tally = self._scan(held, outlet)
            outlet.packer.finish()
            uploads.wait()
            held.resize(self.image.size)
            seal, sent = held.seal().hex(), uploads.bytes
            if before is not None and seal == before.point.seal:
                return Written(self.head, None, sent, 0, resumed)
            groups = self._map(old, held, changes, uploads)
            point = self._point(seal, tally, outlet.packer.bytes)
            moved = self._commit(manifest.Manifest(point, groups), fence)
            self.log.cache.keep(held)
            return Written(moved, point, sent, uploads.bytes - sent, resumed)

    def _temporary(self, name: str, size: int) -> BlockMap:
        file = self.log.files.temporary(self.log.cache.folder)
        return BlockMap.create(file, name, self.identity.replica_id, self.identity.block_size, size)

    def _held(self, old: tree.Tree, before: manifest.Manifest | None) -> BlockMap:
        """The hashes of the newest generation, from the cache as far as they are there; at least the image's size."""
        point = before.point if before else None
        state = talk.State(
            replica_id=self.identity.replica_id, block_size=self.identity.block_size, seed=self.identity.seed,
            epoch=self.head.epoch, generation=self.head.generation,
            virtual_bytes=point.virtual_bytes if point else 0, seal=point.seal if point else "", spool_bytes=0,
            spool_frames=0,
        )  # fmt: skip
        held = self.log.cache.working(state, lambda ask: _answers(old, state, ask), self.store.label)
        if self.image.size > held.image_size:
            held.resize(self.image.size)
        return held

    def _scan(self, held: BlockMap, outlet: Outlet) -> scan.Tally:
        self.log.monitor.begin("send", self.image.size)
        return scan.Scan(
            self.image, held, outlet, size=self.image.size, block_size=self.identity.block_size,
            seed=self.identity.seed, workers=self.wish.workers, batch_bytes=SMALL_BATCH_BYTES,
            monitor=self.log.monitor,
        ).run()  # fmt: skip

    def _map(
        self, old: tree.Tree, held: BlockMap, changes: BlockMap, uploads: Uploads
    ) -> tuple[manifest.Group | None, ...]:
        header = tree.header(self.identity, self.header.target_generation, self.head.epoch)
        packer = segment.Packer(layout.MAPS, header, set(), uploads.put)
        groups = tree.save(old, held, changes, packer)
        packer.finish()
        uploads.wait()
        return groups

    def _point(self, seal: str, tally: scan.Tally, sent: int) -> Point:
        return Point(
            self.header.target_generation, format_time(self.began), self.image.size, seal,
            "delta" if self.head.generation else "initial", "scan", tally.read_bytes, tally.changed_bytes, sent,
            self.head.epoch, self.identity.replica_id.hex(),
        )  # fmt: skip

    def _commit(self, made: manifest.Manifest, fence: Fence) -> heads.Head:
        digest = manifest.save(self.store, made)
        return heads.move(self.store, self.head.with_point(made.row(digest)), fence)


def _answers(old: tree.Tree, state: talk.State, ask: talk.Ask) -> Iterator[bytes]:
    """What the cache asks of a replica: the digests of all pages, or the hashes of some."""
    if ask.what == "table":
        yield old.digests()
        return
    blocks = -(-state.virtual_bytes // state.block_size)
    found = {page.number: page.hashes for page in old.pages(ask.pages)}
    for page in ask.pages:
        yield bytes(found[page][: 16 * min(PAGE_BLOCKS, blocks - page * PAGE_BLOCKS)])


class Outlet:
    """A scan's sink: frames into segments, hashes and places into the maps."""

    def __init__(self, cycle: _Cycle, held: BlockMap, changes: BlockMap, uploads: Uploads) -> None:
        self.cycle, self.held, self.changes = cycle, held, changes
        self.packer = segment.Packer(layout.SEGMENTS, cycle.header, set(), uploads.put)
        self._buffers: dict[int, FrameBuffer] = {}

    def resume(self) -> int:
        """Lay over the maps what an attempt before has brought there already; how many blocks that is."""
        cycle, found = self.cycle, 0
        for entry in cycle.store.list(layout.folder(layout.SEGMENTS, cycle.header.target_generation)):
            number = layout.number_of(entry.name)
            if number is None:
                continue
            self.packer.taken.add(number)
            try:
                held = segment.table(cycle.store, entry.name, entry.size)
            except errors.Damaged:
                continue  # it is sent again
            if held.header == cycle.header:
                found += sum(self._lay(number, *each) for each in held.frames)
        return found

    def _lay(self, number: int, frame: Frame, offset: int, length: int) -> int:
        if frame.head.kind == fmt.ZEROS:
            for first, count in zip(frame.runs[0::2], frame.runs[1::2], strict=True):
                self._check(first + count)
                self.held.clear(first, count)
                self.changes.clear(first, count)
            return frame.zero_blocks
        count = len(frame.blocks)
        self._check(frame.blocks[-1] + 1)
        self.held.store(frame.blocks, frame.hashes, count)
        self.changes.store(frame.blocks, PLACE.pack(number, offset, length) * count, count)
        return count

    def _check(self, end: int) -> None:
        if end > self.changes.blocks:
            raise errors.Damaged("a segment names blocks that are not there", path=self.cycle.store.label)

    def put(self, batch: Batch, worker: int) -> None:
        """Pack in the scan's own thread; several may."""
        buffer = self._buffers.setdefault(worker, FrameBuffer(*self.cycle.wish.codec))
        buffer.encode(batch, self.cycle.header.tag)
        packed = self.packer.add(buffer)
        self.held.store(batch.blocks, batch.hashes, batch.count)
        for start, end, head in segment.spans(buffer):
            body = buffer.data[start + fmt.FRAME_BYTES : end]
            place = Place(packed.number, packed.offset + start, end - start)
            self._note(head, body, place)

    def _note(self, head: fmt.FrameHeader, body: memoryview, place: Place) -> None:
        numbers = array("Q")
        if head.kind == fmt.DATA:
            numbers.frombytes(body[: 8 * head.entries])
            self.changes.store(numbers, PLACE.pack(*place) * head.entries, head.entries)
            return
        numbers.frombytes(body[: 16 * head.entries])
        for first, count in zip(numbers[0::2], numbers[1::2], strict=True):
            self.changes.clear(first, count)
