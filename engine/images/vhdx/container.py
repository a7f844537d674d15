"""The file under a VHDX disk, as it reads once its log has been replayed; the file itself is never written.

What the log would write lies over the file: pages in an anonymous file in memory, and ranges of zeros. So a range of
the container is a list of file ranges like any other, whether it holds metadata or, against all custom, payload.
"""

from __future__ import annotations

import heapq
import itertools
import os
import stat
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from secondsite.engine import errors, kernel
from secondsite.engine.images.base import Segments, ShortImage, Stamp
from secondsite.engine.images.vhdx.structures import MAX_FILE, damaged


class Patch(NamedTuple):
    """Bytes [start, end) of the file come from `source` of the pages' file, or are zeros where it is -1."""

    start: int
    end: int
    source: int


class Container:
    """`path` opened for reading; `size` grows where the log extends the file. Methods are safe in threads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.fd = self.pages = -1
        self.overlay = (array("q"), array("q"), array("q"))
        try:
            # O_NONBLOCK: opening a pipe for reading must not wait for a writer that never comes.
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            info = os.fstat(self.fd)
        except OSError as error:
            raise errors.from_os(error, self.path, "open it") from None
        except ValueError:
            raise errors.Usage("a path with a zero byte names no file", path=repr(self.path)) from None
        if not stat.S_ISREG(info.st_mode):
            self.close()
            what = "a directory" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise errors.Usage(f"is {what}, not a VHDX file", path=self.path)
        self.stamp = Stamp(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        self.identity = info.st_dev, info.st_ino
        self.stored = self.size = info.st_size
        if self.size > MAX_FILE:
            self.close()
            raise damaged(self.path, MAX_FILE, f"the file has {info.st_size} bytes, no VHDX has more than {MAX_FILE}")

    def lay(self, patches: Sequence[Patch], pages: int, size: int) -> None:
        """Put what the log wrote over the file: patches in the order of writing, an fd to own, the size afterwards."""
        self.pages = pages
        beyond = [Patch(self.stored, size, -1)] if size > self.stored else []
        flat = flatten([*beyond, *patches])
        self.size = max(size, self.stored)
        self.overlay = (
            array("q", [patch.start for patch in flat]),
            array("q", [patch.end for patch in flat]),
            array("q", [patch.source for patch in flat]),
        )

    def segments(self, offset: int, length: int) -> Segments:
        """Where a range of the container lies."""
        return Segments(*kernel.vhdx.overlaid(self.fd, offset, length, *self.overlay, self.pages))

    def read(self, offset: int, length: int, what: str) -> bytes:
        """`length` bytes, which the caller has bounded. Raises Damaged, naming `what`, where the file ends before."""
        if offset + length > self.size:
            raise damaged(
                self.path, offset, f"{what}: {length} bytes were expected, the file ends at {self.size}"
            )
        data = bytearray(length)
        try:
            kernel.files.read_segments(*self.segments(offset, length), data)
        except EOFError:
            raise ShortImage(f"{what}: the file was cut", path=self.path, offset=offset) from None
        except OSError as error:
            raise errors.from_os(error, self.path, f"read {what}") from None
        return bytes(data)

    def close(self) -> None:
        for fd in (self.fd, self.pages):
            if fd >= 0:
                os.close(fd)
        self.fd = self.pages = -1


def flatten(writes: Sequence[Patch]) -> list[Patch]:
    """Writes in their order as patches that lie side by side: each byte has what was written last."""
    order = sorted(range(len(writes)), key=lambda index: writes[index].start)
    edges = sorted({edge for write in writes for edge in (write.start, write.end)})
    latest: list[int] = []  # the writes that began, as negative indexes: the last one comes first
    begun, flat = 0, list[Patch]()
    for start, end in itertools.pairwise(edges):
        while begun < len(order) and writes[order[begun]].start == start:
            heapq.heappush(latest, -order[begun])
            begun += 1
        while latest and writes[-latest[0]].end <= start:
            heapq.heappop(latest)
        if not latest:
            continue
        write = writes[-latest[0]]
        source = write.source + start - write.start if write.source >= 0 else -1
        before = flat[-1] if flat else None
        if before and before.end == start and _continues(before, source):
            flat[-1] = Patch(before.start, end, before.source)
        else:
            flat.append(Patch(start, end, source))
    return flat


def _continues(before: Patch, source: int) -> bool:
    if source < 0 or before.source < 0:
        return source == before.source
    return before.source + before.end - before.start == source
