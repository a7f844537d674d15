"""The clone tracker: a cycle reads a clone of the source file, and only what lies elsewhere on disk than the last did.

FICLONE is atomic in the kernel, so the source may be in use. The clone of the replica's newest point is kept beside the
source until the next cycle: a block that both hold can only have been copied on write, never written in place, so equal
addresses are equal bytes (see kernel.extents.changed). An extent map alone, of a clone that is gone, would not do: XFS
gave 632 of 1,885 changed blocks an address that the file had had before.

Beside the source `disk.raw` lie `.disk.raw.secondsite-REPLICA-next`, for the time of a cycle, and
`.disk.raw.secondsite-REPLICA-GENERATION`. An attribute of the file says which point it holds.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import struct
import time
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from secondsite.engine import errors, kernel
from secondsite.engine.images import Image, open_image
from secondsite.engine.images.raw import real_path
from secondsite.engine.source import file_system
from secondsite.engine.trackers.base import Cut, Have, Tracker
from secondsite.engine.units import KIB

NAME = "clone"
_FICLONE = 0x40049409
_FSGETXATTR, _REALTIME = 0x801C581F, 1
_ATTRIBUTE = "user.secondsite.clone"
_PROBE = 64 * KIB
# Their addresses are offsets on one of several devices, and FIEMAP does not tell which.
_MANY_DEVICES = {"bcachefs", "zfs"}
# Of a hidden name the rest takes up to 42 of the 255 bytes that a name can have.
_LONG_NAME = 200
# A writer of the source stands still while FICLONE first writes back what is dirty. FLUSH_MEASURED

Columns = tuple["array[int]", "array[int]", "array[int]", "array[int]"]


class Spot(NamedTuple):
    """Where the clones of one source for one replica lie. `source` has its links resolved."""

    source: str
    folder: str
    stem: str

    @classmethod
    def of(cls, path: str, replica_id: str) -> Spot:
        source = real_path(path)
        folder, name = os.path.split(source)
        raw = os.fsencode(name)
        if len(raw) > _LONG_NAME:
            name = f"{os.fsdecode(raw[: _LONG_NAME - 40])}~{hashlib.sha256(raw).hexdigest()[:16]}"
        short = re.sub("[^0-9A-Za-z]", "", replica_id)[:8]
        return cls(source, folder, f".{name}.secondsite-{short}-")

    def at(self, suffix: str | int) -> str:
        return os.path.join(self.folder, f"{self.stem}{suffix}")

    def kept(self) -> list[str]:
        """The kept clones that are there; more than one only after a crash."""
        ours = re.compile(re.escape(self.stem) + r"\d+")
        try:
            with os.scandir(self.folder) as entries:
                return sorted(entry.path for entry in entries if ours.fullmatch(entry.name))
        except OSError:
            return []


def supported(
    path: str | os.PathLike[str], format: str = "raw", allow_parent_path: Sequence[str] = ()
) -> str | None:
    """Why an image cannot be tracked by clones, or None. Does once, with small files beside it, what a cycle does."""
    source = real_path(path)
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            return "it is no regular file, and only those can be cloned"
        if format == "vmdk":
            with open_image(path, format=format, allow_parent_path=allow_parent_path) as image:
                if len(image.files()) > 1:
                    return f"it is made of {len(image.files())} files, which cannot be cloned in one instant"
    except OSError as error:
        return f"it cannot be looked at: {os.strerror(error.errno or errno.EIO)}"
    except errors.Error as error:
        return error.message
    return _probe(os.path.dirname(source))


def _probe(folder: str) -> str | None:
    import tempfile  # 2 ms, which most commands need not pay

    doing = "make a file in its folder"
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as one, tempfile.TemporaryFile(dir=folder) as two:
            one.write(os.urandom(2 * _PROBE))
            doing = "clone files"
            fcntl.ioctl(two.fileno(), _FICLONE, one.fileno())
            doing = "attach attributes to files"
            os.setxattr(two.fileno(), _ATTRIBUTE, b"{}")
            doing = "tell where a file's bytes lie"
            os.pwrite(one.fileno(), os.urandom(_PROBE), 0)
            maps = [kernel.extents.fiemap(file.fileno(), 2 * _PROBE) for file in (one, two)]
            starts, lengths = kernel.extents.changed(maps[1], maps[0], 2 * _PROBE, 2 * _PROBE)
    except OSError as error:
        return f"its file system cannot {doing}: {os.strerror(error.errno or errno.EIO)}"
    except ValueError as error:
        return f"its file system gives maps that make no sense: {error}"
    # SMB answers with the offset in the file for an address: equal for any two files.
    if not starts or starts[0] or lengths[0] < _PROBE:
        return "its file system does not tell the address of what was written"
    return None


class CloneTracker(Tracker):
    """Follows the image file at `path` for the replica `replica_id`.

    The kept clone may hold alone as much as is free in its file system, or `max_kept_bytes` where that is less: a full
    disk would stop whoever writes the source. Above that it goes, and the next cycle scans. It grows between cycles,
    where nobody looks: who repeats cycles may call `trim` in between.
    """

    name = NAME

    def __init__(
        self,
        path: str | os.PathLike[str],
        replica_id: str,
        *,
        format: str = "raw",
        allow_parent_path: Sequence[str] = (),
        max_kept_bytes: int | None = None,
    ) -> None:
        self.path, self.replica_id, self.format = os.fspath(path), replica_id, format
        # A parent may lie beside the link that leads to the image, while the clone lies beside the image.
        self.allow = [*allow_parent_path, os.path.dirname(os.path.abspath(self.path))]
        self.max_kept_bytes = max_kept_bytes
        self._cut: CloneCut | None = None
        self._probed = False

    @property
    def spot(self) -> Spot:
        """Anew each time: the path may be a link, and lead elsewhere today."""
        return Spot.of(self.path, self.replica_id)

    def begin(self, have: Have | None, sample: Sequence[tuple[int, int]] = ()) -> CloneCut:
        """Clone the source, and compare with the clone of `have` where that was kept.

        Raises Refused where that is not possible here, or a file that is not ours lies in the way; Full, Unreachable,
        and what `open_image` raises.
        """
        if self._cut is not None and not self._cut.ended:
            raise errors.Refused("a cut of it is open already", path=self.path)
        self._admit()
        spot = self.spot
        fd, stall = _clone(spot)
        try:
            image = open_image(spot.at("next"), format=self.format, allow_parent_path=self.allow)
            self._cut = CloneCut(self, spot, fd, image, stall)
        except BaseException:
            os.close(fd)
            _remove(spot.at("next"))
            raise
        if have is not None and have.replica_id == self.replica_id and self.format == "raw":
            self._cut.compare(have)
        return self._cut

    def _admit(self) -> None:
        wrong = None if self._probed else supported(self.path, self.format, self.allow)
        if wrong:
            raise errors.Refused(f"cannot be tracked by clones: {wrong}", path=self.path)
        self._probed = True

    def kept_bytes(self) -> int:
        """What the kept clone holds alone: bytes that the source has written again since, and that go free with it.

        Compressed extents count with their plain size.
        """
        return sum(map(_alone, self.spot.kept()))

    def limit(self) -> int:
        """What the kept clone may hold alone, in bytes."""
        try:
            room = os.statvfs(self.spot.folder)
        except OSError:
            return 0
        free = room.f_bavail * room.f_frsize
        return free if self.max_kept_bytes is None else min(free, self.max_kept_bytes)

    def trim(self) -> str | None:
        """Drop the kept clone where it holds too much; then the line that says so, else None."""
        spent, limit = self.kept_bytes(), self.limit()
        if spent <= limit:
            return None
        self.forget()
        return self.says(spent, limit)

    def says(self, spent: int, limit: int) -> str:
        held = f"the kept clone held {spent} bytes, {limit} are allowed"
        return f"{self.path}: {held}; it was dropped and the next cycle scans"

    def forget(self) -> None:
        """Remove the kept clones. The next cycle scans."""
        for path in self.spot.kept():
            _remove(path)

    def close(self) -> None:
        if self._cut is not None:
            self._cut.give_back()


class CloneCut(Cut):
    """A clone of the source. `kept_bytes` is what the clone of the point before held alone, 0 where there was none."""

    tracker = NAME

    def __init__(self, tracker: CloneTracker, spot: Spot, fd: int, image: Image, stall: float) -> None:
        super().__init__()
        self.image, self.stall_seconds = image, stall
        # Parents are not cloned: nobody should write them, but that is not ours to promise.
        self.frozen = len(image.files()) == 1
        self.kept_bytes = 0
        self.ended = False
        self._tracker, self._spot, self._fd = tracker, spot, fd
        self._ranges: tuple[array[int], array[int]] | None = None

    def compare(self, have: Have) -> None:
        """Find what may have changed since the clone of `have`, if that is there and nobody has touched it."""
        kept = _open_kept(self._spot.at(have.generation), have)
        if kept < 0:
            return
        try:
            if not _one_device(self._fd, self._spot.source):
                return
            old_size, size = os.fstat(kept).st_size, os.fstat(self._fd).st_size
            new, old = kernel.extents.fiemap(self._fd, size), kernel.extents.fiemap(kept, old_size)
            self.kept_bytes = kernel.extents.weigh(old)[0]
            self._ranges = kernel.extents.changed(old, new, old_size, size)
            self._warn(kernel.extents.weigh(new)[1])
        except (OSError, ValueError) as error:
            wrong = f"its extents do not tell what changed ({error}); all is scanned"
            self.warnings.append(f"{self._tracker.path}: {wrong}")
        finally:
            os.close(kept)

    def _warn(self, uncertain: int) -> None:
        """Say why a cycle over a compressed image reads most of it."""
        if self._ranges and uncertain * 2 > sum(self._ranges[1]) > 0:
            told = "compressed, inline or not yet placed, and are read: where they lie does not tell what they are"
            self.warnings.append(f"{self._tracker.path}: {uncertain} bytes of it are {told}")

    def changed(self) -> Iterable[tuple[int, int]] | None:
        return None if self._ranges is None else zip(*self._ranges, strict=True)

    def acknowledge(self, have: Have) -> None:
        """Keep the clone as that of `have`. Where that fails the next cycle scans; a warning says why."""
        if self.ended:
            return
        spent, limit = max(self.kept_bytes, _weight(self._fd)), self._tracker.limit()
        if self._tracker.format == "raw" and spent <= limit:
            self._keep(have)
        else:
            self._tracker.forget()
        if self._tracker.format == "raw" and spent > limit:
            self.warnings.append(self._tracker.says(spent, limit))
        self.give_back()

    def _keep(self, have: Have) -> None:
        target = self._spot.at(have.generation)
        try:
            if have.replica_id != self._tracker.replica_id:
                raise ValueError(f"it is of the replica {have.replica_id}")
            os.setxattr(self._fd, _ATTRIBUTE, _record(have, os.fstat(self._fd)))
            # Written back is not durable: after a power loss a clone that shares with the source what the disk's cache
            # has lost would call it unchanged, while the replica holds it.
            os.fsync(self._fd)
            os.rename(self._spot.at("next"), target)
            _flush_folder(self._spot.folder)
        except (OSError, ValueError) as error:
            self.warnings.append(f"{self._tracker.path}: its clone cannot be kept ({error}); the next cycle scans")
        for path in self._spot.kept():
            if path != target:
                _remove(path)

    def give_back(self) -> None:
        """Remove the clone, unless it has become the kept one."""
        if self.ended:
            return
        self.ended = True
        self.image.close()
        if _is(self._spot.at("next"), self._fd):
            _remove(self._spot.at("next"))
        os.close(self._fd)


def _clone(spot: Spot) -> tuple[int, float]:
    """Clone the source into `next`: its descriptor, and the seconds in which nobody could write the source."""
    target = spot.at("next")
    if not _remove(target):
        raise errors.Refused("lies where the clone should; it is no file of this user", path=target)
    made = -1
    try:
        source = os.open(spot.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            made = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.fdatasync(source)
            start = time.perf_counter()
            fcntl.ioctl(made, _FICLONE, source)
            return made, time.perf_counter() - start
        finally:
            os.close(source)
    except OSError as error:
        if made >= 0:
            os.close(made)
            _remove(target)
        raise errors.from_os(error, spot.source, "clone it beside itself") from None


def _record(have: Have, info: os.stat_result) -> bytes:
    """What a kept clone says of itself. The times and the inode tell a file that was written, or copied there."""
    fields = [have.replica_id, have.generation, have.seal, info.st_ino, info.st_size, info.st_mtime_ns]
    return json.dumps(fields).encode()


def _open_kept(path: str, have: Have) -> int:
    """The descriptor of the kept clone of exactly `have`, or -1."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        info = os.fstat(fd)
        ours = stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_nlink == 1
        if ours and os.getxattr(fd, _ATTRIBUTE) == _record(have, info):
            return fd
    except OSError:
        pass
    os.close(fd)
    return -1


def _one_device(fd: int, path: str) -> bool:
    """Is an address of this file one place on disk? A file on XFS's realtime device counts from that one's start."""
    fields = bytearray(28)
    try:
        fcntl.ioctl(fd, _FSGETXATTR, fields)
    except OSError:
        pass  # no such flags here
    return not struct.unpack_from("=I", fields)[0] & _REALTIME and file_system(path) not in _MANY_DEVICES


def _alone(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return _weight(fd)
    finally:
        os.close(fd)


def _weight(fd: int) -> int:
    """Bytes that only this file holds; all of it where the file system does not tell."""
    size = os.fstat(fd).st_size
    try:
        return kernel.extents.weigh(kernel.extents.fiemap(fd, size))[0]
    except OSError:
        return size


def _is(path: str, fd: int) -> bool:
    """Is the file at `path` the open one?"""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def _remove(path: str) -> bool:
    """Remove a clone of ours; False where something else lies there, or it does not go."""
    try:
        info = os.lstat(path)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            return False
        os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _flush_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
