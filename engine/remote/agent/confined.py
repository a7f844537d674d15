"""The agent's replicas: files of one folder below its root, and nothing that a link would lead to."""

from __future__ import annotations

import os
import posixpath
import stat

from secondsite.engine import errors
from secondsite.engine.files import LocalFiles, Lock
from secondsite.engine.images.base import Image
from secondsite.engine.remote import url


class Root:
    """The agent's --root, held open: what is mounted there later, or no longer, is another folder."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise errors.from_os(error, path, "open the folder of the replicas") from None

    def replica(self, name: str) -> str:
        """The folder of a replica. Raises Refused for a name that is none, Unreachable where the root went away."""
        path = posixpath.join(self.path, url.check_name(name))
        try:
            now, then = os.stat(self.path), os.fstat(self._fd)
        except OSError as error:
            raise errors.from_os(error, self.path, "look at the folder of the replicas") from None
        if (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino):
            raise errors.Unreachable("is another folder than when the agent began: mounted over, or moved", path=path)
        return path

    def names(self) -> list[str]:
        """Folders that may be replicas, in order."""
        with os.scandir(self._fd) as found:
            return sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ConfinedFiles(LocalFiles):
    """Files of one folder. Raises Refused for a path that leaves it, and for a link anywhere on the way.

    A link is looked for before each operation: who can write in the folder at that very moment, beside this program,
    can write there whatever he wants anyway.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def checked(self, path: str) -> str:
        """The path itself, for who opens it by another way."""
        return self._check(path)

    def _check(self, path: str) -> str:
        if "\0" in path or (path != self.folder and not path.startswith(self.folder + "/")):
            raise errors.Refused("lies outside the replica", path=path)
        at = self.folder
        self._refuse_link(at)
        for part in path[len(self.folder) + 1 :].split("/"):
            if part in (".", ".."):
                raise errors.Refused("lies outside the replica", path=path)
            if part:
                at = f"{at}/{part}"
                self._refuse_link(at)
        return path

    def _refuse_link(self, path: str) -> None:
        try:
            found = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise errors.from_os(error, path, "look at it") from None
        if stat.S_ISLNK(found):
            raise errors.Refused("is a link; an agent follows none", path=path)
        if not (stat.S_ISREG(found) or stat.S_ISDIR(found)):
            raise errors.Refused("is neither a file nor a folder", path=path)

    def open(self, path: str, mode: str) -> Image:
        return super().open(self._check(path), mode)

    def exists(self, path: str) -> bool:
        return super().exists(self._check(path))

    def size(self, path: str) -> int:
        return super().size(self._check(path))

    def listdir(self, path: str) -> list[str]:
        return super().listdir(self._check(path))

    def mkdir(self, path: str) -> None:
        super().mkdir(self._check(path))

    def replace(self, source: str, target: str) -> None:
        super().replace(self._check(source), self._check(target))

    def link(self, source: str, target: str) -> None:
        super().link(self._check(source), self._check(target))

    def unlink(self, path: str) -> None:
        super().unlink(self._check(path))

    def clone(self, source: str, target: str) -> bool:
        return super().clone(self._check(source), self._check(target))

    def lock(self, path: str, *, exclusive: bool) -> Lock | None:
        return super().lock(self._check(path), exclusive=exclusive)
