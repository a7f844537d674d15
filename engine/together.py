"""One cycle of several disks, all of one instant: what a machine's recovery point is made of."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secondsite.engine import errors
from secondsite.engine.progress import Progress
from secondsite.engine.replication import replicate, utc_now
from secondsite.engine.results.cycle import Replicated
from secondsite.engine.trackers.together import Apart, Instant, Party

# Disks that are written while they are cut are cut again so often, as a single one is.
_ROUNDS = 3


@dataclass(frozen=True)
class Disk:
    """A source and its replica, and what else `replicate` is told for it."""

    source: str
    replica: str
    options: Mapping[str, Any] = field(default_factory=dict)


def replicate_together(
    disks: Sequence[Disk],
    *,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    clock: Callable[[], datetime.datetime] = utc_now,
    **options: Any,
) -> list[Replicated]:
    """A cycle of each disk, cut at one instant; all of their points have its time. See `replicate` for the rest.

    Raises the first error where one of them fails. The others may have their point then: it is a point of a disk, and
    not one of the machine; the next cycle goes on from it. Cancelled, SourceChanged, Busy and what `replicate` raises.
    """
    if len({disk.replica for disk in disks}) != len(disks) or not disks:
        raise errors.Usage("each disk has a replica of its own")
    distrusted: set[str] = set()
    for left in reversed(range(_ROUNDS)):
        results = _round(disks, distrusted, progress, cancel, clock, options)
        failed = [one for one in results if isinstance(one, BaseException)]
        again = [one for one in failed if isinstance(one, errors.SourceChanged | Apart)]
        if not failed:
            return [one for one in results if isinstance(one, Replicated)]
        if not again or not left:
            raise min(failed, key=_rank)
        distrusted |= {
            disk.replica for disk, one in zip(disks, results, strict=True) if isinstance(one, Apart) and one.distrust
        }
    raise AssertionError


def _rank(error: BaseException) -> bool:
    """What happened to a disk itself says more than that another one could not go on."""
    return isinstance(error, errors.Busy)


def _round(
    disks: Sequence[Disk], distrusted: set[str], progress: Callable[[Progress], None] | None,
    cancel: Callable[[], bool] | None, clock: Callable[[], datetime.datetime], options: Mapping[str, Any],
) -> list[Replicated | BaseException]:  # fmt: skip
    """One try: a thread a disk. What each ended with, in their order."""
    instant, moment = Instant(len(disks)), clock()
    results: list[Replicated | BaseException] = [AssertionError()] * len(disks)

    def run(place: int, disk: Disk) -> None:
        party = Party(instant, distrust=disk.replica in distrusted)
        try:
            said = {**options, **disk.options, "progress": progress, "cancel": cancel, "clock": lambda: moment}
            results[place] = replicate(disk.source, disk.replica, together=party, **said)
            party.end()
        except BaseException as error:
            results[place] = error
            party.end(error)

    threads = [threading.Thread(target=run, args=(place, disk)) for place, disk in enumerate(disks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
