"""A file system in memory that can lose power: names not flushed and bytes not flushed may be gone."""

from __future__ import annotations

import errno
import posixpath
import random
import threading

from secondsite.engine import errors
from secondsite.engine.files.base import Files, Lock
from secondsite.engine.images.base import Image
from secondsite.engine.images.memory import MemoryImage


class _Handle(MemoryImage):
    """An open file: the same bytes and the same fate as every other handle on it."""

    def __init__(self, file: MemoryImage, path: str) -> None:
        self.__dict__ = file.__dict__


class _Lock(Lock):
    def __init__(self, held: dict[str, int], path: str, step: int) -> None:
        self._held, self._path, self._step = held, path, step

    def release(self) -> None:
        self._held[self._path] = self._held.get(self._path, 0) - self._step
        self._step = 0


class MemoryFiles(Files):
    """Names to files. `clones` says whether it can clone, as XFS can and ext4 cannot."""

    def __init__(self, *, clones: bool = False) -> None:
        self.clones = clones
        self.names: dict[str, MemoryImage] = {}
        self._durable: dict[str, MemoryImage] = {}
        # Changes of names since the last flush of their folder: (folder, name, file or None).
        self._pending: list[tuple[str, str, MemoryImage | None]] = []
        self._folders: set[str] = set()
        self._held: dict[str, int] = {}
        self._lock = threading.RLock()

    def open(self, path: str, mode: str) -> Image:
        with self._lock:
            if mode == "create":
                if path in self.names:
                    self.names[path].resize(0)
                else:
                    self._name(path, MemoryImage(path=path))
            if path not in self.names:
                raise errors.from_os(OSError(errno.ENOENT, ""), path, "open it")
            return _Handle(self.names[path], path)

    def _name(self, path: str, file: MemoryImage | None) -> None:
        if file is None:
            self.names.pop(path, None)
        else:
            self.names[path] = file
        self._pending.append((posixpath.dirname(path), path, file))

    def exists(self, path: str) -> bool:
        return path in self.names or path in self._folders

    def size(self, path: str) -> int:
        return self.names[path].size if path in self.names else -1

    def listdir(self, path: str) -> list[str]:
        with self._lock:
            return sorted(posixpath.basename(name) for name in self.names if posixpath.dirname(name) == path)

    def folders(self, path: str) -> list[str]:
        with self._lock:
            return sorted(posixpath.basename(name) for name in self._folders if posixpath.dirname(name) == path)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        with self._lock:
            while path not in ("", "/"):
                self._folders.add(path)
                path = posixpath.dirname(path)

    def rmdir(self, path: str) -> bool:
        with self._lock:
            if any(name.startswith(path + "/") for name in [*self.names, *self._folders]):
                return False
            self._folders.discard(path)
            return True

    def replace(self, source: str, target: str) -> None:
        with self._lock:
            if source not in self.names:
                raise errors.from_os(OSError(errno.ENOENT, ""), target, "put it in place")
            file = self.names[source]
            self._name(target, file)
            self._name(source, None)

    def link(self, source: str, target: str) -> None:
        with self._lock:
            if source not in self.names:
                raise errors.from_os(OSError(errno.ENOENT, ""), target, "link it")
            if target not in self.names:
                self._name(target, self.names[source])

    def same(self, one: str, two: str) -> bool:
        return one in self.names and self.names[one] is self.names.get(two)

    def unlink(self, path: str) -> None:
        with self._lock:
            if path in self.names:
                self._name(path, None)

    def flush_dir(self, path: str) -> None:
        with self._lock:
            for folder, name, file in self._pending:
                if folder == path:
                    self._settle(self._durable, name, file)
            self._pending = [change for change in self._pending if change[0] != path]

    @staticmethod
    def _settle(names: dict[str, MemoryImage], name: str, file: MemoryImage | None) -> None:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file

    def clone(self, source: str, target: str) -> bool:
        if not self.clones:
            return False
        with self._lock:
            old = self.open(source, "r")
            data = old.read(0, old.size)
            self.open(target, "create").write(0, data)
        return True

    def temporary(self, near: str) -> Image:
        return MemoryImage(path="temporary")

    def lock(self, path: str, *, exclusive: bool) -> Lock | None:
        with self._lock:
            held = self._held.get(path, 0)
            step = 1_000_000 if exclusive else 1
            if held >= 1_000_000 or (exclusive and held):
                return None
            self._held[path] = held + step
            return _Lock(self._held, path, step)

    def power_loss(self, chance: random.Random) -> None:
        """Names fall back to what is durable plus, folder by folder, the first few of what was pending.

        Journaling file systems keep the order of changes inside a folder; between folders nothing is promised.
        """
        with self._lock:
            names = dict(self._durable)
            for folder in {change[0] for change in self._pending}:
                changes = [change for change in self._pending if change[0] == folder]
                for _, name, file in changes[: chance.randrange(len(changes) + 1)]:
                    self._settle(names, name, file)
            for file in {id(file): file for file in names.values()}.values():
                file.power_loss(chance)
            self.names, self._durable = names, dict(names)
            self._pending.clear()
            self._held.clear()
