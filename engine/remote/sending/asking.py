"""What follows the source of a replica that is elsewhere, what is remembered of it here, and how its cycle is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from secondsite.engine import errors
from secondsite.engine import source as sources
from secondsite.engine.admission import Terms
from secondsite.engine.remote import talk
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.sending.sender import Sending
from secondsite.engine.remote.sending.standin import Far
from secondsite.engine.remote.sending.tally import Sent
from secondsite.engine.replica.point import format_time
from secondsite.engine.results.cycle import Replicated
from secondsite.engine.source import Source
from secondsite.engine.trackers import choose
from secondsite.engine.trackers.base import Tracker

T = TypeVar("T")
# A source that is written while it is read is read again this often before the attempt is given up.
_READS = 3


@dataclass
class Asking:
    """Which tracker follows the source for a replica that is elsewhere; made anew where that is another one."""

    origin: Source
    wish: choose.Wish
    home: Home
    terms: Terms
    far: Far | None = None
    chosen: choose.Chosen | None = None
    _noted: list[str] = field(default_factory=list)

    def meet(self, state: talk.State, peer: str) -> None:
        """Before anything is sent to a replica as it is now. Raises Refused where a failover raised its epoch since
        this source last met it, unless it was told its own (DESIGN D9), and where the epoch is lower than it was: an
        older state, in which a failover may be forgotten. A note that was lost fences nobody. Raises as `Terms.meet`.
        """
        self.terms.meet(state.replica_id.hex(), peer, empty=not state.generation)
        far = Far(state, self.home.folder / "far")
        known = far.known_epoch(self.origin.name)
        if self.terms.epoch is None and known is not None and known < state.epoch:
            raise errors.Refused(
                f"is at epoch {state.epoch}, and this source last met it at {known}: a failover happened in between "
                f"(--epoch {state.epoch} lets it go on)",
                path=peer,
            )
        if known is not None and known > max(state.epoch, self.terms.epoch or 0):
            raise errors.Refused(
                f"is at epoch {state.epoch}, and this source met it at {known}: it was put back to an older state "
                f"(--epoch {known} lets it go on)",
                path=peer,
            )
        if known != state.epoch:
            far.note_epoch(self.origin.name)
        made = far.known_generation()
        if made > state.generation:
            far.warn(f"{peer}: point {made} was made from here, and {state.generation or 'none'} is the newest now: it "
                     "was put back to an older state, and what came after that is not there any more")  # fmt: skip
        self._noted = far.warnings

    def follow(self, state: talk.State) -> Tracker:
        """For one attempt."""
        self.close()
        self.chosen = choose.choose(choose.Asked(self.origin, self._stand_in(state), self.wish))
        return self.chosen.tracker

    def _stand_in(self, state: talk.State) -> Any:
        self.far = Far(state, self.home.folder / "far")
        self.far.warnings.extend(self._noted)
        return self.far

    def unchanged(self, state: talk.State) -> bool:
        """Do the source's times say that it is what the replica has?"""
        return sources.unchanged(self._stand_in(state), self.origin, state.generation)

    def remember(self, found: Sending) -> None:
        """What the source's files look like, for who goes by that in the next cycle."""
        if self.far is not None and found.tracker not in ("changed", "hrl", "mtime"):
            self.far.becomes(found.done.seal)
            replica: Any = self.far
            sources.remember(replica, found.stamp, found.done.generation, found.moment_ns)

    def close(self) -> None:
        chosen, self.chosen = self.chosen, None
        if chosen is not None and chosen.ours:
            chosen.tracker.close()


def at_rest(attempt: Callable[[], T]) -> T:
    """The attempt, again where the source was written meanwhile."""
    for left in reversed(range(_READS)):
        try:
            return attempt()
        except errors.SourceChanged:
            if not left:
                raise
    raise AssertionError


def result(found: Sending, size: int, began: float, asking: Asking, sent: Sent) -> Replicated:
    """What a caller of `replicate` is told."""
    done, tally = found.done, found.tally
    by_times = found.tracker == "mtime"
    why = sources.BY_TIMES if by_times else asking.chosen.why if asking.chosen else ""
    warnings = [*found.warnings, *(asking.far.warnings if asking.far else [])]
    over, again, attempts = sent.bytes, sent.again, sent.attempts
    changed = tally.changed_bytes if done.changed_bytes is None else done.changed_bytes
    data = tally.sent_bytes if done.data_bytes is None else done.data_bytes
    sent.begin()
    return Replicated(
        done.kind, done.generation, str(done.generation), found.tracker, size, tally.read_bytes, changed,
        data, time.monotonic() - began, done.history, done.pruned, warnings, why,
        found.marked is None and not by_times, found.sampled, found.caught(), found.stall_seconds, found.application,
        found.kept_bytes, over, again, attempts, asking.origin.moment,
        found.connections, tally.looked, tally.dense,
        asking.origin.moment or (format_time(found.cut_at) if found.cut_at is not None else None),
    )  # fmt: skip
