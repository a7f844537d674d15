"""A seed from a medium becomes a replica's first point, and what was held for it follows (R5.4)."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from secondsite.engine import admission, errors
from secondsite.engine.delta.blocks import batches
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.remote import url
from secondsite.engine.remote.agent.spool import alone
from secondsite.engine.remote.patience import patiently
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.mend import Mending
from secondsite.engine.replica.point import Point
from secondsite.engine.replication import utc_now
from secondsite.engine.results.seeds import SeedImported
from secondsite.engine.seeding.medium import Medium, Seed
from secondsite.engine.seeding.settle import settle
from secondsite.engine.seeding.waiting import Waiting
from secondsite.engine.work import Options, Work
from secondsite.engine.workers import default_workers


def import_seed(
    medium: str | os.PathLike[str],
    replica: str | os.PathLike[str],
    *,
    history: str = "auto",
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    clock: Callable[[], datetime.datetime] = utc_now,
    files: Files | None = None,
) -> SeedImported:
    """Make the first point of the replica in the folder `replica` from the seed on `medium`, proved by its seal; then
    the points of the deltas that were held for it.

    The folder is new, or the replica in it waits for this very seed. Until the point is there nothing has changed, and
    the call may be repeated; one that was cut short behind the point goes on with what is held. Raises Refused for a
    seed that is not whole, of another replica, or that was imported; Damaged, Full, Busy, Cancelled.
    """
    began, files, root = time.monotonic(), files or LocalFiles(), os.fspath(replica)
    if url.is_remote(root):
        raise errors.Usage("a seed is imported on the replica's own host, into its folder", path=root)
    place, monitor = Medium(os.fspath(medium), files), Monitor(progress, cancel)
    seed, point = place.whole()
    options = Options(None, history, False, False, workers or default_workers(), clock)
    opened = admission.open_or_create(root, files, lambda: seed.identity, probe=history != "undo")
    with holding(opened, monitor):
        kind = "imported" if _admit(opened, seed, point, place.folder) else "finished"
        if kind == "imported":
            _first(opened, place, seed, point, options, monitor)
        held = settle(opened, options, monitor)
        newest = opened.newest()
    assert newest is not None
    stored = sum(files.size(place.part(number)) for number in seed.parts)
    return SeedImported(
        kind, root, newest.replica_id, newest.name, newest.generation, newest.time, newest.virtual_bytes, stored, held,
        time.monotonic() - began, opened.warnings,
    )  # fmt: skip


@contextmanager
def holding(replica: Replica, monitor: Monitor) -> Iterator[None]:
    """Hold a replica as its writer, whatever an agent does with it between two transfers."""
    with ExitStack() as stack:
        patiently(lambda: stack.enter_context(alone(replica)), check=monitor.check)
        patiently(lambda: stack.enter_context(replica.writing()), check=monitor.check)
        yield


def _admit(replica: Replica, seed: Seed, point: Point, medium: str) -> bool:
    """Is the seed to be imported? False: it is there, and something is held that is not. Raises Refused."""
    files, layout, made = replica.files, replica.layout, replica.identity
    newest, ours = replica.newest(), made.replica_id == seed.identity.replica_id
    if newest is not None:
        if ours and files.size(layout.waiting) >= 0:
            return False
        told = "its seed was imported before" if ours else f"it is another replica, of {made.source.partition(':')[2]}"
        raise errors.Refused(f"has point {newest.name} already: {told}", path=layout.root)
    if files.exists(layout.head):
        raise errors.Damaged("there is a head but no record of any point", path=layout.points)
    waits = Waiting.of(replica)
    if waits is None:
        if not ours:
            history = replica.identity.history
            replica.become(replace(seed.identity, history=history, epoch=max(made.epoch, seed.identity.epoch)))
        return True
    if not ours or waits.seed.seal != point.seal:
        told = f"waits for another seed, of {made.source.partition(':')[2]}, than the one of {seed.source}"
        raise errors.Refused(f"{told} in {medium}", path=layout.root)
    return True


def _first(
    replica: Replica, medium: Medium, seed: Seed, point: Point, options: Options, monitor: Monitor
) -> None:
    """The first point, one part after the other: where two name a block the later one counts."""
    monitor.begin("import", sum(max(medium.files.size(medium.part(number)), 0) for number in seed.parts))
    with Mending(replica, None, False, options.workers, monitor) as mending:
        work = Work(replica, None, seed.size, options, mending)
        try:
            for number in seed.parts:
                with medium.opened(seed, number) as reader:
                    size, done = reader.file.size, 0
                    for batch in batches(reader, seed.identity.seed):
                        monitor.check()
                        work.put(batch, 0)
                        step = min(batch.used, size - done)
                        done += step
                        monitor.advance(step)
                    monitor.advance(size - done)
            _conclude(work, point, medium)
        except BaseException:
            work.abort()
            raise


def _conclude(work: Work, point: Point, medium: Medium) -> None:
    try:
        work.conclude(point)
    except errors.Damaged as error:
        if error.path != work.replica.layout.root:
            raise
        raise errors.Damaged("its parts do not lead to its seal", path=medium.folder) from None
