"""The file in which a change map survives: `.NAME.secondsite-map` beside the image. FORMAT.md is its specification.

Two header slots are written in turn, so that a torn one leaves the other. Whoever serves the image holds the file's
lock. What does not read, or is of another image or of bytes that others wrote, is unknown: the next cycle reads all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from secondsite.engine import errors, kernel
from secondsite.engine.images.raw import real_path
from secondsite.engine.trackers.base import Have

if TYPE_CHECKING:
    from secondsite.engine import _nbd

MAGIC = b"secsmap\n"
VERSION = 1
SLOT = 4096
HEADERS = 2 * SLOT
_HEAD = struct.Struct("<8sIIQI")  # magic, version, bytes of the JSON, serial, CRC-32C of all of it with this as 0
# After a crash, a file that is younger than the map's last sign of life was written by somebody else. With a region
# active our own last writes may be younger too; with none they are older by a save at least.
HEARTBEAT_GRACE_NS = 10_000_000_000
_LONG_NAME = 48


class State(NamedTuple):
    """What a header says. `stamp` is the files' identity and times after a clean end, empty while a server runs."""

    size: int
    granule: int
    region: int
    identity: str
    have: Have | None
    stamp: str


def beside(path: str | os.PathLike[str], suffix: str) -> str:
    """The name of a file of the server's beside an image, short enough for a socket."""
    folder, name = os.path.split(real_path(path))
    raw = os.fsencode(name)
    if len(raw) > _LONG_NAME:
        name = f"{os.fsdecode(raw[: _LONG_NAME - 17])}~{hashlib.sha256(raw).hexdigest()[:16]}"
    return os.path.join(folder, f".{name}.secondsite-{suffix}")


def identity(path: str) -> str:
    """What tells an image from another of its name. Not the device's number: another start may give another one."""
    return f"inode {os.stat(path).st_ino}"


def stamp(paths: list[str]) -> str:
    """The identity and times of files; equal where nobody wrote them meanwhile."""
    found = [os.stat(path) for path in paths]
    fields = [[info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns] for info in found]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def pack(state: State, serial: int) -> bytes:
    """A header slot."""
    fields = state._asdict()
    fields["have"] = list(state.have) if state.have else None
    body = json.dumps(fields, sort_keys=True).encode()
    if len(body) > SLOT - _HEAD.size:
        raise ValueError(f"{len(body)} bytes of header")
    crc = kernel.crc.crc32c(_HEAD.pack(MAGIC, VERSION, len(body), serial, 0) + body)
    return (_HEAD.pack(MAGIC, VERSION, len(body), serial, crc) + body).ljust(SLOT, b"\0")


def unpack(slot: bytes) -> tuple[int, State] | None:
    """(serial, state) of a sound slot; None for anything else."""
    if len(slot) < SLOT:
        return None
    magic, version, length, serial, crc = _HEAD.unpack_from(slot)
    if magic != MAGIC or version != VERSION or length > SLOT - _HEAD.size:
        return None
    body = slot[_HEAD.size : _HEAD.size + length]
    if kernel.crc.crc32c(_HEAD.pack(magic, version, length, serial, 0) + body) != crc:
        return None
    try:
        return serial, _state(json.loads(body))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _state(fields: dict[str, Any]) -> State:
    numbers = [fields[name] for name in ("size", "granule", "region")]
    texts = [fields[name] for name in ("identity", "stamp")]
    have = fields["have"]
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers) or not all(type(t) is str for t in texts):
        raise ValueError
    if have is not None and [type(part) for part in have] != [str, int, str]:
        raise ValueError
    return State(numbers[0], numbers[1], numbers[2], texts[0], None if have is None else Have(*have), texts[1])


class MapFile:
    """The open, locked file of one image's map. Raises Busy where another process serves the image."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.serial = 0
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise errors.from_os(error, path, "open the change map") from None
        if not lock(self.fd):
            os.close(self.fd)
            raise errors.Busy("another tracking server serves this image already", path=path)

    def load(self, changes: _nbd.ChangeMap, files: list[str], *, raw: bool) -> Have | None:
        """Put what the file knows into a new map, and return what its marks are relative to; None: nothing is known.

        A `raw` image is written by guests alone, a container by its server too.
        """
        active = self._read(HEADERS, changes.active_bytes)
        state = self._newest()
        grace = 0 if raw and not any(active) else HEARTBEAT_GRACE_NS
        if state is None or not self._fits(state, changes, files, grace):
            return None
        marks = self._read(HEADERS + changes.active_bytes, changes.marks_bytes)
        if len(active) < changes.active_bytes or len(marks) < changes.marks_bytes:
            return None
        changes.load(active, marks)
        return state.have

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self.fd, length, offset)
        except OSError as error:
            raise errors.from_os(error, self.path, "read the change map") from None

    def _newest(self) -> State | None:
        found = [unpack(self._read(at, SLOT)) for at in (0, SLOT)]
        sound = [one for one in found if one is not None]
        if not sound:
            return None
        self.serial, state = max(sound)
        return state

    def _fits(self, state: State, changes: _nbd.ChangeMap, files: list[str], grace: int) -> bool:
        shape = (state.size, state.granule, state.region)
        if shape != (changes.size, changes.granule, changes.region) or state.identity != identity(files[0]):
            return False
        if state.stamp:
            return state.stamp == stamp(files)
        alive = os.fstat(self.fd).st_mtime_ns + grace
        return all(max(info.st_mtime_ns, info.st_ctime_ns) < alive for info in map(os.stat, files))

    def attach(self, changes: _nbd.ChangeMap, state: State, known: bool) -> None:
        """Keep the map in this file from now on. Without `known` the file is made anew, all zeros."""
        length = HEADERS + changes.active_bytes + changes.marks_bytes
        try:
            if not known:
                os.ftruncate(self.fd, 0)
            # All of it now: a disk that is full later must not void the map.
            os.posix_fallocate(self.fd, 0, length)
        except OSError as error:
            raise errors.from_os(error, self.path, "make room for the change map") from None
        self.put(state)
        changes.keep(self.fd, HEADERS, HEADERS + changes.active_bytes)

    def put(self, state: State) -> None:
        """Write the header, durably."""
        self.serial += 1
        try:
            os.pwrite(self.fd, pack(state, self.serial), self.serial % 2 * SLOT)
            os.fsync(self.fd)
        except OSError as error:
            raise errors.from_os(error, self.path, "write the change map") from None

    def beat(self) -> None:
        """A sign of life: what is written to the image much later than the last one was not written by us."""
        os.utime(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def lock(fd: int) -> bool:
    """Take the lock of an open file, exclusively.

    Who looks whether an image is served holds the lock for a moment, hence some tries.
    """
    for _ in range(20):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.02)
    return False


def is_served(path: str | os.PathLike[str]) -> bool:
    """Does a tracking server hold this image now?"""
    try:
        fd = os.open(beside(path, "map"), os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return True  # it is another user's, and whether one serves it only he may see
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def void(path: str | os.PathLike[str]) -> None:
    """Before we write an image beside its server: raises Busy where one runs, and removes the map that one left."""
    if is_served(path):
        raise errors.Busy("a tracking server serves it, and would not notice; end that first", path=os.fspath(path))
    try:
        os.unlink(beside(path, "map"))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise errors.from_os(error, beside(path, "map"), "remove the change map") from None
