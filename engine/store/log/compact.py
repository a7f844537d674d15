"""Mostly dead segments: a cycle moves what the newest map names of them into its own ones (../FORMAT.md, section 8).

Older points keep their places, and hashes stay. So an old segment dies with the points before this cycle, as any other
(dead.py). Whose blocks a cycle changes is known, and each cycle looks at a page of the map more, one after the other.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from secondsite.engine import errors, kernel
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import DIGEST_BYTES, PAGE_BLOCKS, PAGE_BYTES, ZERO_DIGEST, BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.store.base import Absent, Store
from secondsite.engine.store.log import fetch, layout, segment, tree
from secondsite.engine.store.log.catalogue import Catalogue
from secondsite.engine.store.log.frames import unpacked
from secondsite.engine.store.log.head import Head
from secondsite.engine.store.log.layout import PLACE, Place
from secondsite.engine.units import KIB, MIB

T = TypeVar("T")
# What a cycle moves at most: a quarter of what it uploads, or what lives of one segment that is half dead.
_LEAST_BYTES, _SHARE = 4 * MIB, 4
# A page of the map that is written because of a move costs as much as its hashes, which do not pack.
PAGE_COST = PAGE_BYTES
# Pages looked at: of those that change, of others in turn, and in all with what tables name. A cycle that moves much
# looks at more tables than so many.
_CHANGED, _TURN, _PAGES, _TABLES = 32, 1, 128, 8
_BATCH_BYTES = 512 * KIB
_ASKING = 4


def budget(sent_bytes: int) -> int:
    """How many bytes a cycle may move that has sent so many."""
    return max(_LEAST_BYTES, sent_bytes // _SHARE)


def useful(head: Head) -> bool:
    """Whether points were dropped: where all stay, so does every segment."""
    return head.count < head.generation


class _Segment(NamedTuple):
    """What a segment holds, by its table."""

    number: int
    size: int
    frames: dict[Place, array[int]]


class _Plan(NamedTuple):
    """What moving the rest of a segment costs, and what it is: the blocks that live, by frame, and their pages."""

    share: float
    number: int
    cost: int
    live: dict[Place, list[int]]
    pages: set[int]


@dataclass
class Compaction:
    """For a cycle over the point whose map is `old`; the one to come has the hashes `held`, and its new `changes` of
    places. `put` packs a batch. `moved` counts bytes of frames; `warnings` tell what could not be read.
    """

    store: Store
    head: Head
    old: tree.Tree
    held: BlockMap
    changes: BlockMap
    put: Callable[[Batch], int]
    moved: int = 0
    warnings: list[str] = field(default_factory=list)
    _places: dict[int, memoryview] = field(default_factory=dict)
    _named: Counter[tuple[int, ...]] = field(default_factory=Counter)
    _losing: set[int] = field(default_factory=set)
    _written: set[int] = field(default_factory=set)

    def work(self, most: int) -> None:
        """Move at most so many bytes, first of what is nearest to dead. What is damaged stays where it is."""
        try:
            self._work(most)
        except errors.Damaged as error:
            self._complain(error)
        except errors.Refused:
            pass  # who may write here need not read everything

    def _work(self, most: int) -> None:
        self._written = self._differing()
        self._look(self._turn(sorted(self._written), _CHANGED))
        some = (page for page in range(self.old.count) if self.old.entry(page)[0] != ZERO_DIGEST)
        asked = set(self._turn(some, _TURN))
        self._look(asked)
        chosen = self._chosen(self._candidates(asked), max(_TABLES, most // MIB))
        for made in sorted(filter(None, map(self._plan, self._tables(chosen)))):
            if made.cost <= most:
                most -= self._move(made, most)

    def _turn(self, items: Iterable[T], most: int) -> list[T]:
        """So many of them, others at each generation, so that all have their turn."""
        found = list(items)
        at = self.head.generation * most % len(found) if found else 0
        return (found[at:] + found[:at])[:most]

    # -- which -----------------------------------------------------------------------------------------------------

    def _differing(self) -> set[int]:
        """The pages of the old map that are written anew in any case."""
        held, written = self.held.digests(), self.changes.digests()

        def differs(page: int) -> bool:
            span = slice(DIGEST_BYTES * page, DIGEST_BYTES * (page + 1))
            return held[span] != self.old.entry(page)[0] or written[span] not in (ZERO_DIGEST, b"")

        return {page for page in range(self.old.count) if differs(page)}

    def _look(self, pages: Iterable[int]) -> None:
        """What these pages name once the cycle is there, and which segments lose blocks in them."""
        for page in self.old.pages(sorted(set(pages) - self._places.keys())):
            places = self._next(page)
            self._places[page.number] = places
            self._named.update(PLACE.iter_unpack(places))
            self._losing.update(_counted(page.places) - _counted(places))

    def _next(self, page: tree.Page) -> memoryview:
        if page.number >= self.held.pages:
            return memoryview(bytes(PAGE_BYTES))
        return memoryview(tree.merged(page.number, page.places, self.held, self.changes)[1])

    def _chosen(self, seen: dict[int, int], most: int) -> list[int]:
        """Of which the tables are read: half of them where least is seen to live, and others in turn, oldest first."""
        least = sorted(seen, key=lambda number: (seen[number], number))[: most // 2]
        return [*least, *self._turn(sorted(seen.keys() - set(least)), most - len(least))]

    def _candidates(self, pages: set[int]) -> dict[int, int]:
        """Segments of which much may be dead, and how many bytes were seen to live: they lose blocks now, or the page
        whose turn it is names them. Half a full one is enough to leave it. Of a point that stays all has to stay.
        """
        seen: Counter[int] = Counter()
        most = max(fmt.GROUP_BYTES // self.held.block_size, 1)  # blocks of a frame
        for (number, _, length), blocks in self._named.items():
            seen[number] += length * min(blocks, most) // most
        found = self._losing.union(*(_counted(self._places[page]) for page in pages if page in self._places))
        catalogue = Catalogue(self.store, self.head)
        return {
            number: seen[number]
            for number in found
            if 2 * seen[number] < segment.SEGMENT_BYTES and self._dropped(catalogue, number)
        }

    def _dropped(self, catalogue: Catalogue, number: int) -> bool:
        """Whether the point is gone that a segment was made for. One on a damaged page counts as there."""
        generation = layout.generation_of(number)
        try:
            return generation <= self.head.generation and catalogue.find(generation) is None
        except errors.Damaged:
            return False

    # -- what ------------------------------------------------------------------------------------------------------

    def _tables(self, numbers: list[int]) -> Iterator[_Segment]:
        with ThreadPoolExecutor(_ASKING, thread_name_prefix="compact") as pool:
            for found in pool.map(self._table, numbers):
                if found is not None:
                    yield found

    def _table(self, number: int) -> _Segment | None:
        name = layout.name(layout.SEGMENTS, number)
        try:
            size = self.store.get(name, 0, 1).size
            table = segment.table(self.store, name, size)
        except (errors.Damaged, Absent) as error:
            self._complain(error)
            return None
        frames = {Place(number, offset, length): frame.blocks for frame, offset, length in table.frames if frame.blocks}
        return _Segment(number, size, frames)

    def _plan(self, found: _Segment) -> _Plan | None:
        """None where less than half is dead, or where it would take too many pages to say."""
        named = {block // PAGE_BLOCKS for blocks in found.frames.values() for block in blocks}
        missing = {page for page in named if page < self.old.count} - self._places.keys()
        if len(self._places) + len(missing) > _PAGES:
            return None
        self._look(missing)
        live = {place: some for place, blocks in found.frames.items() if (some := self._live(place, blocks))}
        pages = {block // PAGE_BLOCKS for blocks in live.values() for block in blocks} - self._written
        held = sum(place.length * len(some) // len(found.frames[place]) for place, some in live.items())
        cost = held + PAGE_COST * len(pages)
        return _Plan(cost / found.size, found.number, cost, live, pages) if live and 2 * cost < found.size else None

    def _move(self, made: _Plan, most: int) -> int:
        """What it cost."""
        pages = PAGE_COST * len(made.pages - self._written)
        self._written |= made.pages
        return self._copy(made.live, most - pages) + pages

    def _live(self, place: Place, blocks: array[int]) -> list[int]:
        packed = PLACE.pack(*place)
        return [block for block in blocks if self._at(block) == packed]

    def _at(self, block: int) -> bytes:
        places, at = self._places.get(block // PAGE_BLOCKS), 16 * (block % PAGE_BLOCKS)
        return bytes(places[at : at + 16]) if places is not None else b""

    # -- the copy --------------------------------------------------------------------------------------------------

    def _copy(self, live: dict[Place, list[int]], most: int) -> int:
        """Read, prove and pack these blocks anew, as long as they fit into so many bytes; the bytes."""
        before, room = self.moved, max(_BATCH_BYTES // self.held.block_size, 1)
        some: list[tuple[int, bytes, bytes]] = []
        try:
            for one in self._proved(live):
                some.append(one)
                if len(some) == room and not self._pack(some, most - (self.moved - before)):
                    break
            else:
                self._pack(some, most - (self.moved - before))
        except errors.Damaged as error:
            self._complain(error)
        return self.moved - before

    def _complain(self, error: errors.Error) -> None:
        self.warnings.append(f"{error}; `verify` tells what of it is needed")

    def _proved(self, live: dict[Place, list[int]]) -> Iterator[tuple[int, bytes, bytes]]:
        """(block, hash, data). Raises Damaged."""
        identity, decoder = self.old.identity, kernel.codec.Decoder()
        header = fmt.Header(identity.replica_id, identity.block_size, 0, 0, 0, 0, 0)
        with closing(fetch.Fetcher(self.store, layout.SEGMENTS, header)) as fetcher:
            for place, frame in fetcher.frames(live):
                blocks = unpacked(frame, decoder)
                for block in live[place]:
                    data, hashed = bytes(blocks.get(block, b"")), bytes(self.held.load_hashes(array("Q", [block]), 1))
                    if not data or kernel.scan.hash_block(data, identity.seed) != hashed:
                        what = "the block is not what its hash says"
                        raise errors.Damaged(what, path=frame.path, offset=frame.offset)
                    yield block, hashed, data

    def _pack(self, some: list[tuple[int, bytes, bytes]], most: int) -> bool:
        """Make a batch of what was gathered; False where it would be too much."""
        batch = Batch(self.held.block_size, len(some) * self.held.block_size)
        for at, (block, hashed, data) in enumerate(sorted(some)):
            batch.blocks[at], batch.lengths[at] = block, len(data)
            batch.hashes[16 * at : 16 * at + 16] = hashed
            batch.payload[batch.used : batch.used + len(data)] = data
            batch.used += len(data)
        batch.count = len(some)
        some.clear()
        # Packed it is smaller, or not larger than this.
        if not batch.count or batch.used + (fmt.TABLE_ENTRY + fmt.FRAME_BYTES) * batch.count > most:
            return False
        self.moved += self.put(batch)
        return True


def _counted(places: memoryview) -> Counter[int]:
    """How many blocks each segment has here."""
    found = Counter(places.cast("Q")[::2].tolist())
    del found[0]
    return found
