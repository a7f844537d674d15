"""Points that go, in two phases (P21): a head without them, and much later their objects (../FORMAT.md, section 8).

What is condemned stays dead: a cycle names what it put itself and what the newest point names, and that one never
goes. So who removes need not fear who writes; who reads has the grace, and longer where he says so (readers.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from secondsite.engine import errors
from secondsite.engine.progress import Monitor
from secondsite.engine.replica.identity import Identity
from secondsite.engine.store.base import Changed, Fence, Store
from secondsite.engine.store.log import claims, clock, condemned, dead, readers
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log.catalogue import Catalogue
from secondsite.engine.store.log.condemned import Condemned
from secondsite.engine.store.log.dropping import Dropped, Dropping
from secondsite.engine.store.log.layout import HEAD

# Whoever opened a point before it was dropped has so long to read it, or to say that he reads.
GRACE_SECONDS = 3600
_DELETING = 8
_PLANS = 3


@dataclass
class Tally:
    """Points that went, bytes that were removed and bytes that are condemned, and what there is to say about it."""

    points: int = 0
    freed_bytes: int = 0
    condemned_bytes: int = 0
    warnings: list[str] = field(default_factory=list)


def check_allowed(store: Store) -> None:
    """Raises Refused where an agent would."""
    if not store.removes():
        raise errors.Refused("drops no points for who may not administer it", path=store.label)


class Pruning:
    """Under a fence that the caller holds. `head` is moved on by each step, which raises Changed where another moved
    it; then nothing happened.
    """

    def __init__(
        self, store: Store, identity: Identity, head: heads.Head, fence: Fence, monitor: Monitor | None = None
    ) -> None:
        self.store, self.identity, self.head, self.fence = store, identity, head, fence
        self.monitor, self.tally = monitor or Monitor(), Tally()
        self._moved: float | None = None

    def planned(self, step: Callable[[], None]) -> None:
        """A step, planned anew where somebody else moved the head meanwhile. Raises Changed where that goes on."""
        for left in reversed(range(_PLANS)):
            try:
                return step()
            except Changed:
                if not left:
                    raise
                self.head, self._moved = heads.load(self.store, self.identity), None

    # -- the first phase -------------------------------------------------------------------------------------------

    def keep(self, count: int) -> None:
        """Drop all but the newest `count` points."""
        if self.head.count > count:
            held = {claim.generation: claim.by for claim in claims.every(self.store)}
            if 0 in held:
                self.tally.warnings.append(f"no point is dropped: an overlay stands on one, and {held[0]}")
                return
            dropped = Dropping(self.store, self.head).oldest(self.head.count - count, held)
            if dropped.count:
                self._drop(dropped)

    def drop(self, names: list[str]) -> None:
        """Drop the points that are called so. Raises Refused, Usage, Damaged."""
        catalogue = Catalogue(self.store, self.head)
        chosen = {catalogue.choose(name).generation for name in names}
        if chosen:
            claims.refuse(self.store, chosen)
            self._drop(Dropping(self.store, self.head).drop(chosen))

    def after_cycle(self, before: heads.Head, keep: int | None) -> None:
        """What a cycle does that found the head `before`: pages that it replaced, points that are too many, and some of
        what was condemned long ago. Of most cycles that is nothing, and takes no request.
        """
        moved = self.head is not before
        replaced = {page.name for page in before.pages} - {page.name for page in self.head.pages}
        if replaced:
            self.condemn(self.head, dict.fromkeys(replaced, 0))
        if keep is not None:
            self.keep(keep)
        if self.head.condemned:
            self.sweep(most=1 if self.store.removes() else 0, fresh=moved or self.head is not before)

    def _drop(self, made: Dropped) -> None:
        found = dead.of(self.store, self.identity, made.runs, self.monitor.check)
        claims.refuse(self.store, (row.generation for run in made.runs for row in run.rows))  # what took time is over
        self.condemn(made.head, {**found.objects, **dict.fromkeys(made.pages, 0)})
        self.tally.points += made.count
        lost = [f"the page of points {page.points} is damaged" for page in made.unknown]
        for complaint in [*found.complaints, *lost]:
            self.tally.warnings.append(f"{complaint}; what only it names stays until `prune --collect`")

    def condemn(self, head: heads.Head, objects: dict[str, int]) -> None:
        """Move to a head that does not name these objects any more."""
        moved = self._when()
        known = tuple(one.timed(moved) for one in head.condemned)
        lists = condemned.more(self.store, head.replica_id, known, objects, math.floor(moved))
        self._put(replace(head, condemned=lists))

    def _put(self, head: heads.Head) -> None:
        self.head = heads.put(self.store, head, self.fence)
        self._moved = None

    def _when(self) -> float:
        """When this head was put. Raises Changed where it is not this one any more."""
        if self._moved is None:
            entry = self.store.stat(HEAD)
            if entry is None or entry.etag != self.head.etag:
                raise Changed("somebody else changed it", path=self.store.path(HEAD))
            self._moved = entry.modified
        return self._moved

    # -- the second ------------------------------------------------------------------------------------------------

    def sweep(self, grace: float = GRACE_SECONDS, *, most: int | None = None, fresh: bool = False) -> None:
        """Remove what has been condemned for so long, of at most so many lists; `fresh`: the head was moved just now,
        so that its time is the present.
        """
        if self.head.condemned:
            moved = self._when()
            lists = tuple(one.timed(moved) for one in self.head.condemned)
            now = moved if fresh else clock.now(self.store)
            gone = self._ripe(lists, grace, now)[:most] if most != 0 else []
            for one in gone:
                self.tally.freed_bytes += self._remove(one)
            if gone or lists != self.head.condemned:
                self._put(replace(self.head, condemned=tuple(one for one in lists if one not in gone)))
            self._delete([one.name for one in gone])
        self.tally.condemned_bytes = sum(one.bytes for one in self.head.condemned)

    def _ripe(self, lists: tuple[Condemned, ...], grace: float, now: float) -> list[Condemned]:
        late = grace + clock.TICK if grace else 0
        ripe = [one for one in lists if one.since + late <= now]
        if not ripe:
            return []
        lowest = self._held_back(now)
        return [one for one in ripe if not any(one.born <= generation for generation in lowest)]

    def _held_back(self, now: float) -> list[int]:
        """Generations that are read and were dropped: what was made up to them may be needed. A point that is listed
        needs nothing that is condemned.
        """
        catalogue, found = Catalogue(self.store, self.head), []
        for generation in readers.alive(self.store, now):
            try:
                if catalogue.find(generation) is None:
                    found.append(generation)
            except errors.Damaged:
                found.append(generation)
        return found

    def _remove(self, one: Condemned) -> int:
        """The objects of a list; their bytes."""
        try:
            objects = condemned.load(self.store, self.head.replica_id, one)
        except errors.NewerFormat:
            raise
        except errors.Damaged as error:
            self.tally.warnings.append(f"{error}; what it names stays until `prune --collect`")
            return 0
        self._delete(list(objects))
        return sum(objects.values())

    def _delete(self, names: list[str]) -> None:
        def delete(name: str) -> None:
            self.monitor.check()
            self.store.delete(name)

        if names:
            self.store.forget(names)
            with ThreadPoolExecutor(_DELETING, thread_name_prefix="delete") as pool:
                for _ in pool.map(delete, names):
                    pass
