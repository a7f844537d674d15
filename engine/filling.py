"""An image made equal to a point, block by block: what the point's map says against what the image holds.

Where they differ the block is read, checked against the map, written, and read back.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable

from secondsite.engine import errors, kernel, scan
from secondsite.engine.batch import SMALL_BATCH_BYTES, Batch
from secondsite.engine.blockmap import PAGE_BLOCKS, BlockMap, differing_blocks
from secondsite.engine.images import Image
from secondsite.engine.progress import Monitor


class Filling:
    """`view` has the bytes of a point, `want` is its map. `batch_bytes` are written at once."""

    def __init__(
        self, view: Image, want: BlockMap, seed: int, *, workers: int, monitor: Monitor,
        batch_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self.view, self.want, self.seed = view, want, seed
        self.workers, self.monitor = workers, monitor
        self.batch_bytes = batch_bytes or SMALL_BATCH_BYTES

    def compare(self, image: Image, temporary: Image) -> BlockMap:
        """The map of what an image holds, in an empty file."""
        want = self.want
        have = BlockMap.create(temporary, image.path, want.replica_id, want.block_size, want.image_size)
        try:
            self.monitor.begin("compare", want.image_size)
            scan.rebuild(image, have, self.seed, workers=self.workers, monitor=self.monitor)
            return have
        except BaseException:
            have.close()
            raise

    def rewrite(self, image: Image, temporary: Callable[[], Image]) -> int:
        """Make an existing image equal to the point, and durable; the bytes written."""
        image.fit(self.want.image_size)
        with self.compare(image, temporary()) as have:
            written = self.copy(have, image)
        image.flush()
        return written

    def copy(self, have: BlockMap | None, image: Image) -> int:
        """Write the blocks in which the two maps differ, all into an image of zeros; the bytes written."""
        want = self.want
        self.monitor.begin("restore", want.image_size)
        pages = iter(range(want.pages))
        written: list[int] = []
        lock = threading.Lock()

        def work(worker: int, stopping: Callable[[], bool]) -> None:
            batch = Batch(want.block_size, self.batch_bytes)
            while not stopping():
                with lock:
                    page = next(pages, None)
                if page is None:
                    return
                self.monitor.check()
                for blocks in differing_blocks(want, have, page):
                    written.append(self._write(blocks, batch, image))
                self.monitor.advance(PAGE_BLOCKS * want.block_size)

        scan.run_workers(self.workers, work)
        return sum(written)

    def _write(self, blocks: array[int], batch: Batch, image: Image) -> int:
        """Bring some blocks of the output to what the point says, and read them back; the bytes written."""
        want, written = self.want, 0
        room = len(batch.payload) // batch.block_size
        for start in range(0, len(blocks), room):
            self.monitor.check()
            named = blocks[start : start + room]
            batch.name(named, want.load_hashes(named, len(named)), len(named), want.image_size)
            self._read(batch)
            image.write_blocks(
                batch.blocks, batch.lengths, batch.count, batch.block_size, want.image_size, batch.payload
            )
            bad = image.check_blocks(
                batch.blocks, batch.lengths, batch.hashes, batch.count, batch.block_size, want.image_size, self.seed
            )
            if bad >= 0:
                raise errors.Damaged(
                    "what was written reads back differently",
                    path=image.path,
                    offset=batch.blocks[bad] * batch.block_size,
                )
            written += batch.used
        return written

    def _read(self, batch: Batch) -> None:
        """The bytes of the blocks that a batch names. Raises Damaged where they are not what it says."""
        self.view.read_blocks(batch.blocks, batch.lengths, batch.count, batch.block_size, batch.payload)
        found = batch.rehash(self.seed)
        if found == batch.hashes[: 16 * batch.count]:
            return
        places = array("Q", bytes(8 * batch.count))
        kernel.entries.differing_entries(found, batch.hashes[: 16 * batch.count], 0, places)
        raise errors.Damaged(
            "a block is not what it was; verify tells which points are whole",
            path=self.view.path,
            offset=batch.blocks[places[0]] * batch.block_size,
        )
