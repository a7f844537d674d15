"""What a scan gives becomes parts of a seed: packed by each worker, written in turn, read back before they count."""

from __future__ import annotations

import threading

from secondsite.engine import errors
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta.writer import DeltaWriter, FrameBuffer
from secondsite.engine.progress import Monitor
from secondsite.engine.seeding.medium import MAX_PARTS, NO_SEAL, Medium, Seed
from secondsite.engine.units import GIB

# FAT32, as sticks have it, ends a file at 4 GiB; and a cut costs at most one part.
PART_BYTES = 1 * GIB


class Parts:
    """A scan's sink. `held` is the map of what the whole parts hold, and gets what is written."""

    def __init__(
        self, medium: Medium, seed: Seed, held: BlockMap, codec: tuple[int, int], *, part_bytes: int = PART_BYTES
    ) -> None:
        self.medium, self.seed, self.held, self.codec = medium, seed, held, codec
        self.part_bytes, self.bytes = part_bytes, 0
        self._number = max(medium.found(), default=0)
        self._writer: DeltaWriter | None = None
        self._buffers: dict[int, FrameBuffer] = {}
        self._lock = threading.Lock()

    def put(self, batch: Batch, worker: int) -> None:
        """Pack outside the lock, write inside."""
        if worker not in self._buffers:
            self._buffers[worker] = FrameBuffer(*self.codec)
        buffer = self._buffers[worker]
        buffer.encode(batch, self.seed.header().tag)
        with self._lock:
            if self._writer is not None and self._writer.offset + buffer.used > self.part_bytes:
                self._end()
            writer = self._writer or self._begin()
            writer.append(buffer)
            self.bytes += buffer.used
        self.held.store(batch.blocks, batch.hashes, batch.count)

    def _begin(self) -> DeltaWriter:
        self._number += 1
        if self._number > MAX_PARTS:
            raise errors.Refused(f"a seed has at most {MAX_PARTS} parts", path=self.medium.folder)
        file = self.medium.files.open(self.medium.part(self._number) + ".tmp", "create")
        self._writer = DeltaWriter(file, self.seed.header())
        return self._writer

    def finish(self) -> None:
        """What was written is whole parts, durable and read back, when this returns."""
        with self._lock:
            if self._writer is not None:
                self._end()

    def _end(self) -> None:
        writer, self._writer = self._writer, None
        assert writer is not None
        path, files = self.medium.part(self._number), self.medium.files
        with writer.file:
            writer.finish(NO_SEAL, NO_SEAL)
        files.replace(path + ".tmp", path)
        files.flush_dir(self.medium.folder)
        self._prove(self._number)

    def _prove(self, number: int) -> None:
        """Raises Damaged, and takes the part away, where it does not read back as it was written."""
        try:
            self.medium.prove(self.seed, number, Monitor())
        except errors.Damaged:
            self.medium.files.unlink(self.medium.part(number))
            raise

    def drop(self) -> None:
        """Forget the part that is being written."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.file.close()
            self.medium.files.unlink(self.medium.part(self._number) + ".tmp")
