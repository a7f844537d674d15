"""Pruning of a replica in a store whose clock the test moves, and what must lie there afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from typing import Any

from store.logkit import Lab

from secondsite.engine import errors
from secondsite.engine.progress import Monitor
from secondsite.engine.store.base import Store
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log import layout, manifest, prune, segment, tree
from secondsite.engine.store.log.collect import unnamed
from secondsite.engine.store.log.reading import Replica
from secondsite.engine.store.log.writing import holding
from secondsite.engine.store.memory import MemoryStore

HOUR = 3600


class PruneLab(Lab):
    """`later` moves the store's clock. `prune` forgets the points that go."""

    def __init__(self, **more: Any) -> None:
        self.time = 1_000_000.0
        super().__init__(MemoryStore(clock=lambda: self.time), **more)

    def later(self, seconds: float = 2 * HOUR) -> None:
        self.time += seconds

    def prune(
        self, *, keep: int | None = None, drop: list[int] | None = None, collect: bool = False, grace: float = HOUR,
        store: Store | None = None,
    ) -> prune.Tally:  # fmt: skip
        identity, store = heads.load_identity(self.store), store or self.store
        with holding(store, identity, 60) as fence:
            made = prune.Pruning(store, identity, heads.load(store, identity), fence)
            if keep is not None:
                made.planned(lambda: made.keep(keep))
            made.planned(lambda: made.drop([str(number) for number in drop or []]))
            if collect:
                made.planned(lambda: made.condemn(made.head, unnamed(store, identity, made.head, Monitor())))
            made.planned(lambda: made.sweep(grace))
        self.settle()
        return made.tally

    def settle(self) -> None:
        """Keep what is listed."""
        listed = set(self.generations())
        assert listed <= set(self.contents)
        self.contents = {number: data for number, data in self.contents.items() if number in listed}

    def needed(self) -> set[str]:
        """The names of all objects that are named, found here by reading each block's place of each point."""
        replica = Replica.open(self.store)
        found = {"head.json", "replica.json"} | {page.name for page in replica.head.pages}
        for row in replica.catalogue.rows():
            found.add(layout.manifest(row.generation, row.digest))
            made = manifest.load(self.store, row, replica.head.replica_id)
            with closing(tree.Tree(self.store, replica.identity, made)) as held:
                found |= {layout.name("maps", group.place.number) for group in held.groups if group is not None}
                for number in range(held.count):
                    place = layout.Place(*layout.PLACE.unpack(held.entry(number)[1]))
                    if place.length:
                        found.add(layout.name("maps", place.number))
                for page in held.pages(range(held.count)):
                    for place in layout.PLACE.iter_unpack(page.places):
                        if place[2]:
                            found.add(layout.name("segments", place[0]))
        return found

    def held(self) -> set[str]:
        """The names of all objects but fences."""
        return {name for name in self.store.objects if not name.endswith(".lease")}


def cut(lab: PruneLab, data: bytes | bytearray, store: Store) -> None:
    """An attempt through a store whose link breaks off, and whose fence runs out."""
    try:
        lab.cycle(data, store)
    except errors.Unreachable:
        pass
    for generation in lab.generations():
        lab.contents.setdefault(generation, bytes(data))
    lab.later(100)
    lab.forget()


def small(monkeypatch: Any) -> None:
    """Segments of a few blocks, small pages of the catalogue."""
    from secondsite.engine.remote.sending import sender
    from secondsite.engine.store.log import pages

    monkeypatch.setattr(segment, "SEGMENT_BYTES", 6 * 4096)
    monkeypatch.setattr(sender, "SMALL_BATCH_BYTES", 3 * 4096)
    monkeypatch.setattr(heads, "INLINE", 6)
    monkeypatch.setattr(heads, "_KEPT", 2)
    monkeypatch.setattr(pages, "PAGE_POINTS", 8)


def some(chance: random.Random, numbers: list[int]) -> list[int]:
    """Any of them but the newest."""
    return [number for number in numbers[:-1] if chance.random() < 0.4]


def spread(seed: int) -> Callable[[], bytearray]:
    """A disk of three pages of the map, each with a few blocks, of which some change at every call."""
    chance, data = random.Random(seed), bytearray(2 * 4096 * 4096 + 20 * 4096)
    places = [4096 * (page * 4096 + block) for page in range(3) for block in range(12)]

    def step() -> bytearray:
        for at in chance.sample(places, chance.randrange(1, 12)):
            data[at : at + 16] = chance.randbytes(16) if chance.random() < 0.9 else bytes(16)
        return data

    return step
