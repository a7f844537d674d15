"""The map of a generation in a store: where each block lies and what its hash is (../FORMAT.md, section 4).

In memory are 64 bytes for each 4,096 blocks; pages are fetched when they are asked for, and checked.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from secondsite.engine import errors, kernel
from secondsite.engine.account import Account
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import DIGEST_BYTES, PAGE_BLOCKS, PAGE_BYTES, ZERO_DIGEST, BlockMap, seal_of
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import Frame
from secondsite.engine.delta.writer import FrameBuffer
from secondsite.engine.replica.identity import Identity
from secondsite.engine.store.base import Store
from secondsite.engine.store.log import fetch, layout
from secondsite.engine.store.log.layout import PLACE, Place
from secondsite.engine.store.log.manifest import Group, Manifest
from secondsite.engine.store.log.segment import Packer, spans

BLOCK = 2 * PAGE_BYTES
GROUP_PAGES = 2048
ENTRY = struct.Struct("<32s16s16s")
FIRST_GROUP = 1 << 22
_SIZE = (FIRST_GROUP + FIRST_GROUP // GROUP_PAGES) * BLOCK
# Hashes do not pack and places do: more than the first level gains nothing.
_CODEC = (fmt.ZSTD, 1)
# Blocks of the map that are fetched or written together: 4 MiB.
_TOGETHER = 32


class Page(NamedTuple):
    """Of page `number`: 4,096 hashes, and 4,096 places."""

    number: int
    hashes: memoryview
    places: memoryview


def header(identity: Identity, generation: int, epoch: int) -> fmt.Header:
    """Of the deltas that hold parts of maps."""
    return fmt.Header(identity.replica_id, BLOCK, max(generation - 1, 0), generation, _SIZE, _SIZE, epoch)


class Tree:
    """The map of one generation, whose seal holds. `entries` has an entry for each page."""

    def __init__(self, store: Store, identity: Identity, manifest: Manifest | None) -> None:
        self.store, self.identity = store, identity
        self.fetcher = fetch.Fetcher(store, layout.MAPS, header(identity, 0, 0))
        self.groups: tuple[Group | None, ...] = ()
        self.entries = bytearray()
        if manifest is not None:
            self._load(manifest)

    def _load(self, manifest: Manifest) -> None:
        point = manifest.point
        path = self.store.path(f"point {point.name}")
        pages = _pages_of(manifest, self.identity)
        self.groups = manifest.groups
        if len(self.groups) != -(-pages // GROUP_PAGES):
            raise errors.Damaged(f"{len(self.groups)} groups do not make {pages} pages", path=path)
        self.entries = bytearray(ENTRY.size * GROUP_PAGES * len(self.groups))
        self._read_groups({number: group for number, group in enumerate(self.groups) if group is not None}, path)
        if any(self.entries[ENTRY.size * pages :]):
            raise errors.Damaged("its map names pages past its end", path=path)
        del self.entries[ENTRY.size * pages :]
        seal = seal_of(self.identity.replica_id, self.identity.block_size, point.virtual_bytes, self.digests())
        if seal.hex() != point.seal:
            raise errors.Damaged("its map does not have the seal that was recorded", path=path)

    def _read_groups(self, wanted: dict[int, Group], path: str) -> None:
        for number, data in self._blocks({FIRST_GROUP + n: fetch.check(g.place, path) for n, g in wanted.items()}):
            if hashlib.sha256(data).digest() != wanted[number - FIRST_GROUP].digest:
                raise errors.Damaged("a group of its map is not what the manifest says", path=path)
            at = (number - FIRST_GROUP) * BLOCK
            self.entries[at : at + BLOCK] = data

    def salvage(self, manifest: Manifest, lost: Callable[[errors.Damaged, int], object]) -> None:
        """The groups that can be read; `lost` is told of how many pages each of the others is. No seal is looked at."""
        path = self.store.path(f"point {manifest.point.name}")
        pages = _pages_of(manifest, self.identity)
        groups = list(manifest.groups[: -(-pages // GROUP_PAGES)])
        self.entries = bytearray(ENTRY.size * GROUP_PAGES * -(-pages // GROUP_PAGES))
        for number, group in enumerate(groups):
            try:
                self._read_groups({number: group} if group is not None else {}, path)
            except errors.Damaged as error:
                groups[number] = None
                lost(error, min(GROUP_PAGES, pages - number * GROUP_PAGES))
        self.groups = tuple(groups)
        del self.entries[ENTRY.size * pages :]

    def forget(self, page: int) -> None:
        """A page that cannot be read: it counts as one of zeros."""
        self.entries[ENTRY.size * page : ENTRY.size * (page + 1)] = bytes(ENTRY.size)

    def _blocks(self, places: dict[int, Place]) -> Iterator[tuple[int, bytes]]:
        """Blocks of the map by number, in the order in which they lie in the store."""
        wanted: dict[Place, list[int]] = {}
        for number, place in places.items():
            wanted.setdefault(place, []).append(number)
        decoder = kernel.codec.Decoder()
        for place, frame in self.fetcher.frames(wanted):
            yield from _picked(frame, wanted[place], decoder)

    @property
    def count(self) -> int:
        """How many pages there are."""
        return len(self.entries) // ENTRY.size

    def entry(self, page: int) -> tuple[bytes, bytes, bytes]:
        """(digest of the hashes, place, check of the places); all zeros for a page of zeros."""
        return ENTRY.unpack_from(self.entries, ENTRY.size * page)

    def digests(self) -> bytes:
        """Of all pages, as the seal goes over them."""
        return b"".join(digest for digest, _, _ in ENTRY.iter_unpack(self.entries))

    def pages(self, numbers: Iterable[int]) -> Iterator[Page]:
        """Those of these pages that hold something, in the order in which they lie in the store. Raises Damaged."""
        wanted = [number for number in numbers if self.entry(number)[0] != ZERO_DIGEST]
        for at in range(0, len(wanted), _TOGETHER):
            part = wanted[at : at + _TOGETHER]
            path = self.store.path("the map")
            places = {number: fetch.check(Place(*PLACE.unpack(self.entry(number)[1])), path) for number in part}
            for number, data in self._blocks(places):
                digest, _, sum_ = self.entry(number)
                hashes, rest = data[:PAGE_BYTES], data[PAGE_BYTES:]
                if hashlib.sha256(hashes).digest() != digest or hashlib.sha256(rest).digest()[:16] != sum_:
                    raise errors.Damaged(f"page {number} of the map does not match its digest", path=path)
                yield Page(number, memoryview(hashes), memoryview(rest))

    def close(self) -> None:
        self.fetcher.close()


def salvaged(
    store: Store, identity: Identity, manifest: Manifest | None, lost: Callable[[errors.Damaged, int], object]
) -> Tree:
    """What can be read of a map, for who proves each page and each block himself."""
    made = Tree(store, identity, None)
    if manifest is not None:
        made.salvage(manifest, lost)
    return made


def _pages_of(manifest: Manifest, identity: Identity) -> int:
    return -(-manifest.point.virtual_bytes // (identity.block_size * PAGE_BLOCKS))


def _picked(frame: Frame, numbers: Sequence[int], decoder: object) -> Iterator[tuple[int, bytes]]:
    held = frame.blocks.tolist()
    if frame.head.kind != fmt.DATA or any(number not in held for number in numbers):
        raise errors.Damaged("the frame does not hold what the map says", path=frame.path, offset=frame.offset)
    raw = frame.payload(decoder)
    for number in numbers:
        at = held.index(number) * BLOCK
        yield number, bytes(raw[at : at + BLOCK])


def save(old: Tree, held: BlockMap, changes: BlockMap, packer: Packer) -> tuple[Group | None, ...]:
    """Write the map of a new generation, as far as it differs from the `old` one. `held` has its hashes, and `changes`
    the places of the blocks that were written (zeros: of no other), whose hashes may be what they were. Returns its
    groups; what they name is on its way.
    """
    digests, written = held.digests(), changes.digests()
    entries = bytearray(ENTRY.size * held.pages)
    kept = min(len(entries), len(old.entries))
    entries[:kept] = old.entries[:kept]
    dirty = []
    for page in range(held.pages):
        span = slice(DIGEST_BYTES * page, DIGEST_BYTES * (page + 1))
        digest = digests[span]
        if digest == ZERO_DIGEST:
            entries[ENTRY.size * page : ENTRY.size * (page + 1)] = bytes(ENTRY.size)
        elif page >= old.count or old.entry(page)[0] != digest or written[span] != ZERO_DIGEST:
            dirty.append(page)
    writer = _Writer(packer)
    for at in range(0, len(dirty), _TOGETHER):
        _save_pages(old, held, changes, dirty[at : at + _TOGETHER], writer, entries)
    return _save_groups(old, entries, writer)


def count(old: Tree, held: BlockMap, account: Account) -> Account:
    """What leads from the old map to these hashes."""
    digests = [held.digests()[at : at + DIGEST_BYTES] for at in range(0, DIGEST_BYTES * held.pages, DIGEST_BYTES)]
    before = [old.entry(page)[0] if page < old.count else ZERO_DIGEST for page in range(held.pages)]
    differ = [page for page in range(held.pages) if before[page] != digests[page]]
    for at in range(0, len(differ), _TOGETHER):
        part = differ[at : at + _TOGETHER]
        found = {page.number: page.hashes for page in old.pages(number for number in part if number < old.count)}
        for page in part:
            first, blocks = page * PAGE_BLOCKS, min(PAGE_BLOCKS, held.blocks - page * PAGE_BLOCKS)
            after, was = held.read(first, blocks) or bytes(16 * blocks), found.get(page, memoryview(bytes(PAGE_BYTES)))
            account.add(array("Q", range(first, first + blocks)), after, was[: 16 * blocks])
    return account


def _save_pages(
    old: Tree, held: BlockMap, changes: BlockMap, dirty: list[int], writer: _Writer, entries: bytearray
) -> None:
    before = {page.number: page.places for page in old.pages(number for number in dirty if number < old.count)}
    checks = {}
    for page in dirty:
        hashes, places = merged(page, before.get(page), held, changes)
        checks[page] = (hashlib.sha256(hashes).digest(), hashlib.sha256(places).digest()[:16])
        writer.add(page, hashes + places)
    for page, place in writer.write().items():
        digest, check = checks[page]
        ENTRY.pack_into(entries, ENTRY.size * page, digest, PLACE.pack(*place), check)


def merged(page: int, before: memoryview | None, held: BlockMap, changes: BlockMap) -> tuple[bytes, bytes]:
    """The hashes and places of a page: those before, the changed ones over them, and none for blocks of zeros."""
    first, count = page * PAGE_BLOCKS, min(PAGE_BLOCKS, held.blocks - page * PAGE_BLOCKS)
    hashes, changed = bytes(held.read(first, count) or b"").ljust(PAGE_BYTES, b"\0"), changes.read(first, count)
    found, blocks = bytearray(PAGE_BYTES), array("Q", bytes(8 * PAGE_BLOCKS))
    places = bytearray(before if before is not None else PAGE_BYTES)
    if changed is not None:
        some = kernel.entries.nonzero_entries(changed, 0, blocks)
        _copy(bytes(changed).ljust(PAGE_BYTES, b"\0"), places, blocks, some)
    _copy(places, found, blocks, kernel.entries.nonzero_entries(hashes, 0, blocks))
    return hashes, bytes(found)


def _copy(source: bytes | bytearray, target: bytearray, blocks: array[int], count: int) -> None:
    """The entries of these blocks."""
    held, at = bytearray(16 * count), 0
    while at < count:
        at = kernel.entries.load_entries(source, 0, blocks, held, at, count)
    at = 0
    while at < count:
        at = kernel.entries.store_entries(target, 0, blocks, held, at, count)


def _save_groups(old: Tree, entries: bytearray, writer: _Writer) -> tuple[Group | None, ...]:
    groups: list[Group | None] = []
    digests = {}
    for at in range(0, len(entries), BLOCK):
        group, data = at // BLOCK, bytes(entries[at : at + BLOCK]).ljust(BLOCK, b"\0")
        digest = hashlib.sha256(data).digest()
        before = old.groups[group] if group < len(old.groups) else None
        groups.append(before if before is not None and before.digest == digest else None)
        if groups[-1] is None and any(data):
            digests[group] = digest
            writer.add(FIRST_GROUP + group, data)
            if len(digests) % _TOGETHER == 0:
                _place(groups, digests, writer)
    _place(groups, digests, writer)
    return tuple(groups)


def _place(groups: list[Group | None], digests: dict[int, bytes], writer: _Writer) -> None:
    for number, place in writer.write().items():
        groups[number - FIRST_GROUP] = Group(place, digests[number - FIRST_GROUP])


class _Writer:
    """Blocks of the map into segments, some together."""

    def __init__(self, packer: Packer) -> None:
        self.packer, self.buffer = packer, FrameBuffer(*_CODEC)
        self.batch = Batch(BLOCK, _TOGETHER * BLOCK)

    def add(self, number: int, data: bytes) -> None:
        batch = self.batch
        batch.blocks[batch.count], batch.lengths[batch.count] = number, BLOCK
        batch.payload[batch.used : batch.used + BLOCK] = data
        batch.count, batch.used = batch.count + 1, batch.used + BLOCK

    def write(self) -> dict[int, Place]:
        """Where what was added lies."""
        batch, found = self.batch, {}
        if not batch.count:
            return {}
        batch.hashes[: 16 * batch.count] = batch.rehash(self.packer.header.tag)
        self.buffer.encode(batch, self.packer.header.tag)
        packed = self.packer.add(self.buffer)
        for start, end, head in spans(self.buffer):
            numbers = array("Q")
            numbers.frombytes(self.buffer.data[start + fmt.FRAME_BYTES : start + fmt.FRAME_BYTES + 8 * head.entries])
            for number in numbers:
                found[number] = Place(packed.number, packed.offset + start, end - start)
        batch.reset()
        return found
