"""Faults on purpose: an image, and a plan of which call fails. Used by the fault tests of every layer."""

from __future__ import annotations

import errno
import threading
from array import array
from collections.abc import Callable, Iterator

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer, Extent, Image, Segments


class Crash(BaseException):
    """The process died here. After it no call has any effect, as if nobody were there to make one."""


class Faults:
    """Counts calls that have effects; the `at`-th one fails (`crash=False`) or ends the process (`crash=True`).

    `kinds` limits it to some of: write, flush, resize, clone, replace, link, unlink, mkdir, rmdir, flush_dir, read.
    A write that fails has first written a part of what it should. `at=0` only counts. `sticky` makes every later
    call fail too, as a disk that stays full does.
    """

    def __init__(
        self,
        at: int = 0,
        *,
        crash: bool = False,
        error: int = errno.ENOSPC,
        kinds: frozenset[str] | None = None,
        sticky: bool = False,
    ) -> None:
        self.at, self.crash, self.error, self.kinds, self.sticky = at, crash, error, kinds, sticky
        self.count = 0
        self.log: list[tuple[str, str]] = []
        self.dead = False
        self._lock = threading.Lock()

    def hit(self, kind: str, path: str, partly: Callable[[], None] | None = None) -> None:
        """Called before an effect; raises instead of letting the chosen one happen."""
        with self._lock:
            if self.dead:
                raise Crash
            if self.kinds is not None and kind not in self.kinds:
                return
            self.count += 1
            self.log.append((kind, path))
            if self.at == 0 or self.count < self.at or (self.count > self.at and not self.sticky):
                return
            if partly is not None:
                partly()
            if self.crash:
                self.dead = True
                raise Crash
        raise errors.from_os(OSError(self.error, ""), path, kind)


class FailingImage(Image):
    """Another image behind a plan of faults."""

    def __init__(self, inner: Image, faults: Faults) -> None:
        self.inner, self.faults, self.path = inner, faults, inner.path

    @property
    def size(self) -> int:
        return self.inner.size

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        return self.inner.extents(start, length)

    def segments(self, start: int, length: int) -> Segments | None:
        reads = self.faults.kinds is not None and "read" in self.faults.kinds
        return None if reads else self.inner.segments(start, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        if self.faults.kinds is not None and "read" in self.faults.kinds:
            self.faults.hit("read", self.path)
        self.inner.read_into(offset, buffer)

    def write(self, offset: int, data: bytes | Buffer) -> None:
        half = bytes(data)[: len(data) // 2]
        self.faults.hit("write", self.path, lambda: self.inner.write(offset, half))
        self.inner.write(offset, data)

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        self.faults.hit("write", self.path)
        self.inner.zero(offset, length, punch=punch)

    def resize(self, size: int) -> None:
        self.faults.hit("resize", self.path)
        self.inner.resize(size)

    def flush(self) -> None:
        self.faults.hit("flush", self.path)
        self.inner.flush()

    def close(self) -> None:
        self.inner.close()

    def read_blocks(
        self, blocks: array[int], lengths: array[int], count: int, block_size: int, payload: Buffer
    ) -> int:
        return self.inner.read_blocks(blocks, lengths, count, block_size, payload)

    def write_blocks(
        self,
        blocks: array[int],
        lengths: array[int],
        count: int,
        block_size: int,
        image_size: int,
        payload: Buffer,
        *,
        punch: bool = True,
    ) -> None:
        def half() -> None:
            self.inner.write_blocks(
                blocks, lengths, count // 2, block_size, image_size, payload, punch=punch
            )

        self.faults.hit("write", self.path, half)
        self.inner.write_blocks(blocks, lengths, count, block_size, image_size, payload, punch=punch)

    def check_blocks(
        self,
        blocks: array[int],
        lengths: array[int],
        hashes: Buffer,
        count: int,
        block_size: int,
        image_size: int,
        seed: int,
    ) -> int:
        return self.inner.check_blocks(blocks, lengths, hashes, count, block_size, image_size, seed)
