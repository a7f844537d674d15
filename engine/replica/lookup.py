"""Where each block of a point lies: in which frame of which undo delta, or in the image below them.

The answers are one number a block, in memory that the kernel gives a page at a time, so that a disk of terabytes costs
what was looked at. A window of blocks is filled when it is first read: from the indexes of all deltas come the frames
that may hold its blocks. Of a frame that is not packed only the table is read, by the sum that it has for itself: a bad
byte in it would let a block of another time pass for this one. Its blocks are read one by one, each proved by its hash
in the table. Frames that are packed, and those of the format's first version, are read whole and kept for a while.
"""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from secondsite.engine import bits, errors, kernel
from secondsite.engine.delta.reader import DeltaReader, Frame, Table
from secondsite.engine.recent import Recent

# Blocks filled at once. Where 100 deltas of 64 MiB each lie in one window's place, the first byte takes 0.6 s at 256.
WINDOW = 256
# Block numbers of frames that were read, kept for the next window: random writes give frames that span many.
_TABLE_BYTES = 64 << 20
# Frames of 256 KiB kept for the blocks of their window: of 100 deltas with random writes each has two or three there.
_FRAME_BYTES = 96 << 20
# Blocks of which a part was asked for.
_BLOCK_BYTES = 8 << 20

BASE, ZERO = 0, 1
# Blocks of which is remembered whether a layer holds them: 32 MiB of bits. A larger disk has no holes for its readers.
MAX_SURVEYED = 1 << 28
# Of packed frames so much is read to know their blocks; of what is more, all from the first to the last one counts.
_SURVEY_BYTES = 256 << 20
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

    __slots__ = ("_frame", "_raw", "bytes", "table")

    def __init__(self, frame: Frame) -> None:
        self.table = Table(frame.blocks, frame.runs)
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

    def __init__(self, layers: list[Layer], size: int, block_size: int, seed: int) -> None:
        self._seed = seed
        self.blocks = -(-size // block_size)
        self._layers, self._size, self._block_size = layers, size, block_size
        self._memory = mmap.mmap(-1, max(8 * self.blocks, 8), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.table = memoryview(self._memory).cast("Q")
        # A bit a block that some layer holds, or a follower kept: of holes in the base these alone are no holes.
        self._held = bytearray(-(-self.blocks // 8)) if self.blocks <= MAX_SURVEYED else bytearray()
        self._surveyed = False
        self._filled = bytearray(-(-self.blocks // WINDOW))
        # By number: which layer, and where in its file.
        self._layer_of, self._offset_of = array("I"), array("Q")
        self._numbers: dict[tuple[int, int], int] = {}
        self._tables: Recent[tuple[int, int], Table] = Recent(_TABLE_BYTES, lambda table: table.memory)
        self._frames: Recent[tuple[int, int], _Held] = Recent(_FRAME_BYTES, lambda held: held.bytes)
        self._blocks: Recent[tuple[int, int], bytearray] = Recent(_BLOCK_BYTES, len)
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
        table = self._table_of(number, offset)
        low, high = bisect_left(table.blocks, first), bisect_left(table.blocks, end)
        if low < high:
            value = _FRAMES + self._number(number, offset)
            for block in table.blocks[low:high]:
                found.setdefault(block, value)
        for start, count in zip(table.runs[0::2], table.runs[1::2], strict=True):
            for block in range(max(start, first), min(start + count, end)):
                found.setdefault(block, ZERO)

    def _table_of(self, number: int, offset: int) -> Table:
        return self._tables.take((number, offset), lambda: self._read_table(number, offset))

    def _read_table(self, number: int, offset: int) -> Table:
        layer = self._layers[number]
        return layer.reader.table(offset, layer.size) or self._hold(number, offset).table

    def _number(self, layer: int, offset: int) -> int:
        found = self._numbers.setdefault((layer, offset), len(self._layer_of))
        if found == len(self._layer_of):
            self._layer_of.append(layer)
            self._offset_of.append(offset)
        return found

    def read(self, value: int, block: int, start: int, place: memoryview) -> None:
        """Bytes from `start` on of a block whose entry is a frame, into `place`. Raises Damaged."""
        number = value - _FRAMES
        layer, offset = self._layer_of[number], self._offset_of[number]
        table, length = self._table_of(layer, offset), min(self._block_size, self._size - block * self._block_size)
        if not table.alone:
            # All blocks of a frame but the disk's last one are whole.
            at = bisect_left(table.blocks, block) * self._block_size + start
            place[:] = self._hold(layer, offset).payload(self._decoder)[at : at + len(place)]
        elif len(place) == length:
            self._read_block(layer, table, block, place)
        else:
            held = self._blocks.take((layer, block), lambda: self._make_block(layer, table, block, length))
            place[:] = memoryview(held)[start : start + len(place)]

    def _make_block(self, layer: int, table: Table, block: int, length: int) -> bytearray:
        made = bytearray(length)
        self._read_block(layer, table, block, memoryview(made))
        return made

    def _read_block(self, number: int, table: Table, block: int, place: memoryview) -> None:
        offset, digest = table.find(block, self._block_size)
        reader = self._layers[number].reader
        reader.file.read_into(offset, place)
        if kernel.scan.hash_block(place, self._seed) != digest:
            raise errors.Damaged(f"block {block} does not have the hash of its table", path=reader.path, offset=offset)

    def _hold(self, number: int, offset: int) -> _Held:
        """A frame, read and checked at its first use, and kept for a while. Raises Damaged."""
        layer = self._layers[number]
        return self._frames.take((number, offset), lambda: _Held(layer.reader.frame(offset, layer.size)))

    # -- holes ---------------------------------------------------------------------------------------------------

    def survey(self) -> bool:
        """Read which blocks the layers hold, once; False for a disk of too many blocks. Raises Damaged."""
        if not self._held:
            return not self.blocks
        if not self._surveyed:
            left = _SURVEY_BYTES
            for number, layer in enumerate(self._layers):
                for first, reach, offset in zip(layer.firsts, layer.reach, layer.offsets, strict=True):
                    table = layer.reader.table(offset, layer.size)
                    if table is None and left > 0:
                        held = self._hold(number, offset)
                        table, left = held.table, left - held.bytes
                    if table is None:
                        bits.set_run(self._held, first, min(reach + 1, self.blocks))
                    else:
                        for block in table.blocks:
                            self.hold(block)
            self._surveyed = True
        return True

    def hold(self, block: int) -> None:
        """Something other than the base has this block."""
        if block < self.blocks and self._held:
            self._held[block >> 3] |= 1 << (block & 7)

    def split(self, start: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """A hole of the base, after `survey`, as (start, length, whether it is one of the point's too)."""
        at, stop = start, start + length
        block, end = start // self._block_size, -(-stop // self._block_size)
        while at < stop:
            held = bits.is_set(self._held, block)
            block = bits.run_end(self._held, block, end)
            high = min(block * self._block_size, stop)
            yield at, high - at, not held
            at = high

    def close(self) -> None:
        self.table.release()
        self._memory.close()
        for layer in self._layers:
            layer.reader.close()


def in_frame(value: int) -> bool:
    """Is an entry a frame, whose blocks `Lookup.read` gives?"""
    return _FRAMES <= value < KEPT_ZERO
