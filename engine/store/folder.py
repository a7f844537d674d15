"""A store in a folder: each object is a file that says at its end what it is (FORMAT.md, section 6).

What a call returned from survives the loss of power: an object is written beside, flushed, renamed into place, and the
folder is flushed. Names change under a lock of the whole folder, so that of several who make or replace one exactly one
succeeds, and a fence that was lost lets nothing pass. A fence is an object as in `leases`; beside it its holder has a
file locked, so that who was killed holds nothing up.
"""

from __future__ import annotations

import os
import posixpath
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from secondsite.engine import errors
from secondsite.engine.files import Files, LocalFiles, Lock
from secondsite.engine.files.confined import ConfinedFiles
from secondsite.engine.files.flushing import Flushing
from secondsite.engine.images.base import Image
from secondsite.engine.store import trailer
from secondsite.engine.store.base import (
    Absent,
    Changed,
    Content,
    Denied,
    Entry,
    Exists,
    Failed,
    Fence,
    check_name,
)
from secondsite.engine.store.leases import FencedStore, ObjectFence
from secondsite.engine.store.paced import Pace
from secondsite.engine.store.place import OWN
from secondsite.engine.store.trailer import TRAILER_BYTES, Trailer

Bytes = bytes | bytearray | memoryview
_PRIVATE = 0o700
_LOCK_SECONDS, _LOOK_SECONDS = 30.0, 0.002


class FolderStore(FencedStore):
    """The objects below `root`, which is made with the first one. `files` is for tests, `clock` the time of fences."""

    def __init__(
        self, root: str, files: Files | None = None, *, label: str | None = None,
        clock: Callable[[], float] = time.time, pace: Pace | None = None,
    ) -> None:  # fmt: skip
        self.label, self.clock, self.pace = label or root, clock, pace
        self.root = root if files is not None else os.path.realpath(root)
        self.files = files or ConfinedFiles(self.root)
        self._own = posixpath.join(self.root, OWN)
        self._new, self._holders = posixpath.join(self._own, "new"), posixpath.join(self._own, "holders")
        self._flushing = Flushing(self.files, self.root)
        self._durable: set[str] = set()
        self._mine = threading.Lock()
        self._writing: Lock | None = None

    def now(self) -> float:
        return self.clock()

    def _path(self, name: str) -> str:
        return posixpath.join(self.root, check_name(name))

    # -- reading -----------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self, name: str) -> Iterator[Image]:
        path = self._path(name)
        try:
            file = self.files.open(path, "r")
        except errors.Unreachable:
            if self.files.exists(path):
                raise
            raise Absent("there is no such object", path=self.path(name)) from None
        with file:
            yield file

    def _trailer(self, file: Image, name: str) -> Trailer:
        size = file.size - TRAILER_BYTES
        data = file.read_bytes(size, TRAILER_BYTES) if size >= 0 else b""
        return trailer.parse(data, size, self.path(name))

    def get(self, name: str, start: int = 0, length: int | None = None) -> Content:
        with self._opened(name) as file:
            found = self._trailer(file, name)
            start = min(start, found.size)
            wanted = found.size - start if length is None else min(length, found.size - start)
            return Content(file.read_bytes(start, wanted), found.size, found.etag, found.metadata)

    def stat(self, name: str) -> Entry | None:
        """What is damaged has no etag: it is listed and can be removed, and no more."""
        try:
            with self._opened(name) as file:
                try:
                    found = self._trailer(file, name)
                except errors.Damaged:
                    return Entry(name, max(file.size - TRAILER_BYTES, 0), "", 0.0)
                return Entry(name, found.size, found.etag, found.modified)
        except Absent:
            return None

    def list(self, folder: str = "") -> Iterator[Entry]:
        if folder:
            check_name(folder.removesuffix("/"))
        return self._below(folder)

    def _below(self, folder: str) -> Iterator[Entry]:
        """Folder by folder: with a slash behind its name each stands where its objects do."""
        path = posixpath.join(self.root, folder).rstrip("/")
        inside = set(self.files.folders(path))
        plain = set(self.files.listdir(path)) - inside
        for word in sorted({f"{one}/" for one in inside} | plain):
            if not _is_name(folder + word.removesuffix("/")):
                continue
            if word.endswith("/"):
                yield from self._below(folder + word)
            elif (entry := self.stat(folder + word)) is not None:
                yield entry

    # -- writing -----------------------------------------------------------------------------------------------

    def put_if_absent(
        self, name: str, data: bytes | bytearray | memoryview, metadata: Mapping[str, str] | None = None
    ) -> str:
        return self.put_parts(name, memoryview(data).nbytes, [data], metadata)

    def put_parts(self, name: str, size: int, parts: Iterable[Bytes], metadata: Mapping[str, str] | None = None) -> str:
        """As `put_if_absent`, for what is not in memory at once: `parts` are `size` bytes."""
        path = self._path(name)
        if self.pace is not None:
            self.pace.before(size)
        if not self.files.exists(path):
            with self._beside(size, parts, metadata) as (temporary, etag), self._changing():
                there = self.files.exists(path)
                if not there:
                    self._folders(name)
                    self.files.replace(temporary, path)
            if not there:
                self._settle(name)
                return etag
        self._settle(name)  # who is told that it is there may rely on it
        raise Exists("it is there already", path=self.path(name))

    def replace(
        self, name: str, data: bytes, etag: str, metadata: Mapping[str, str] | None = None, fence: Fence | None = None
    ) -> str:
        return self.replace_parts(name, len(data), [data], etag, metadata, fence)

    def replace_parts(
        self, name: str, size: int, parts: Iterable[Bytes], etag: str, metadata: Mapping[str, str] | None = None,
        fence: Fence | None = None,
    ) -> str:  # fmt: skip
        """As `replace`, in parts."""
        self.guard(fence)
        with self._beside(size, parts, metadata) as (temporary, made), self._changing():
            held = self.stat(name)
            if held is None or not etag or held.etag != etag:
                raise Changed("somebody else changed it", path=self.path(name))
            self.guard(fence)
            self.files.replace(temporary, self._path(name))
        self._settle(name)
        return made

    def delete(self, name: str) -> None:
        path = self._path(name)
        if not self.files.exists(path):
            return
        self._begin()
        with self._changing():
            self.files.unlink(path)
            folder = posixpath.dirname(path)
            while folder != self.root and self.files.rmdir(folder):
                self._durable.discard(folder)
                folder = posixpath.dirname(folder)
        self._settle(name)

    def keep(self, name: str, called: str, most: int) -> None:
        """Have what an object is now under another name too, of which the last `most` stay: no object, but a file that
        may be copied over the object's. What has the name already stays. Where there are no hard links nothing is kept.
        """
        folder = posixpath.join(self._own, "kept")
        self._begin()
        self._folder(folder)
        if self.files.exists(posixpath.join(folder, called)):
            return
        with suppress(errors.Error):
            self.files.link(self._path(name), posixpath.join(folder, called))
        for old in self.files.listdir(folder)[:-most]:
            self.files.unlink(posixpath.join(folder, old))

    def _settle(self, name: str) -> None:
        self._flushing.flush(posixpath.dirname(self._path(name)))

    @contextmanager
    def _beside(
        self, size: int, parts: Iterable[Bytes], metadata: Mapping[str, str] | None
    ) -> Iterator[tuple[str, str]]:
        """(path, etag) of a whole and durable file, which is gone behind the block unless it was renamed."""
        made = Trailer.new(size, self.now(), metadata)
        ending = made.pack()
        self._begin()
        temporary = posixpath.join(self._new, secrets.token_hex(8))
        try:
            with self.files.open(temporary, "create") as file:
                at = 0
                for part in parts:
                    file.write(at, part)
                    at += len(part)
                assert at == size
                file.write(size, ending)
                file.flush()
            yield temporary, made.etag
        except BaseException:
            with suppress(errors.Error):
                self.files.unlink(temporary)
            raise

    def _folders(self, name: str) -> None:
        """The folders of an object, durable. The caller has the lock."""
        words = name.split("/")[:-1]
        for count in range(1, len(words) + 1):
            self._folder(posixpath.join(self.root, *words[:count]))

    def _folder(self, path: str) -> None:
        there = self.files.exists(path)
        if there and path in self._durable:
            return
        if not there:
            self.files.mkdir(path, _PRIVATE)
        try:
            self.files.flush_dir(posixpath.dirname(path) or "/")
        except errors.Unreachable:
            if path != self.root or not there:
                raise  # a folder that was given to us may lie where we cannot read
        self._durable.add(path)

    # -- locks -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Before something is written: the store's own folders, without what those left who were killed."""
        with self._mine:
            if self._writing is not None:
                return
            if isinstance(self.files, LocalFiles) and os.path.isdir(self.root) and not os.access(self.root, os.W_OK):
                raise Denied("we may not write there, or it cannot be written", path=self.label)
            for path in (self.root, self._own, self._new, self._holders):
                self._folder(path)
            path = posixpath.join(self._own, "writing")
            alone = self.files.lock(path, exclusive=True)
            if alone is not None:
                for name in self.files.listdir(self._new):
                    self.files.unlink(posixpath.join(self._new, name))
                alone.release()
            self._writing = self._locked(path, exclusive=False)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Nobody else changes a name of this store."""
        with self._mine:
            lock = self._locked(posixpath.join(self._own, "lock"), exclusive=True)
            try:
                yield
            finally:
                lock.release()

    def _locked(self, path: str, *, exclusive: bool) -> Lock:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            lock = self.files.lock(path, exclusive=exclusive)
            if lock is not None:
                return lock
            if time.monotonic() > end:
                raise Failed(f"is locked by somebody for {_LOCK_SECONDS:.0f} s", path=self.label, busy=True)
            time.sleep(_LOOK_SECONDS)

    # -- fences ------------------------------------------------------------------------------------------------

    def new_fence(self, name: str, seconds: int, holder: str) -> ObjectFence:
        return _FolderFence(self, name, seconds, check_name(holder))

    def gone(self, holder: str) -> bool:
        path = posixpath.join(self._holders, holder)
        if not _is_name(holder) or not self.files.exists(path):
            return False  # another kind of holder, or one that is done
        lock = self.files.lock(path, exclusive=True)
        if lock is None:
            return False
        self.dead(holder, lock)
        return True

    def alive(self, holder: str) -> Lock | None:
        """Lock the file that a holder of a fence keeps locked as long as he lives; None where he has."""
        path = posixpath.join(self._holders, holder)
        self._begin()
        self.files.open(path, "create").close()
        self._flushing.flush(self._holders)
        return self.files.lock(path, exclusive=True)

    def dead(self, holder: str, lock: Lock) -> None:
        """He needs it no more."""
        self.files.unlink(posixpath.join(self._holders, holder))
        lock.release()

    def close(self) -> None:
        if self._writing is not None:
            self._writing.release()
            self._writing = None


class _FolderFence(ObjectFence):
    _alive: Lock | None = None

    def take(self, over: str | None) -> None:
        assert isinstance(self.store, FolderStore)
        if self._alive is None:
            self._alive = self.store.alive(self.holder)
        try:
            super().take(over)
        except errors.Error:
            if not self.etag:
                self._let_go()
            raise

    def release(self) -> None:
        try:
            super().release()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._alive is not None:
            assert isinstance(self.store, FolderStore)
            self.store.dead(self.holder, self._alive)
            self._alive = None


def _is_name(word: str) -> bool:
    try:
        check_name(word)
    except errors.Usage:
        return False
    return True
