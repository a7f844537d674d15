"""What a scan gives goes over: packed, in messages, and never more ahead of what is durable there than a window."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta.writer import FrameBuffer
from secondsite.engine.remote import talk
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.connection import WINDOW
from secondsite.engine.remote.sending.compression import LADDER, Choice, Packed
from secondsite.engine.remote.sending.connections import Connections
from secondsite.engine.remote.sending.tally import Sent
from secondsite.engine.units import MIB

# Of a message, and of what is packed in one frame: nobody reads a single block of what goes over, and each frame costs
# both ends some Python.
_MESSAGE_BYTES = MIB


class Outlet:
    """A scan's sink: frames go to the replica, hashes into the map that it will have."""

    def __init__(
        self, connections: Connections, state: talk.State, held: BlockMap, codec: tuple[int, int] | None, sent: Sent,
        workers: int,
    ) -> None:  # fmt: skip
        self.connections, self.call, self.held, self.sent = connections, connections.call, held, sent
        self.tag = int.from_bytes(state.replica_id[:8], "little")
        self.codec, self.bytes = codec, 0
        self.position = self.durable = state.spool_bytes
        self.choice = Choice(workers) if codec is None else None
        self._buffers: dict[tuple[int, int], FrameBuffer] = {}
        self._lock = threading.Lock()

    def _pack(self, batch: Batch, worker: int) -> FrameBuffer:
        if self.choice is None:
            return self._encode(batch, worker, 0)[0]
        step, rival = self.choice.next()
        buffer, own = self._encode(batch, worker, step)
        self.choice.packed(step, own.size, own.seconds)
        if rival is not None:
            self.choice.compared(step, rival, own, self._encode(batch, worker, rival)[1])
        return buffer

    def _encode(self, batch: Batch, worker: int, step: int) -> tuple[FrameBuffer, Packed]:
        if (worker, step) not in self._buffers:
            self._buffers[worker, step] = FrameBuffer(*(self.codec or LADDER[step]), _MESSAGE_BYTES)
        buffer = self._buffers[worker, step]
        began = time.perf_counter()
        buffer.encode(batch, self.tag)
        return buffer, Packed(buffer.used, time.perf_counter() - began)

    def _hear(self, coming: int) -> None:
        """What is durable there by now; the rest, and what is `coming`, are at most a window: they may be lost."""
        while True:
            late = self.position + coming - self.durable > WINDOW
            message = self.call.receive() if late else self.call.poll()
            if message is None:
                return
            said = talk.from_replica(message.control, self.call.peer)
            if not isinstance(said, talk.Answered) or not self.durable <= said.durable <= self.position:
                raise protocol.Garbled("an answer to nothing", path=self.call.peer)
            self.durable = self.sent.durable = said.durable
            self.connections.durable(said.durable)

    def _send(self, frames: memoryview) -> float:
        """How long it took."""
        size, came = len(frames), time.perf_counter()
        self._hear(size)
        self.bytes += size
        self.position += size
        began = time.perf_counter()
        self.connections.send(frames)
        ended = time.perf_counter()
        self.connections.waited(ended - came)
        return ended - began

    def put(self, batch: Batch, worker: int) -> None:
        """Pack outside the lock, send inside."""
        buffer = self._pack(batch, worker)
        with self._lock:
            took = sum(self._send(buffer.data[start:end]) for start, end in _parts(buffer))
            if self.choice is not None:
                self.choice.sent(buffer.used, took)
        self.held.store(batch.blocks, batch.hashes, batch.count)


def _parts(buffer: FrameBuffer) -> Iterator[tuple[int, int]]:
    """The frames of a batch in messages of about a MiB: where they begin and end."""
    start = 0
    for frame in range(1, buffer.frames + 1):
        end = buffer.table[3 * frame + 2] if frame < buffer.frames else buffer.used
        if frame == buffer.frames or end - start >= _MESSAGE_BYTES:
            yield start, end
            start = end
