"""A cycle into a store: what is there already, segments for what changed, the map, the manifest, the head.

Each attempt plans again from what the store holds (DESIGN D12). Nothing that it writes is seen before the head moves.
"""

from __future__ import annotations

import datetime
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec

from secondsite.engine import admission, errors, scan, units
from secondsite.engine.account import Account
from secondsite.engine.admission import Terms
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import PAGE_BLOCKS, BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import Frame
from secondsite.engine.delta.writer import FrameBuffer
from secondsite.engine.images.base import Image
from secondsite.engine.progress import Monitor
from secondsite.engine.remote import talk
from secondsite.engine.remote.sending import plan
from secondsite.engine.remote.sending.tally import Sent
from secondsite.engine.remote.sending.target import Taken
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point, data_time, format_time
from secondsite.engine.source import Source
from secondsite.engine.store.base import MAX_FENCE, Absent, Entry, Fence, Store
from secondsite.engine.store.log import compact, layout, manifest, prune, resync, segment, tree
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log.layout import HEAD, IDENTITY, PLACE, Place
from secondsite.engine.store.log.mine import unknown
from secondsite.engine.store.log.rows import Row
from secondsite.engine.store.log.uploads import Uploads
from secondsite.engine.store.renewing import renewed

# Where nothing else is asked for: it packs 0.4 to 0.5 GB/s a core, more than most lines carry, and what is stored is
# paid for.
_CODEC = (fmt.ZSTD, 1)


@dataclass
class Known:
    """What a cycle that ended well leaves to the next one: nothing of it is read again while the head is this one.
    `taken`: an attempt before has taken the replica over.
    """

    identity: Identity | None = None
    taken: bool = False
    head: heads.Head | None = None
    manifest: manifest.Manifest | None = None


@dataclass(frozen=True)
class Into:
    """A store to write into. `temporary` gives unnamed files of this host, `clock` the time of a new replica. All
    points but the newest `keep` are dropped after each cycle. `mine` is who the host is in a replica; with `take` it is
    taken over from whoever writes into it. A `resync` proves all that the newest point holds, which `monitor` shows.
    """

    store: Store
    temporary: Callable[[], Image]
    clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC)
    fence_seconds: int = MAX_FENCE
    keep: int | None = None
    mine: Callable[[bytes], AbstractContextManager[str]] = unknown
    take: bool = False
    known: Known = field(default_factory=Known)
    resync: bool = False
    monitor: Monitor = field(default_factory=Monitor)


@contextmanager
def attempt(into: Into, origin: Source, terms: Terms) -> Iterator[Attempt]:
    """The replica's end of one attempt, under the head's fence; a replica is made where there is none. Raises Held
    where somebody else writes now, Busy where that is this host itself, Refused where this source may not.
    """
    store, take = into.store, into.take and not into.known.taken
    if into.keep is not None:
        prune.check_allowed(store)
    if into.resync:
        _refuse_headless(store)
    identity = _identity(into, origin, terms)
    with into.mine(identity.replica_id) as holder:
        if take:
            terms = _taking(into, identity, origin, terms, holder)
        holds = holding(store, identity, into.fence_seconds, holder=holder, take=take)
        with holds as fence, ExitStack() as stack:
            head = heads.load(store, identity)
            becomes = admission.admitted(head.of(identity), origin, terms, store.label)
            if take:
                head = heads.become(store, head, becomes, fence, taken_by=holder)
                into.known.taken = True
            yield Attempt(into, becomes, head, fence, origin.image.size, stack)


def _refuse_headless(store: Store) -> None:
    """Raises Damaged where a resync has nothing to go by: which points there are only the head says."""
    try:
        heads.check_orphaned(store)
        if store.stat(IDENTITY) is None:
            return
        identity = heads.load_identity(store)
        if store.stat(HEAD) is not None or any(store.list("points/")):
            heads.load(store, identity)
    except errors.Damaged as error:
        told = f"{error.message}: no resync mends that; put a copy of this object back, or replicate to another place"
        raise errors.Damaged(told, path=error.path) from None


def _taking(into: Into, identity: Identity, origin: Source, terms: Terms, holder: str) -> Terms:
    """In which epoch the replica goes on when it is taken over; once it was, the same host may say so again. Raises
    Refused before anybody is disturbed.
    """
    store = into.store
    now = heads.load(store, identity)
    again = terms.epoch == now.epoch and now.taken_by == holder
    if terms.epoch is not None and terms.epoch <= now.epoch and not again:
        told = f"is at epoch {now.epoch}; to take it over takes a higher one than {terms.epoch}"
        raise errors.Refused(told, path=store.label)
    terms = replace(terms, epoch=terms.epoch or now.epoch + 1)
    admission.admitted(now.of(identity), origin, terms, store.label)
    return terms


def _identity(into: Into, origin: Source, terms: Terms) -> Identity:
    known = into.known
    try:
        known.identity = known.identity or heads.load_identity(into.store)
    except Absent:
        if into.take:
            raise errors.Refused("holds no replica", path=into.store.label) from None
        terms.meet(None, into.store.label)
        size = terms.block_size or units.DEFAULT_BLOCK_SIZE
        made = Identity.new(size, format_time(into.clock()), origin.name, "log", origin.format)
        known.identity = heads.create(into.store, made.raised(max(made.epoch, terms.epoch or 0)))
    return known.identity


def take_over(store: Store, epoch: int | None = None) -> heads.Head:
    """Raise the epoch after a failover, by one or to `epoch`, whoever holds the fence: what he writes from now on is
    refused (M14). One that is not higher changes nothing. Raises Changed where the head moved at that very moment.
    """
    identity = heads.load_identity(store)
    head = heads.load(store, identity)
    if epoch is not None and epoch <= head.epoch:
        return head
    with holding(store, identity, MAX_FENCE, take=True) as fence:
        head = heads.load(store, identity)
        becomes = head.of(identity).raised(max(epoch or head.epoch + 1, head.epoch))
        return heads.become(store, head, becomes, fence)


@contextmanager
def holding(
    store: Store, identity: Identity, seconds: int, *, holder: str | None = None, take: bool = False
) -> Iterator[Fence]:
    """Hold the head's fence for a block, renewed by a thread. What the head's etag does not let pass fails anyway.
    `take`: also where somebody else holds it. Raises Held.
    """
    try:
        fence = store.fence(HEAD, seconds, holder=holder, take=take)
    except Absent:
        if store.stat(IDENTITY) is None:
            raise errors.Unreachable("the replica is not there any more", path=store.label) from None
        heads.begin(store, identity)
        fence = store.fence(HEAD, seconds, holder=holder, take=take)
    with renewed(fence):
        yield fence


class Attempt:
    """A target of a transfer (remote/sending/target.py). `sent_bytes` and `map_bytes` tell what was put."""

    def __init__(
        self, into: Into, identity: Identity, head: heads.Head, fence: Fence, size: int, stack: ExitStack
    ) -> None:
        self.into, self.store, self.identity, self.head, self.fence = into, into.store, identity, head, fence
        self.peer, self.stack = into.store.label, stack
        self.sent_bytes = self.map_bytes = self.moved_bytes = 0
        self._complaints: list[str] = []
        newest, known = head.newest, into.known
        same = known.head is not None and known.head.etag == head.etag
        self.proved = self._prove(newest) if into.resync and newest else None
        if self.proved is not None:
            self.before, same = self.proved.manifest, False
        else:
            load = manifest.load
            self.before = known.manifest if same else load(self.store, newest, head.replica_id) if newest else None
        known.head = None
        base = newest.virtual_bytes if newest else 0
        self.header = fmt.Header(
            identity.replica_id, identity.block_size, head.generation, head.generation + 1, base, size, identity.epoch
        )
        self.spool = Spool(self.store, self.header, empty=same)
        self.state = talk.State(
            replica_id=identity.replica_id, block_size=identity.block_size, seed=identity.seed, epoch=identity.epoch,
            generation=head.generation, virtual_bytes=base, seal=self._base_seal,
            spool_bytes=self.spool.bytes, spool_frames=len(self.spool.entries),
        )  # fmt: skip
        self._changes = BlockMap.create(
            into.temporary(), "the places", identity.replica_id, identity.block_size, size
        )
        stack.callback(self._changes.close)
        self._outlet: Outlet | None = None

    def _prove(self, newest: Row) -> resync.Proved:
        into = self.into
        return resync.Proved(self.store, self.identity, newest, into.temporary, into.monitor, self.stack)

    @property
    def _base_seal(self) -> str:
        """Of the map that the source is compared with."""
        if self.proved is not None:
            return self.proved.seal
        return self.before.point.seal if self.before else ""

    @cached_property
    def old(self) -> tree.Tree:
        """The newest point's map; a cycle that changes nothing needs none."""
        if self.proved is not None:
            return self.proved.tree
        made = tree.Tree(self.store, self.identity, self.before)
        self.stack.callback(made.close)
        return made

    def hashes(self, ask: talk.Ask) -> Iterator[bytes]:
        """What the cache of maps asks for: the digests of all pages, or the hashes of some."""
        if self.proved is not None:
            yield from self.proved.hashes(ask)
            return
        if ask.what == "table":
            yield self.old.digests()
            return
        blocks = -(-self.state.virtual_bytes // self.state.block_size)
        found = {page.number: page.hashes for page in self.old.pages(ask.pages)}
        for page in ask.pages:
            yield bytes(found[page][: 16 * min(PAGE_BLOCKS, blocks - page * PAGE_BLOCKS)])

    def overlay(self, held: BlockMap, size: int) -> plan.Spooled:
        """What an attempt before has brought is not sent again."""
        return self.spool.lay(held, self._changes, self.proved.prover if self.proved is not None else None)

    def outlet(self, held: BlockMap, codec: tuple[int, int] | None, sent: Sent, workers: int) -> Outlet:
        uploads = Uploads(self.store)
        self.stack.callback(uploads.close)
        packer = segment.Packer(layout.SEGMENTS, self.header, self.spool.taken, uploads.put)
        self._outlet = Outlet(held, self._changes, packer, uploads, codec or _CODEC, sent)
        return self._outlet

    def finish(
        self, sent_bytes: int, seal: str, tracker: str, tally: scan.Tally, moment: str | None, cut: Taken
    ) -> talk.Done:
        """Commit it; see Target."""
        outlet = self._outlet
        whole = self.proved is None or self.proved.whole
        same = whole and self.before is not None and self.before.point.seal == seal
        if outlet is not None:
            if not same:
                self._compact(outlet, sent_bytes)
            outlet.packer.finish()
            outlet.uploads.wait()
            self.store.remember(entry for _, entry in self.spool.entries)
            self.sent_bytes = outlet.uploads.bytes
        if outlet is None or same:
            assert self.before is not None
            if self.head.of(self.identity) != self.identity:
                self.head = heads.become(self.store, self.head, self.identity, self.fence)
            done = self._tidied(_done(self._kind("unchanged"), self.before.point), self.head)
            if outlet is None or not (outlet.uploads.objects or self.spool.entries):
                self._remember(self.before)
            return done
        account, taken = self._account(outlet.held, tally), self.spool.laid_bytes
        point = Point(
            self.header.target_generation, data_time(moment, cut.at, self.peer), self.header.target_size, seal,
            self._kind("delta" if self.before else "initial"), tracker, tally.read_bytes, account.changed_bytes,
            taken + sent_bytes, self.identity.epoch, self.head.replica_id,
        )  # fmt: skip
        before = self.head
        made = manifest.Manifest(point, self._map(outlet))
        self._commit(made)
        done = self._tidied(_done(point.kind, point), before)
        self._remember(made)
        return msgspec.structs.replace(done, changed_bytes=account.changed_bytes, data_bytes=account.data_bytes)

    def _kind(self, usual: str) -> str:
        return usual if self.proved is None else "resync"

    def _compact(self, outlet: Outlet, sent_bytes: int) -> None:
        """Move blocks out of segments that are mostly dead into those of this cycle. A resync mends, and no more."""
        if self.proved is None and compact.useful(self.head):
            made = compact.Compaction(self.store, self.head, self.old, outlet.held, self._changes, outlet.pack)
            made.work(compact.budget(sent_bytes))
            self.moved_bytes, self._complaints = made.moved, made.warnings

    def _tidied(self, done: talk.Done, before: heads.Head) -> talk.Done:
        """Drop what is too much. The point is there, whatever becomes of this."""
        pruning = prune.Pruning(self.store, self.identity, self.head, self.fence)
        try:
            pruning.after_cycle(before, self.into.keep)
        except errors.Error as error:
            pruning.tally.warnings.append(f"points were not pruned: {error}")
        self.head, tally = pruning.head, pruning.tally
        found = self.proved.warnings if self.proved is not None else self._complaints
        return msgspec.structs.replace(done, pruned=tally.points, warnings=[*found, *tally.warnings])

    def _account(self, held: BlockMap, tally: scan.Tally) -> Account:
        """What the cycle changes: the scan has seen all of it where no attempt before brought a part."""
        made = Account(self.identity.block_size, self.header.target_size)
        if self.spool.blocks:
            return self.proved.count(held, made) if self.proved is not None else tree.count(self.old, held, made)
        made.changed_bytes, made.data_bytes = tally.changed_bytes, tally.sent_bytes
        return made

    def _map(self, outlet: Outlet) -> tuple[manifest.Group | None, ...]:
        header = tree.header(self.identity, self.header.target_generation, self.identity.epoch)
        packer = segment.Packer(layout.MAPS, header, set(), outlet.uploads.put)
        groups = tree.save(self.old, outlet.held, self._changes, packer)
        packer.finish()
        outlet.uploads.wait()
        self.map_bytes = outlet.uploads.bytes - self.sent_bytes
        return groups

    def _commit(self, made: manifest.Manifest) -> None:
        digest = manifest.save(self.store, made)
        becomes = self.head.with_point(self.store, made.row(digest), self.identity)
        self.head = heads.move(self.store, becomes, self.fence)

    def _remember(self, made: manifest.Manifest) -> None:
        self.into.known.head, self.into.known.manifest = self.head, made


def _done(kind: str, point: Point) -> talk.Done:
    return talk.Done(kind=kind, generation=point.generation, seal=point.seal, time=point.time, history="log")


class Spool:
    """The segments that an attempt before has brought for the generation that comes next. `empty`: it is known that
    there are none.
    """

    def __init__(self, store: Store, header: fmt.Header, *, empty: bool = False) -> None:
        self.store, self.header = store, header
        self.taken: set[int] = set()
        self.entries: list[tuple[int, Entry]] = []
        folder = layout.folder(layout.SEGMENTS, header.target_generation)
        for entry in () if empty else store.list(folder):
            number = layout.number_of(entry.name)
            if number is not None:
                self.taken.add(number)
                self.entries.append((number, entry))
        self.bytes, self.blocks = sum(entry.size for _, entry in self.entries), 0
        self.laid_bytes = 0

    def lay(self, held: BlockMap, changes: BlockMap, prover: resync.Prover | None = None) -> plan.Spooled:
        """Into the map of hashes and that of places. What is damaged, or for another base or size, is not looked at. A
        `prover` reads the frames, too.
        """
        found = plan.Spooled()
        for number, entry in self.entries:
            try:
                table = segment.table(self.store, entry.name, entry.size)
            except (errors.Damaged, Absent):
                continue
            if table.header == self.header:
                for place, frame in self._frames(table, number, prover).items():
                    self._check(frame, entry.name)
                    self._lay(frame, place, held, changes, found)
                    self.laid_bytes += place.length
        return found

    def _frames(self, table: segment.Table, number: int, prover: resync.Prover | None) -> dict[Place, Frame]:
        frames = {Place(number, offset, length): frame for frame, offset, length in table.frames}
        if prover is None:
            return frames
        whole = prover.whole({place: frame for place, frame in frames.items() if frame.blocks}, self.header.target_size)
        return {place: frame for place, frame in frames.items() if not frame.blocks or place in whole}

    def _check(self, frame: Frame, name: str) -> None:
        if frame.head.last >= -(-self.header.target_size // self.header.block_size):
            raise errors.Damaged("a segment names blocks that are not there", path=self.store.path(name))

    def _lay(self, frame: Frame, place: Place, held: BlockMap, changes: BlockMap, found: plan.Spooled) -> None:
        count = len(frame.blocks)
        if count:
            held.store(frame.blocks, frame.hashes, count)
            changes.store(frame.blocks, PLACE.pack(*place) * count, count)
            found.add(frame.blocks)
        for first, length in zip(frame.runs[0::2], frame.runs[1::2], strict=True):
            held.clear(first, length)
            changes.clear(first, length)
            found.add_run(first, length)
        self.blocks += count + frame.zero_blocks


@dataclass
class Outlet:
    """A scan's sink: frames into segments, hashes and places into the maps."""

    held: BlockMap
    changes: BlockMap
    packer: segment.Packer
    uploads: Uploads
    codec: tuple[int, int]
    sent: Sent
    _buffers: dict[int, FrameBuffer] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of the frames that went out."""
        return self.packer.bytes

    def put(self, batch: Batch, worker: int) -> None:
        """Pack in the scan's own thread; several may."""
        self.pack(batch, worker)

    def pack(self, batch: Batch, worker: int = 0) -> int:
        """As `put`; the bytes of the frames."""
        buffer = self._buffers.get(worker)
        if buffer is None:
            buffer = self._buffers[worker] = FrameBuffer(*self.codec)
        buffer.encode(batch, self.packer.header.tag)
        packed = self.packer.add(buffer)
        self.sent.add(buffer.used)
        self.held.store(batch.blocks, batch.hashes, batch.count)
        for start, end, head in segment.spans(buffer):
            body = buffer.data[start + fmt.FRAME_BYTES : end]
            self._note(head, body, Place(packed.number, packed.offset + start, end - start))
        return buffer.used

    def _note(self, head: fmt.FrameHeader, body: memoryview, place: Place) -> None:
        numbers = array("Q")
        if head.kind == fmt.DATA:
            numbers.frombytes(body[: 8 * head.entries])
            self.changes.store(numbers, PLACE.pack(*place) * head.entries, head.entries)
            return
        numbers.frombytes(body[: 16 * head.entries])
        for first, count in zip(numbers[0::2], numbers[1::2], strict=True):
            self.changes.clear(first, count)
