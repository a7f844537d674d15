"""The file system as the replica sees it: names, links and their durability.

Everything that a replica does to the world goes through this interface, so that the same code runs over a real
file system, over memory that loses power, and behind a plan of faults (DESIGN D16).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress

from secondsite.engine import errors
from secondsite.engine.images.base import Image


class Lock(ABC):
    """A held lock; `release` may be called twice."""

    @abstractmethod
    def release(self) -> None: ...


class Files(ABC):
    """Paths are strings. Errors are `errors.Unreachable` with the path, unless a sentence below says otherwise."""

    @abstractmethod
    def open(self, path: str, mode: str) -> Image:
        """A file as a raw image: `r`, `rw`, or `create`, which empties an existing one."""

    def open_disk(self, path: str, format: str) -> Image | None:
        """The disk in a container file, to be read, where this file system opens containers itself; None otherwise."""
        return None

    @abstractmethod
    def exists(self, path: str) -> bool: ...

    @abstractmethod
    def size(self, path: str) -> int:
        """Bytes of the file; -1 where there is none."""

    @abstractmethod
    def listdir(self, path: str) -> list[str]:
        """Names in a folder, sorted; empty where there is no such folder."""

    @abstractmethod
    def folders(self, path: str) -> list[str]:
        """Names of the folders in a folder, sorted; links are none. Empty where there is no such folder."""

    @abstractmethod
    def mkdir(self, path: str, mode: int = 0o777) -> None:
        """Make a folder and its parents; an existing one is fine. `mode` is the folder's own."""

    @abstractmethod
    def rmdir(self, path: str) -> bool:
        """Remove an empty folder; whether it is gone. One that is not empty stays."""

    @abstractmethod
    def replace(self, source: str, target: str) -> None:
        """Rename, replacing the target, in one step."""

    @abstractmethod
    def link(self, source: str, target: str) -> None:
        """A second name for a file; an existing target is left as it is."""

    def same(self, one: str, two: str) -> bool:
        """Are these two names of one file? No, where one of them is not there."""
        if self.size(one) < 0 or self.size(two) < 0:
            return False
        with self.open(one, "r") as first, self.open(two, "r") as second:
            found = [stamp[:2] for image in (first, second) for stamp in image.stamps() or ()]
        return len(found) == 2 and found[0] == found[1]

    @abstractmethod
    def unlink(self, path: str) -> None:
        """Remove a name; a missing one is fine."""

    @abstractmethod
    def flush_dir(self, path: str) -> None:
        """Make the names in a folder durable."""

    @abstractmethod
    def clone(self, source: str, target: str) -> bool:
        """Make `target` share the extents of `source`; False where this file system cannot."""

    @abstractmethod
    def temporary(self, near: str) -> Image:
        """An unnamed file that is gone when it is closed."""

    @abstractmethod
    def lock(self, path: str, *, exclusive: bool) -> Lock | None:
        """Take an advisory lock without waiting; None where somebody else holds it."""

    # -- whole small files -----------------------------------------------------------------------------------

    def read_bytes(self, path: str, limit: int) -> bytes:
        """The content of a small file, at most `limit` bytes of it."""
        with self.open(path, "r") as file:
            return bytes(file.read(0, min(file.size, limit)))

    def write_bytes(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Replace a small file in one step: all of it or nothing, whatever happens meanwhile.

        The name is durable only after `flush_dir`.
        """
        temporary = path + ".tmp"
        try:
            with self.open(temporary, "create") as file:
                file.write(0, data)
                if durable:
                    file.flush()
            self.replace(temporary, path)
        except errors.Error:
            with suppress(errors.Error):
                self.unlink(temporary)
            raise
