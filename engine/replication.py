"""One cycle from a source image into a replica."""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from secondsite.engine import errors, scan, tracking, units
from secondsite.engine import source as sources
from secondsite.engine.batch import BATCH_BYTES, Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.images import Image, ShortImage
from secondsite.engine.images.raw import real_path
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.replica import mend, prune
from secondsite.engine.replica.container import check_format
from secondsite.engine.replica.cycle import Cycle, InPlace, Next
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.layout import Layout
from secondsite.engine.replica.mend import Mending
from secondsite.engine.replica.point import Point, format_time
from secondsite.engine.results import Replicated
from secondsite.engine.workers import default_workers

# A source that is written while it is read is read again this often before the cycle is refused.
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class _Options:
    codec: tuple[int, int]
    history: str
    resync: bool
    trust_mtime: bool
    workers: int
    tracker: str
    changed: str | None
    clock: Callable[[], datetime.datetime]


def utc_now() -> datetime.datetime:
    """The wall clock; tests pass their own (DESIGN D13)."""
    return datetime.datetime.now(datetime.UTC)


def replicate(
    source: str | os.PathLike[str] | Image,
    replica: str | os.PathLike[str],
    *,
    block_size: int | None = None,
    codec: str = "auto",
    keep: int | None = None,
    limit: int | None = None,
    epoch: int | None = None,
    source_id: str | None = None,
    accept_source: bool = False,
    source_format: str | None = None,
    head: str | None = None,
    tracker: str = "auto",
    changed: str | os.PathLike[str] | None = None,
    allow_parent_path: Sequence[str] = (),
    resync: bool = False,
    trust_mtime: bool = False,
    history: str = "auto",
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    clock: Callable[[], datetime.datetime] = utc_now,
    files: Files | None = None,
) -> Replicated:
    """Bring the replica in a folder to the source's content; make the folder where there is none.

    `block_size` (bytes, a power of two from 4 KiB to 4 MiB) counts for a new replica; for an existing one it must be
    its own. `codec` packs the undo deltas. `keep` drops all but the newest so many points afterwards. `limit` is in
    bytes a second. `epoch`: refuse where the replica's is higher (DESIGN D9). `source_id` names the source where its
    path does not; `accept_source` lets another image take the recorded one's place. `resync` trusts no map and mends
    the head. `trust_mtime` skips the scan of a file that its times call unchanged. `history`: auto, undo or clone.
    `head` is the format of a new replica's head: raw, vhdx or vhd. `tracker` is auto, which asks the source's format
    what changed, or scan; `changed` is a file with an extent list instead. For `source_format` and `allow_parent_path`
    see open_image.

    Raises Refused, Busy, SourceChanged, Damaged, Unreachable, Full, Cancelled or Usage. Whatever it raises, the
    replica holds every point that it held before.
    """
    began = time.monotonic()
    if tracker not in ("auto", "scan"):
        raise errors.Usage(f"tracker is auto or scan, not {tracker!r}")
    if history not in ("auto", "undo", "clone"):
        raise errors.Usage(f"history is auto, undo or clone, not {history!r}")
    if keep is not None and keep < 1:
        raise errors.Usage("keep must be at least 1: the newest point is the head")
    if limit is not None and limit < 1:
        raise errors.Usage("the limit must be at least one byte a second")
    if block_size is not None:
        units.check_block_size(block_size)
    if head is not None:
        check_format(head)
    options = _Options(
        fmt.parse_codec(codec), history, resync, trust_mtime, workers or default_workers(), tracker,
        None if changed is None else os.fspath(changed), clock,
    )
    files, root = files or LocalFiles(), os.fspath(replica)
    origin = _open_source(source, source_id, source_format, allow_parent_path, files, root)
    try:
        _refuse_inside(origin, root, files)
        opened = _open_or_create(root, files, origin, block_size, head, options)
        with opened.writing(force=resync):
            _admit(opened, origin, block_size, head, epoch, accept_source)
            if resync:
                opened.mend_records()
            result = _cycles(opened, origin, options, Monitor(progress, cancel, limit))
            pruned = prune.keep_newest(opened, keep) if keep is not None else 0
    finally:
        origin.close()
    kind, point, tally, tracker, kept_by = result
    return Replicated(
        kind, point.generation, point.name, tracker, point.virtual_bytes, tally.read_bytes, tally.changed_bytes,
        tally.sent_bytes, time.monotonic() - began, kept_by, pruned, opened.warnings,
    )  # fmt: skip


def _open_source(
    source: str | os.PathLike[str] | Image,
    name: str | None,
    format: str | None,
    allow: Sequence[str],
    files: Files,
    root: str,
) -> sources.Source:
    """The source, in the format that the replica remembers: a guest may write any signature into a raw disk."""
    if format is None and files.size(Layout(root).identity) >= 0:
        format = Replica.open(root, files).identity.source_format
    return sources.Source(source, name, format=format, allow_parent_path=allow)


def _refuse_inside(origin: sources.Source, root: str, files: Files) -> None:
    if isinstance(files, LocalFiles) and isinstance(origin.image, Image):
        inside = os.path.commonpath([real_path(root), real_path(origin.path)]) == real_path(root)
        if inside and origin.stamp() is not None:
            raise errors.Refused("the source lies inside the replica", path=origin.path)


def _open_or_create(
    root: str,
    files: Files,
    origin: sources.Source,
    block_size: int | None,
    head: str | None,
    options: _Options,
) -> Replica:
    layout = Layout(root)
    if files.size(layout.identity) >= 0 or files.listdir(layout.points):
        return Replica.open(root, files)
    for folder in PurePosixPath(real_path(root)).parents:
        if files.size(Layout(str(folder)).identity) >= 0:
            raise errors.Refused("lies inside another replica; choose a folder of its own", path=root)
    size = block_size or units.DEFAULT_BLOCK_SIZE
    identity = Identity.new(size, format_time(options.clock()), origin.name, "undo", origin.format, head or "raw")
    return Replica.create(root, files, identity, probe=options.history != "undo")


def _admit(
    replica: Replica,
    origin: sources.Source,
    block_size: int | None,
    head: str | None,
    epoch: int | None,
    accept: bool,
) -> None:
    """May this source write into this replica? Raises Refused. Mends a damaged copy of the identity."""
    identity = replica.identity
    if block_size is not None and block_size != identity.block_size:
        raise errors.Refused(
            f"its block size is {identity.block_size}, not {block_size}; it stays for a replica's life",
            path=replica.layout.root,
        )
    if head is not None and head != identity.head_format:
        raise errors.Refused(
            f"its head is of format {identity.head_format}, not {head}; it stays for a replica's life",
            path=replica.layout.root,
        )
    if epoch is not None and epoch < identity.epoch:
        raise errors.Refused(
            f"is at epoch {identity.epoch}, this source at {epoch}: a failover happened in between",
            path=replica.layout.root,
        )
    if not origin.follows(identity.source) and not accept:
        raise errors.Refused(
            f"follows another image, {identity.source.partition(':')[2]} (--accept-source lets this one replace it)",
            path=replica.layout.root,
        )
    if origin.format != identity.source_format and not accept:
        raise errors.Refused(
            f"follows an image of format {identity.source_format}, not {origin.format} (--accept-source allows it)",
            path=replica.layout.root,
        )
    raised = identity.raised(max(identity.epoch, epoch or 0)).following(origin.name, origin.format)
    if raised != identity or replica.warnings:
        replica.write_identity(raised)


class Outcome(NamedTuple):
    """How a cycle ended; `tracker` is what named the blocks to look at."""

    kind: str
    point: Point
    tally: scan.Tally
    tracker: str
    history: str


def _cycles(replica: Replica, origin: sources.Source, options: _Options, monitor: Monitor) -> Outcome:
    """Cycles until one saw the source stand still."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _cycle(replica, origin, options, monitor)
        except errors.SourceChanged:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError


def _cycle(replica: Replica, origin: sources.Source, options: _Options, monitor: Monitor) -> Outcome:
    moment = options.clock()
    old = mend.newest(replica, resync=options.resync, time=format_time(moment))
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
                batch_bytes=min(BATCH_BYTES, monitor.limiter.piece) if monitor.limiter else BATCH_BYTES,
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
    # What the user said had changed is not what was seen to be equal: the next cycle without a list looks at all of it.
    if outcome.tracker != "changed":
        sources.remember(replica, before, outcome.point.generation, _nanoseconds(moment))
    return outcome


def _marked(
    replica: Replica, origin: sources.Source, options: _Options, work: _Work, previous: BlockMap | None
) -> tracking.Marked | None:
    """The blocks that a tracker names, where there is one to trust; None for all of them."""
    old = work.old
    if old is None or previous is None or options.resync or options.tracker == "scan" or work.size != old.virtual_bytes:
        return None
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
        self, replica: Replica, old: Point | None, size: int, options: _Options, mending: Mending
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
