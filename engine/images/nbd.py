"""The export of an NBD server as an image, over as many connections as the server promises to keep in step.

An image whose connection broke is over, in all its threads: another connection may reach a server that was started
anew, which has lost what was not flushed, or that serves another disk by now. Whoever wants to go on opens it again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer, Extent, Image, ShortImage
from secondsite.engine.images.facts import ImageFacts
from secondsite.engine.nbd import protocol as p
from secondsite.engine.nbd.client import Connection
from secondsite.engine.nbd.transport import TIMEOUT
from secondsite.engine.nbd.url import NbdUrl, parse_url
from secondsite.engine.units import GIB, MIB

CONNECTIONS = 4
# What one question for extents is about. A server may answer for more, or for less where there are many.
_STATUS_PIECE = GIB
# Of less than this nobody asks where its holes are: the answer takes a server 5 ms where it looks through a page cache
# without holes (512 MiB on tmpfs), and reading 16 KiB takes 0.4 ms. 1,580 runs of changed blocks: 9.5 s, now 0.6 s.
_STATUS_LEAST = MIB


class NbdImage(Image):
    """An export; `mode` is `r` or `rw`. `path` is its URL.

    Raises what `Connection.open` raises; Refused for `rw` where the export is read-only, or has no way to make
    writes durable. `timeout` is in seconds, of each answer.
    """

    gathers = True
    grain = 0
    """Where not 0, no read of the server crosses a multiple of it, and the server does not look for holes in it."""

    def __init__(
        self, url: NbdUrl | str, mode: str = "r", *, timeout: float = TIMEOUT, connections: int = CONNECTIONS
    ) -> None:
        self.url = parse_url(url) if isinstance(url, str) else url
        self.path = str(self.url)
        self.mode = mode
        self._timeout = timeout
        self._ended = ""
        first = self._connect()
        first.grain = self.grain
        self.export = first.export
        self._all, self._free = [first], [first]
        self._limit = connections if first.has(p.FLAG_CAN_MULTI_CONN) else 1
        self._opening = 0
        self._changed = threading.Condition()
        self._unaligned = threading.Lock()
        self._fua = not first.has(p.FLAG_SEND_FLUSH)
        if mode != "r":
            self._check_writable(first)

    def _check_writable(self, connection: Connection) -> None:
        problem = ""
        if connection.has(p.FLAG_READ_ONLY):
            problem = "the export is read-only"
        elif self._fua and not connection.has(p.FLAG_SEND_FUA):
            problem = "the server has neither flush nor FUA: nothing that is written could be made durable"
        if problem:
            self.close()
            raise errors.Refused(problem, path=self.path)

    @property
    def size(self) -> int:
        return self.export.size

    # -- reading -------------------------------------------------------------------------------------------------

    def read_into(self, offset: int, buffer: Buffer) -> None:
        length = memoryview(buffer).nbytes
        self._check_end(offset + length)
        start, stop = self._aligned(offset, offset + length)
        with self._connection() as connection:
            if (start, stop) == (offset, offset + length):
                connection.read_into(offset, buffer)
            elif length:
                bounce = bytearray(stop - start)
                connection.read_into(start, bounce)
                memoryview(buffer).cast("B")[:] = memoryview(bounce)[offset - start : offset - start + length]

    def read_parts(self, parts: Sequence[tuple[int, memoryview]]) -> None:
        together = []
        for offset, view in parts:
            end = offset + view.nbytes
            self._check_end(end)
            if (offset, end) == self._aligned(offset, end):
                together.append((offset, view))
            else:
                self.read_into(offset, view)
        if together:
            with self._connection() as connection:
                connection.read_parts(together)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """As the server's `base:allocation` says; all data where it has none."""
        end = start + length
        self._check_end(end)
        if p.CONTEXT_ALLOCATION not in self.export.contexts:
            if length:
                yield Extent(start, length, False)
            return
        for at, stop, flags in self._status(start, end, p.CONTEXT_ALLOCATION, p.STATE_ZERO):
            yield Extent(at, stop - at, bool(flags))

    def scan_extents(self, start: int, length: int) -> Iterator[Extent]:
        """As `extents`; what is read as fast as it is asked about counts as data."""
        if 0 < length <= _STATUS_LEAST:
            self._check_end(start + length)
            return iter((Extent(start, length, False),))
        return self.extents(start, length)

    def changed(self, context: str | None = None) -> Iterator[tuple[int, int]]:
        """(start, length) of what a dirty bitmap names, in order: the URL's, or another context that was agreed on.

        Raises Usage where the URL names no bitmap.
        """
        chosen = context or self.url.bitmap
        if chosen is None:
            raise errors.Usage("names no bitmap: add bitmap=NAME", path=self.path)
        for at, stop, flags in self._status(0, self.size, chosen, p.STATE_DIRTY):
            if flags:
                yield at, stop - at

    def _status(self, start: int, end: int, context: str, mask: int) -> Iterator[tuple[int, int, int]]:
        """(start, end, flags & mask) of the stretches of a range; neighbours differ."""
        at, begin, state = self._aligned(start, end)[0], start, None
        while at < end:
            length = min(_STATUS_PIECE, self._aligned(at, end)[1] - at)
            with self._connection() as connection:
                found = connection.block_status(at, length, context)
            for length, flags in found:
                if flags & mask != state:
                    if state is not None and at > begin:
                        yield begin, min(at, end), state
                        begin = at
                    state = flags & mask
                at += length
                if at >= end:
                    break
        if state is not None and begin < end:
            yield begin, end, state

    # -- writing -------------------------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes | Buffer) -> None:
        with memoryview(data) as view:
            end = offset + view.nbytes
            self._check_writes()
            if end > self.size:
                raise errors.Full(f"the export has {self.size} bytes, {end} are needed", path=self.path)
            if (offset, end) == self._aligned(offset, end):
                with self._connection() as connection:
                    connection.write(offset, view, fua=self._fua)
            elif view.nbytes:
                self._patch(offset, view)

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        self._check_writes()
        if offset + length > self.size:
            raise ValueError(f"{self.path}: zeros to {offset + length} of {self.size}")
        end, block = offset + length, self.export.minimum
        first = min(-(-offset // block) * block, end)
        last = max(end if end == self.size else end // block * block, first)
        for start, stop in ((offset, first), (last, end)):
            if start < stop:
                self._patch(start, memoryview(bytes(stop - start)))
        if first < last:
            with self._connection() as connection:
                connection.zero(first, last - first, punch=punch, fua=self._fua)

    def _patch(self, offset: int, data: memoryview) -> None:
        """Write what is no whole number of the server's blocks: with what is around it, one such write at a time."""
        start, stop = self._aligned(offset, offset + data.nbytes)
        around = bytearray(stop - start)
        with self._unaligned, self._connection() as connection:
            connection.read_into(start, around)
            memoryview(around)[offset - start : offset - start + data.nbytes] = data.cast("B")
            connection.write(start, around, fua=self._fua)

    def resize(self, size: int) -> None:
        self._check_writes()
        if size != self.size:
            raise errors.Refused(f"the export has {self.size} bytes, and NBD cannot make it {size}", path=self.path)

    def flush(self) -> None:
        """On one connection, which is for all of them: that is what the server's promise means."""
        if self.mode != "r":
            with self._connection() as connection:
                connection.flush()

    def facts(self) -> ImageFacts:
        """What `info` tells of it."""
        used = sum(extent.length for extent in self.extents(0, self.size) if not extent.zero)
        kind = "read-only export" if self.export.flags & p.FLAG_READ_ONLY else "export"
        return ImageFacts("nbd", kind, self.size, self.export.preferred, allocated_bytes=used)

    def close(self) -> None:
        with self._changed:
            self._ended = self._ended or "the image was closed"
            gone, self._all, self._free = self._all, [], []
            self._changed.notify_all()
        for connection in gone:
            connection.disconnect()

    # -- the pool ------------------------------------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A connection for this thread alone; a new one where all are in use and the server allows more."""
        connection = self._take() or self._open()
        try:
            yield connection
        finally:
            with self._changed:
                self._free.append(connection)
                self._ended = self._ended or connection.ended
                self._changed.notify()

    def _take(self) -> Connection | None:
        """A free one, after waiting for it; None where another is to be opened."""
        with self._changed:
            while not self._ended:
                if self._free:
                    return self._free.pop()
                if len(self._all) + self._opening < self._limit:
                    self._opening += 1
                    return None
                self._changed.wait()
            raise errors.Unreachable(self._ended, path=self.path)

    def _connect(self) -> Connection:
        return Connection.open(self.url, timeout=self._timeout)

    def _open(self) -> Connection:
        connection = None
        try:
            connection = self._connect()
            connection.grain = self.grain
            if connection.export.size != self.size or connection.export.flags != self.export.flags:
                raise errors.Unreachable("the server changed the export while it was open", path=self.path)
            with self._changed:
                if not self._ended:
                    self._all.append(connection)
                    return connection
            raise errors.Unreachable(self._ended, path=self.path)
        except BaseException:
            if connection is not None:
                connection.disconnect()
            raise
        finally:
            with self._changed:
                self._opening -= 1
                self._changed.notify()

    # -- checks --------------------------------------------------------------------------------------------------

    def _aligned(self, start: int, end: int) -> tuple[int, int]:
        """A range widened to the server's smallest blocks; the disk may end in the middle of one."""
        block = self.export.minimum
        return start // block * block, min(-(-end // block) * block, self.size)

    def _check_end(self, end: int) -> None:
        if end > self.size:
            raise ShortImage(f"the export has {self.size} bytes, {end} were expected", path=self.path)

    def _check_writes(self) -> None:
        if self.mode == "r":
            what = "the export is" if self.export.flags & p.FLAG_READ_ONLY else "it was opened"
            raise errors.Refused(f"{what} read-only", path=self.path)


def open_export(url: str, format: str | None = None) -> tuple[NbdImage, str | None]:
    """A source of cycles, whose `path` is its URL without the bitmap; and that bitmap, which the server may have lost.

    Raises as NbdImage, and Usage for a format that an export has not.
    """
    if format not in (None, "nbd", "raw"):
        raise errors.Usage(f"is an NBD URL, whose disk is read as it is and not as {format}", path=url)
    where = parse_url(url)
    plain = replace(where, bitmap=None)
    try:
        image = NbdImage(where)
    except errors.Refused:
        if where.bitmap is None:
            raise
        image = NbdImage(plain)  # where it was refused for something else, that comes again
    image.path = str(plain)
    return image, where.bitmap
