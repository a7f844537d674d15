"""What a whole delta holds, as batches for a cycle: every check of the file, and each block against its hash."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from secondsite.engine import errors, kernel
from secondsite.engine.batch import BATCH_BYTES, Batch
from secondsite.engine.delta.reader import DeltaReader, Frame

_RUN = 4096


def batches(reader: DeltaReader, seed: int) -> Iterator[Batch]:
    """The blocks of each batch ascend; it may be used until the next is asked for. Raises Damaged, at the latest at the
    end of the delta.
    """
    batch, decoder = Batch(reader.header.block_size, BATCH_BYTES), kernel.codec.Decoder()
    for frame in reader.frames():
        if batch.count and (frame.head.first <= batch.blocks[batch.count - 1] or not _room(batch, frame)):
            yield batch
            batch.reset()
        if frame.runs:
            for blocks in _runs(frame):
                if len(blocks) > len(batch.blocks) - batch.count:
                    yield batch
                    batch.reset()
                batch.add_zeros(blocks, 0, len(blocks))
        else:
            _add(batch, frame, decoder, seed)
    if batch.count:
        yield batch


def _room(batch: Batch, frame: Frame) -> bool:
    places = len(batch.blocks) - batch.count
    return len(frame.blocks) <= places and frame.head.raw <= len(batch.payload) - batch.used


def _runs(frame: Frame) -> Iterator[array[int]]:
    for first, count in zip(frame.runs[0::2], frame.runs[1::2], strict=True):
        for start in range(first, first + count, _RUN):
            yield array("Q", range(start, min(start + _RUN, first + count)))


def _add(batch: Batch, frame: Frame, decoder: object, seed: int) -> None:
    n, count = batch.count, len(frame.blocks)
    raw = frame.payload(decoder)
    found = bytearray(16 * count)
    kernel.scan.hash_blocks(raw, frame.lengths, count, seed, found)
    if found != frame.hashes:
        raise errors.Damaged("a block does not have the hash beside it", path=frame.path, offset=frame.offset)
    batch.blocks[n : n + count] = frame.blocks
    batch.lengths[n : n + count] = frame.lengths
    batch.hashes[16 * n : 16 * (n + count)] = frame.hashes
    batch.payload[batch.used : batch.used + len(raw)] = raw
    batch.count, batch.used = n + count, batch.used + len(raw)
