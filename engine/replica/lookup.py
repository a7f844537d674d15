"""Where each block of a point lies: in which frame of which undo delta, or in the image below them.

The answers are one number a block, in memory that the kernel gives a page at a time, so that a disk of terabytes costs
what was looked at. A window of blocks is filled when it is first read: from the indexes of all deltas come the frames
that may hold its blocks, and each is read whole once and its checksum checked before it is believed. The tables alone
would be quicker to read, but nothing protects them: a bad byte would let a block of another time pass for this one.
"""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator

from secondsite.engine import kernel
from secondsite.engine.delta.reader import DeltaReader, Frame

# Blocks filled at once. Where 100 deltas of 64 MiB each lie in one window's place, the first byte takes 0.6 s at 256.
WINDOW = 256
# Block numbers of frames that were read, kept for the next window: random writes give frames that span many.
_TABLE_BYTES = 64 << 20
# Frames of 256 KiB kept for the blocks of their window: of 100 deltas with random writes each has two or three there.
_FRAME_BYTES = 96 << 20

BASE, ZERO = 0, 1
# What the follower of a head adds (steady.py); a delta's word counts more.
KEPT, KEPT_ZERO = (1 << 64) - 1, (1 << 64) - 2
_FRAMES = 2


class FrameIndex:
    """Where the frames of an undo delta lie, by the blocks they hold; it does not need its reader any more."""

    def __init__(self, reader: DeltaReader) -> None:
        index = reader.index()
        self.base_size = reader.header.base_size
        self.firsts = array("Q", index[0::3].tolist())
        self.offsets = array("Q", index[2::3].tolist())
        # The highest block of this frame and of all before it: frames of two workers may overlap.
        self.reach = array("Q")
        top = 0
        for last in index[1::3].tolist():
            top = max(top, last)
            self.reach.append(top)

    def frames(self, first: int, last: int) -> Iterator[int]:
        """Offsets of the frames that may hold blocks of [first, last]."""
        at = bisect_right(self.firsts, last)
        while at > 0 and self.reach[at - 1] >= first:
            at -= 1
            yield self.offsets[at]


class Layer(FrameIndex):
    """An undo delta, held open, so that it may be dropped or merged while it is read."""

    def __init__(self, reader: DeltaReader) -> None:
        super().__init__(reader)
        self.reader, self.size = reader, reader.file.size


class _Held:
    """A frame in memory: as it was read, and from its first use on decoded. `bytes` is the larger of the two."""

    __slots__ = ("_frame", "_raw", "blocks", "bytes", "runs")

    def __init__(self, frame: Frame) -> None:
        self.blocks, self.runs = frame.blocks, frame.runs
        self.bytes = max(len(frame.body), frame.head.raw)
        self._frame: Frame | None = frame
        self._raw = memoryview(b"")

    def payload(self, decoder: object) -> memoryview:
        """The blocks back to back. Raises Damaged."""
        if self._frame is not None:
            self._raw = self._frame.payload(decoder)
            self._frame = None
        return self._raw


class Lookup:
    """For a point of `size` bytes seen through `layers`, its own delta first. Calls are made one at a time."""

    def __init__(self, layers: list[Layer], size: int, block_size: int) -> None:
        self.blocks = -(-size // block_size)
        self._layers, self._size, self._block_size = layers, size, block_size
        self._memory = mmap.mmap(-1, max(8 * self.blocks, 8), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.table = memoryview(self._memory).cast("Q")
        self._filled = bytearray(-(-self.blocks // WINDOW))
        # By number: which layer, and where in its file.
        self._layer_of, self._offset_of = array("I"), array("Q")
        self._numbers: dict[tuple[int, int], int] = {}
        self._tables: OrderedDict[tuple[int, int], tuple[array[int], array[int]]] = OrderedDict()
        self._held = 0
        self._frames: OrderedDict[tuple[int, int], _Held] = OrderedDict()
        self._frame_bytes = 0
        self._decoder = kernel.codec.Decoder()

    def fill(self, first: int, end: int) -> None:
        """Know where the blocks [first, end) lie. Raises Damaged."""
        for window in range(first // WINDOW, -(-end // WINDOW)):
            if not self._filled[window]:
                self._fill(window * WINDOW, min((window + 1) * WINDOW, self.blocks))
                self._filled[window] = 1

    def _fill(self, first: int, end: int) -> None:
        found: dict[int, int] = {}
        for number, layer in enumerate(self._layers):
            for offset in layer.frames(first, end - 1):
                self._claim(number, offset, first, end, found)
            # What lies past the end of the generation above was cut off there: it is zero, whatever came later.
            for block in range(max(-(-layer.base_size // self._block_size), first), end):
                found.setdefault(block, ZERO)
        for block, value in found.items():
            self.table[block] = value

    def _claim(self, number: int, offset: int, first: int, end: int, found: dict[int, int]) -> None:
        blocks, runs = self._table_of(number, offset)
        low, high = bisect_left(blocks, first), bisect_left(blocks, end)
        if low < high:
            value = _FRAMES + self._number(number, offset)
            for block in blocks[low:high]:
                found.setdefault(block, value)
        for start, count in zip(runs[0::2], runs[1::2], strict=True):
            for block in range(max(start, first), min(start + count, end)):
                found.setdefault(block, ZERO)

    def _table_of(self, number: int, offset: int) -> tuple[array[int], array[int]]:
        key = (number, offset)
        if key in self._tables:
            self._tables.move_to_end(key)
            return self._tables[key]
        held = self._hold(key, self._layers[number])
        made = self._tables[key] = (held.blocks, held.runs)
        self._held += 8 * (len(made[0]) + len(made[1])) + 200
        while self._held > _TABLE_BYTES and len(self._tables) > 1:
            _, (blocks, runs) = self._tables.popitem(last=False)
            self._held -= 8 * (len(blocks) + len(runs)) + 200
        return made

    def _number(self, layer: int, offset: int) -> int:
        found = self._numbers.setdefault((layer, offset), len(self._layer_of))
        if found == len(self._layer_of):
            self._layer_of.append(layer)
            self._offset_of.append(offset)
        return found

    def block(self, value: int, block: int) -> memoryview:
        """The bytes of a block whose entry is a frame. Raises Damaged."""
        number = value - _FRAMES
        layer = self._layer_of[number]
        held = self._hold((layer, self._offset_of[number]), self._layers[layer])
        # All blocks of a frame but the disk's last one are whole.
        at = bisect_left(held.blocks, block) * self._block_size
        return held.payload(self._decoder)[at : at + min(self._block_size, self._size - block * self._block_size)]

    def _hold(self, key: tuple[int, int], layer: Layer) -> _Held:
        """A frame, read and checked at its first use, and kept for a while. Raises Damaged."""
        held = self._frames.get(key)
        if held is not None:
            self._frames.move_to_end(key)
            return held
        held = self._frames[key] = _Held(layer.reader.frame(key[1], layer.size))
        self._frame_bytes += held.bytes
        while self._frame_bytes > _FRAME_BYTES and len(self._frames) > 1:
            _, dropped = self._frames.popitem(last=False)
            self._frame_bytes -= dropped.bytes
        return held

    def close(self) -> None:
        self.table.release()
        self._memory.close()
        for layer in self._layers:
            layer.reader.close()


def in_frame(value: int) -> bool:
    """Is an entry a frame, whose block `Lookup.block` gives?"""
    return _FRAMES <= value < KEPT_ZERO
