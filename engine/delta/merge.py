"""Merge two consecutive deltas into one: `first` leads from A to B, `second` from B to C: the result
leads from A to C, and `second` wins."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from secondsite.engine import errors, kernel
from secondsite.engine.batch import Batch
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import DeltaReader, Frame
from secondsite.engine.delta.writer import DeltaWriter, FrameBuffer, seal_frame
from secondsite.engine.images.base import Image


def merge(first: DeltaReader, second: DeltaReader, output: Image, codec: tuple[int, int]) -> fmt.Header:
    """Write to the empty file `output` the delta that does what `first` and then `second` do.

    Both are read whole and checked. Frames that survive whole are copied as they lie; of the others the blocks that
    `second` does not replace are packed anew. Memory: a bit a block, and one frame. Raises Damaged.
    """
    a, b = first.header, second.header
    if a.target_generation != b.base_generation or a.replica_id != b.replica_id or a.block_size != b.block_size:
        raise errors.Damaged(
            f"it starts from generation {b.base_generation}, {a.target_generation} was expected",
            path=second.path,
        )
    if a.target_size != b.base_size or first.end().target_seal != second.end().base_seal:
        raise errors.Damaged(
            f"it starts from another content of generation {b.base_generation} than {first.path} leads to",
            path=second.path,
        )
    header = b._replace(base_generation=a.base_generation, base_size=a.base_size, version=fmt.VERSION)
    blocks = -(-b.target_size // b.block_size)
    replaced = kernel.Bitmap(blocks)
    writer = DeltaWriter(output, header)
    for frame in second.frames():
        mark(replaced, frame)
        writer.copy(frame.head, _packed(frame), frame.zero_blocks)
    survivors = _Survivors(writer, codec, blocks)
    for frame in first.frames():
        survivors.add(frame, replaced)
    # What B did not have and C does was zero in C where `second` does not name it; A may hold something there.
    between = -(-a.target_size // a.block_size)
    survivors.add_zeros([between, min(blocks, -(-a.base_size // a.block_size)) - between], replaced)
    writer.finish(first.end().base_seal, second.end().target_seal)
    return header


def mark(bitmap: kernel.Bitmap, frame: Frame) -> None:
    """Set the bits of a frame's blocks."""
    bitmap.set_many(frame.blocks, len(frame.blocks))
    for start, count in zip(frame.runs[0::2], frame.runs[1::2], strict=True):
        bitmap.set(start, start + count)


def _packed(frame: Frame) -> bytes:
    return fmt.FRAME.pack(*frame.head) + frame.body


class _Survivors:
    """Writes those blocks of the first delta that the second leaves alone."""

    def __init__(self, writer: DeltaWriter, codec: tuple[int, int], blocks: int) -> None:
        self.writer, self.blocks = writer, blocks
        self.buffer = FrameBuffer(*codec)
        self.decoder = kernel.codec.Decoder()

    def add(self, frame: Frame, replaced: kernel.Bitmap) -> None:
        kept = array("Q", [b for b in frame.blocks if b < self.blocks and not replaced.test(b)])
        if len(kept) == len(frame.blocks) and not frame.runs:
            self.writer.copy(frame.head, _packed(frame), 0)
        elif frame.runs:
            self.add_zeros(frame.runs, replaced)
        elif kept:
            self._data(frame, kept)

    def add_zeros(self, given: Sequence[int], replaced: kernel.Bitmap) -> None:
        """Runs of zeros, (first, count) in turn, less what is replaced."""
        runs: list[int] = []
        for start, count in zip(given[0::2], given[1::2], strict=True):
            at, end = start, min(start + count, self.blocks)
            while at < end:
                taken = replaced.next_range(at, end - at)
                stop = min(taken[0], end) if taken else end
                if stop > at:
                    runs += (at, stop - at)
                at = min(taken[1], end) if taken and taken[0] < end else end
        if runs:
            packed = seal_frame(
                fmt.ZEROS, len(runs) // 2, array("Q", runs).tobytes(), self.writer.header.tag,
                runs[0], runs[-2] + runs[-1] - 1,
            )  # fmt: skip
            self.writer.copy(fmt.FrameHeader.unpack(packed), packed, sum(runs[1::2]))

    def _data(self, frame: Frame, kept: array[int]) -> None:
        block_size = self.writer.header.block_size
        batch = Batch(block_size, len(frame.blocks) * block_size)
        raw, at, wanted = frame.decode(self.decoder), 0, set(kept)
        for index, block in enumerate(frame.blocks):
            length = frame.lengths[index]
            if block in wanted:
                batch.blocks[batch.count], batch.lengths[batch.count] = block, length
                batch.hashes[16 * batch.count : 16 * batch.count + 16] = frame.hashes[16 * index : 16 * index + 16]
                batch.payload[batch.used : batch.used + length] = raw[at : at + length]
                batch.count, batch.used = batch.count + 1, batch.used + length
            at += length
        self.buffer.encode(batch, self.writer.header.tag)
        self.writer.append(self.buffer)
