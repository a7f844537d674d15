"""Cycles: one pass over a source into a replica, and again where the source did not stand still meanwhile."""

from __future__ import annotations

import datetime
import random
from array import array
from typing import NamedTuple

from secondsite.engine import distrust, errors, scan, tracking, units
from secondsite.engine import source as sources
from secondsite.engine.batch import BATCH_BYTES, SMALL_BATCH_BYTES
from secondsite.engine.images import ShortImage, Stamp
from secondsite.engine.progress import Monitor
from secondsite.engine.replica import mend
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.mend import Mending
from secondsite.engine.replica.point import Point, format_time
from secondsite.engine.trackers.base import Cut, Have, Tracker
from secondsite.engine.work import Options, Work

# A source that is written while it is read is read again this often before the cycle is refused.
ATTEMPTS = 3


class Outcome(NamedTuple):
    """How a cycle ended. `tracker` is what named the blocks to look at; without `marked` all of them were."""

    kind: str
    point: Point
    tally: scan.Tally
    history: str
    tracker: str = "mtime"
    marked: tracking.Marked | None = None
    sampled: int = 0
    stall_seconds: float | None = None
    application: bool = False
    kept_bytes: int = 0
    cut_at: datetime.datetime | None = None

    def caught(self) -> float | None:
        """The probability of distrust.caught, for cycles like this; None where nothing changed, or all was read."""
        if self.marked is None or not self.tally.changed_bytes:
            return None
        changed = -(-self.tally.changed_bytes // self.marked.block_size)
        return distrust.caught(changed, self.marked.total - self.marked.blocks, self.sampled)


class Unmasked(Exception):
    """A block changed that the tracker did not name."""


def run(
    replica: Replica, origin: sources.Source, tracker: Tracker, options: Options, monitor: Monitor
) -> Outcome:
    """Cycles until one saw the source stand still."""
    believe = True
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _cycle(replica, origin, tracker, options, monitor, believe)
        except errors.SourceChanged:
            if attempt == ATTEMPTS:
                raise
        except errors.Damaged as error:
            # A page of the map that only now was read: with all of it looked at first, it may be made anew.
            if error.path != replica.layout.head_map or not believe or attempt == ATTEMPTS:
                raise
            believe = False
    raise AssertionError


def _cycle(
    replica: Replica, origin: sources.Source, tracker: Tracker, options: Options, monitor: Monitor, believe: bool
) -> Outcome:
    moment = options.clock()
    old = mend.newest(replica, resync=options.resync, time=format_time(moment))
    refuse_damage(replica, old, options)
    if options.trust_mtime and old and not options.resync and sources.unchanged(replica, origin, old.generation):
        return Outcome("unchanged", old, scan.Tally(), replica.identity.history, cut_at=moment)
    # What names blocks makes the pages of the map that are read few; each is checked then.
    lazily = believe and tracker.name != "scan"
    with Mending(replica, old, options.resync, options.workers, monitor, lazily=lazily) as mending:
        job = _Job(replica, origin, tracker, options, monitor, mending, moment)
        try:
            return job.run(None if old is None or options.resync else have(replica, old))
        except Unmasked as error:
            replica.warn(str(error))
        # Of the cut before only what was named and drawn had to be kept: all of it takes a cut of its own.
        return job.run(None)


def have(replica: Replica, point: Point) -> Have:
    """A point of a replica, as trackers know it."""
    return Have(replica.identity.replica_id.hex(), point.generation, point.seal)


class _Job:
    """A cycle over a cut."""

    def __init__(
        self, replica: Replica, origin: sources.Source, tracker: Tracker, options: Options, monitor: Monitor,
        mending: Mending, moment: datetime.datetime,
    ) -> None:  # fmt: skip
        self.replica, self.origin, self.tracker, self.options = replica, origin, tracker, options
        self.monitor, self.mending, self.moment = monitor, mending, moment
        self.block_size, self.seed = replica.identity.block_size, replica.identity.seed

    def run(self, known: Have | None) -> Outcome:
        drawn = self._draw() if known else array("Q")
        before = self.origin.rested()
        with self.tracker.begin(known, self._ranges(drawn)) as cut:
            try:
                if not cut.frozen:
                    before = cut.settled(self.origin)
                # None yet of what is read as it is, where nothing shows that it was written: it may be until its end.
                cut_at = self.options.clock() if cut.frozen or before is not None else None
                cut.read_once()
                outcome = self._over(cut, drawn, before, cut_at)
                self._acknowledge(cut, outcome)
            finally:
                for warning in cut.warnings:
                    self.replica.warn(warning)
        # What somebody said had changed is not what was seen to be equal: the next cycle without that looks at all.
        if outcome.tracker not in ("changed", "hrl"):
            sources.remember(self.replica, before, outcome.point.generation, _nanoseconds(self.moment))
        return outcome

    def _draw(self) -> array[int]:
        old = self.mending.old
        total = -(-old.virtual_bytes // self.block_size) if old else 0
        return distrust.draw(total, self.options.distrust, random.SystemRandom())

    def _ranges(self, drawn: array[int]) -> list[tuple[int, int]]:
        old = self.mending.old
        size = old.virtual_bytes if old else 0
        starts = (block * self.block_size for block in drawn)
        return [(start, min(self.block_size, size - start)) for start in starts]

    def _over(
        self, cut: Cut, drawn: array[int], before: tuple[Stamp, ...] | None, cut_at: datetime.datetime | None
    ) -> Outcome:
        size, old = cut.image.size, self.mending.old
        self._check_size(size)
        work = Work(self.replica, old, size, self.options, self.mending)
        try:
            with self.origin.standing(before, frozen=cut.frozen):
                marked, sampled = self._marked(cut, size, work, drawn)
                work.tracker = cut.tracker
                self.monitor.begin("initial" if old is None else "replicate", size)
                tally = self._scan(cut, size, work, marked)
            if not cut.frozen:
                _stood_still(self.origin, before)
            cut_at = cut_at or self.options.clock()
            kind, point, history = work.finish(tally, cut_at)
        except ShortImage as error:
            work.abort()
            if error.path != cut.image.path or cut.frozen:
                raise
            raise errors.SourceChanged("it became shorter while it was read", path=self.origin.path) from None
        except BaseException:
            work.abort()
            raise
        return Outcome(
            kind, point, tally, history, cut.tracker, marked, sampled, cut.stall_seconds, cut.application,
            cut.kept_bytes, cut_at,
        )  # fmt: skip

    def _check_size(self, size: int) -> None:
        if size > units.MAX_BLOCKS * self.block_size:
            raise errors.Usage(
                f"has {units.format_size(size)}; in blocks of {self.block_size} bytes that is too many of them",
                path=self.origin.path,
            )

    def _scan(self, cut: Cut, size: int, work: Work, marked: tracking.Marked | None) -> scan.Tally:
        fresh, monitor = work.fresh, self.monitor
        return scan.Scan(
            cut.image, None if fresh else self.mending.previous, work, size=size, block_size=self.block_size,
            seed=self.seed, workers=self.options.workers, monitor=monitor,
            batch_bytes=_batch_bytes(monitor, flushes=not (self.mending.old is None or fresh)),
            runs=marked.runs() if marked is not None else None,
        ).run()  # fmt: skip

    def _marked(
        self, cut: Cut, size: int, work: Work, drawn: array[int]
    ) -> tuple[tracking.Marked | None, int]:
        """The blocks that the tracker names and how many others bore it out; None where all are to be read. Raises
        Unmasked.
        """
        old, previous = self.mending.old, self.mending.previous
        if old is None or previous is None or work.fresh:
            cut.changed()  # where it cannot tell, that decides what it is called
            return None, 0
        ranges = cut.changed_from(previous, self.seed)
        if ranges is None:
            return None, 0
        try:
            marked = tracking.Marked(ranges, size, self.block_size, old.virtual_bytes)
        except ValueError as error:
            raise Unmasked(f"{self.origin.path}: tracker {cut.tracker!r} named {error}; all is scanned") from None
        looked = marked.look(cut.image, previous, self.seed, drawn, self.options.distrust)
        if looked.wrong is not None:
            told = f"the bytes at {looked.wrong} changed, which tracker {cut.tracker!r} did not name"
            raise Unmasked(f"{self.origin.path}: {told}; all is scanned")
        return marked, looked.blocks

    def _acknowledge(self, cut: Cut, outcome: Outcome) -> None:
        """The point is there, whatever becomes of this: a tracker that was not told names too much the next time."""
        try:
            cut.acknowledge(have(self.replica, outcome.point))
        except (errors.Error, OSError, ValueError) as error:
            told = f"tracker {cut.tracker!r} was not told that point {outcome.point.name} is there ({error})"
            self.replica.warn(f"{self.origin.path}: {told}; the next cycle may read more")


def refuse_damage(replica: Replica, old: Point | None, options: Options) -> None:
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


def _nanoseconds(moment: datetime.datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000


def _stood_still(origin: sources.Source, before: object) -> None:
    if origin.stamp() != before:
        raise errors.SourceChanged("it was written while it was read", path=origin.path)
