"""Which objects nobody needs once some points are dropped.

A frame is named by the points from the one it was made for up to some later one, without a gap, since each map is
made of the newest. Of a run of dropped points with `before` and `after` kept, what was made up to `before` is needed
by `before` if any of the run named it; the rest is dead if `after` does not name it. So cost follows what the run
changed: maps are compared point after point, only pages that differ are read, and an object that a page names no more
is looked for in `after` where the object's own table says that its blocks are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TypeVar

from secondsite.engine import errors
from secondsite.engine.blockmap import PAGE_BLOCKS
from secondsite.engine.replica.identity import Identity
from secondsite.engine.store.base import Absent, Store
from secondsite.engine.store.log import layout, manifest, segment
from secondsite.engine.store.log.layout import PLACE, Place
from secondsite.engine.store.log.rows import Row
from secondsite.engine.store.log.tree import ENTRY, Page, Tree

T = TypeVar("T")
_ASKING = 8
_TOGETHER = 32
_NOTHING = bytes(ENTRY.size)


@dataclass(frozen=True, slots=True)
class Run:
    """Points to drop, without one between them that stays. `before` is the generation of the kept one before, or 0."""

    before: int
    rows: tuple[Row, ...]
    after: Row


@dataclass
class Dead:
    """Objects by name with their sizes, and what could not be looked at: what it named is left there."""

    objects: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


def of(store: Store, identity: Identity, runs: Iterable[Run], check: Callable[[], object] = lambda: None) -> Dead:
    """What dies with these runs of points. Where one is damaged, or one that stays, less is found than there is."""
    found = Dead()
    for run in runs:
        check()
        _Search(store, identity, run, found).work()
    return found


def numbers(places: memoryview) -> set[int]:
    """The objects that a page's places name."""
    found = set(places.cast("Q")[::2].tolist())
    found.discard(0)
    return found


def maps_of(tree: Tree) -> set[int]:
    """The objects that hold a tree's pages and groups."""
    found = {int.from_bytes(place[:8], "little") for _, place, _ in ENTRY.iter_unpack(tree.entries)}
    found.discard(0)
    return found | {group.place.number for group in tree.groups if group is not None}


class _Search:
    """For one run. `listed` has the sizes of what is in the run's own folders."""

    def __init__(self, store: Store, identity: Identity, run: Run, found: Dead) -> None:
        self.store, self.identity, self.run, self.found = store, identity, run, found
        self.segments: set[int] = set()
        self.maps: set[int] = set()
        self.alive: set[int] = set()
        self.seen: set[int] = set()
        self.listed: dict[str, int] = {}

    def work(self) -> None:
        with ThreadPoolExecutor(_ASKING, thread_name_prefix="dead") as pool, ExitStack() as stack:
            self._list(pool)
            self._told(lambda: self._compared(self._open(self.run.after, stack), pool))

    def _compared(self, last: Tree, pool: ThreadPoolExecutor) -> None:
        self._compare(last)
        tables = self._tables(last, pool)
        for number in self._candidates(self.maps - maps_of(last)):
            self._condemn(layout.MAPS, number, None)
        for number, size in tables.items():
            if number not in self.alive:
                self._condemn(layout.SEGMENTS, number, size)

    def _open(self, row: Row, stack: ExitStack) -> Tree:
        made = manifest.load(self.store, row, self.identity.replica_id.hex())
        return stack.enter_context(closing(Tree(self.store, self.identity, made)))

    def _list(self, pool: ThreadPoolExecutor) -> None:
        kinds = (layout.SEGMENTS, layout.MAPS, layout.POINTS)
        folders = [layout.folder(kind, row.generation) for row in self.run.rows for kind in kinds]
        for entries in pool.map(lambda folder: list(self.store.list(folder)), folders):
            for entry in entries:
                self.listed[entry.name] = entry.size
                number = layout.number_of(entry.name)
                if number is not None:
                    (self.segments if entry.name.startswith(layout.SEGMENTS) else self.maps).add(number)
                else:
                    self.found.objects[entry.name] = entry.size  # a manifest, also of an attempt that came to nothing

    # -- what the run names and the next point does not ------------------------------------------------------------

    def _compare(self, last: Tree) -> None:
        """Each point of the run with the next one that is whole."""
        with ExitStack() as held:
            older: Tree | None = None
            for row in self.run.rows:
                stack = ExitStack()
                newer = self._told(lambda row=row, stack=stack: self._open(row, stack))  # type: ignore[misc]
                if newer is None:
                    continue
                if older is not None:
                    self._told(lambda older=older, newer=newer: self._step(older, newer, None))  # type: ignore[misc]
                held.close()
                held.push(stack)
                older = newer
            if older is not None:
                self._step(older, last, self.alive)

    def _told(self, look: Callable[[], T]) -> T | None:
        """What `look` returns, or None with a complaint where a point that goes is damaged."""
        try:
            return look()
        except errors.NewerFormat:
            raise
        except Absent:
            return None  # another removes it at this moment
        except errors.Damaged as error:
            self.found.complaints.append(str(error))
            return None

    def _step(self, old: Tree, new: Tree, alive: set[int] | None) -> None:
        """What the old map names and the new one does not, where they differ."""
        differ = [page for page in range(old.count) if _entry(old, page) != _entry(new, page)]
        self.maps.update(int.from_bytes(old.entry(page)[1][:8], "little") for page in differ)
        for number, group in enumerate(old.groups):
            if group is not None and (number >= len(new.groups) or new.groups[number] != group):
                self.maps.add(group.place.number)
        for at in range(0, len(differ), _TOGETHER):
            part = differ[at : at + _TOGETHER]
            now = {page.number: numbers(page.places) for page in _pages(new, part)}
            for page in _pages(old, part):
                self.segments |= numbers(page.places) - now.get(page.number, set())
            if alive is not None:
                alive.update(*now.values())
                self.seen.update(part)

    # -- what of it the next point names elsewhere -----------------------------------------------------------------

    def _candidates(self, found: set[int]) -> list[int]:
        first, last = self.run.before, self.run.rows[-1].generation
        return sorted(number for number in found if first < layout.generation_of(number) <= last)

    def _condemn(self, kind: str, number: int, size: int | None) -> None:
        name = layout.name(kind, number)
        size = self._size(name) if size is None else size
        if size is not None:
            self.found.objects[name] = size

    def _size(self, name: str) -> int | None:
        """None where it is gone already."""
        if name in self.listed:
            return self.listed[name]
        entry = self.store.stat(name)
        return entry.size if entry is not None else None

    def _tables(self, last: Tree, pool: ThreadPoolExecutor) -> dict[int, int]:
        """The sizes of the segments in question, after the pages of `last` that may name them were read."""
        asked = self._candidates(self.segments - self.alive)
        held = {number: found for number, found in zip(asked, pool.map(self._pages_of, asked), strict=True) if found}
        wanted = {page for number, (_, pages) in held.items() for page in pages if _may_name(last, page, number)}
        for page in _pages(last, sorted(wanted - self.seen)):
            self.alive |= numbers(page.places)
        return {number: size for number, (size, _) in held.items()}

    def _pages_of(self, number: int) -> tuple[int, set[int]] | None:
        """(size, pages of the map that its blocks are in) of a segment; None where it is not to be condemned."""
        name = layout.name(layout.SEGMENTS, number)
        size = self._size(name)
        frames = self._told(lambda: segment.table(self.store, name, size or 0).frames) if size is not None else None
        if size is None or frames is None:
            return None
        return size, {block // PAGE_BLOCKS for frame, _, _ in frames for block in frame.blocks}


def _entry(tree: Tree, page: int) -> bytes:
    return bytes(tree.entries[ENTRY.size * page : ENTRY.size * (page + 1)]) if page < tree.count else _NOTHING


def _pages(tree: Tree, wanted: Iterable[int]) -> Iterator[Page]:
    return tree.pages(number for number in wanted if number < tree.count)


def _may_name(tree: Tree, page: int, number: int) -> bool:
    """Nothing names what was made after it."""
    if page >= tree.count:
        return False
    place = Place(*PLACE.unpack(tree.entry(page)[1]))
    return layout.generation_of(place.number) >= layout.generation_of(number)
