"""Images made of layers: a chain of files where each answers for what it holds and asks the one below for the rest.

A layer maps a range of the disk to file ranges in one kernel call; `kernel.tables.overlay` puts one layer's answer over
the next one's. VHD and VMDK are such chains, of length one where there is no parent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from typing import Protocol

from secondsite.engine import kernel
from secondsite.engine.images.base import Buffer, Extent, Image, Segments, Stamp
from secondsite.engine.images.mapped import MappedImage

# In place of an fd: the layer below is to be asked, and nothing is there.
HOLE = -2
ZEROS = -1
# One step of a walk over all extents: bounds what it holds in memory at a time.
_STEP_BYTES = 1 << 30
# Handles of files that have no descriptor (in memory, or compressed) count from here.
_NO_FD = 1 << 30


class Readable(Protocol):
    """What a handle stands for; an Image is one."""

    def read_into(self, offset: int, buffer: Buffer) -> None: ...


class Handles:
    """The open files of one image. A handle is the file's descriptor where it has one.

    `mapped` is false once a handle is not a descriptor: then only `read` can fetch bytes, not a kernel.
    """

    def __init__(self) -> None:
        self.mapped = True
        self._files: list[Image] = []
        self._readers: dict[int, Readable] = {}

    def own(self, file: Image) -> Image:
        """Close this file together with the image."""
        self._files.append(file)
        return file

    def add(self, file: Image) -> int:
        """The handle of an open file."""
        segments = file.segments(0, 0)
        if segments is None or len(segments.fds) != 1 or segments.fds[0] < 0:
            return self.add_reader(file)
        self._readers[segments.fds[0]] = file
        return segments.fds[0]

    def add_reader(self, reader: Readable) -> int:
        """A handle for bytes that are not ranges of a file."""
        handle = _NO_FD + len(self._readers)
        self._readers[handle] = reader
        self.mapped = False
        return handle

    def read(self, handle: int, offset: int, buffer: Buffer) -> None:
        self._readers[handle].read_into(offset, buffer)

    def extents(self, handle: int, offset: int, length: int) -> Iterator[Extent]:
        """Holes and data of a file's range, as the file system tells them."""
        file = self._readers[handle]
        if isinstance(file, Image):
            yield from file.extents(offset, length)
        else:
            yield Extent(offset, length, False)

    def stamps(self) -> tuple[Stamp, ...] | None:
        """Identity and times of the files; None where one of them has none."""
        found: list[Stamp] = []
        for file in self._files:
            stamps = file.stamps()
            if stamps is None:
                return None
            found += stamps
        return tuple(found)

    def paths(self) -> list[str]:
        """The files' names, in the order in which they were opened: the image's own first."""
        return [file.path for file in self._files]

    def close(self) -> None:
        for file in self._files:
            file.close()


class Layer(ABC):
    """One link of a chain. `hole` is HOLE, or ZEROS for the last link, below which there is nothing.

    `plain` says that its data lies in a file as it lies on the disk, so that holes of the file are worth a look.
    """

    size: int
    hole: int = ZEROS
    plain: bool = False

    def descriptors(self) -> list[int]:
        """The handles that `map` may name."""
        return []

    @abstractmethod
    def map(self, start: int, length: int) -> Segments:
        """Handles, offsets and lengths of a range inside the layer. Raises Damaged where its tables lie."""

    @abstractmethod
    def allocated(self) -> int:
        """Bytes of data that this layer holds."""


class LayeredImage(MappedImage):
    """A chain of layers, the newest first, read-only. It owns the files behind `handles`."""

    def __init__(self, path: str, size: int, layers: list[Layer], handles: Handles) -> None:
        self.path, self.layers, self.handles = path, layers, handles
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def map(self, start: int, length: int) -> Segments:
        """As `segments`, where a handle need not be a descriptor."""
        if not length:
            return Segments(array("i"), array("q"), array("q"))
        found = self.layers[0].map(start, length)
        for layer in self.layers[1:]:
            if HOLE not in found.fds:
                break
            below = self._padded(layer, start, length)
            found = Segments(*kernel.tables.overlay(*found, *below, HOLE))
        return found

    @staticmethod
    def _padded(layer: Layer, start: int, length: int) -> Segments:
        """A layer may be shorter than the disk; past its end there are zeros."""
        held = min(max(layer.size - start, 0), length)
        found = layer.map(start, held) if held else Segments(array("i"), array("q"), array("q"))
        if held == length:
            return found
        nothing = (array("i", (ZEROS,)), array("q", (0,)), array("q", (length - held,)))
        return Segments(*(a + b for a, b in zip(found, nothing, strict=True)))

    # None where the bytes are compressed or in memory, which MappedImage does not know.
    def segments(self, start: int, length: int) -> Segments | None:  # type: ignore[override]
        """The file ranges of a range of the disk; None where a file of the chain is compressed or in memory."""
        self.within(start, length)
        return self.map(start, length) if self.handles.mapped else None

    def _fill(self, offset: int, part: memoryview) -> None:
        if self.handles.mapped:
            super()._fill(offset, part)
            return
        at = 0
        for fd, place, length in zip(*self.map(offset, part.nbytes), strict=True):
            with part[at : at + length] as piece:
                if fd < 0:
                    piece[:] = bytes(length)
                else:
                    self.handles.read(fd, place, piece)
            at += length

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        self.within(start, length)
        begin, state = start, None
        at = start
        for zero, size in self._runs(start, length):
            if state is not None and zero != state:
                yield Extent(begin, at - begin, state)
                begin = at
            state = zero
            at += size
        if state is not None:
            yield Extent(begin, at - begin, state)

    def _runs(self, start: int, length: int) -> Iterator[tuple[bool, int]]:
        plain = any(layer.plain for layer in self.layers)
        for at in range(start, start + length, _STEP_BYTES):
            found = self.map(at, min(_STEP_BYTES, start + length - at))
            if plain:
                yield from self._plain_runs(found)
                continue
            for index, size in enumerate(kernel.tables.zero_runs(found.fds, found.lengths)):
                if size:
                    yield index % 2 == 0, size

    def _plain_runs(self, found: Segments) -> Iterator[tuple[bool, int]]:
        for fd, offset, length in zip(*found, strict=True):
            if fd < 0:
                yield True, length
                continue
            for extent in self.handles.extents(fd, offset, length):
                yield extent.zero, extent.length

    def stamps(self) -> tuple[Stamp, ...] | None:
        return self.handles.stamps()

    def files(self) -> list[str]:
        return self.handles.paths()

    def descriptors(self) -> list[list[int]]:
        return [layer.descriptors() for layer in self.layers]

    def close(self) -> None:
        self.handles.close()
