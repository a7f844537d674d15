"""A point in a store as an image, every block checked by its hash; and all of a point, proved or written elsewhere.

A read takes the pages of the map and the frames that hold its blocks, by range, several at once, and keeps some of
both; reads that go on where others ended are fetched ahead. A pass over all of a point goes page by page and takes the
frames of each in the order in which they lie in the store.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from secondsite.engine import errors, kernel
from secondsite.engine.blockmap import DIGEST_BYTES, PAGE_BLOCKS, ZERO_DIGEST, BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.images.base import Buffer, Extent, Image, ShortImage
from secondsite.engine.progress import Monitor
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.pointimage import PointImage
from secondsite.engine.store.base import Absent, Store
from secondsite.engine.store.log import fetch, layout, manifest, readers, tree
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log.ahead import Streams
from secondsite.engine.store.log.catalogue import Catalogue
from secondsite.engine.store.log.frames import Blocks, Frames, unpacked
from secondsite.engine.store.log.kept import Kept
from secondsite.engine.store.log.layout import PLACE, Place
from secondsite.engine.store.log.rows import Row
from secondsite.engine.units import MIB

# Pages of 128 KiB; of a disk in blocks of 64 KiB 64 of them are 16 GiB.
_PAGES = 64
# What one read takes at once.
_READ_BYTES = 4 * MIB
_NO_HASH = bytes(16)
_NOTHING = memoryview(b"")


@dataclass(frozen=True)
class Replica:
    """What a store holds under its prefix, as it was when it was looked at."""

    store: Store
    identity: Identity
    head: heads.Head

    @classmethod
    def open(cls, store: Store) -> Replica:
        """Raises Refused where there is none, Damaged."""
        try:
            identity = heads.load_identity(store)
        except Absent:
            heads.check_orphaned(store)
            raise errors.Refused("holds no replica", path=store.label) from None
        return cls(store, identity, heads.load(store, identity))

    @contextmanager
    def reading(self, at: str, warn: Callable[[str], object]) -> Iterator[LogPoint]:
        """The point that `at` names, which is not removed while it is read. Raises as `choose`."""
        with readers.reading(self.store, self.identity, self.head, at, warn) as row, self.opened(row) as point:
            yield point

    def point(self, generation: int) -> LogPoint:
        """Raises Refused where there is no such point, Damaged."""
        return self.choose(str(generation))

    def choose(self, at: str) -> LogPoint:
        """The point that `at` names, as users do: a number, `latest`, a time. Raises Refused, Usage, Damaged."""
        return self.opened(self.catalogue.choose(at))

    def opened(self, row: Row) -> LogPoint:
        """The point that the catalogue has so. Raises Damaged."""
        return LogPoint(self.store, self.identity, row)

    @property
    def catalogue(self) -> Catalogue:
        """Of all points."""
        return Catalogue(self.store, self.head)


class LogPoint(PointImage):
    """The bytes of a point. Opening it proves its map's digests; each page and block is proved when it is read."""

    def __init__(self, store: Store, identity: Identity, row: Row) -> None:
        self.path = f"{store.label} at point {row.generation}"
        self.identity, self.block_size = identity, identity.block_size
        found = manifest.load(store, row, identity.replica_id.hex())
        self.point = found.point
        self._tree = tree.Tree(store, identity, found)
        header = fmt.Header(identity.replica_id, self.block_size, 0, row.generation, 0, 0, 0)
        self._fetcher = fetch.Fetcher(store, layout.SEGMENTS, header)
        self._pages: Kept[int, tree.Page | None] = Kept(_PAGES)
        self._frames = Frames(self._fetcher)
        self._streams = Streams()

    @property
    def size(self) -> int:
        return self.point.virtual_bytes

    @property
    def blocks(self) -> int:
        """Number of blocks, the last one perhaps a short one."""
        return -(-self.size // self.block_size)

    def _page(self, number: int) -> tree.Page | None:
        """None for a page of zeros."""
        found, missing = self._pages.claim([number])
        if missing:
            try:
                self._pages.put(number, next(self._tree.pages([number]), None), 1)
            except BaseException as error:
                self._pages.fail([number], error)
        return found[number].result()

    def _entry(self, block: int) -> tuple[bytes, Place | None]:
        """(hash, place); no place for a block of zeros."""
        number, inside = divmod(block, PAGE_BLOCKS)
        page = self._page(number)
        if page is None:
            return _NO_HASH, None
        return _entry(page, inside, self.path)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        if start + length > self.size:
            raise ShortImage(f"no {length} bytes at {start}", path=self.path)
        last: Extent | None = None
        for first, end, zero in self._states(start, start + length) if length else ():
            if last is not None and last.zero == zero:
                last = Extent(last.start, end - last.start, zero)
                continue
            if last is not None:
                yield last
            last = Extent(first, end - first, zero)
        if last is not None:
            yield last

    def _states(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Where runs of blocks begin and end, and whether they are zeros."""
        size, unit = self.block_size, self.block_size * PAGE_BLOCKS
        for number in range(start // unit, -(-end // unit)):
            low, high = max(start, number * unit), min(end, (number + 1) * unit)
            page = self._page(number)
            if page is None:
                yield low, high, True
                continue
            first = low // size
            inside = page.hashes[16 * (first % PAGE_BLOCKS) :][: 16 * (-(-high // size) - first)]
            for begin, stop, zero in _runs(inside):
                yield max(low, (first + begin) * size), min(high, (first + stop) * size), zero

    def read_into(self, offset: int, buffer: Buffer) -> None:
        view = memoryview(buffer)
        if offset + view.nbytes > self.size:
            raise ShortImage(f"the point ends before {offset + view.nbytes}", path=self.path, offset=offset)
        if not view.nbytes:
            return
        ahead = self._streams.read(offset, offset + view.nbytes)
        if ahead:
            self._frames.run(lambda: self._fetch(ahead))
        first, last = offset // self.block_size, (offset + view.nbytes - 1) // self.block_size
        for block, data in self._read(range(first, last + 1)):
            start = block * self.block_size
            low, high = max(start, offset), min(start + self._length(block), offset + view.nbytes)
            view[low - offset : high - offset] = data[low - start : high - start] if data else bytes(high - low)

    def read_blocks(
        self, blocks: array[int], lengths: array[int], count: int, block_size: int, payload: Buffer
    ) -> int:
        """As an Image does, but all at once."""
        assert block_size == self.block_size
        self._frames.ahead(place for block in blocks[:count] if (place := self._entry(block)[1]) is not None)
        return super().read_blocks(blocks, lengths, count, block_size, payload)

    def _fetch(self, ahead: range) -> None:
        """What these bytes take, before somebody reads them."""
        last = -(-min(ahead.stop, self.size) // self.block_size)
        entries = map(self._entry, range(ahead.start // self.block_size, last))
        self._frames.ahead(place for _, place in entries if place is not None)

    def _length(self, block: int) -> int:
        return min(self.block_size, self.size - block * self.block_size)

    def _read(self, blocks: range) -> Iterator[tuple[int, memoryview | None]]:
        """The blocks in order, proved; nothing for zeros."""
        step = max(_READ_BYTES // self.block_size, 1)
        for at in range(blocks.start, blocks.stop, step):
            part = range(at, min(at + step, blocks.stop))
            entries = [self._entry(block) for block in part]
            frames = self._frames.get(place for _, place in entries if place is not None)
            for block, (hashed, place) in zip(part, entries, strict=True):
                yield block, self._proved(block, hashed, frames[place]) if place is not None else None

    def _proved(self, block: int, hashed: bytes, frame: Blocks) -> memoryview:
        data = frame.get(block, _NOTHING)
        if len(data) != self._length(block) or kernel.scan.hash_block(data, self.identity.seed) != hashed:
            raise errors.Damaged("the block is not what its hash says", path=self.path, offset=block * self.block_size)
        return data

    def block_map(self, file: Image) -> BlockMap:
        """The point's hashes, in an empty file. Raises Damaged."""
        made = BlockMap.create(file, self.path, self.identity.replica_id, self.block_size, self.size)
        try:
            for page in self._tree.pages(range(self._tree.count)):
                first = page.number * PAGE_BLOCKS
                count = min(PAGE_BLOCKS, made.blocks - first)
                made.store(array("Q", range(first, first + count)), page.hashes[: 16 * count], count)
            if made.seal().hex() != self.point.seal:
                raise errors.Damaged("its map does not have its seal", path=self.path)
        except BaseException:
            made.close()
            raise
        return made

    def contents(self, proved: set[bytes] | None = None) -> Iterator[tuple[int, memoryview]]:
        """Every block that is not zeros, proved, page after page; within one in the order of the store. Pages that are
        `proved` are left out, and the others become it.
        """
        for number in range(self._tree.count):
            called = number.to_bytes(8, "big") + b"".join(self._tree.entry(number))
            if proved is not None and called in proved:
                continue
            for page in self._tree.pages([number]):
                yield from self._page_contents(page)
            if proved is not None:
                proved.add(called)

    def _page_contents(self, page: tree.Page) -> Iterator[tuple[int, memoryview]]:
        first = page.number * PAGE_BLOCKS
        found = wanted(page, first, min(PAGE_BLOCKS, self.blocks - first), self.path)
        decoder = kernel.codec.Decoder()
        for place, frame in self._fetcher.frames(found):
            held = unpacked(frame, decoder)
            for block, hashed in found[place]:
                yield block, self._proved(block, hashed, held)

    def differing(self, other: LogPoint) -> set[int]:
        """The pages of the map in which another point of the replica has other hashes."""
        mine, others = self._tree.digests(), other._tree.digests()
        others += ZERO_DIGEST * max(self._tree.count - other._tree.count, 0)
        spans = ((page, slice(page * DIGEST_BYTES, (page + 1) * DIGEST_BYTES)) for page in range(self._tree.count))
        return {page for page, span in spans if mine[span] != others[span]}

    def load(self, pages: Iterable[int], into: BlockMap) -> None:
        """Put the hashes of these pages into a map, as far as it goes. Raises Damaged."""
        for page in self._tree.pages(number for number in sorted(pages) if number < self._tree.count):
            first = page.number * PAGE_BLOCKS
            count = min(PAGE_BLOCKS, self.blocks - first, into.blocks - first)
            if count > 0:
                into.store(array("Q", range(first, first + count)), page.hashes[: 16 * count], count)

    def close(self) -> None:
        self._frames.close()
        self._tree.close()
        self._fetcher.close()


def _runs(hashes: memoryview) -> Iterator[tuple[int, int, bool]]:
    """Runs of entries that are zeros, or that are none."""
    count = len(hashes) // 16
    found = array("Q", bytes(8 * count))
    some = kernel.entries.nonzero_entries(hashes, 0, found)
    at = index = 0
    while index < some:
        begin = stop = found[index]
        while index < some and found[index] == stop:
            index, stop = index + 1, stop + 1
        if begin > at:
            yield at, begin, True
        yield begin, stop, False
        at = stop
    if at < count:
        yield at, count, True


def _entry(page: tree.Page, inside: int, path: str) -> tuple[bytes, Place | None]:
    hashed = bytes(page.hashes[16 * inside : 16 * inside + 16])
    if hashed == _NO_HASH:
        return hashed, None
    return hashed, fetch.check(Place(*PLACE.unpack_from(page.places, 16 * inside)), path)


def wanted(page: tree.Page, first: int, count: int, path: str) -> dict[Place, list[tuple[int, bytes]]]:
    """The frames that hold the blocks of a page, from block `first` on, and which with what hashes. Raises Damaged."""
    found: dict[Place, list[tuple[int, bytes]]] = {}
    for inside in range(count):
        hashed, place = _entry(page, inside, path)
        if place is not None:
            found.setdefault(place, []).append((first + inside, hashed))
    return found


def verify(point: LogPoint, monitor: Monitor, proved: set[bytes] | None = None) -> int:
    """Read all of a point, or of it what was not `proved` with another; the bytes that were read. Raises Damaged at the
    first that are not what they were.
    """
    return _pass(point, point.contents(proved), monitor, "verify")


def restore(point: LogPoint, output: Image, monitor: Monitor) -> int:
    """Write a point into an empty image of its size; the bytes written, each proved (R3.5). It is flushed."""

    def written() -> Iterable[tuple[int, memoryview]]:
        for block, data in point.contents():
            output.write(block * point.block_size, data)
            yield block, data

    output.resize(point.size)
    done = _pass(point, written(), monitor, "restore")
    output.flush()
    return done


def _pass(point: LogPoint, blocks: Iterable[tuple[int, memoryview]], monitor: Monitor, stage: str) -> int:
    monitor.begin(stage, point.size)
    done = 0
    for _, data in blocks:
        monitor.check()
        monitor.advance(len(data))
        done += len(data)
    return done

