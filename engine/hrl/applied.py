"""A disk with the writes of a chain of logs applied, as an Image; nothing is written anywhere.

A cycle whose source this is, over the replica's own head, brings the head to where the logs lead. That it writes the
head while it reads through it is no harm: where a log has written, the log is read, and the rest stays what it is.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from secondsite.engine import errors, kernel
from secondsite.engine.hrl.reader import HrlReader
from secondsite.engine.images.base import Extent, Image, Segments, Stamp
from secondsite.engine.images.layered import HOLE, Handles
from secondsite.engine.images.mapped import MappedImage

# So many 4 KiB writes fill 16 GiB of logs. The index takes 28 bytes a piece (118 MB), while it is made 150 (measured).
MAX_ENTRIES = 1 << 22


def overlay(image: Image, readers: Sequence[HrlReader]) -> HrlOverlay:
    """`image` with the logs applied in the order given, which is that of `check_chain`.

    Every byte of every log is read and checked here. Raises Damaged, and Refused for a write past the disk's end.
    """
    return HrlOverlay(image, readers)


class HrlOverlay(MappedImage):
    """Closing it closes the logs, not the image below. `unproved_bytes` are data whose log kept no checksum of them.

    Its stamps and files are those of the logs: the image below is the replica's, which nobody else may write.
    """

    def __init__(self, image: Image, readers: Sequence[HrlReader]) -> None:
        self.path, self.base = readers[-1].path if readers else image.path, image
        self._handles = Handles()
        # The pieces of the disk that come from logs, ascending: start, bytes, handle of the log, place in it.
        self._starts, self._lengths = array("q"), array("q")
        self._fds, self._offsets = array("i"), array("q")
        index = _Index(image.size)
        for reader in readers:
            index.add(reader, self._handles.add(self._handles.own(reader.file)))
        self._fill_arrays(index.pieces())
        self.unproved_bytes = sum(reader.unproved_bytes for reader in readers)
        self._mapped = self._handles.mapped and image.segments(0, 0) is not None

    def _fill_arrays(self, pieces: Segments) -> None:
        at = 0
        for fd, offset, length in zip(*pieces, strict=True):
            if fd != HOLE and length:
                self._starts.append(at)
                self._lengths.append(length)
                self._fds.append(fd)
                self._offsets.append(offset)
            at += length

    @property
    def size(self) -> int:
        return self.base.size

    def changed_ranges(self) -> Iterator[tuple[int, int]]:
        """(start, length) of what the logs wrote: ascending, to the byte, none touching the next."""
        return self._ranges(0, self.size)

    def _ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        begin = stop = -1
        for at, length, _, _ in self._pieces(start, end):
            if at != stop:
                if stop > begin:
                    yield begin, stop - begin
                begin = at
            stop = at + length
        if stop > begin:
            yield begin, stop - begin

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """The part of each piece that lies in a range: start, length, handle, place in the log."""
        first = bisect_right(self._starts, start) - 1
        if first < 0 or self._starts[first] + self._lengths[first] <= start:
            first += 1
        for index in range(first, bisect_left(self._starts, end)):
            at, place = self._starts[index], self._offsets[index]
            cut = max(start - at, 0)
            stop = min(at + self._lengths[index], end)
            yield at + cut, stop - at - cut, self._fds[index], place + cut

    # None where a log or the image below is no range of a file, which MappedImage does not know.
    def segments(self, start: int, length: int) -> Segments | None:  # type: ignore[override]
        """The file ranges of a range; None where the image below, or a log, is in memory or compressed."""
        self.within(start, length)
        below = self.base.segments(start, length) if self._mapped else None
        if below is None:
            return None
        fds, offsets, lengths = array("i"), array("q"), array("q")
        done = start
        for at, part, fd, place in self._pieces(start, start + length):
            if at > done:
                fds.append(HOLE)
                offsets.append(0)
                lengths.append(at - done)
            fds.append(fd)
            offsets.append(place)
            lengths.append(part)
            done = at + part
        fds.append(HOLE)
        offsets.append(0)
        lengths.append(start + length - done)
        return Segments(*kernel.tables.overlay(fds, offsets, lengths, *below, HOLE))

    def _fill(self, offset: int, part: memoryview) -> None:
        if self._mapped:
            super()._fill(offset, part)
            return
        self.base.read_into(offset, part)
        for at, length, handle, place in self._pieces(offset, offset + part.nbytes):
            with part[at - offset : at - offset + length] as piece:
                self._handles.read(handle, place, piece)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        self.within(start, length)
        done = start
        for at, part in self._ranges(start, start + length):
            if at > done:
                yield from self.base.extents(done, at - done)
            yield Extent(at, part, False)
            done = at + part
        if done < start + length:
            yield from self.base.extents(done, start + length - done)

    def stamps(self) -> tuple[Stamp, ...] | None:
        return self._handles.stamps() or None  # no log, nothing that could change

    def files(self) -> list[str]:
        return self._handles.paths()

    def close(self) -> None:
        self._handles.close()


class _Index:
    """Pieces of the whole disk, made of entries in order, of which the later wins.

    Ascending entries make a run; runs are laid over each other in pairs of about equal size, so that n entries cost
    n log n steps of a kernel.
    """

    def __init__(self, size: int) -> None:
        self.size, self.entries = size, 0
        self._runs: list[Segments] = []
        self._begin()

    def _begin(self) -> None:
        self._run, self._end = Segments(array("i"), array("q"), array("q")), 0

    def add(self, reader: HrlReader, handle: int) -> None:
        """All writes of a log."""
        for entry in reader.entries():
            end = entry.offset + entry.length
            if end > self.size:
                raise errors.Refused(
                    f"it writes to byte {end} of a disk of {self.size}: the log {reader.unique_id} is of another disk, "
                    "or the disk has grown (then replicate the disk itself)",
                    path=reader.path,
                )
            self.entries += 1
            if self.entries > MAX_ENTRIES:
                raise errors.Refused(f"more than {MAX_ENTRIES} writes at once; apply fewer logs", path=reader.path)
            if entry.offset < self._end:
                self._push()
            self._append(HOLE, 0, entry.offset - self._end)
            self._append(handle, entry.location, entry.length)

    def _append(self, fd: int, place: int, length: int) -> None:
        if length:
            self._run.fds.append(fd)
            self._run.offsets.append(place)
            self._run.lengths.append(length)
            self._end += length

    def _push(self) -> None:
        self._append(HOLE, 0, self.size - self._end)
        newest = self._run
        while self._runs and len(self._runs[-1].fds) <= 2 * len(newest.fds):
            newest = Segments(*kernel.tables.overlay(*newest, *self._runs.pop(), HOLE))
        self._runs.append(newest)
        self._begin()

    def pieces(self) -> Segments:
        """All of it as one."""
        self._push()
        found = self._runs.pop()
        while self._runs:
            found = Segments(*kernel.tables.overlay(*found, *self._runs.pop(), HOLE))
        return found
