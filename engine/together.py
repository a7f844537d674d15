"""One cycle of several disks, or one seed of each, all of one instant: what a machine's recovery point is made of."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from secondsite.engine import errors
from secondsite.engine.progress import Progress
from secondsite.engine.qemu.agent import Quiesce
from secondsite.engine.replication import replicate, utc_now
from secondsite.engine.results.cycle import Replicated
from secondsite.engine.results.seeds import SeedExported
from secondsite.engine.trackers.together import Apart, Instant, Party

# Disks that are written while they are cut are cut again so often, as a single one is.
_ROUNDS = 3
T = TypeVar("T", Replicated, SeedExported)
# What is done for one disk, as its part in an instant.
_One = Callable[["Disk", Party, dict[str, Any]], T]


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
    quiesce: Quiesce | None = None,
    **options: Any,
) -> list[Replicated]:
    """A cycle of each disk, cut at one instant; all of their points have its time, which `clock` tells once all are
    cut. See `replicate` for the rest.

    `quiesce` brings to rest around the instant what writes the disks, see Quiesce. A source that is read as it
    is loses the mark where it was written as soon as that let go, and the last of the tries goes without (R4.4).

    Raises the first error where one of them fails. The others may have their point then: it is a point of a disk, and
    not one of the machine; the next cycle goes on from it. Cancelled, SourceChanged, Busy and what `replicate` raises.
    """
    if len({disk.replica for disk in disks}) != len(disks) or not disks:
        raise errors.Usage("each disk has a replica of its own")

    def one(disk: Disk, party: Party, said: dict[str, Any]) -> Replicated:
        return replicate(disk.source, disk.replica, together=party, **said)

    return _rounds(disks, one, clock, quiesce, {**options, "progress": progress, "cancel": cancel})


def export_seeds_together(
    disks: Sequence[Disk],
    *,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    clock: Callable[[], datetime.datetime] = utc_now,
    **options: Any,
) -> list[SeedExported]:
    """The seed of each disk (R5.4), cut at one instant; `replica` of a disk is the folder of its medium. See
    `export_seed` for the rest. One that is whole on its medium stays as it is, and of its own instant.

    Raises the first error where one of them fails; what is whole on the media stays, and the call may be repeated.
    """
    from secondsite.engine.seedexport import export_seed

    if len({disk.replica for disk in disks}) != len(disks) or not disks:
        raise errors.Usage("each disk has a folder of its own on the medium")

    def one(disk: Disk, party: Party, said: dict[str, Any]) -> SeedExported:
        # Whole seeds of one time are known by that as those of one instant.
        return export_seed(disk.source, disk.replica, together=party, **{**said, "clock": party.instant.when})

    return _rounds(disks, one, clock, None, {**options, "progress": progress, "cancel": cancel})


def _rounds(
    disks: Sequence[Disk], one: _One[T], clock: Callable[[], datetime.datetime], quiesce: Quiesce | None,
    options: Mapping[str, Any],
) -> list[T]:  # fmt: skip
    """Until all are of one instant, at most three times."""
    distrusted: set[str] = set()
    for left in reversed(range(_ROUNDS)):
        resting = quiesce if left else None
        results = _round(disks, one, distrusted, clock, resting, options)
        failed = [found for found in results if isinstance(found, BaseException)]
        again = [found for found in failed if isinstance(found, errors.SourceChanged | Apart)]
        if not failed:
            done = [found for found in results if not isinstance(found, BaseException)]
            if resting is not quiesce:
                done[0].warnings.append("its disks were written after they had been at rest: this cut went without")
            return done
        if not again or not left:
            raise min(failed, key=_rank)
        distrusted |= {
            disk.replica for disk, found in zip(disks, results, strict=True)
            if isinstance(found, Apart) and found.distrust
        }  # fmt: skip
    raise AssertionError


def _rank(error: BaseException) -> bool:
    """What happened to a disk itself says more than that another one could not go on."""
    return isinstance(error, errors.Busy)


def _round(
    disks: Sequence[Disk], one: _One[T], distrusted: set[str], clock: Callable[[], datetime.datetime],
    quiesce: Quiesce | None, options: Mapping[str, Any],
) -> list[T | BaseException]:  # fmt: skip
    """One try: a thread a disk. What each ended with, in their order."""
    instant = Instant(len(disks), quiesce=quiesce, clock=clock)
    results: list[T | BaseException] = [AssertionError()] * len(disks)

    def run(place: int, disk: Disk) -> None:
        party = Party(instant, distrust=disk.replica in distrusted)
        try:
            results[place] = one(disk, party, {**options, **disk.options, "clock": instant.now})
            party.end()
        except BaseException as error:
            results[place] = error
            party.end(error)

    # Each with what the caller opens replicas with.
    threads = [
        threading.Thread(target=copy_context().run, args=(run, place, disk)) for place, disk in enumerate(disks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _unmarked(results, instant) if instant.written_since() else results


def _unmarked(results: list[Any], instant: Instant) -> list[Any]:
    """What was read is not all of the instant at which its writers were at rest."""
    told = f"{instant.written_since()[0]}: it was written before all of it was read, and no tracker keeps its instant"
    found = [replace(one, application=False) if isinstance(one, Replicated) else one for one in results]
    for one in found[:1]:
        if isinstance(one, Replicated):
            one.warnings.append(told)
    return found
