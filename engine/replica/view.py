"""A recovery point as an image to read, without a copy of it: what its undo deltas hold, and the base below them."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator

from secondsite.engine import errors, kernel
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import Frame
from secondsite.engine.images import Extent, Segments, ShortImage
from secondsite.engine.images.base import Buffer
from secondsite.engine.replica import chain as chains
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.lookup import FrameIndex
from secondsite.engine.replica.point import Point
from secondsite.engine.replica.pointimage import PointImage
from secondsite.engine.replica.recovery import store_frame
from secondsite.engine.units import MIB
from secondsite.engine.workers import default_workers

# Frames kept decoded: at 256 KiB each they are at most 16 MiB.
CACHE_FRAMES = 64


def point_map(replica: Replica, point: Point, *, lazily: bool = False) -> BlockMap:
    """The block map of a point, proved by its seal. For the newest and for clones it is the stored one; else the
    base's map with the undo deltas' tables over it, in a temporary file. Close it after use. Raises Damaged.
    `lazily`: a page that is damaged is met when it is read, which is for those who read few of them.
    """
    chain = chains.find(replica, point.generation)
    found = base_map(replica, chain.base, chain.base_path, chain.base_map, lazily=lazily)
    try:
        if chain.undos:
            base, found = found, found.copy_to(replica.files.temporary(replica.layout.root), chain.base_map)
            base.close()
        for undo in reversed(chain.undos):
            reader = replica.open_undo(undo)
            try:
                found.resize(reader.header.target_size)
                for frame in reader.tables():
                    store_frame(found, frame)
            finally:
                reader.close()
        if found.seal().hex() != point.seal or found.image_size != point.virtual_bytes:
            raise errors.Damaged(
                f"the block map of point {point.name} does not have the seal that was recorded",
                path=replica.layout.undo(chain.undos[0]) if chain.undos else chain.base_map,
            )
        return found
    except BaseException:
        found.close()
        raise


def base_map(replica: Replica, generation: int, image: str, path: str, *, lazily: bool = False) -> BlockMap:
    """The block map of a generation with a whole image. Where the stored one is damaged, and the image has the seal of
    its point, the map is made anew from the image, for this call: points can be had without a source to mend it from.
    Raises Damaged. Who reads it `lazily` meets that later, and asks again.
    """
    try:
        found = replica.open_map(path)
        try:
            if not lazily:
                found.check()
            return found
        except BaseException:
            found.close()
            raise
    except errors.Damaged as error:
        made = replica.rebuilt.get(path)
        if made is None:
            made = replica.rebuilt[path] = _rebuild(replica, generation, image, path, error)
        return made.copy_to(replica.files.temporary(replica.layout.root), path)


def _rebuild(replica: Replica, generation: int, image: str, path: str, wrong: errors.Damaged) -> BlockMap:
    from secondsite.engine import scan

    identity, point = replica.identity, replica.point(generation)
    with replica.open_disk(image) as disk:
        temporary = replica.files.temporary(replica.layout.root)
        made = BlockMap.create(temporary, path, identity.replica_id, identity.block_size, disk.size)
        scan.rebuild(disk, made, identity.seed, workers=default_workers())
    if made.seal().hex() != point.seal:
        made.close()
        raise wrong
    replica.warn(f"{wrong}; the image has the seal of point {point.name}, so its map was made anew for this call")
    return made


class _Layer(FrameIndex):
    """One undo delta's index in memory (24 bytes a frame). The file is opened for each frame: chains may be longer
    than a process may hold files open. Opening takes 7 µs, reading and unpacking a frame that packs well 20 µs.
    """

    def __init__(self, replica: Replica, generation: int) -> None:
        self.replica, self.generation = replica, generation
        reader = replica.open_undo(generation)
        try:
            super().__init__(reader)
        finally:
            reader.close()

    def frame(self, offset: int) -> Frame:
        """The frame at an offset, checked."""
        reader = self.replica.open_undo(self.generation)
        try:
            return reader.frame(offset)
        finally:
            reader.close()


class PointView(PointImage):
    """A point's bytes, read-only. The caller holds the replica as a reader.

    Reads check nothing beyond the frames' checksums: who needs proof compares with `point_map`.
    """

    def __init__(self, replica: Replica, point: Point) -> None:
        chain = chains.find(replica, point.generation)
        self.path = f"{replica.layout.root} at point {point.name}"
        self.point, self.block_size = point, replica.identity.block_size
        self._layers: list[_Layer] = []
        self._base = replica.open_disk(chain.base_path)
        try:
            for undo in chain.undos:
                self._layers.append(_Layer(replica, undo))
        except BaseException:
            self.close()
            raise
        self._cache: OrderedDict[tuple[int, int], tuple[Frame, bytearray | None]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return self.point.virtual_bytes

    @property
    def plain(self) -> bool:
        """Is the base the point itself, with nothing over it?"""
        return not self._layers

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        if start + length > self.size:
            raise ShortImage(f"no {length} bytes at {start}", path=self.path)
        if self.plain:
            yield from self._base.extents(start, length)
        elif length:
            yield Extent(start, length, False)

    def segments(self, start: int, length: int) -> Segments | None:
        return self._base.segments(start, length) if self.plain else None

    def read_into(self, offset: int, buffer: Buffer) -> None:
        view = memoryview(buffer)
        if offset + view.nbytes > self.size:
            raise ShortImage(f"the point ends before {offset + view.nbytes}", path=self.path, offset=offset)
        if self.plain:
            self._base.read_into(offset, view)
            return
        while view.nbytes:
            first = offset // self.block_size
            part = min(view.nbytes, first * self.block_size + max(self.block_size, MIB) - offset)
            last = (offset + part - 1) // self.block_size
            slots, _ = self.slots(array("Q", range(first, last + 1)))
            inside = offset - first * self.block_size
            view[:part] = memoryview(slots)[inside : inside + part]
            view, offset = view[part:], offset + part

    def read_blocks(
        self, blocks: array[int], lengths: array[int], count: int, block_size: int, payload: Buffer
    ) -> int:
        if self.plain:
            return self._base.read_blocks(blocks, lengths, count, block_size, payload)
        slots, found = self.slots(blocks[:count])
        if found != lengths[:count]:
            # Damage: a block's sort is not what its map says. The caller's hashes will tell which.
            return super().read_blocks(blocks, lengths, count, block_size, payload)
        return kernel.entries.compact(slots, found, count, block_size, payload)

    def slots(self, blocks: array[int]) -> tuple[bytearray, array[int]]:
        """The contents of some ascending blocks, one to a slot of `block_size`, and their lengths (0: zeros).

        What a slot's block does not fill is zero.
        """
        count = len(blocks)
        slots, lengths = bytearray(count * self.block_size), array("I", bytes(4 * count))
        resolved = bytearray(count)
        left = count
        for number, layer in enumerate(self._layers):
            for at in layer.frames(blocks[0], blocks[-1]):
                if left:
                    left -= self._pick(number, layer, at, blocks, resolved, lengths, slots)
            # What lies past the end of the generation above was cut off there: it is zero, whatever came later.
            cut = -(-layer.base_size // self.block_size)
            if left and blocks[-1] >= cut:
                left -= kernel.entries.pick_zeros(array("Q", (cut, 1 << 62)), blocks, resolved, count, lengths)
            if not left:
                break
        if left:
            self._read_base(blocks, resolved, lengths, slots)
        return slots, lengths

    def _pick(
        self,
        number: int,
        layer: _Layer,
        at: int,
        blocks: array[int],
        resolved: bytearray,
        lengths: array[int],
        slots: bytearray,
    ) -> int:
        frame, raw = self._frame(number, layer, at, decode=False)
        count = len(blocks)
        if frame.head.kind == fmt.ZEROS:
            return kernel.entries.pick_zeros(frame.runs, blocks, resolved, count, lengths)
        pick = kernel.entries.pick_blocks
        have = len(frame.blocks)
        if raw is None:
            if not pick(
                frame.blocks, frame.lengths, have, b"", blocks, resolved, count, self.block_size, lengths, slots
            ):
                return 0
            frame, raw = self._frame(number, layer, at, decode=True)
        return pick(
            frame.blocks, frame.lengths, have, raw or b"", blocks, resolved, count, self.block_size, lengths,
            slots,
        )  # fmt: skip

    def _frame(self, number: int, layer: _Layer, at: int, *, decode: bool) -> tuple[Frame, bytearray | None]:
        key = (number, at)
        with self._lock:
            held = self._cache.get(key)
            if held is not None:
                self._cache.move_to_end(key)
        frame, raw = held if held is not None else (layer.frame(at), None)
        if decode and raw is None:
            raw = frame.decode(kernel.codec.Decoder())
            held = None
        if held is None:
            with self._lock:
                self._cache[key] = (frame, raw)
                if len(self._cache) > CACHE_FRAMES:
                    self._cache.popitem(last=False)
        return frame, raw

    def _read_base(
        self, blocks: array[int], resolved: bytearray, lengths: array[int], slots: bytearray
    ) -> None:
        view = memoryview(slots)
        size = min(self._base.size, self.size)
        index, count = 0, len(blocks)
        while index < count:
            if resolved[index]:
                index += 1
                continue
            end = index + 1
            while end < count and not resolved[end] and blocks[end] == blocks[end - 1] + 1:
                end += 1
            start = blocks[index] * self.block_size
            length = min((blocks[end - 1] + 1) * self.block_size, size) - start
            if length > 0:
                self._base.read_into(start, view[index * self.block_size : index * self.block_size + length])
            for slot in range(index, end):
                lengths[slot] = max(0, min(self.block_size, size - blocks[slot] * self.block_size))
            index = end

    def close(self) -> None:
        self._base.close()
