"""One cycle from a source image into a replica."""

from __future__ import annotations

import dataclasses
import datetime
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from secondsite.engine import admission, attempts, errors, units
from secondsite.engine import source as sources
from secondsite.engine.attempts import Outcome
from secondsite.engine.delta import format as fmt
from secondsite.engine.distrust import SAMPLED_BLOCKS
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.images import Image
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.qemu.machine import Qemu
from secondsite.engine.remote import url
from secondsite.engine.replica import comparison, prune
from secondsite.engine.replica.container import check_size
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.layout import Layout
from secondsite.engine.replica.point import format_time
from secondsite.engine.results.cycle import Replicated
from secondsite.engine.seeding.settle import settle
from secondsite.engine.store.key import refuse_plain
from secondsite.engine.store.place import becomes_log, finding_logs, noting
from secondsite.engine.trackers import choose
from secondsite.engine.trackers.base import Tracker
from secondsite.engine.trackers.scan import RangesTracker
from secondsite.engine.work import Options
from secondsite.engine.workers import default_workers

if TYPE_CHECKING:
    from secondsite.engine.remote.sending.outbound import Link
    from secondsite.engine.trackers.together import Party


def utc_now() -> datetime.datetime:
    """The wall clock; tests pass their own (DESIGN D13)."""
    return datetime.datetime.now(datetime.UTC)


@finding_logs
def replicate(
    source: str | os.PathLike[str] | Image,
    replica: str | os.PathLike[str],
    *,
    block_size: int | None = None,
    codec: str = "auto",
    keep: int | None = None,
    limit: int | None = None,
    epoch: int | None = None,
    replica_id: str | None = None,
    source_id: str | None = None,
    accept_source: bool = False,
    source_format: str | None = None,
    head: str | None = None,
    encrypt: bool = False,
    tracker: str | Tracker = "auto",
    qemu: Qemu | None = None,
    bitmap_since: str | None = None,
    next_bitmap: str | None = None,
    distrust: int = SAMPLED_BLOCKS,
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
    state: str | os.PathLike[str] | None = None,
    schedule: str | None = None,
    link: Link | None = None,
    together: Party | None = None,
    take_over: bool = False,
) -> Replicated:
    """Bring the replica in a folder to the source's content; make the folder where there is none.

    A replica `secondsite://HOST[:PORT]/NAME` is the one of that name which the agent at HOST keeps; `state` is then the
    folder of what this host knows of others, `schedule` a calendar of rates (remote/link/schedule.py) or `@FILE`, and
    `link` says how often is tried again. Such a SOURCE may be a replica's folder: its newest point goes on to a third
    site. A replica `azure://CONTAINER/PREFIX` or `s3://BUCKET/PREFIX` is in an object store (store/FORMAT.md), which
    the environment or a file opens (store/credentials.py). There `take_over` goes on after a failover, in a higher
    epoch, whoever writes into it now; in its place he is refused from then on.

    `block_size` (bytes, a power of two from 4 KiB to 4 MiB) counts for a new replica; for an existing one it must be
    its own. `codec` packs the undo deltas. `keep` drops all but the newest so many points afterwards. `limit` is in
    bytes a second. `epoch`: refuse where the replica's is higher (DESIGN D9). `replica_id`: only the one of this id is
    gone on with, and none is begun in its place, as where its folder is not mounted. `source_id` names the source where
    its path does not; `accept_source` lets another image take the recorded one's place. `resync` trusts no map and
    mends the head; with an agent it may be interrupted, and `cancel_resync` drops it. `trust_mtime` skips the scan of a
    file that its times call unchanged. `history`: auto, undo or clone, or log: the folder is a store then, without a
    plain head (store/FORMAT.md). `head` is the format of a new replica's head: raw, vhdx or vhd. `encrypt` makes a new
    replica, a log, that only the key of `using_key` or of the environment opens (R12.14). `tracker` is what follows the
    source: auto chooses, see engine/trackers/choose.py, or a Tracker, which the caller closes. `qemu` is the QEMU that
    has the source open just now. Of an NBD export with a dirty bitmap, `next_bitmap` is the one that marks every write
    from this copy on, and is believed in the next cycle; `bitmap_since` is its name then, where the export calls it
    otherwise. Each cycle also looks at `distrust` blocks that it did not name. `changed` is a file with an extent list
    instead of a tracker. `together` is this source's part in an instant at which several are cut (together.py).
    For `source_format` and `allow_parent_path` see open_image.

    Raises Refused, Busy, SourceChanged, Damaged, Unreachable, NoReplica, Full, Cancelled or Usage. Whatever it raises,
    the replica holds every point that it held before.
    """
    began = time.monotonic()
    terms = admission.Terms(block_size, head, epoch, accept_source, encrypt, replica_id)
    wish = choose.Wish(tracker, qemu, bitmap_since, next_bitmap, changed, together)
    wish.check()
    given = sources.Given(source, source_id, source_format, allow_parent_path, running=qemu is not None)
    kept = "auto" if history == "log" else history
    options = Options(_codec(codec), kept, resync, trust_mtime, workers or default_workers(), clock, distrust, keep)
    _check_limit(limit)
    if becomes_log(os.fspath(replica), "log" if encrypt else history):
        from secondsite.engine.store.log import calls

        calls.refuse(history=kept != "auto")
        return calls.replicate(
            given, os.fspath(replica), terms, wish, options, Monitor(progress, cancel), state=state,
            link=_route(link, limit, schedule), take_over=take_over,
        )  # fmt: skip
    if take_over:
        raise errors.Usage("a replica in a store is taken over; elsewhere a higher epoch does it")
    refuse_plain(replica)
    if url.is_remote(os.fspath(replica)):
        from secondsite.engine.remote.sending import outbound

        remote, monitor, route = url.parse(os.fspath(replica)), Monitor(progress, cancel), _route(link, limit, schedule)
        with noting(os.fspath(replica)):
            return outbound.replicate(given, remote, terms, wish, options, monitor, link=route, state=state)
    if schedule is not None or link is not None:
        raise errors.Usage("a calendar and retries are for a replica on another host or in a store")
    files, root = files or LocalFiles(), os.fspath(replica)
    origin = _open_source(given, files, root)
    try:
        if isinstance(files, LocalFiles):
            sources.refuse_inside(origin, root)
        opened = _open_or_create(root, files, origin, terms, options)
        with opened.writing(force=resync):
            _refuse_waiting(opened)
            settle(opened, options, Monitor(progress, cancel))
            admission.admit(opened, origin, terms)
            if resync:
                opened.mend_records()
            chosen = choose.choose(choose.Asked(origin, opened, wish))
            result = _run(opened, origin, chosen, options, Monitor(progress, cancel, limit))
            if resync:
                comparison.drop(opened)  # what another host began is done
                _examine(opened, options, Monitor(progress))  # the cycle is committed: this is not to be cancelled
            pruned = prune.keep_newest(opened, keep) if keep is not None else 0
    finally:
        origin.close()
    return _result(result, opened, began, pruned, chosen.why)


def _route(link: Link | None, limit: int | None, schedule: str | None) -> Link:
    """How to get over to another host or a store, and how fast."""
    from secondsite.engine.remote import pace
    from secondsite.engine.remote.sending import outbound

    route = link or outbound.Link(retries=0)
    if limit is None and schedule is None:
        return route
    return dataclasses.replace(route, pace=pace.throttle(limit, schedule))


def _run(
    replica: Replica, origin: sources.Source, chosen: choose.Chosen, options: Options, monitor: Monitor
) -> Outcome:
    try:
        return attempts.run(replica, origin, chosen.tracker, options, monitor)
    finally:
        if chosen.ours:
            chosen.tracker.close()


def _examine(replica: Replica, options: Options, monitor: Monitor) -> None:
    """After a resync: what it could not mend is known now, and not at the next restore."""
    from secondsite.engine.verification import examine

    for generation, problem in sorted(examine(replica, options.workers, monitor).items()):
        replica.warn(f"point {generation} is damaged: {problem}")


def replicate_logs(
    logs: Sequence[str | os.PathLike[str]],
    replica: str | os.PathLike[str],
    *,
    codec: str = "auto",
    keep: int | None = None,
    limit: int | None = None,
    epoch: int | None = None,
    history: str = "auto",
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    clock: Callable[[], datetime.datetime] = utc_now,
    files: Files | None = None,
) -> Replicated:
    """Apply a chain of Hyper-V Replica's logs to an existing replica: one cycle, one new point.

    The logs may come in any order; their identifiers make the chain, and the replica remembers the last one that it
    took. Logs that this replica, or the one whose folder it was copied from, exported are known by its points; of any
    other first log nothing tells that it goes on from here, and a warning says so. Raises Refused for a chain with a
    gap, of another disk or from an older point, and what `replicate` raises.
    """
    from secondsite.engine.hrl.source import HrlSource

    began = time.monotonic()
    _check_limit(limit)
    options = Options(
        _codec(codec), history, False, False, workers or default_workers(), clock, keep=keep
    )
    opened = Replica.open(os.fspath(replica), files)
    with opened.writing():
        origin = HrlSource(opened, logs)
        try:
            admission.admit(opened, origin, admission.Terms(epoch=epoch))
            tracker = RangesTracker("hrl", origin, origin.overlay.changed_ranges)
            origin.announce()
            result = attempts.run(opened, origin, tracker, options, Monitor(progress, cancel, limit))
            origin.remember(result.point)
            pruned = prune.keep_newest(opened, keep) if keep is not None else 0
        finally:
            origin.close()
    return _result(result, opened, began, pruned, "logs say what they hold")


def _result(result: Outcome, replica: Replica, began: float, pruned: int, why: str) -> Replicated:
    point, tally = result.point, result.tally
    if result.tracker == "mtime":
        why = sources.BY_TIMES
    return Replicated(
        result.kind, point.generation, point.name, result.tracker, point.virtual_bytes, tally.read_bytes,
        tally.changed_bytes, tally.sent_bytes, time.monotonic() - began, result.history, pruned, replica.warnings,
        why, result.marked is None and result.tracker != "mtime", result.sampled, result.caught(),
        result.stall_seconds, result.application, result.kept_bytes, looked=tally.looked, dense=tally.dense,
        cut_at=format_time(result.cut_at) if result.cut_at is not None else None,
    )  # fmt: skip


def _codec(text: str) -> tuple[int, int] | None:
    """None where it is to be chosen. Raises Usage."""
    return None if text == "auto" else fmt.parse_codec(text)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise errors.Usage("the limit must be at least one byte a second")


def _open_source(given: sources.Given, files: Files, root: str) -> sources.Source:
    """The source, in the format that the replica remembers: a guest may write any signature into a raw disk. What it
    was adopted from says nothing of the source that it is to follow.
    """
    layout = Layout(root)
    if given.format is None and files.size(layout.identity) >= 0 and files.listdir(layout.points):
        identity = Replica.open(root, files).identity
        if not identity.adopted:
            given = dataclasses.replace(given, format=identity.source_format)
    return given.open()


def _refuse_waiting(replica: Replica) -> None:
    if replica.files.size(replica.layout.waiting) >= 0 and not replica.head_generation():
        raise errors.Refused("waits for its seed, which import-seed brings", path=replica.layout.root)


def _open_or_create(
    root: str, files: Files, origin: sources.Source, terms: admission.Terms, options: Options
) -> Replica:
    def make() -> Identity:
        head = terms.head or "raw"
        check_size(head, origin.image.size, origin.path)
        size = terms.block_size or units.DEFAULT_BLOCK_SIZE
        return Identity.new(size, format_time(options.clock()), origin.name, "undo", origin.format, head)

    return admission.open_or_create(root, files, make, probe=options.history != "undo", terms=terms)
