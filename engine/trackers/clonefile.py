"""The clones of image files: where they lie, how one is made and known again, and what it takes.

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
from collections.abc import Sequence
from typing import NamedTuple

from secondsite.engine import errors, kernel
from secondsite.engine.images import RawImage, open_image
from secondsite.engine.images.raw import FICLONE, real_path
from secondsite.engine.source import file_system
from secondsite.engine.trackers.base import Have
from secondsite.engine.units import KIB

_FSGETXATTR, _REALTIME = 0x801C581F, 1
_ATTRIBUTE = "user.secondsite.clone"
_PROBE = 64 * KIB
# Their addresses are offsets on one of several devices, and FIEMAP does not tell which.
_MANY_DEVICES = {"bcachefs", "zfs"}
# Of a hidden name the rest takes up to 42 of the 255 bytes that a name can have.
_LONG_NAME = 200


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
        return _matching(self.folder, re.escape(self.stem) + r"\d+")

    def forget(self) -> None:
        """Remove them."""
        for path in self.kept():
            remove(path)


def kept_of_all(path: str | os.PathLike[str]) -> list[str]:
    """The clones of an image file, or what a killed cycle left of one, for whatever replica."""
    spot = Spot.of(os.fspath(path), "")
    stem = spot.stem.removesuffix("-")
    return _matching(spot.folder, re.escape(stem) + r"[0-9A-Za-z]{1,8}-(\d+|next)")


def _matching(folder: str, pattern: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if re.fullmatch(pattern, entry.name))
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
            fcntl.ioctl(two.fileno(), FICLONE, one.fileno())
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


def clone(spot: Spot) -> tuple[int, float]:
    """Clone the source into `next`: its descriptor, and the seconds in which nobody could write the source."""
    target = spot.at("next")
    if not remove(target):
        raise errors.Refused("lies where the clone should; it is no file of this user", path=target)
    made = -1
    try:
        source = os.open(spot.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            made = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            # FICLONE writes back what is dirty while the writer stands still. After 20,000 random 4 KiB writes into
            # 1 GiB that took 2.0 s on XFS, 0.8 s when most of it was flushed before; on Btrfs 0.5 s either way.
            os.fdatasync(source)
            start = time.perf_counter()
            fcntl.ioctl(made, FICLONE, source)
            return made, time.perf_counter() - start
        finally:
            os.close(source)
    except OSError as error:
        if made >= 0:
            os.close(made)
            remove(target)
        raise errors.from_os(error, spot.source, "clone it beside itself") from None


def frozen(path: str | os.PathLike[str]) -> RawImage | None:
    """A raw image in a file that nobody sees and that goes when it is closed: a clone of now. None where that cannot be
    had.
    """
    made = -1
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(source).st_mode):
                return None
            made = os.open(os.path.dirname(real_path(path)), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.ioctl(made, FICLONE, source)
            image = RawImage(f"/proc/self/fd/{made}")
        finally:
            os.close(source)
    except (OSError, errors.Unreachable):
        return None
    finally:
        if made >= 0:
            os.close(made)
    image.path = os.fspath(path)
    return image


def _record(have: Have, info: os.stat_result) -> bytes:
    """What a kept clone says of itself. The times and the inode tell a file that was written, or copied there."""
    fields = [have.replica_id, have.generation, have.seal, info.st_ino, info.st_size, info.st_mtime_ns]
    return json.dumps(fields).encode()


def keep(spot: Spot, fd: int, have: Have) -> None:
    """Make `next`, which is open as `fd`, the kept clone of `have`, durably. Raises OSError."""
    os.setxattr(fd, _ATTRIBUTE, _record(have, os.fstat(fd)))
    # Written back is not durable: after a power loss a clone that shares with the source what the disk's cache has lost
    # would call it unchanged, while the replica holds it.
    os.fsync(fd)
    os.rename(spot.at("next"), spot.at(have.generation))
    _flush_folder(spot.folder)


def open_kept(path: str, have: Have) -> int:
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


class Apart(NamedTuple):
    """Where two files may differ, as starts and lengths; what the older one holds alone, and how much of the newer one
    was named only because its extents do not tell, in bytes.
    """

    ranges: tuple[array[int], array[int]]
    kept_bytes: int
    uncertain: int


def apart(spot: Spot, fd: int, have: Have) -> Apart | None:
    """What an open file, the source or a clone of it, may hold otherwise than the kept clone of `have`; None where that
    is not there, or somebody touched it. Raises OSError, and ValueError for extents that make no sense.
    """
    kept = open_kept(spot.at(have.generation), have)
    if kept < 0:
        return None
    try:
        if not one_device(fd, spot.source):
            return None
        old_size, size = os.fstat(kept).st_size, os.fstat(fd).st_size
        new, old = kernel.extents.fiemap(fd, size), kernel.extents.fiemap(kept, old_size)
        found = kernel.extents.changed(old, new, old_size, size)
        return Apart(found, kernel.extents.weigh(old)[0], kernel.extents.weigh(new)[1])
    finally:
        os.close(kept)


def kept_as(path: str) -> Have | None:
    """Of which point a kept clone is, by its own word, which `open_kept` proves; None for what is no such clone."""
    try:
        replica_id, generation, seal, *_ = json.loads(os.getxattr(path, _ATTRIBUTE))
        have = Have(str(replica_id), int(generation), str(seal))
    except (OSError, ValueError, TypeError):
        return None
    fd = open_kept(path, have)
    if fd < 0:
        return None
    os.close(fd)
    return have


def one_device(fd: int, path: str) -> bool:
    """Is an address of this file one place on disk? A file on XFS's realtime device counts from that one's start."""
    fields = bytearray(28)
    try:
        fcntl.ioctl(fd, _FSGETXATTR, fields)
    except OSError:
        pass  # no such flags here
    return not struct.unpack_from("=I", fields)[0] & _REALTIME and file_system(path) not in _MANY_DEVICES


def alone(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return weight(fd)
    finally:
        os.close(fd)


def weight(fd: int) -> int:
    """Bytes that only this file holds; all of it where the file system does not tell."""
    size = os.fstat(fd).st_size
    try:
        return kernel.extents.weigh(kernel.extents.fiemap(fd, size))[0]
    except OSError:
        return size


def is_open(path: str, fd: int) -> bool:
    """Is the file at `path` the open one?"""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def remove(path: str) -> bool:
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
