"""Leases: what a reader that does not hold the replica still needs of it.

A file `lease-ID` in the replica's folder, locked with `flock` by the process that reads, names the lowest generation
that may not be dropped yet. The kernel lets go of the lock when that process ends, however it ends, and who drops
points next removes the file. So nothing is kept for the dead, and nothing is taken from the living.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import zlib

from secondsite.engine import errors

PREFIX = "lease-"
_TEXT = 12


class Lease:
    """A held lease; made while the replica is held as a reader, so that no points are dropped meanwhile."""

    def __init__(self, root: str, generation: int) -> None:
        self.path = os.path.join(root, f"{PREFIX}{secrets.token_hex(8)}")
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise errors.from_os(error, self.path, "make the lease") from None
        self.move(generation)

    def move(self, generation: int) -> None:
        """What lies below `generation` is needed no more."""
        text = b"%0*d" % (_TEXT, generation)
        try:
            os.pwrite(self._fd, b"%s %08x\n" % (text, zlib.crc32(text)), 0)
        except OSError as error:
            raise errors.from_os(error, self.path, "write the lease") from None

    def end(self) -> None:
        """Give it up; a second call does nothing."""
        if self._fd >= 0:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # it is void without its lock
            os.close(self._fd)
            self._fd = -1


def lowest(root: str) -> int | None:
    """The lowest generation that a living reader needs, or None; leases of the dead are removed. 0 where one cannot be
    read. The caller holds the replica as the writer.
    """
    needed: int | None = None
    try:
        names = [name for name in os.listdir(root) if name.startswith(PREFIX)]  # noqa: PTH208
    except OSError:
        return None  # a replica that is not in a folder of this machine has no such readers
    for name in names:
        found = _read(os.path.join(root, name))
        if found is not None:
            needed = found if needed is None else min(needed, found)
    return needed


def _read(path: str) -> int | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return None
    except OSError:
        return _number(os.pread(fd, 64, 0))
    finally:
        os.close(fd)


def _number(data: bytes) -> int:
    text, _, checksum = data.strip().partition(b" ")
    return int(text) if text.isdigit() and checksum == b"%08x" % zlib.crc32(text) else 0
