"""All objects that nothing names, found by reading every map: for what cycles left that came to nothing, and for what
pruning could not tell. It costs as much as the history is long.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from secondsite.engine.progress import Monitor
from secondsite.engine.replica.identity import Identity
from secondsite.engine.store.base import Store
from secondsite.engine.store.log import condemned, dead, layout, manifest
from secondsite.engine.store.log.catalogue import Catalogue
from secondsite.engine.store.log.clock import FOLDER as CLOCK
from secondsite.engine.store.log.head import Head
from secondsite.engine.store.log.tree import Tree


def unnamed(store: Store, identity: Identity, head: Head, monitor: Monitor) -> dict[str, int]:
    """Objects with their sizes that no point of this head needs, nor a cycle that is under way. Raises Damaged where a
    point cannot be read: what it needs is not known then.
    """
    named = _Marked(store, identity, head, monitor).names
    for one in head.condemned:
        named |= {one.name, *condemned.load(store, head.replica_id, one)}
    return {
        entry.name: entry.size
        for entry in store.list()
        if entry.name not in named and _ours(entry.name, head.generation)
    }


def _ours(name: str, newest: int) -> bool:
    """Whether it is an object that may go where nothing names it: what was made for a generation that is not there yet
    belongs to a cycle under way, and of readers' notes others take care.
    """
    kind, _, rest = name.partition("/")
    if kind in (layout.SEGMENTS, layout.MAPS, layout.POINTS):
        return rest[:12].isdigit() and int(rest[:12]) <= newest
    return kind in (layout.CATALOGUE, condemned.FOLDER.rstrip("/"), CLOCK)


class _Marked:
    """The names of all that the points of a head need; pages that they share are read once."""

    def __init__(self, store: Store, identity: Identity, head: Head, monitor: Monitor) -> None:
        self.store, self.identity, self.monitor = store, identity, monitor
        self.names: set[str] = {page.name for page in head.pages}
        self._seen: set[bytes] = set()
        for row in Catalogue(store, head).rows():
            monitor.check()
            self.names.add(layout.manifest(row.generation, row.digest))
            made = manifest.load(store, row, identity.replica_id.hex())
            with closing(Tree(store, identity, made)) as tree:
                self._mark(tree)

    def _mark(self, tree: Tree) -> None:
        self._add(layout.MAPS, dead.maps_of(tree))
        entries = {b"".join(tree.entry(number)): number for number in range(tree.count)}
        fresh = [number for entry, number in entries.items() if entry not in self._seen]
        self._seen.update(entries)
        for page in tree.pages(sorted(fresh)):
            self.monitor.check()
            self._add(layout.SEGMENTS, dead.numbers(page.places))

    def _add(self, kind: str, numbers: Iterable[int]) -> None:
        self.names.update(layout.name(kind, number) for number in numbers)


