"""What a store really holds of the newest point, for a resync: no map and no frame is trusted (semantics R7.4).

What is missing or damaged counts as zeros, a page of the map that cannot be read as a page of zeros: the point that
comes next has its own map, so whatever the source holds there is sent and named anew.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from secondsite.engine import errors, kernel
from secondsite.engine.account import Account
from secondsite.engine.blockmap import PAGE_BLOCKS, BlockMap, differing_blocks
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import Frame
from secondsite.engine.images.base import Image
from secondsite.engine.progress import Monitor
from secondsite.engine.remote import talk
from secondsite.engine.replica.identity import Identity
from secondsite.engine.store.base import Store
from secondsite.engine.store.log import fetch, layout, manifest, reading, tree
from secondsite.engine.store.log.frames import unpacked
from secondsite.engine.store.log.layout import Place
from secondsite.engine.store.log.rows import Row

Wanted = dict[Place, list[tuple[int, bytes]]]


class Prover:
    """Reads frames and tells which blocks in them are not what their hashes say."""

    def __init__(self, store: Store, identity: Identity) -> None:
        header = fmt.Header(identity.replica_id, identity.block_size, 0, 0, 0, 0, 0)
        self.identity, self._fetcher = identity, fetch.Fetcher(store, layout.SEGMENTS, header)
        self._decoder = kernel.codec.Decoder()

    def lost(self, wanted: Wanted, size: int) -> Iterator[tuple[Place, list[int], str]]:
        """Of an image of this size: each frame, those of its blocks that are lost, and why."""
        for place, found in self._fetcher.each(wanted):
            try:
                if not isinstance(found, Frame):
                    raise found
                held = unpacked(found, self._decoder)
            except errors.Damaged as error:
                yield place, [block for block, _ in wanted[place]], str(error)
                continue
            bad = [block for block, hashed in wanted[place] if not self._holds(held.get(block), block, hashed, size)]
            yield place, bad, f"{found.path}: a block is not what its hash says"

    def _holds(self, data: memoryview | None, block: int, hashed: bytes, size: int) -> bool:
        length = min(self.identity.block_size, size - block * self.identity.block_size)
        return data is not None and len(data) == length and kernel.scan.hash_block(data, self.identity.seed) == hashed

    def whole(self, frames: dict[Place, Frame], size: int) -> set[Place]:
        """Those of these frames, of which a table tells what they hold, that hold it."""
        wanted = {
            place: [(block, bytes(frame.hashes[16 * at : 16 * at + 16])) for at, block in enumerate(frame.blocks)]
            for place, frame in frames.items()
        }
        return {place for place, bad, _ in self.lost(wanted, size) if not bad}

    def close(self) -> None:
        self._fetcher.close()


class Proved:
    """The newest point `row`, read whole. `map` has the hashes of what holds; `tree` is its map without the pages that
    cannot be read, and `manifest` is None where that is lost. `warnings` tell of what is damaged.
    """

    def __init__(
        self, store: Store, identity: Identity, row: Row, temporary: Callable[[], Image], monitor: Monitor,
        stack: ExitStack,
    ) -> None:  # fmt: skip
        self.store, self.row, self.monitor = store, row, monitor
        self.blocks = self.pages = 0
        self._first = ""
        self.manifest = self._manifest(identity)
        self.tree = tree.salvaged(store, identity, self.manifest, self._lost_group)
        stack.callback(self.tree.close)
        self.prover = Prover(store, identity)
        stack.callback(self.prover.close)
        self.map = BlockMap.create(
            temporary(), "what holds", identity.replica_id, identity.block_size, row.virtual_bytes
        )  # fmt: skip
        stack.callback(self.map.close)
        self._read()
        self.seal = self.map.seal().hex()

    def _manifest(self, identity: Identity) -> manifest.Manifest | None:
        try:
            found = manifest.load(self.store, self.row, identity.replica_id.hex())
            if found.point.virtual_bytes != self.row.virtual_bytes:
                raise errors.Damaged("the manifest has another size than the head says", path=self.store.label)
            return found
        except errors.Damaged as error:
            self._note(error)
            return None

    def _note(self, error: object) -> None:
        self._first = self._first or str(error)

    def _lost_group(self, error: errors.Damaged, pages: int) -> None:
        self._note(error)
        self.pages += pages

    def _read(self) -> None:
        unit = PAGE_BLOCKS * self.map.block_size
        self.monitor.begin("compare", self.row.virtual_bytes)
        for number in range(self.tree.count):
            self.monitor.check()
            self._page(number)
            self.monitor.advance(min(unit, self.row.virtual_bytes - number * unit))

    def _page(self, number: int) -> None:
        first = number * PAGE_BLOCKS
        count = min(PAGE_BLOCKS, self.map.blocks - first)
        try:
            page = next(self.tree.pages([number]), None)
            wanted = reading.wanted(page, first, count, self.store.label) if page is not None else {}
        except errors.Damaged as error:
            self._lost_group(error, 1)
            self.tree.forget(number)
            return
        if page is not None:
            self.map.store(array("Q", range(first, first + count)), page.hashes[: 16 * count], count)
            for _, bad, why in self.prover.lost(wanted, self.row.virtual_bytes):
                self.monitor.check()
                self._lose(bad, why)

    def _lose(self, blocks: list[int], why: str) -> None:
        if blocks:
            self._note(why)
            self.blocks += len(blocks)
            for block in blocks:
                self.map.clear(block, 1)

    @property
    def whole(self) -> bool:
        """Is all of it there, and what the point says?"""
        return not self._first and self.manifest is not None and self.manifest.point.seal == self.seal

    @property
    def warnings(self) -> list[str]:
        """For people."""
        if not self._first:
            return []
        said = f"{self.blocks} blocks and {self.pages} pages of its map" if self.manifest else "all of it"
        return [f"point {self.row.name} is damaged: {self._first}; lost: {said}"]

    def hashes(self, ask: talk.Ask) -> Iterator[bytes]:
        """As Attempt.hashes, of what holds."""
        if ask.what == "table":
            yield self.map.digests()
            return
        for page in ask.pages:
            count = min(PAGE_BLOCKS, self.map.blocks - page * PAGE_BLOCKS)
            yield bytes(self.map.read(page * PAGE_BLOCKS, count) or bytes(16 * count))

    def count(self, held: BlockMap, account: Account) -> Account:
        """What leads from what holds to these hashes."""
        self.map.resize(held.image_size)
        for page in range(held.pages):
            for blocks in differing_blocks(held, self.map, page):
                count = len(blocks)
                account.add(blocks, held.load_hashes(blocks, count), self.map.load_hashes(blocks, count))
        return account
