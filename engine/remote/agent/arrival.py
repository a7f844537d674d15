"""The first content of a replica, written where it belongs as it comes: there is no head yet that it could harm.

`incoming.raw` becomes the head. `incoming.spool` holds the frames' tables without their payload, each written once the
payload is durable, so that after any crash it says what is there. The block map is made of these tables.
"""

from __future__ import annotations

import posixpath
from array import array
from collections.abc import Callable
from functools import partial

from secondsite.engine import errors, kernel
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import Frame
from secondsite.engine.delta.writer import seal_frame
from secondsite.engine.images import Image
from secondsite.engine.remote.agent.spool import Spool, Token
from secondsite.engine.remote.link import protocol
from secondsite.engine.replica.cycle import Next
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.recovery import store_frame

# A frame's codec where its payload was applied; what the frame took on the way is in the place of its table's sum.
HELD = 255


class Arrival(Spool):
    """A spool whose payload is in the coming head already; only for a replica without a point, with a raw head."""

    def __init__(
        self, replica: Replica, token: Token, base_size: int, told: Callable[[int], object] = lambda taken: None
    ) -> None:
        self.head: Image
        self.map: BlockMap
        self._head_path = posixpath.join(replica.layout.root, "incoming.raw")
        self._map_path = posixpath.join(replica.layout.root, "incoming.map")
        self._coming: list[bytes] = []  # of what is in the batch
        self._tables: list[bytes] = []  # of what is in the head, and not durable yet
        self._decoder = kernel.codec.Decoder()
        self._batch = Batch(token.block_size, protocol.MAX_BODY)
        super().__init__(replica, token, base_size, told)

    def _begin(self) -> None:
        super()._begin()
        files, size = self.replica.files, self.token.size
        self.head = files.open(self._head_path, "create")
        self.head.resize(size)
        self._make_map()
        files.flush_dir(self.replica.layout.root)

    def _make_map(self) -> None:
        file = self.replica.files.open(self._map_path, "create")
        identity = self.replica.identity
        self.map = BlockMap.create(
            file, self._map_path, identity.replica_id, identity.block_size, self.token.size
        )

    def _take_up(self) -> None:
        files = self.replica.files
        if files.size(self._head_path) != self.token.size:
            raise errors.Damaged("what was spooled belongs to a head that is gone", path=self._head_path)
        super()._take_up()
        self.head = files.open(self._head_path, "rw")
        try:
            self._make_map()
            self._read_tables()
            self._clear_unnamed()
        except BaseException:
            self.head.close()
            raise

    def _read_tables(self) -> None:
        self.taken = fmt.HEADER_BYTES
        for frame in self.frames():
            if frame.head.kind == fmt.DATA and frame.head.codec != HELD:
                raise errors.Damaged("what was spooled is of another kind", path=self.path)
            self.taken += fmt.FRAME_BYTES + (frame.head.table_sum or frame.head.stored)
            store_frame(self.map, frame)

    def _clear_unnamed(self) -> None:
        """What was written after the last table that is durable is nothing: zeros, as the map says."""
        block, end = self.token.block_size, self.token.size
        for start, length, zero in self.head.extents(0, end):
            if zero:
                continue
            at, last = start // block, -(-(start + length) // block)
            for named in self.map.nonzero(at, last):
                for number in named:
                    self._clear(at, number)
                    at = number + 1
            self._clear(at, last)

    def _clear(self, first: int, last: int) -> None:
        if first < last:
            start = first * self.token.block_size
            self.head.zero(start, min(last * self.token.block_size, self.token.size) - start)

    def _take(self, data: memoryview, frames: list[Frame]) -> None:
        at = 0
        for frame in frames:
            length = fmt.FRAME_BYTES + frame.head.stored
            if not frame.blocks:
                self._put()
                self._zero(frame, data[at : at + length])
            elif (plain := frame.plain) is not None:
                self._put()
                self._coming.append(_table(frame, self.header.tag))
                self._store(frame.blocks, frame.lengths, frame.hashes, len(frame.blocks), plain)
            else:
                self._add(frame)
            at += length
        self._put()

    def _add(self, frame: Frame) -> None:
        batch, count, raw = self._batch, len(frame.blocks), frame.head.raw
        if not _room(batch, frame):
            self._put()
        n = batch.count
        batch.blocks[n : n + count] = frame.blocks
        batch.lengths[n : n + count] = frame.lengths
        batch.hashes[16 * n : 16 * (n + count)] = frame.hashes
        stored = frame.body[24 * count :]
        if not self._decoder.decode(frame.head.codec, stored, batch.payload[batch.used : batch.used + raw]):
            raise errors.Damaged("a frame's payload does not decode", path=frame.path)
        batch.count, batch.used = n + count, batch.used + raw
        self._coming.append(_table(frame, self.header.tag))

    def _put(self) -> None:
        """What was gathered, if anything."""
        batch = self._batch
        if batch.count:
            self._store(batch.blocks, batch.lengths, batch.hashes, batch.count, batch.payload)
            batch.reset()

    def _store(
        self, blocks: array[int], lengths: array[int], hashes: bytearray | memoryview, count: int, payload: memoryview
    ) -> None:
        """Write, read back, and only then name them."""
        block, size = self.token.block_size, self.token.size
        self._forget(blocks, count)
        self.head.write_blocks(blocks, lengths, count, block, size, payload)
        bad = self.head.check_blocks(blocks, lengths, hashes, count, block, size, self.replica.identity.seed)
        if bad >= 0:
            offset = blocks[bad] * block
            raise errors.Damaged("a block does not read back as what was sent", path=self._head_path, offset=offset)
        self.map.store(blocks, hashes, count)
        self._tables += self._coming
        self._coming.clear()

    def _forget(self, blocks: array[int], count: int) -> None:
        """A block that is overwritten is durably nothing before: a table must never name what is not there."""
        held = self.map.load_hashes(blocks, count)
        if not any(held):
            return
        again = sorted({blocks[n] for n in range(count) if any(held[16 * n : 16 * n + 16])})
        runs = array("Q", [number for block in again for number in (block, 1)])
        body = runs.tobytes()
        self._note_now(seal_frame(fmt.ZEROS, len(again), body, self.header.tag, again[0], again[-1]))
        for block in again:
            self.map.clear(block, 1)

    def _zero(self, frame: Frame, data: memoryview) -> None:
        self._note_now(bytes(data))
        for first, count in zip(frame.runs[0::2], frame.runs[1::2], strict=True):
            self._clear(first, first + count)
            self.map.clear(first, count)

    def _note_now(self, table: bytes) -> None:
        self._flusher.wait()
        self._note_tables(b"".join([*self._tables, table]))
        self._tables = []

    def _start_flush(self) -> None:
        taken = self.flushing = self.taken
        tables, self._tables = b"".join(self._tables), []
        self._flusher.start(partial(self._note_tables, tables), partial(self._flushed, taken))

    def _note_tables(self, tables: bytes) -> None:
        self.head.flush()
        self.head.release_cache()  # its pages take the next blocks: cheaper than fresh ones, and others keep theirs
        self.file.write(self.end, tables)
        self.file.flush()
        self.end += len(tables)

    def settled(self) -> Next:
        """As the cycle of the first point, which is to be concluded; what has come stays until it is."""
        return _Arrived(self)

    def close(self) -> None:
        super().close()
        self.head.close()
        self.map.close()


class _Arrived(Next):
    """The head and map under the names that the commit knows."""

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        super().__init__(arrival.replica, None, arrival.token.size, fresh=True)

    def _start(self) -> None:
        arrival, layout, files = self.arrival, self.replica.layout, self.replica.files
        self.head, self.map = arrival.head, arrival.map
        self.map.write_out()
        for source, target in (
            (arrival._head_path, layout.next_head(self.generation)),
            (arrival._map_path, layout.next_map(self.generation)),
        ):
            files.unlink(target)
            try:
                files.link(source, target)
            except errors.Error:  # a file system without links
                files.replace(source, target)


def _room(batch: Batch, frame: Frame) -> bool:
    places = len(batch.blocks) - batch.count
    return len(frame.blocks) <= places and frame.head.raw <= len(batch.payload) - batch.used


def _table(frame: Frame, tag: int) -> bytes:
    """A frame of data without its payload, and with a checksum of its own."""
    body = bytes(frame.body[: 24 * len(frame.blocks)])
    head = frame.head._replace(
        codec=HELD, flags=0, table_sum=frame.head.stored, stored=len(body), checksum=bytes(16)
    )
    first = fmt.FRAME.pack(*head[:-1], kernel.scan.hash_block(body, tag))
    return fmt.FRAME.pack(*head[:-1], kernel.scan.hash_block(first, tag)) + body


def of(
    replica: Replica, token: Token, base_size: int, told: Callable[[int], object], *, first: bool
) -> Spool:
    """The spool that fits: `first` is a replica without a point."""
    kind: type[Spool] = Arrival if first and replica.layout.kind == "raw" else Spool
    return kind(replica, token, base_size, told)

