"""The source's end of a transfer: what the replica holds and has spooled, the scan against both, and the frames.

Each attempt plans again from the real state of both sides (DESIGN D12): nothing here is remembered about progress, so
nothing can lie. What is counted of an earlier attempt is only for the figure of bytes that were sent twice.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from secondsite.engine import errors, scan
from secondsite.engine.batch import SMALL_BATCH_BYTES, Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.writer import FrameBuffer
from secondsite.engine.progress import Monitor
from secondsite.engine.remote import protocol, talk
from secondsite.engine.remote.calls import Call
from secondsite.engine.remote.compression import LADDER, Choice
from secondsite.engine.remote.connection import WINDOW, Connection
from secondsite.engine.remote.mapcache import MapCache
from secondsite.engine.source import Source
from secondsite.engine.trackers.base import Cut, Have, Tracker
from secondsite.engine.tracking import Marked
from secondsite.engine.units import MIB

# A frame has a quarter of this, or a little more.
_MESSAGE_BYTES = MIB


@dataclass
class Sent:
    """What all attempts of one cycle sent, in bytes of frames; `again`: lost on the way and sent another time."""

    frames: int = 0
    bytes: int = 0
    again: int = 0
    attempts: int = 0
    _spooled: int = field(default=0, repr=False)

    def resumed(self, spooled: int) -> None:
        """The replica has so many bytes in its spool at the beginning of an attempt."""
        if self.attempts:
            self.again += max(self._spooled - spooled, 0)
        self.attempts += 1
        self._spooled = spooled

    def add(self, count: int) -> None:
        self.frames += 1
        self.bytes += count
        self._spooled += count


@dataclass(frozen=True)
class Sending:
    """How one cycle came out."""

    done: talk.Done
    tally: scan.Tally
    tracker: str
    seconds: float


class Sender:
    """Sends one source to one far replica over connections that the caller makes. `begin.size` is set by each attempt;
    without a `codec` it is chosen as the transfer goes.
    """

    def __init__(
        self, origin: Source, tracker: Tracker, begin: talk.Begin, cache: MapCache, *, codec: tuple[int, int] | None,
        workers: int = 1, monitor: Monitor | None = None, sent: Sent | None = None,
    ) -> None:  # fmt: skip
        self.origin, self.tracker, self.begin, self.cache = origin, tracker, begin, cache
        self.codec, self.workers, self.monitor = codec, workers, monitor or Monitor()
        self.sent = sent or Sent()

    def run(self, connection: Connection) -> Sending:
        """One attempt. Raises what ended it; the cut is given back then, and what was spooled stays."""
        began = time.monotonic()
        size = self.origin.image.size
        begin = talk.Begin(
            name=self.begin.name, source=self.begin.source, source_format=self.begin.source_format, size=size,
            block_size=self.begin.block_size, head=self.begin.head, epoch=self.begin.epoch,
            accept_source=self.begin.accept_source,
        )  # fmt: skip
        with connection.call(talk.OPERATION, begin) as call:
            state = protocol.decode(call.receive().control, talk.State, call.peer)
            _check(state, call.peer)
            self.sent.resumed(state.spool_bytes)
            with self.cache.working(state, lambda ask: _fetch(call, ask), call.peer) as held:
                if size > held.image_size:
                    held.resize(size)
                _overlay(held, call, state, size)
                return self._cycle(call, state, held, size, began)

    def _cycle(self, call: Call, state: talk.State, held: BlockMap, size: int, began: float) -> Sending:
        known = Have(state.replica_id.hex(), state.generation, state.seal) if state.generation else None
        before = self.origin.rested()
        with self.tracker.begin(known) as cut:
            if cut.image.size != size:
                raise errors.SourceChanged("it changed its size while it was looked at", path=self.origin.path)
            if not cut.frozen:
                before = self.origin.settled()
            outlet = Outlet(call, state, held, self.codec, self.sent, self.workers)
            tally = self._scan(cut, state, held, size, outlet)
            if not cut.frozen and self.origin.stamp() != before:
                raise errors.SourceChanged("it was written while it was read", path=self.origin.path)
            held.resize(size)
            done = self._finish(call, outlet, held.seal().hex(), cut.tracker, tally)
            self.cache.keep(held)
            cut.acknowledge(Have(state.replica_id.hex(), done.generation, done.seal))
            return Sending(done, tally, cut.tracker, time.monotonic() - began)

    def _scan(self, cut: Cut, state: talk.State, held: BlockMap, size: int, outlet: Outlet) -> scan.Tally:
        # What is spooled may be newer than what a tracker goes by, and has changed again: then all is looked at.
        named = cut.changed() if state.generation and not state.spool_frames else None
        runs = None
        if named is not None:
            runs = Marked(named, size, state.block_size, state.virtual_bytes).runs()
        self.monitor.begin("send", size)
        return scan.Scan(
            cut.image, held, outlet, size=size, block_size=state.block_size, seed=state.seed, workers=self.workers,
            batch_bytes=SMALL_BATCH_BYTES, monitor=self.monitor, runs=runs,
        ).run()  # fmt: skip

    def _finish(self, call: Call, outlet: Outlet, seal: str, tracker: str, tally: scan.Tally) -> talk.Done:
        call.send(talk.Finish(
            seal=seal, tracker=tracker, read_bytes=tally.read_bytes, changed_bytes=tally.changed_bytes,
            sent_bytes=outlet.bytes,
        ))  # fmt: skip
        while True:
            said = talk.from_replica(call.receive().control, call.peer)
            if isinstance(said, talk.Done):
                if said.seal != seal:
                    raise errors.Damaged("it committed another seal than was sent", path=call.peer)
                return said
            if not isinstance(said, talk.Answered):
                raise protocol.Garbled("an answer to nothing", path=call.peer)


class Outlet:
    """A scan's sink: frames go to the replica, hashes into the map that it will have."""

    def __init__(
        self, call: Call, state: talk.State, held: BlockMap, codec: tuple[int, int] | None, sent: Sent, workers: int
    ) -> None:
        self.call, self.held, self.sent = call, held, sent
        self.tag = int.from_bytes(state.replica_id[:8], "little")
        self.codec, self.bytes = codec, 0
        self.position = self.durable = state.spool_bytes
        self.choice = Choice(workers) if codec is None else None
        self._buffers: dict[tuple[int, int], FrameBuffer] = {}
        self._lock = threading.Lock()

    def _pack(self, batch: Batch, worker: int) -> FrameBuffer:
        step = self.choice.next() if self.choice is not None else 0
        if (worker, step) not in self._buffers:
            self._buffers[worker, step] = FrameBuffer(*(self.codec or LADDER[step]))
        buffer = self._buffers[worker, step]
        began = time.perf_counter()
        buffer.encode(batch, self.tag)
        if self.choice is not None:
            self.choice.packed(step, batch.used, buffer.used, time.perf_counter() - began)
        return buffer

    def _hear(self) -> None:
        """What is durable there by now; what is not yet is at most a window, since all of it may be lost."""
        while True:
            late = self.position - self.durable > WINDOW
            message = self.call.receive() if late else self.call.poll()
            if message is None:
                return
            said = talk.from_replica(message.control, self.call.peer)
            if not isinstance(said, talk.Answered) or not self.durable <= said.durable <= self.position:
                raise protocol.Garbled("an answer to nothing", path=self.call.peer)
            self.durable = said.durable

    def put(self, batch: Batch, worker: int) -> None:
        """Pack outside the lock, send inside: frames of one call go one after the other."""
        buffer = self._pack(batch, worker)
        with self._lock:
            began = time.perf_counter()
            for start, end in _parts(buffer):
                self.call.send(talk.Frames(), buffer.data[start:end], checked=True)
                self.sent.add(end - start)
                self.bytes += end - start
                self.position += end - start
            if self.choice is not None:
                self.choice.sent(buffer.used, time.perf_counter() - began)
            self._hear()
        self.held.store(batch.blocks, batch.hashes, batch.count)


def _parts(buffer: FrameBuffer) -> Iterator[tuple[int, int]]:
    """The frames of a batch in messages of about a MiB: where they begin and end."""
    start = 0
    for frame in range(1, buffer.frames + 1):
        end = buffer.table[3 * frame + 2] if frame < buffer.frames else buffer.used
        if frame == buffer.frames or end - start >= _MESSAGE_BYTES:
            yield start, end
            start = end


def _check(state: talk.State, peer: str) -> None:
    """What a replica says of itself is as hostile as anything else."""
    size = state.block_size
    if len(state.replica_id) != 16 or not 4096 <= size <= fmt.MAX_RAW or size & (size - 1):
        raise protocol.Garbled("a replica's id or block size that is none", path=peer)
    if min(state.virtual_bytes, state.generation, state.spool_bytes, state.spool_frames) < 0:
        raise protocol.Garbled("a negative size", path=peer)
    if not 0 <= state.seed < 1 << 64 or state.virtual_bytes > size << 40:
        raise protocol.Garbled("a seed or size out of bounds", path=peer)


def _fetch(call: Call, ask: talk.Ask) -> Iterator[bytes]:
    call.send(ask)
    while (message := call.receive()).control == b"":
        yield bytes(message.body)
    if not isinstance(talk.from_replica(message.control, call.peer), talk.Answered):
        raise protocol.Garbled("an answer to nothing", path=call.peer)


def _overlay(held: BlockMap, call: Call, state: talk.State, size: int) -> None:
    """Lay over the map what the replica has spooled already: only what differs from both is sent."""
    if not state.spool_frames:
        return
    call.send(talk.Ask("spool"))
    end = -(-size // state.block_size)
    while True:
        message = call.receive()
        said = talk.from_replica(message.control, call.peer)
        if isinstance(said, talk.Answered):
            return
        numbers = array("Q")
        width = 24 if isinstance(said, talk.Spooled) and said.kind == fmt.DATA else 16
        if not isinstance(said, talk.Spooled) or said.count < 1 or len(message.body) != width * said.count:
            raise protocol.Garbled("a part of the spool's table that is none", path=call.peer)
        numbers.frombytes(bytes(message.body[: 8 * said.count * (1 if width == 24 else 2)]))
        if width == 24:
            if max(numbers) >= end:
                raise protocol.Garbled("its spool names blocks that are not there", path=call.peer)
            held.store(numbers, message.body[8 * said.count :], said.count)
        else:
            for first, count in zip(numbers[0::2], numbers[1::2], strict=True):
                if first + count > end:
                    raise protocol.Garbled("its spool names blocks that are not there", path=call.peer)
                held.clear(first, count)
