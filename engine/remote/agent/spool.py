"""Frames that came over a network, durable before the head is touched (DESIGN D5).

`incoming.spool` is the beginning of a delta: a header and frames as they came. `incoming.json` says what they lead
from. Later frames win over earlier ones that name the same block: a source that was written between two attempts.
"""

from __future__ import annotations

import posixpath
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

from secondsite.engine import errors, kernel
from secondsite.engine.batch import Batch
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.merge import mark
from secondsite.engine.delta.reader import DeltaReader, Frame
from secondsite.engine.remote.agent.flusher import Flusher
from secondsite.engine.remote.link import protocol
from secondsite.engine.replica import record
from secondsite.engine.replica.directory import Replica
from secondsite.engine.units import MIB

# What a crash of the machine may cost, and how often a disk is made to write.
FLUSH_BYTES = 4 * MIB
# A source that is written all the time may send blocks again; what is more than this begins anew.
_SPARE_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Token:
    """What a spool leads from and to. One that is not exactly this is dropped, and a fresh plan made (P13)."""

    base_generation: int
    base_seal: str
    block_size: int
    epoch: int
    size: int
    source: str


class Spool:
    """The open spool of a replica that the caller holds as its writer. `taken` counts what came, as it came; `told` is
    called, from another thread, with how much of that is durable.
    """

    def __init__(
        self, replica: Replica, token: Token, base_size: int, told: Callable[[int], object] = lambda taken: None
    ) -> None:
        self.replica, self.token, self.told = replica, token, told
        self._flusher = Flusher()
        self.path = posixpath.join(replica.layout.root, "incoming.spool")
        self._note = posixpath.join(replica.layout.root, "incoming.json")
        self.header = fmt.Header(
            replica.identity.replica_id, token.block_size, token.base_generation, token.base_generation + 1,
            base_size, token.size, token.epoch,
        )  # fmt: skip
        self.offsets: array[int] = array("Q")
        self.end = self.taken = self.flushing = self.durable = 0
        if not self._resume():
            self._begin()
        self.flushing = self.durable = self.taken

    def _begin(self) -> None:
        files = self.replica.files
        drop(self.replica)
        self.file = files.open(self.path, "create")
        self.file.write(0, self.header.pack())
        self.file.flush()
        record.write(files, self._note, asdict(self.token))
        files.flush_dir(self.replica.layout.root)
        self.reader = DeltaReader(self.file, self.path)
        self.end = self.taken = fmt.HEADER_BYTES

    def _resume(self) -> bool:
        """Take up the whole frames of one that fits; a torn end is cut off."""
        files = self.replica.files
        if files.size(self.path) < fmt.HEADER_BYTES or files.size(self._note) < 0:
            return False
        try:
            fields, _ = record.read(files, self._note)
            if any(fields.get(name) != value for name, value in asdict(self.token).items()):
                return False
            self.file = files.open(self.path, "rw")
        except errors.Damaged:
            return False
        try:
            self.reader = DeltaReader(self.file, self.path)
            if self.reader.header != self.header or self.file.size > self._limit() // 2:
                self.file.close()
                return False
            self._take_up()
        except errors.Damaged:
            self.file.close()
            return False
        return True

    def _take_up(self) -> None:
        self.end = fmt.HEADER_BYTES
        for frame in self.reader.written():
            if frame.offset != self.end:
                break
            self.offsets.append(frame.offset)
            self.end += fmt.FRAME_BYTES + frame.head.stored
        self.file.resize(self.end)
        self.file.flush()
        self.taken = self.end

    def _limit(self) -> int:
        return 4 * (self.token.size + _SPARE_BYTES)

    def append(self, data: bytes | bytearray | memoryview, peer: str) -> None:
        """Check frames as they came, one after another, and take them. Raises Garbled and Damaged."""
        self._flusher.check()
        view, at = memoryview(data), 0
        if not len(view):
            raise protocol.Garbled("a message without a frame", path=peer)
        frames = []
        while at < len(view):
            frames.append(self._frame(view[at:], peer))
            at += fmt.FRAME_BYTES + frames[-1].head.stored
        if self.taken + len(view) > self._limit():
            raise errors.Refused(f"more was sent than an image of {self.token.size} bytes needs", path=peer)
        self._take(view, frames)
        self.taken += len(view)
        if self.taken - self.flushing >= FLUSH_BYTES:
            self._start_flush()

    def _frame(self, data: memoryview, peer: str) -> Frame:
        """The first of these frames, its checksum checked."""
        if len(data) < fmt.FRAME_BYTES:
            raise protocol.Garbled(f"a frame has at least {fmt.FRAME_BYTES} bytes, not {len(data)}", path=peer)
        head = fmt.FrameHeader.unpack(data)
        wrong = head.magic != fmt.FRAME_MAGIC or head.tag != self.header.tag or head.kind not in (fmt.DATA, fmt.ZEROS)
        if wrong or not 0 < head.stored <= min(fmt.MAX_BODY, len(data) - fmt.FRAME_BYTES):
            raise protocol.Garbled("expected whole frames of this replica", path=peer)
        whole = data[: fmt.FRAME_BYTES + head.stored]
        if not kernel.codec.check_frame(whole):
            raise protocol.Garbled("a frame's checksum does not hold", path=peer)
        return Frame(head, whole[fmt.FRAME_BYTES :], self.header, peer, 0)

    def _take(self, data: memoryview, frames: list[Frame]) -> None:
        """Write them as they came."""
        self.file.write(self.end, data)
        for frame in frames:
            self.offsets.append(self.end)
            self.end += fmt.FRAME_BYTES + frame.head.stored

    def _start_flush(self) -> None:
        """Have all that was taken made durable in the background."""
        taken = self.flushing = self.taken
        self._flusher.start(self.file.flush, partial(self._flushed, taken))

    def _flushed(self, taken: int) -> None:
        self.durable = taken
        self.told(taken)

    def flush(self) -> None:
        """All that was taken is durable when this returns."""
        if self.taken != self.flushing:
            self._start_flush()
        self._flusher.wait()

    def frames(self) -> Iterator[Frame]:
        """In the order in which they came, each checked again."""
        for offset in self.offsets:
            yield self.reader.frame(offset, self.end)

    def batches(self, seed: int) -> Iterator[Batch]:
        """What all frames come to, each block once: the last frames first, of which nothing is passed over."""
        blocks = -(-self.token.size // self.token.block_size)
        taken = kernel.Bitmap(blocks)
        decoder = kernel.codec.Decoder()
        batch = Batch(self.token.block_size, fmt.MAX_RAW)
        for offset in reversed(self.offsets):
            frame = self.reader.frame(offset, self.end)
            if frame.runs:
                yield from _zeros(frame, taken, batch)
            else:
                _data(frame, frame.decode(decoder), taken, batch)
                if batch.rehash(seed) != batch.hashes[: 16 * batch.count]:
                    raise errors.Damaged("a block does not have the hash that was sent", path=self.path, offset=offset)
                if batch.count:
                    yield batch
            mark(taken, frame)

    def close(self) -> None:
        self._flusher.close()
        self.file.close()


def _data(frame: Frame, raw: bytes | bytearray | memoryview, taken: kernel.Bitmap, batch: Batch) -> None:
    batch.reset()
    at = 0
    for index, block in enumerate(frame.blocks):
        length = frame.lengths[index]
        if not taken.test(block):
            n = batch.count
            batch.blocks[n], batch.lengths[n] = block, length
            batch.hashes[16 * n : 16 * n + 16] = frame.hashes[16 * index : 16 * index + 16]
            batch.payload[batch.used : batch.used + length] = raw[at : at + length]
            batch.count, batch.used = n + 1, batch.used + length
        at += length


def _zeros(frame: Frame, taken: kernel.Bitmap, batch: Batch) -> Iterator[Batch]:
    for start, count in zip(frame.runs[0::2], frame.runs[1::2], strict=True):
        at, end = start, start + count
        while at < end:
            used = taken.next_range(at, end - at)
            stop = min(used[0], end) if used else end
            while at < stop:
                batch.reset()
                part = min(stop - at, 4096)
                batch.add_zeros(array("Q", range(at, at + part)), 0, part)
                yield batch
                at += part
            at = min(used[1], end) if used and used[0] < end else end


def drop(replica: Replica) -> None:
    """Forget what was spooled: it was applied, or does not fit."""
    for name in ("incoming.json", "incoming.spool", "incoming.raw", "incoming.map"):
        replica.files.unlink(posixpath.join(replica.layout.root, name))
    replica.files.flush_dir(replica.layout.root)


@contextmanager
def alone(replica: Replica) -> Iterator[None]:
    """One sender a replica, also while readers have it. Raises Busy."""
    lock = replica.files.lock(f"{replica.layout.root}/incoming.lock", exclusive=True)
    if lock is None:
        raise errors.Busy("is busy: another host sends to it; try again later", path=replica.layout.root)
    try:
        yield
    finally:
        lock.release()
