"""Cycles: one pass over a source into a replica, and again where the source did not stand still meanwhile."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from secondsite.engine import errors, scan, tracking, units
from secondsite.engine import source as sources
from secondsite.engine.batch import BATCH_BYTES, SMALL_BATCH_BYTES, Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images import ShortImage
from secondsite.engine.progress import Monitor
from secondsite.engine.replica import mend
from secondsite.engine.replica.cycle import Cycle, InPlace, Next
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.mend import Mending
from secondsite.engine.replica.point import Point, format_time

# A source that is written while it is read is read again this often before the cycle is refused.
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Options:
    """How to make a cycle; see `replicate`. `marked`, where it is known, is all that has to be looked at."""

    codec: tuple[int, int]
    history: str
    resync: bool
    trust_mtime: bool
    workers: int
    tracker: str
    changed: str | None
    clock: Callable[[], datetime.datetime]
    marked: tracking.Marked | None = None


class Outcome(NamedTuple):
    """How a cycle ended; `tracker` is what named the blocks to look at."""

    kind: str
    point: Point
    tally: scan.Tally
    tracker: str
    history: str


def run(replica: Replica, origin: sources.Source, options: Options, monitor: Monitor) -> Outcome:
    """Cycles until one saw the source stand still."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _cycle(replica, origin, options, monitor)
        except errors.SourceChanged:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError


def _cycle(replica: Replica, origin: sources.Source, options: Options, monitor: Monitor) -> Outcome:
    moment = options.clock()
    old = mend.newest(replica, resync=options.resync, time=format_time(moment))
    _refuse_damage(replica, old, options)
    if options.trust_mtime and old and not options.resync and sources.unchanged(replica, origin, old.generation):
        return Outcome("unchanged", old, scan.Tally(), "mtime", replica.identity.history)
    before, size = origin.settled(), origin.image.size
    if size > units.MAX_BLOCKS * replica.identity.block_size:
        raise errors.Usage(
            f"has {units.format_size(size)}; in blocks of {replica.identity.block_size} bytes that is too many of them",
            path=origin.path,
        )
    with Mending(replica, old, options.resync, options.workers, monitor) as mending:
        work = _Work(replica, old, size, options, mending)
        try:
            marked = _marked(replica, origin, options, work, mending.previous)
            work.tracker = marked.tracker if marked else "scan"
            monitor.begin("initial" if old is None else "replicate", size)
            tally = scan.Scan(
                origin.image, None if work.fresh else mending.previous, work, size=size,
                block_size=replica.identity.block_size, seed=replica.identity.seed,
                workers=options.workers, monitor=monitor,
                batch_bytes=_batch_bytes(monitor, flushes=not (old is None or work.fresh)),
                runs=marked.runs() if marked else None,
            ).run()  # fmt: skip
            _stood_still(origin, before)
            outcome = work.finish(tally, moment)
        except ShortImage as error:
            work.abort()
            if error.path != origin.path:
                raise
            raise errors.SourceChanged("it became shorter while it was read", path=origin.path) from None
        except BaseException:
            work.abort()
            raise
    # What somebody said had changed is not what was seen to be equal: the next cycle without that looks at all of it.
    if outcome.tracker not in ("changed", "hrl"):
        sources.remember(replica, before, outcome.point.generation, _nanoseconds(moment))
    return outcome


def _refuse_damage(replica: Replica, old: Point | None, options: Options) -> None:
    """Raises Damaged where going on would hide what is known to be wrong, or write over what is left."""
    layout = replica.layout
    if old is None and replica.files.size(layout.head) >= 0:
        raise errors.Damaged(
            "there is a head but no record of any point; nothing is written over it", path=layout.points
        )
    found = replica.known_damage()
    if old is not None and not options.resync and old.generation in found:
        raise errors.Damaged(
            f"the last verify found the newest point damaged ({found[old.generation]}); "
            "replicate --resync mends it, or verify again",
            path=layout.head,
        )


def _batch_bytes(monitor: Monitor, *, flushes: bool) -> int:
    """Room of a batch; `flushes`: the undo delta is made durable once a batch."""
    size = BATCH_BYTES if flushes else SMALL_BATCH_BYTES
    return min(size, monitor.limiter.piece) if monitor.limiter else size


def _marked(
    replica: Replica, origin: sources.Source, options: Options, work: _Work, previous: BlockMap | None
) -> tracking.Marked | None:
    """The blocks that a tracker names, where there is one to trust; None for all of them."""
    old = work.old
    if old is None or previous is None or options.resync or options.tracker == "scan" or work.size != old.virtual_bytes:
        return None
    if options.marked is not None:
        return options.marked
    noted = sources.noted(replica, old.generation)
    marked = tracking.find(origin, noted, work.size, replica.identity.block_size, options.changed)
    if marked is None:
        return None
    wrong = tracking.check(marked, origin.image, previous, replica.identity.seed)
    if wrong is not None:
        replica.warn(wrong)
        return None
    return marked


def _nanoseconds(moment: datetime.datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000


def _stood_still(origin: sources.Source, before: object) -> None:
    if origin.stamp() != before:
        raise errors.SourceChanged("it was written while it was read", path=origin.path)


class _Work:
    """The cycle behind a scan, begun at its first change, so that an unchanged source touches nothing."""

    def __init__(
        self, replica: Replica, old: Point | None, size: int, options: Options, mending: Mending
    ) -> None:
        self.replica, self.old, self.size, self.options, self.mending = replica, old, size, options, mending
        # A container cannot be made smaller again, so a size that changed is a new container.
        self.fresh = old is None or (replica.layout.kind != "raw" and size != old.virtual_bytes)
        self.tracker = "scan"
        self.cycle: Cycle | None = None
        self._lock = threading.Lock()

    def put(self, batch: Batch, worker: int) -> None:
        self._begin().put(batch, worker)

    def _begin(self) -> Cycle:
        with self._lock:
            if self.cycle is None:
                self.cycle = self._make()
            return self.cycle

    def _make(self) -> Cycle:
        replica, old, options = self.replica, self.old, self.options
        if old is None or self.fresh:
            return Next(replica, old, self.size, fresh=True)
        if options.history != "undo" and not options.resync:
            cloned = Next.from_clone(replica, old, self.size)
            if cloned is not None:
                return cloned
            if options.history == "clone":
                raise errors.Refused("this file system cannot clone files", path=replica.layout.root)
        return InPlace(replica, old, self.size, self.mending.logical, options.codec, mend=options.resync)

    def finish(self, tally: scan.Tally, moment: datetime.datetime) -> Outcome:
        """Commit, where there is anything to."""
        old, resync, history = self.old, self.options.resync, self.replica.identity.history
        same_size = old is not None and self.size == old.virtual_bytes
        if self.cycle is None and old is not None and same_size and self.mending.sealed:
            return Outcome("resync" if resync else "unchanged", old, tally, self.tracker, history)
        cycle = self._begin()
        if isinstance(cycle, InPlace):
            history = "undo"
            if resync and old is not None and same_size and not cycle.kept and self.mending.sealed:
                cycle.discard()
                return Outcome("resync", old, tally, self.tracker, history)
        kind = "initial" if old is None else "resync" if resync else "delta"
        point = Point(
            cycle.generation, format_time(moment), self.size, cycle.seal(), kind, self.tracker, tally.read_bytes,
            tally.changed_bytes, tally.sent_bytes, self.replica.identity.epoch,
            self.replica.identity.replica_id.hex(),
        )  # fmt: skip
        cycle.commit(point)
        return Outcome(kind, point, tally, self.tracker, history)

    def abort(self) -> None:
        if self.cycle is not None:
            self.cycle.abort()
