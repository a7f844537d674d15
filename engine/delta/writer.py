"""Write a delta: frames from several threads, then an index and an end marker."""

from __future__ import annotations

import hashlib
import threading
from array import array

from secondsite.engine import kernel
from secondsite.engine.batch import Batch
from secondsite.engine.delta import format as fmt
from secondsite.engine.images.base import Image
from secondsite.engine.units import MAX_BLOCKS


class FrameBuffer:
    """One thread's encoder and the frames that it made of the last batch; of data at most `group` bytes a frame."""

    def __init__(self, codec: int, level: int, group: int = fmt.GROUP_BYTES) -> None:
        self.encoder = kernel.codec.Encoder(codec, level, group)
        self.data = self._own = memoryview(bytearray())
        self.table: array[int] = array("Q")
        self.used = self.frames = 0

    def encode(self, batch: Batch, tag: int) -> None:
        """Frame a batch; the result stays until the next one, or until the batch is filled again."""
        self.data = batch.framed() if self._is_one_frame(batch) else self._room(batch)
        if len(self.table) < 3 * (2 * batch.count + 2):
            self.table = array("Q", bytes(24 * (2 * batch.count + 2)))
        self.used, self.frames = self.encoder.encode(
            batch.blocks, batch.lengths, batch.hashes, batch.count, batch.payload, tag, self.data, self.table
        )


    def _is_one_frame(self, batch: Batch) -> bool:
        """And not packed: then it is made around the payload, which stays where it is."""
        encoder = self.encoder
        plain = encoder.codec == fmt.NONE and 0 < batch.used <= encoder.group_bytes and batch.solid
        return plain and kernel.entries.ascending(batch.blocks, batch.count, MAX_BLOCKS)

    def _room(self, batch: Batch) -> memoryview:
        need = self.encoder.bound(batch.count, batch.used, batch.block_size)
        if len(self._own) < need:
            self._own = memoryview(bytearray(need))
        return self._own


class DeltaWriter:
    """Appends to an empty file. Frames keep their order of arrival: a crash leaves whole frames and one torn end."""

    def __init__(self, file: Image, header: fmt.Header) -> None:
        self.file, self.header = file, header
        packed = header.pack()
        self.file.write(0, packed)
        self.offset = len(packed)
        self.frames = self.data_blocks = self.zero_blocks = self.raw_bytes = 0
        self._digest = hashlib.sha256(packed)
        self._index: array[int] = array("Q")
        self._lock = threading.Lock()
        self._failed: BaseException | None = None

    def append(self, buffer: FrameBuffer) -> None:
        """Write one thread's frames; they are durable after the file's next flush."""
        with self._lock:
            if self._failed is not None:
                raise self._failed  # what the thread that could not write has met: no later frame may follow
            try:
                self.file.write(self.offset, buffer.data[: buffer.used])
            except BaseException as error:
                self._failed = error
                raise
            for frame in range(buffer.frames):
                first, last, at = buffer.table[3 * frame : 3 * frame + 3]
                head = buffer.data[at : at + fmt.FRAME_BYTES]
                self._note(fmt.FrameHeader.unpack(head), head, first, last, self.offset + at)
                if head[4] == fmt.ZEROS:
                    size = fmt.FrameHeader.unpack(head).stored
                    runs = memoryview(buffer.data[at + fmt.FRAME_BYTES : at + fmt.FRAME_BYTES + size]).cast("Q")
                    self.zero_blocks += sum(runs[1::2])
            self.offset += buffer.used

    def copy(self, head: fmt.FrameHeader, frame: bytes | bytearray | memoryview, zero_blocks: int) -> None:
        """Append a frame as another delta of this replica holds it (merge)."""
        with self._lock:
            self.file.write(self.offset, frame)
            self._note(head, frame[: fmt.FRAME_BYTES], head.first, head.last, self.offset)
            self.zero_blocks += zero_blocks
            self.offset += len(frame)

    def _note(
        self, head: fmt.FrameHeader, packed: bytes | bytearray | memoryview, first: int, last: int, offset: int
    ) -> None:
        self._digest.update(packed)
        self._index.extend((first, last, offset))
        self.frames += 1
        if head.kind == fmt.DATA:
            self.data_blocks += head.entries
            self.raw_bytes += head.raw

    def finish(self, base_seal: bytes, target_seal: bytes) -> None:
        """Write index and end marker, and make all of it durable."""
        index_offset = self.offset
        ordered = sorted(zip(self._index[0::3], self._index[1::3], self._index[2::3], strict=True))
        entries = array("Q", [number for entry in ordered for number in entry]).tobytes()
        self._control(fmt.INDEX, len(ordered), entries)
        body = fmt.END_BODY.pack(
            index_offset, self.frames, self.data_blocks, self.zero_blocks, self.raw_bytes,
            base_seal, target_seal, self._digest.digest(),
        )  # fmt: skip
        self._control(fmt.END, 0, body)
        self.file.flush()

    def _control(self, kind: int, count: int, body: bytes) -> None:
        frame = seal_frame(kind, count, body, self.header.tag)
        self._digest.update(frame[: fmt.FRAME_BYTES])
        self.file.write(self.offset, frame)
        self.offset += len(frame)


def seal_frame(kind: int, count: int, body: bytes, tag: int, first: int = 0, last: int = 0) -> bytes:
    """A whole frame without payload: zeros, index or end."""
    fields = (fmt.FRAME_MAGIC, kind, fmt.NONE, 0, count, len(body), 0, 0, tag, first, last)
    head = fmt.FRAME.pack(*fields, kernel.scan.hash_block(body, tag))
    return fmt.FRAME.pack(*fields, kernel.scan.hash_block(head, tag)) + body
