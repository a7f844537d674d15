"""VHDX disks as images: fixed, dynamic and differencing, read-only (formats 1).

A range of the disk becomes file ranges: the top file says of each sector that it has it, that it is zero, or that the
parent has it, and what is left is asked of the next file. That goes chunk by chunk (4 GiB with sectors of 512 bytes),
which are the same in all files of a chain whatever their block sizes, and in kernels that take and give flat arrays.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence

from secondsite.engine import errors, kernel
from secondsite.engine.images.base import Extent, Segments, Stamp
from secondsite.engine.images.facts import ImageFacts, ParentFacts
from secondsite.engine.images.mapped import MappedImage
from secondsite.engine.images.vhdx.chain import open_chain
from secondsite.engine.images.vhdx.check import Finding, check_layers, remarks
from secondsite.engine.images.vhdx.header import creator
from secondsite.engine.images.vhdx.layer import Layer, Pieces
from secondsite.engine.images.vhdx.packing import MIB
from secondsite.engine.images.vhdx.structures import braced

# How many pieces of a chunk are looked at in one go, 20 bytes each: a fragmented chunk may have 8 million.
_LIMIT = 65536


class VhdxImage(MappedImage):
    """The disk in the file at `path`, with the parents it needs.

    Parents are looked for in the file's own folder and in `allow_parent_path`. A dirty log is replayed in memory; the
    file is never written. Raises Damaged, NewerFormat, Unreachable; ParentError, a Refused, for a parent that is
    missing, wrong or elsewhere; Usage for what is not a file.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, allow_parent_path: Sequence[str | os.PathLike[str]] = ()
    ) -> None:
        self.layers = open_chain(path, allow_parent_path)
        self.path = self.top.path

    @property
    def top(self) -> Layer:
        return self.layers[0]

    @property
    def size(self) -> int:
        return self.top.metadata.size

    @property
    def subformat(self) -> str:
        if self.top.locator is not None:
            return "differencing"
        return "fixed" if self.top.metadata.fixed else "dynamic"

    def segments(self, start: int, length: int) -> Segments:
        self.within(start, length)
        fds, offsets, lengths = array("i"), array("q"), array("q")
        for at, size in self._chunks(start, length):
            pieces = self._pieces(at, size, self.layers)
            fds += pieces[0]
            offsets += pieces[1]
            lengths += pieces[2]
        return Segments(fds, offsets, lengths)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """From the table and the bitmaps; holes of the files, from 64 KiB on, are zero extents too."""
        self.within(start, length)
        for at, size, kind in self._runs(start, length, self.layers, True):
            yield Extent(at, size, kind == kernel.vhdx.ZERO)

    def changed_since_parent(self) -> Iterator[Extent]:
        """What the top file says itself, in order: written since it was made, not necessarily different from before.

        For a disk without a parent that is everything that was ever written.
        """
        top = _Alone(self.top)
        for at, size, kind in self._runs(0, self.size, [top], False):
            if kind != kernel.vhdx.PARENT:
                yield Extent(at, size, kind == kernel.vhdx.ZERO)

    def changed_above(self, depth: int) -> Iterator[tuple[int, int]]:
        """Ranges (start, length) that the first `depth` files of the chain say, in order: all that may differ from the
        disk of the file below them."""
        layers: list[Layer | _Alone] = [*self.layers[: depth - 1], _Alone(self.layers[depth - 1])]
        for at, size, kind in self._runs(0, self.size, layers, False):
            if kind != kernel.vhdx.PARENT:
                yield at, size

    def check(self) -> list[Finding]:
        """Everything that is wrong or odd in the files of the chain: the whole of every table is looked at."""
        return check_layers(self.layers)

    def facts(self) -> ImageFacts:
        """What the file says of itself; reads the whole table for the allocated space."""
        top, meta = self.top, self.top.metadata
        counts = top.table.tally()
        return ImageFacts(
            format="vhdx",
            subformat=self.subformat,
            virtual_bytes=meta.size,
            block_size=meta.block_size,
            logical_sector=meta.logical_sector,
            physical_sector=meta.physical_sector,
            parents=tuple(
                ParentFacts(layer.path, braced(layer.header.data_write)) for layer in self.layers[1:]
            ),
            log="dirty" if top.replay else "clean",
            allocated_bytes=(counts[6] + counts[7]) * meta.block_size + counts[8] * MIB,
            identifiers={
                "disk id": braced(meta.disk_id),
                "data write guid": braced(top.header.data_write),
                "file write guid": braced(top.header.file_write),
                "creator": creator(top.container),
            },
            notes=tuple(remarks(top)),
        )

    def stamps(self) -> tuple[Stamp, ...]:
        """Identity and times of every file of the chain, as they are now."""
        found = []
        for layer in self.layers:
            try:
                info = os.fstat(layer.container.fd)
            except OSError as error:
                raise errors.from_os(error, layer.path, "look at it") from None
            found.append(Stamp(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns))
        return tuple(found)

    def descriptors(self) -> list[list[int]]:
        return [[layer.container.fd] for layer in self.layers]

    def files(self) -> list[str]:
        return [layer.path for layer in self.layers]

    def close(self) -> None:
        for layer in self.layers:
            layer.close()

    def _chunks(self, start: int, length: int) -> Iterator[tuple[int, int]]:
        """A range cut where chunks end."""
        end, step = start + length, self.top.metadata.chunk_bytes
        while start < end:
            stop = min(end, (start // step + 1) * step)
            yield start, stop - start
            start = stop

    def _pieces(self, start: int, length: int, layers: Sequence[Layer | _Alone], limit: int = 0) -> Pieces:
        """A range inside one chunk, through the layers; with a limit, perhaps only its beginning."""
        pieces = array("i", [kernel.vhdx.PARENT]), array("q", [start]), array("q", [length])
        for layer in layers:
            pieces = layer.refine(pieces, start, length, limit)
            if layer is not layers[-1] and kernel.vhdx.PARENT not in pieces[0]:
                break
        return pieces

    def _runs(
        self, start: int, length: int, layers: Sequence[Layer | _Alone], holes: bool
    ) -> Iterator[tuple[int, int, int]]:
        """Runs of one kind as (start, length, kind), joined as far as they go."""
        begin, last = start, None
        for at, size in self._chunks(start, length):
            end = at + size
            while at < end:
                pieces = self._pieces(at, end - at, layers, _LIMIT)
                for kind, run in zip(*kernel.vhdx.runs(*pieces, holes), strict=True):
                    if last is not None and kind != last:
                        yield begin, at - begin, last
                        begin = at
                    last = kind
                    at += run
        if last is not None:
            yield begin, start + length - begin, last


class _Alone:
    """A layer without those below it: what it does not have stays the parent's, even where there is none."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def refine(self, pieces: Pieces, start: int, length: int, limit: int = 0) -> Pieces:
        return self.layer.refine(pieces, start, length, limit, kernel.vhdx.PARENT)
