"""What was held for a seed follows it, each delta as an ordinary cycle: a crash leaves a point and what is held yet."""

from __future__ import annotations

from dataclasses import replace

from secondsite.engine import errors
from secondsite.engine.account import Account
from secondsite.engine.delta.blocks import batches
from secondsite.engine.progress import Monitor
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.mend import Mending
from secondsite.engine.replica.point import Point
from secondsite.engine.seeding.waiting import Waiting
from secondsite.engine.work import Options, Work


def settle(replica: Replica, options: Options, monitor: Monitor) -> int:
    """Apply what is held to a replica that has its seed; how many deltas that were. The caller holds it as the writer.

    What does not lead on from the newest point is dropped, with a warning: the next cycle sends it again.
    """
    if replica.files.size(replica.layout.waiting) < 0 or (newest := replica.newest()) is None:
        return 0
    waits = Waiting(replica)
    held = waits.chain(newest.generation)
    count, last = 0, max(waits.generations(), default=0)
    try:
        for point in held:
            newest = _apply(replica, waits, newest, point, options, monitor)
            waits.drop(point.generation)
            count += 1
    except errors.Damaged as error:
        if not waits.owns(error.path):
            raise
        replica.warn(str(error))
    if newest.generation < last:
        replica.warn(f"what was held behind point {newest.name} is damaged; the next cycle sends it again")
    waits.clear()
    return count


def _apply(
    replica: Replica, waits: Waiting, old: Point, point: Point, options: Options, monitor: Monitor
) -> Point:
    size, seed = point.virtual_bytes, replica.identity.seed
    with (
        waits.open_delta(point.generation) as reader,
        Mending(replica, old, False, options.workers, monitor, lazily=True) as mending,
    ):
        if reader.header.target_size != size or reader.end().base_seal.hex() != old.seal:
            raise errors.Damaged(f"it does not lead from the seal of point {old.name}", path=reader.path)
        monitor.begin("held", reader.file.size)
        work = Work(replica, old, size, options, mending, point.generation)
        try:
            account = Account(replica.identity.block_size, size)
            for batch in batches(reader, seed):
                monitor.check()
                account.put(mending.previous, batch)
                work.put(batch, 0)
                monitor.advance(batch.used)
            # Of deltas that were merged meanwhile the point knows its own change alone.
            work.conclude(replace(point, changed_bytes=account.changed_bytes))
        except BaseException:
            work.abort()
            raise
    return point
