"""Files of one folder, and nothing that a link would lead to."""

from __future__ import annotations

import os
import stat

from secondsite.engine import errors
from secondsite.engine.files.base import Lock
from secondsite.engine.files.local import LocalFiles
from secondsite.engine.images.base import Image


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
            raise errors.Refused("is a link; none is followed here", path=path)
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

    def folders(self, path: str) -> list[str]:
        return super().folders(self._check(path))

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        super().mkdir(self._check(path), mode)

    def rmdir(self, path: str) -> bool:
        return super().rmdir(self._check(path))

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
