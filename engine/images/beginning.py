"""The first bytes of an image, as an image: where a format's sizes are rounded up, those are the disk."""

from __future__ import annotations

from collections.abc import Iterator

from secondsite.engine.images.base import Buffer, Extent, Image, Segments, Stamp
from secondsite.engine.images.readonly import ReadOnly


class Beginning(ReadOnly):
    """`size` bytes of an image that is as large, or larger, and that stays whoever's it is."""

    refusal = "a part of a disk is read"

    def __init__(self, image: Image, size: int) -> None:
        self.path, self._image, self._size = image.path, image, size

    @property
    def size(self) -> int:
        return self._size

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        return self._image.extents(start, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self._image.read_into(offset, buffer)

    def segments(self, start: int, length: int) -> Segments | None:
        return self._image.segments(start, length)

    def scan_extents(self, start: int, length: int) -> Iterator[Extent]:
        return self._image.scan_extents(start, length)

    def stamps(self) -> tuple[Stamp, ...] | None:
        return self._image.stamps()

    def files(self) -> list[str]:
        return self._image.files()

    def descriptors(self) -> list[list[int]]:
        return self._image.descriptors()

    def flush(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        """Who opened the image closes it."""
