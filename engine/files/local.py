"""The real file system."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.files.base import Files, Lock
from secondsite.engine.images.base import Image
from secondsite.engine.images.raw import FICLONE, RawImage


class LocalLock(Lock):
    def __init__(self, fd: int) -> None:
        self.fd = fd

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class LocalFiles(Files):
    def open(self, path: str, mode: str) -> Image:
        return RawImage(path, mode)

    def exists(self, path: str) -> bool:
        try:
            return Path(path).exists()
        except OSError as error:  # other than that there is none: a name that is too long
            raise errors.from_os(error, path, "look at it") from None

    def size(self, path: str) -> int:
        try:
            return Path(path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return -1
        except OSError as error:
            raise errors.from_os(error, path, "look at it") from None

    def listdir(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))  # noqa: PTH208 (names, not Path objects: there may be 100,000)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise errors.from_os(error, path, "list it") from None

    def folders(self, path: str) -> list[str]:
        try:
            with os.scandir(path) as found:
                return sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise errors.from_os(error, path, "list it") from None

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        try:
            Path(path).mkdir(mode, parents=True, exist_ok=True)
        except OSError as error:
            raise errors.from_os(error, path, "make the folder") from None

    def rmdir(self, path: str) -> bool:
        try:
            Path(path).rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise errors.from_os(error, path, "remove the folder") from None
        return True

    def replace(self, source: str, target: str) -> None:
        try:
            Path(source).replace(target)
        except OSError as error:
            raise errors.from_os(error, target, "put it in place") from None

    def link(self, source: str, target: str) -> None:
        try:
            os.link(source, target)
        except FileExistsError:
            return
        except OSError as error:
            raise errors.from_os(error, target, "link it") from None

    def unlink(self, path: str) -> None:
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            raise errors.from_os(error, path, "remove it") from None

    def flush_dir(self, path: str) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise errors.from_os(error, path, "make its names durable") from None

    def clone(self, source: str, target: str) -> bool:
        with RawImage(source) as old, RawImage(target, "create") as new:
            try:
                done = new.clone_from(old)
            except errors.Error:
                self.unlink(target)
                raise
        if not done:
            self.unlink(target)
        return done

    def clones(self, source: str, folder: str) -> bool:
        """Would a file of the folder `source` be cloned into `folder`? Tried, with one that has no name."""
        import tempfile

        try:
            with tempfile.TemporaryFile(dir=source) as old, tempfile.TemporaryFile(dir=folder) as new:
                old.write(bytes(4096))
                old.flush()
                fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
            return True
        except OSError:
            return False

    def temporary(self, near: str) -> Image:
        import tempfile  # 2 ms, which most commands need not pay

        try:
            fd, path = tempfile.mkstemp(prefix="secondsite-")
            os.close(fd)
            image = RawImage(path, "create")
            Path(path).unlink()
            return image
        except OSError as error:
            raise errors.from_os(error, tempfile.gettempdir(), "make a temporary file") from None

    def lock(self, path: str, *, exclusive: bool) -> Lock | None:
        flags = os.O_RDWR | os.O_CREAT if exclusive else os.O_RDONLY | os.O_CREAT
        try:
            try:
                fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
            except PermissionError:
                if exclusive:
                    raise
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if not exclusive and error.errno in (errno.EROFS, errno.ENOENT, errno.EACCES):
                return LocalLock(-1)  # a medium that nobody can write needs no lock
            raise errors.from_os(error, path, "lock it") from None
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise errors.from_os(error, path, "lock it") from None
        return LocalLock(fd)
