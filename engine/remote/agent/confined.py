"""The agent's replicas: folders below its root."""

from __future__ import annotations

import os
import posixpath

from secondsite.engine import errors
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
