"""Compressed grains of streamOptimized extents: each behind a marker, inflated one at a time (formats section 3)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer, Image
from secondsite.engine.images.vmdk.cache import Cache
from secondsite.engine.images.vmdk.header import SECTOR, SparseHeader

_MARKER = struct.Struct("<QI")
# What is inflated is kept: a scan asks for each grain once or twice, a guest for the same ones again.
_HELD_BYTES = 4 << 20


class PackedGrains:
    """Reads by the place in the extent. `entry` gives a grain's sector in the file."""

    def __init__(self, file: Image, header: SparseHeader, entry: Callable[[int], int]) -> None:
        self.file, self.header, self._entry = file, header, entry
        self._held = Cache(max(_HELD_BYTES // header.grain, 2))

    def read_into(self, offset: int, buffer: Buffer) -> None:
        size = self.header.grain
        view = memoryview(buffer)
        while view.nbytes:
            grain, inside = divmod(offset, size)
            part = self._held.get(grain, self._inflate)[inside : inside + view.nbytes]
            view[: len(part)] = part
            view, offset = view[len(part) :], offset + len(part)

    def _inflate(self, grain: int) -> bytes:
        """One grain's bytes. Never more than a grain is inflated, whatever the data says."""
        at, size = self._entry(grain) * SECTOR, self.header.grain
        lba, length = _MARKER.unpack(self._read(at, _MARKER.size, grain))
        if lba * SECTOR != grain * size:
            raise self._damaged(at, grain, f"its marker names sector {lba}, {grain * size // SECTOR} was expected")
        # Deflate makes incompressible data longer by some bytes a block; twice the size is far beyond that.
        if not 0 < length <= 2 * size + SECTOR:
            raise self._damaged(at + 8, grain, f"its marker names {length} compressed bytes")
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(self._read(at + _MARKER.size, length, grain), size + 1)
        except zlib.error as error:
            raise self._damaged(at, grain, f"its data does not inflate ({error})") from None
        if len(data) > size:
            raise self._damaged(at, grain, f"it inflates to more than the {size} bytes of a grain")
        # The grain in which the disk ends may be short.
        needed = min(size, self.header.size - grain * size)
        if not unpacker.eof or len(data) < needed:
            raise self._damaged(at, grain, f"it inflates to {len(data)} bytes, {needed} were expected")
        return data.ljust(size, b"\0")

    def _read(self, at: int, length: int, grain: int) -> bytes:
        if at + length > self.file.size:
            raise self._damaged(at, grain, f"the file ends at byte {self.file.size}")
        return bytes(self.file.read(at, length))

    def _damaged(self, at: int, grain: int, what: str) -> errors.Damaged:
        return errors.Damaged(f"compressed grain {grain}: {what}", path=self.file.path, offset=at)
