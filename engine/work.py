"""What a cycle writes, begun at its first change: an unchanged source touches nothing."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from dataclasses import dataclass

from secondsite.engine import distrust, errors, scan, units
from secondsite.engine.batch import Batch
from secondsite.engine.delta import format as fmt
from secondsite.engine.replica.cycle import Cycle, InPlace, Next
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.mend import Mending
from secondsite.engine.replica.point import Point, format_time


@dataclass(frozen=True, slots=True)
class Options:
    """How to make a cycle; see `replicate`. Without a `codec` it is chosen."""

    codec: tuple[int, int] | None
    history: str
    resync: bool
    trust_mtime: bool
    workers: int
    clock: Callable[[], datetime.datetime]
    distrust: int = distrust.SAMPLED_BLOCKS
    keep: int | None = None

    def __post_init__(self) -> None:
        """Raises Usage."""
        if self.keep is not None and self.keep < 1:
            raise errors.Usage("keep must be at least 1: the newest point is the head")
        units.check_number(self.keep or 1, "keep")
        distrust.check_count(self.distrust)
        if self.history not in ("auto", "undo", "clone"):
            raise errors.Usage(f"history is auto, undo or clone, not {self.history!r}")

    @property
    def packing(self) -> tuple[int, int]:
        """Codec and level of undo deltas."""
        return self.codec or fmt.parse_codec("auto")


class Work:
    """The cycle behind a scan, begun at its first change, so that an unchanged source touches nothing. It makes the
    generation that follows the newest, or a later one, `generation`.
    """

    def __init__(
        self, replica: Replica, old: Point | None, size: int, options: Options, mending: Mending,
        generation: int | None = None,
    ) -> None:  # fmt: skip
        self.generation = generation
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
            return Next(replica, old, self.size, fresh=True, generation=self.generation)
        if options.history != "undo" and not options.resync:
            cloned = Next.from_clone(replica, old, self.size, self.generation)
            if cloned is not None:
                return cloned
            if options.history == "clone":
                raise errors.Refused("this file system cannot clone files", path=replica.layout.root)
        return InPlace(
            replica, old, self.size, self.mending.logical, options.packing, mend=options.resync,
            generation=self.generation,
        )  # fmt: skip

    def finish(self, tally: scan.Tally, moment: datetime.datetime) -> tuple[str, Point, str]:
        """Commit, where there is anything to: the kind, the newest point, and how the one before it is kept."""
        old, resync, history = self.old, self.options.resync, self.replica.identity.history
        same_size = old is not None and self.size == old.virtual_bytes
        if self.cycle is None and old is not None and same_size and self.mending.sealed:
            return "resync" if resync else "unchanged", old, history
        cycle = self._begin()
        if (mended := self._mended(cycle)) is not None:
            mended.discard()
            return "resync", mended.old, "undo"
        kind = "initial" if old is None else "resync" if resync else "delta"
        point = Point(
            cycle.generation, format_time(moment), self.size, cycle.seal(), kind, self.tracker, tally.read_bytes,
            tally.changed_bytes, tally.sent_bytes, self.replica.identity.epoch,
            self.replica.identity.replica_id.hex(),
        )  # fmt: skip
        cycle.commit(point)
        return kind, point, self._kept(cycle)

    def _mended(self, cycle: Cycle) -> InPlace | None:
        """The cycle, where it made the head what it should have been, and nothing else."""
        if not isinstance(cycle, InPlace) or not self.options.resync or cycle.kept or not self.mending.sealed:
            return None
        return cycle if self.size == cycle.old.virtual_bytes else None

    def _kept(self, cycle: Cycle) -> str:
        """How the point before this cycle's is kept."""
        if isinstance(cycle, InPlace):
            return "undo"
        return self.replica.identity.history if self.old is None else "clone"

    def conclude(self, point: Point) -> tuple[str, Point, str]:
        """Commit as this very point; Damaged where what was put does not have its seal."""
        cycle = self._begin()
        mended = self._mended(cycle)
        seal = cycle.seal() if mended is None else mended.old.seal
        if seal != point.seal:
            raise errors.Damaged(
                f"what came leads to the seal {seal[:16]}, the source's is {point.seal[:16]}",
                path=self.replica.layout.root,
            )
        if mended is not None:
            mended.discard()
            return "resync", mended.old, "undo"
        cycle.commit(point)
        return point.kind, point, self._kept(cycle)

    def abort(self) -> None:
        if self.cycle is not None:
            self.cycle.abort()
