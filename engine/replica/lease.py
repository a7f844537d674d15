"""Leases: what a reader that does not hold the replica still needs of it.

A file `lease-ID` in the replica's folder, locked with `flock` by the process that reads, names the lowest generation
that may not be dropped yet. The kernel lets go of the lock when that process ends, however it ends, and who drops
points next removes the file. So nothing is kept for the dead, and nothing is taken from the living.

An agent reads for others, who come again when a link broke or the agent was restarted. A lease for one of them is
called `lease-far-ID`. Where it is found without its lock it counts for GRACE_SECONDS more from then on, which is
written into it; by then the reader has taken it again, or is gone.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
import zlib

from secondsite.engine import errors

PREFIX = "lease-"
FAR = f"{PREFIX}far-"
# Longer than who reads from afar pauses between two tries, and connects (remote/far/point.py).
GRACE_SECONDS = 60.0
_TEXT = 12
_LINE = _TEXT + 10  # with its checksum; the time of a grace follows


class Lease:
    """A held lease; made while the replica is held as a reader, so that no points are dropped meanwhile."""

    def __init__(self, root: str, generation: int, *, far: bool = False) -> None:
        self._fd = -1
        if far and self._take(root, generation):
            return
        self.path = os.path.join(root, f"{FAR if far else PREFIX}{secrets.token_hex(8)}")
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # another reader who looks for one of its own lets go of it at once
        except OSError as error:
            raise errors.from_os(error, self.path, "make the lease") from None
        try:
            self.move(generation)
        except errors.Error:
            self.end()
            raise

    def _take(self, root: str, generation: int) -> bool:
        """One that a far reader of the same point left, so that their number is that of readers."""
        for name in os.listdir(root):  # noqa: PTH208
            if not name.startswith(FAR):
                continue
            self.path = os.path.join(root, name)
            try:
                self._fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(self._fd).st_nlink and _number(os.pread(self._fd, _LINE, 0)) == generation:
                    os.ftruncate(self._fd, _LINE)
                    return True
            except OSError:
                pass  # it is somebody's, or went meanwhile
            self.leave()
        return False

    def move(self, generation: int) -> None:
        """What lies below `generation` is needed no more."""
        text = b"%0*d" % (_TEXT, generation)
        try:
            os.pwrite(self._fd, b"%s %08x\n" % (text, zlib.crc32(text)), 0)
        except OSError as error:
            raise errors.from_os(error, self.path, "write the lease") from None

    def leave(self) -> None:
        """Let go of a far reader's, who may come again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def end(self) -> None:
        """Give it up; a second call does nothing."""
        if self._fd >= 0:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # it is void without its lock
            self.leave()


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
        if os.path.basename(path).startswith(FAR) and _in_grace(fd):
            return _number(os.pread(fd, _LINE, 0))
        os.unlink(path)
        return None
    except OSError:
        return _number(os.pread(fd, _LINE, 0))
    finally:
        os.close(fd)


def _in_grace(fd: int) -> bool:
    """Of a far reader's lease that nobody holds; the grace begins when that is first seen. A clock that was set back
    ends it.
    """
    now, text = time.time(), os.pread(fd, 64, _LINE)
    if not text.strip().isdigit():
        os.pwrite(fd, b"%d\n" % int(now), _LINE)
        return True
    return 0 <= now - int(text) < GRACE_SECONDS


def _number(data: bytes) -> int:
    text, _, checksum = data.strip().partition(b" ")
    return int(text) if text.isdigit() and checksum == b"%08x" % zlib.crc32(text) else 0
