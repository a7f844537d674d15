"""The block map: the hash of every block of one generation, on disk, in pages that are checked when read.

FORMAT.md, section 3, is the specification. Memory: 32 bytes for every page of 4,096 blocks (1 MiB for an image of
8 TiB in 64 KiB blocks) and a bounded cache of pages. Pages of nothing but zero blocks are neither stored nor read.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator

from secondsite.engine import errors, kernel, units
from secondsite.engine.images.base import Image

MAGIC = b"2SITEMAP"
VERSION = 1
HEADER = struct.Struct("<8sIIII16sQ16s")
HEADER_BYTES = 4096
PAGE_BYTES = 65536
PAGE_BLOCKS = PAGE_BYTES // 16
DIGEST_BYTES = 32
TABLE_PAGES = PAGE_BYTES // DIGEST_BYTES
GROUP_BYTES = PAGE_BYTES * (1 + TABLE_PAGES)
ZERO_DIGEST = bytes(DIGEST_BYTES)
# 64 pages are 4 MiB of memory and cover 16 GiB of an image in 64 KiB blocks; passes go through a map in order.
CACHE_PAGES = 64


def _page_offset(page: int) -> int:
    group, inside = divmod(page, TABLE_PAGES)
    return HEADER_BYTES + group * GROUP_BYTES + PAGE_BYTES * (1 + inside)


def _table_offset(group: int) -> int:
    return HEADER_BYTES + group * GROUP_BYTES


class BlockMap:
    """An open map. Safe to use from several threads. `path` is what errors name."""

    def __init__(self, file: Image, path: str, replica_id: bytes, block_size: int, image_size: int) -> None:
        self.file, self.path = file, path
        self.replica_id, self.block_size, self.image_size = replica_id, block_size, image_size
        self._table = bytearray()
        self._dirty_tables: set[int] = set()
        self._cache: OrderedDict[int, bytearray] = OrderedDict()
        self._dirty: set[int] = set()
        self._unchecked = False
        self._lock = threading.RLock()

    @classmethod
    def create(
        cls, file: Image, path: str, replica_id: bytes, block_size: int, image_size: int
    ) -> BlockMap:
        """A new map of an image of zeros, in an empty file."""
        made = cls(file, path, replica_id, block_size, 0)
        made.resize(image_size)
        return made

    @classmethod
    def load(cls, file: Image, path: str, replica_id: bytes, *, unchecked: bool = False) -> BlockMap:
        """Open an existing map. `unchecked` reads pages whatever their digests say (only recovery does).

        Raises Damaged with the place and what was expected there, NewerFormat for a later version.
        """
        header = bytes(file.read(0, HEADER.size)) if file.size >= HEADER.size else b""
        if len(header) < HEADER.size:
            raise errors.Damaged(f"a block map has a header of {HEADER.size} bytes", path=path, offset=0)
        magic, version, block_size, page, _, owner, size, checksum = HEADER.unpack(header)
        if magic != MAGIC:
            raise errors.Damaged(f"expected the mark {MAGIC.decode()} of a block map", path=path, offset=0)
        if hashlib.sha256(header[:-16]).digest()[:16] != checksum:
            raise errors.Damaged("the header's checksum does not hold", path=path, offset=0)
        if version > VERSION:
            raise errors.NewerFormat(f"block map version {version}; this program knows {VERSION}", path=path)
        if owner != replica_id or page != PAGE_BYTES or block_size < 512 or block_size & (block_size - 1):
            raise errors.Damaged("it is the block map of another replica", path=path, offset=24)
        if size > units.MAX_BLOCKS * block_size:
            raise errors.Damaged(f"an image has at most {units.MAX_BLOCKS} blocks", path=path, offset=40)
        made = cls(file, path, replica_id, block_size, size)
        made._unchecked = unchecked
        made._read_table()
        return made

    # -- shape -----------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """Number of blocks of the image."""
        return -(-self.image_size // self.block_size)

    @property
    def pages(self) -> int:
        return -(-self.blocks // PAGE_BLOCKS)

    def _groups(self) -> int:
        return -(-self.pages // TABLE_PAGES)

    def _end(self) -> int:
        return _page_offset(self.pages - 1) + PAGE_BYTES if self.pages else HEADER_BYTES

    def _read_table(self) -> None:
        if self.file.size < self._end():
            if not self._unchecked:
                raise errors.Damaged(
                    f"the file has {self.file.size} bytes, {self._end()} were expected",
                    path=self.path,
                    offset=self.file.size,
                )
            self.file.resize(self._end())
        for group in range(self._groups()):
            pages = min(self.pages - group * TABLE_PAGES, TABLE_PAGES)
            self._table += self.file.read(_table_offset(group), pages * DIGEST_BYTES)

    def resize(self, image_size: int) -> None:
        """Follow the image's size: entries past the end go, new ones are zero."""
        with self._lock:
            old_blocks = self.blocks
            self.image_size = image_size
            for page in range(self.pages, -(-old_blocks // PAGE_BLOCKS)):
                self._cache.pop(page, None)
                self._dirty.discard(page)
            table = self._table[: self.pages * DIGEST_BYTES]
            self._table = table + bytes(self.pages * DIGEST_BYTES - len(table))
            self._dirty_tables = set(range(self._groups()))
            self.file.resize(self._end())
            # A crash while the map grew can leave entries past an end that its header does not yet tell of.
            cut = self.blocks < old_blocks or self._unchecked
            if cut and self.blocks % PAGE_BLOCKS:
                last = self._page(self.pages - 1, change=True)
                last[16 * (self.blocks % PAGE_BLOCKS) :] = bytes(PAGE_BYTES - 16 * (self.blocks % PAGE_BLOCKS))
            header = HEADER.pack(
                MAGIC, VERSION, self.block_size, PAGE_BYTES, 0, self.replica_id, image_size, bytes(16)
            )[:-16]
            self.file.write(0, header + hashlib.sha256(header).digest()[:16])

    # -- pages -----------------------------------------------------------------------------------------------

    def digest(self, page: int) -> bytes:
        """Of a page as it is in the file; ZERO_DIGEST for one that is not stored."""
        return bytes(self._table[page * DIGEST_BYTES : (page + 1) * DIGEST_BYTES])

    def _page(self, page: int, *, change: bool = False) -> bytearray:
        found = self._cache.get(page)
        if found is None:
            found = self._read_page(page)
            self._cache[page] = found
            if len(self._cache) > CACHE_PAGES:
                # Pages before this one first: passes go forward, and a page written out is one not lost.
                oldest = next(iter(self._cache))
                if oldest == page:
                    oldest = next(key for key in self._cache if key != page)
                self._write_page(oldest)
                del self._cache[oldest]
        else:
            self._cache.move_to_end(page)
        if change:
            self._dirty.add(page)
        return found

    def _read_page(self, page: int) -> bytearray:
        digest = self.digest(page)
        if digest == ZERO_DIGEST and not self._unchecked:
            return bytearray(PAGE_BYTES)
        data = self.file.read(_page_offset(page), PAGE_BYTES)
        if not self._unchecked and hashlib.sha256(data).digest() != digest:
            first = page * PAGE_BLOCKS * self.block_size
            raise errors.Damaged(
                f"the page for image offset {first} does not match its digest",
                path=self.path,
                offset=_page_offset(page),
            )
        return data

    def _write_page(self, page: int) -> None:
        if page not in self._dirty:
            return
        data = self._cache[page]
        zero = kernel.scan.is_zero(data)
        digest = ZERO_DIGEST if zero else hashlib.sha256(data).digest()
        if not zero or self.digest(page) != ZERO_DIGEST or self._unchecked:
            self.file.write(_page_offset(page), data)
        self._table[page * DIGEST_BYTES : (page + 1) * DIGEST_BYTES] = digest
        self._dirty_tables.add(page // TABLE_PAGES)
        self._dirty.discard(page)

    # -- entries ---------------------------------------------------------------------------------------------

    def read(self, first: int, count: int) -> memoryview | None:
        """The hashes of `count` blocks, 16 bytes each; None where all of them are zero blocks."""
        with self._lock:
            page, inside = divmod(first, PAGE_BLOCKS)
            last = (first + count - 1) // PAGE_BLOCKS
            if all(p not in self._dirty and self._is_zero(p) for p in range(page, last + 1)):
                return None
            if last == page:
                return memoryview(bytes(self._page(page)[16 * inside : 16 * (inside + count)]))
            out = bytearray()
            while count:
                part = min(count, PAGE_BLOCKS - inside)
                out += self._page(page)[16 * inside : 16 * (inside + part)]
                page, inside, count = page + 1, 0, count - part
            return memoryview(out)

    def _is_zero(self, page: int) -> bool:
        return self.digest(page) == ZERO_DIGEST and not self._unchecked

    def store(self, blocks: array[int], hashes: bytes | bytearray | memoryview, count: int) -> None:
        """Set the hashes of these blocks."""
        at = 0
        with self._lock:
            while at < count:
                page = blocks[at] // PAGE_BLOCKS
                if blocks[at] >= self.blocks:
                    raise ValueError(f"block {blocks[at]} of an image of {self.blocks}")
                data = self._page(page, change=True)
                at = kernel.entries.store_entries(data, page * PAGE_BLOCKS, blocks, hashes, at, count)

    def clear(self, first: int, count: int) -> None:
        """Make these blocks zero blocks."""
        with self._lock:
            while count > 0:
                page, inside = divmod(first, PAGE_BLOCKS)
                part = min(count, PAGE_BLOCKS - inside)
                if not self._skips(page):
                    self._page(page, change=True)[16 * inside : 16 * (inside + part)] = bytes(16 * part)
                first, count = first + part, count - part

    def load_hashes(self, blocks: array[int], count: int) -> bytearray:
        """The hashes of these blocks, 16 bytes each. Blocks past the end are zero."""
        out = bytearray(16 * count)
        at = 0
        with self._lock:
            while at < count:
                page = blocks[at] // PAGE_BLOCKS
                if page >= self.pages:
                    at += 1
                    continue
                data = self._page(page)
                at = kernel.entries.load_entries(data, page * PAGE_BLOCKS, blocks, out, at, count)
        return out

    def nonzero(self, first: int, end: int) -> Iterator[array[int]]:
        """The numbers of the blocks in [first, end) that are not zero, some thousands at a time.

        Pages of zeros cost a look at their digest, so a hole of terabytes takes milliseconds.
        """
        while first < end:
            page = first // PAGE_BLOCKS
            stop = min(end, (page + 1) * PAGE_BLOCKS)
            entries = None if self._skips(page) else self.read(first, stop - first)
            if entries is not None:
                out = array("Q", bytes(8 * (stop - first)))
                found = kernel.entries.nonzero_entries(entries, first, out)
                if found:
                    yield out[:found]
            first = stop if entries is not None else self._next_page(page + 1, end)

    def _skips(self, page: int) -> bool:
        return page not in self._dirty and self._is_zero(page)

    def _next_page(self, page: int, end: int) -> int:
        """The first block of the first page from `page` that may hold something, or `end`."""
        last = -(-end // PAGE_BLOCKS)
        with self._lock:
            while page < last and self._skips(page):
                page += 1
        return min(page * PAGE_BLOCKS, end)

    # -- as a whole ------------------------------------------------------------------------------------------

    def write_out(self) -> None:
        """Write what is only in memory; durable after the file's flush."""
        with self._lock:
            for page in sorted(self._dirty):
                self._write_page(page)
            for group in sorted(self._dirty_tables):
                part = self._table[group * PAGE_BYTES : (group + 1) * PAGE_BYTES]
                if part:
                    self.file.write(_table_offset(group), part)
            self._dirty_tables.clear()

    def seal(self) -> bytes:
        """SHA-256 over the image's size and every page's digest: one value for all of its content."""
        with self._lock:
            self.write_out()
            return seal_of(self.replica_id, self.block_size, self.image_size, self._table)

    def digests(self) -> bytes:
        """The digest of every page, as the seal goes over them."""
        with self._lock:
            self.write_out()
            return bytes(self._table)

    def trust(self) -> None:
        """Write out what an unchecked map holds and check every later read against the digests as they are now.

        A page that recovery did not touch keeps its old digest, so damage elsewhere is still found.
        """
        with self._lock:
            self.write_out()
            self._cache.clear()
            self._unchecked = False

    def copy_to(self, file: Image, path: str, replica_id: bytes | None = None) -> BlockMap:
        """The same map in another, empty file, of another replica where one is named."""
        from secondsite.engine import mapcopy

        made = BlockMap(file, path, replica_id or self.replica_id, self.block_size, 0)
        mapcopy.copy(self, made)
        return made

    def pages_held(self) -> Iterator[int]:
        """The pages that hold something; who takes them as they are in the file writes the map out before."""
        return (page for page in range(self.pages) if not self._is_zero(page))

    def page(self, page: int) -> tuple[bytes, bytearray]:
        """A page's digest, and what lies in the file for it. Raises Damaged where the two differ."""
        return self.digest(page), self._read_page(page)

    def put_page(self, page: int, digest: bytes, data: bytearray) -> None:
        """Write a whole page of another map, whose digest is known. It is not in memory."""
        self.file.write(_page_offset(page), data)
        self._table[page * DIGEST_BYTES : (page + 1) * DIGEST_BYTES] = digest

    def take_file(self, base: BlockMap) -> bool:
        """Into an empty map: share the file of another one, also of another replica, with its size; False where files
        cannot be shared. Each page is checked when it is read.
        """
        base.write_out()
        if not self.file.clone_from(base.file):
            return False
        self._table = bytearray(base._table)
        self.resize(base.image_size)
        return True

    def check(self) -> None:
        """Read every page that holds something; Damaged at the first that is not what it was."""
        for page in range(self.pages):
            if not self._skips(page):
                self._read_page(page)

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> BlockMap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def seal_of(replica_id: bytes, block_size: int, image_size: int, digests: bytes | bytearray) -> bytes:
    """The seal of a map whose pages have these digests."""
    head = struct.pack("<16sIQ", replica_id, block_size, image_size)
    return hashlib.sha256(b"secondsite seal 1" + head + digests).digest()


def differing_blocks(want: BlockMap, have: BlockMap | None, page: int) -> Iterator[array[int]]:
    """The blocks of one page of the map in which two maps differ."""
    first = page * PAGE_BLOCKS
    count = min(PAGE_BLOCKS, want.blocks - first)
    wanted = want.read(first, count)
    held = None
    if have is not None and first < have.blocks:
        held = have.read(first, min(count, have.blocks - first))
    if wanted is None and held is None:
        return
    out = array("Q", bytes(8 * count))
    left = bytes(wanted) if wanted is not None else bytes(16 * count)
    right = bytes(held) if held is not None else b""
    found = kernel.entries.differing_entries(left, right + bytes(16 * count - len(right)), first, out)
    if found:
        yield out[:found]
