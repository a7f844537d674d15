"""One cycle into a replica: batches of changed blocks go in, a new generation comes out, or nothing changed.

Two ways to make it, one commit. `InPlace` writes into the head and keeps the old contents in an undo delta, durable
before a block is overwritten. `Next` builds another head beside it, as a clone of the old one or from nothing. The
commit of both is the rename of the new point's record into `points/`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from contextlib import ExitStack

from secondsite.engine import errors, kernel
from secondsite.engine.batch import BATCH_BYTES, Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.writer import DeltaWriter, FrameBuffer
from secondsite.engine.images import Image
from secondsite.engine.replica import record, recovery
from secondsite.engine.replica.container import create_container
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point


class Cycle(ABC):
    """A sink for a scan: `put` may be called by several workers, each with its own number.

    Then `seal` and `commit`, or `abort`. It makes the next generation, or a later one, `generation`. `put` raises
    Damaged where what was written reads back differently: a cycle that has not compared hashes does not succeed
    (DESIGN D10).
    """

    _punches = True

    def __init__(self, replica: Replica, old: Point | None, size: int, generation: int | None = None) -> None:
        self.replica, self.old, self.size = replica, old, size
        self.block_size, self.seed = replica.identity.block_size, replica.identity.seed
        self.generation = generation or (old.generation if old else 0) + 1
        self.head: Image
        self.map: BlockMap
        self._opened = ExitStack()

    def _begin(self) -> None:
        """The end of every constructor: a cycle that cannot begin is taken back like one that cannot go on."""
        try:
            self._start()
        except BaseException:
            self.abort()
            raise

    @abstractmethod
    def _start(self) -> None:
        """Open the files, all of them noted in `_opened`, and write what comes first."""

    def _open(self, path: str, mode: str) -> Image:
        return self._opened.enter_context(self.replica.files.open(path, mode))

    def put(self, batch: Batch, worker: int) -> None:
        """Take a batch of changed blocks; it may be used again when this returns."""
        self._keep_old(batch, worker)
        self.head.write_blocks(
            batch.blocks, batch.lengths, batch.count, self.block_size, self.size, batch.payload,
            punch=self._punches,
        )  # fmt: skip
        self.map.store(batch.blocks, batch.hashes, batch.count)
        bad = self.head.check_blocks(
            batch.blocks, batch.lengths, batch.hashes, batch.count, self.block_size, self.size, self.seed
        )
        if bad >= 0:
            raise errors.Damaged(
                "what was written reads back differently",
                path=self.head.path,
                offset=batch.blocks[bad] * self.block_size,
            )

    def _keep_old(self, batch: Batch, worker: int) -> None:
        """Before blocks are overwritten."""
        return None

    @abstractmethod
    def seal(self) -> str:
        """Finish the new generation, durable but not yet visible; the seal of its block map."""

    def commit(self, point: Point) -> None:
        """Make it visible; then it stays whatever happens."""
        record.write(self.replica.files, self.replica.layout.record(point.generation), point.fields())
        self.replica.files.flush_dir(self.replica.layout.points)
        self._settle()

    @abstractmethod
    def _settle(self) -> None:
        """After the commit."""

    def abort(self) -> None:
        """Take everything back. What recovery raises is raised here; then a later opening tries again."""
        self.close()
        recovery.recover(self.replica)

    def close(self) -> None:
        """Let go of the files that this cycle opened."""
        self._opened.close()


class Next(Cycle):
    """Builds `next-…`: from nothing, or as a clone of the head, which then becomes the point before it."""

    def __init__(
        self, replica: Replica, old: Point | None, size: int, *, fresh: bool, generation: int | None = None
    ) -> None:
        super().__init__(replica, old, size, generation)
        self.fresh = fresh
        self._begin()

    def _start(self) -> None:
        replica, layout = self.replica, self.replica.layout
        path = layout.next_map(self.generation)
        head = layout.next_head(self.generation)
        if self.fresh:
            made = create_container(replica.files, head, self.size, layout.kind)
            self.head = self._opened.enter_context(made)
            file = self._open(path, "create")
            self.map = BlockMap.create(file, path, replica.identity.replica_id, self.block_size, self.size)
        else:
            self.head = self._opened.enter_context(replica.open_disk(head, "rw"))
            if replica.files.clone(layout.head_map, path):
                self.map = self._opened.enter_context(replica.open_map(path, "rw"))
            else:
                with replica.open_map(layout.head_map) as old_map:
                    self.map = old_map.copy_to(self._open(path, "create"), path)
            self.map.resize(self.size)
            self.head.resize(self.size)

    @classmethod
    def from_clone(cls, replica: Replica, old: Point, size: int, generation: int | None = None) -> Next | None:
        """Over a clone of the head; None where this file system cannot clone."""
        made = generation or old.generation + 1
        if not replica.files.clone(replica.layout.head, replica.layout.next_head(made)):
            return None
        return cls(replica, old, size, fresh=False, generation=made)

    def seal(self) -> str:
        seal = self.map.seal().hex()
        self.head.flush()
        self.map.file.flush()
        self.replica.files.flush_dir(self.replica.layout.root)
        return seal

    def _settle(self) -> None:
        self.close()
        recovery.promote(self.replica, self.generation)


class InPlace(Cycle):
    """Writes into the head. The undo delta is its crash log while it runs and the point's history afterwards.

    `block_map` is the head's map, open for writing; it stays the caller's. `mend` is for a head that is not what its
    map says: a block that now gets the contents it should have had needs no way back, and one whose old contents are
    lost is counted in `lost` instead of ending the cycle.
    """

    _punches = False  # a hole might not find room again when the cycle is taken back; see _settle

    def __init__(
        self,
        replica: Replica,
        old: Point,
        size: int,
        block_map: BlockMap,
        codec: tuple[int, int],
        *,
        mend: bool = False,
        generation: int | None = None,
    ) -> None:
        super().__init__(replica, old, size, generation)
        self.old: Point = old
        self.map, self.codec, self.mend = block_map, codec, mend
        self.kept = self.lost = 0
        self._old_blocks = -(-old.virtual_bytes // self.block_size)
        self._spaces: dict[int, tuple[Batch, FrameBuffer]] = {}
        self._zeroed: kernel.Bitmap | None = None
        self._lock = threading.Lock()
        self._begin()

    def _start(self) -> None:
        replica, layout, old = self.replica, self.replica.layout, self.old
        header = fmt.Header(
            replica.identity.replica_id, self.block_size, self.generation, old.generation,
            self.size, old.virtual_bytes, replica.identity.epoch,
        )  # fmt: skip
        self.head = self._opened.enter_context(replica.open_head("rw"))
        self.writer = DeltaWriter(self._open(layout.undo(old.generation), "create"), header)
        self.writer.file.flush()
        replica.files.flush_dir(layout.points)
        if self.size > old.virtual_bytes:
            self.head.resize(self.size)
            self.map.resize(self.size)

    def _keep_old(self, batch: Batch, worker: int) -> None:
        # Blocks past the old end have no old contents: going back cuts them off.
        end = bisect_left(batch.blocks, self._old_blocks, 0, batch.count)
        if not end:
            return
        self._save(batch.blocks, end, worker, batch.hashes)
        self.writer.file.flush()
        zeroed = array("Q", bytes(8 * end))
        found = kernel.entries.zero_blocks(batch.blocks, batch.lengths, end, zeroed)
        if found:
            with self._lock:
                if self._zeroed is None:
                    self._zeroed = kernel.Bitmap(max(self._old_blocks, -(-self.size // self.block_size)))
                self._zeroed.set_many(zeroed, found)

    def _save(self, blocks: array[int], count: int, worker: int, new: bytearray | None) -> None:
        """Append the present contents of blocks to the undo delta; durable after its next flush."""
        if worker not in self._spaces:
            self._spaces[worker] = (Batch(self.block_size, BATCH_BYTES), FrameBuffer(*self.codec))
        old, buffer = self._spaces[worker]
        room = len(old.payload) // self.block_size
        for start in range(0, count, room):
            part = min(room, count - start)
            named = blocks[start : start + part]
            hashes = self.map.load_hashes(named, part)
            if self.mend and new is not None:
                named, hashes = _changed(named, hashes, new[16 * start : 16 * (start + part)])
            if not named:
                continue
            old.name(named, hashes, len(named), self.old.virtual_bytes)
            self.head.read_blocks(old.blocks, old.lengths, old.count, self.block_size, old.payload)
            self._check_old(old)
            buffer.encode(old, self.writer.header.tag)
            self.writer.append(buffer)
            with self._lock:
                self.kept += old.count

    def _check_old(self, old: Batch) -> None:
        """What is kept for older points must be what they need: the head may have rotted since it was written."""
        hashes = old.rehash(self.seed)
        if hashes == old.hashes[: 16 * old.count]:
            return
        found = array("Q", bytes(8 * old.count))
        bad = kernel.entries.differing_entries(hashes, old.hashes[: 16 * old.count], 0, found)
        if self.mend:
            with self._lock:
                self.lost += bad
            return
        raise errors.Damaged(
            "the head does not match its block map (verify names all such places, replicate --resync mends them)",
            path=self.head.path,
            offset=old.blocks[found[0]] * self.block_size,
        )

    def seal(self) -> str:
        if self.size < self.old.virtual_bytes:
            for blocks in self.map.nonzero(-(-self.size // self.block_size), self._old_blocks):
                self._save(blocks, len(blocks), 0, None)
            self.writer.file.flush()
            self.head.resize(self.size)
            self.map.resize(self.size)
        seal = self.map.seal()
        self.writer.finish(seal, bytes.fromhex(self.old.seal))
        self.head.flush()
        self.map.file.flush()
        return seal.hex()

    def _settle(self) -> None:
        self._punch()
        self.close()

    def _punch(self) -> None:
        """Zeros become holes only now: taking a cycle back must not need room that was given away meanwhile."""
        if self._zeroed is None:
            return
        at = 0
        try:
            while (run := self._zeroed.next_range(at, 1 << 62)) is not None:
                start, at = run
                offset = start * self.block_size
                length = min(at * self.block_size, self.size) - offset
                if length > 0:
                    self.head.zero(offset, length, punch=True)
        except errors.Error as error:
            self.replica.warn(f"{error}; the head is right, but takes more room than it needs")

    def discard(self) -> None:
        """Nothing changed after all (mending alone): what was written stays, the undo delta goes."""
        self.head.flush()
        self.map.write_out()
        self.map.file.flush()
        self.close()
        self.replica.files.unlink(self.replica.layout.undo(self.old.generation))
        self.replica.files.flush_dir(self.replica.layout.points)


def _changed(blocks: array[int], old: bytearray, new: bytearray) -> tuple[array[int], bytearray]:
    """Those blocks, with their old hashes, whose hash becomes another one."""
    places = array("Q", bytes(8 * len(blocks)))
    found = kernel.entries.differing_entries(old, new, 0, places)
    if found == len(blocks):
        return blocks, old
    kept = places[:found]
    return (
        array("Q", [blocks[place] for place in kept]),
        bytearray().join(old[16 * place : 16 * place + 16] for place in kept),
    )
