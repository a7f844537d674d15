"""Put a recovery point at the place of a machine's own disk, in that disk's own format (R12.11).

What is to lie there is made beside it under another name and proved by its hashes (D10, P28); the old disk then gets a
second name, `NAME.before-POINT`, and one rename puts the new one in its place. Until `place_commit` the old disk is
there as it was, and `place_undo` puts it back. Wherever a call is cut short, a whole disk lies under the name (M12):

| `NAME.before-POINT` | then |
|---|---|
| is not there | the disk is the old one; a draft beside it means nothing |
| is another name of the disk | the same |
| is another file | the point is in place |
"""

from __future__ import annotations

import fcntl
import os
import posixpath
import re
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from secondsite.engine import errors
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.images import Image
from secondsite.engine.images.beginning import Beginning
from secondsite.engine.images.formats import named_format, open_image, settle
from secondsite.engine.images.raw import real_path
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.remote import url
from secondsite.engine.replica import chain as chains
from secondsite.engine.replica.container import check_format
from secondsite.engine.replica.directory import Replica
from secondsite.engine.restoration import restore
from secondsite.engine.results.outputs import Placed, Restored
from secondsite.engine.serving import open_steady
from secondsite.engine.store.place import is_place
from secondsite.engine.tracked.mapfile import is_served
from secondsite.engine.units import MIB
from secondsite.engine.verification import verify

State = str | os.PathLike[str] | None

_F_OFD_GETLK = 36
_FLOCK = struct.Struct("hh4xqqi4x")
_COPY = 4 * MIB
# No format rounds a size up by more.
_ROUNDED = 64 * MIB


def place(
    replica: str | os.PathLike[str],
    path: str | os.PathLike[str],
    at: str = "latest",
    *,
    format: str | None = None,
    allow_parent_path: Sequence[str | os.PathLike[str]] = (),
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    files: Files | None = None,
    state: State = None,
) -> Placed:
    """Make the file `path` the point `at`. The disk that lay there stays, as `PATH.before-POINT`, until `place_commit`
    or `place_undo`; where there was none, the point is a new disk.

    A raw disk becomes a clone of what the replica holds, where the file system can clone; else a clone or copy of the
    old disk is made, which keeps the parameters of a VHDX or VHD, and only what differs is written into it. All of it
    is hashed. `format` decides where name and bytes of the old disk do not agree, or what a new one is.

    The machine has to be off. Raises Busy where the disk is in use; Refused for a device, an overlay, a differencing
    disk whose size is another, and an earlier placing that was neither committed nor undone (of the same point it is
    done already, unless somebody wrote on the disk since); and what `restore` raises. The disk is then what it was.
    """
    began, files, root = time.monotonic(), files or LocalFiles(), os.fspath(replica)
    spot = _Spot(real_path(path), files)
    spot.refuse_used()
    held = spot.placed()
    spot.clear()
    how = _How(spot, root, at, _format(spot, format), [os.fspath(one) for one in allow_parent_path], workers, state)
    if held is not None:
        return how.again(held, began, progress, cancel)
    try:
        made = how.draft(progress, cancel)
        before = spot.put(made.point)
    except BaseException:
        with suppress(errors.Error):
            spot.clear()
        raise
    return Placed(
        spot.path, before, made.point, made.virtual_bytes, made.bytes_written, how.method, time.monotonic() - began,
        made.warnings,
    )  # fmt: skip


def place_commit(path: str | os.PathLike[str], *, files: Files | None = None) -> bool:
    """Let the old disk go; was there one? A placing that was cut short is cleared away, and the disk stays."""
    spot = _Spot(real_path(path), files or LocalFiles())
    held = spot.placed()
    spot.clear()
    if held is not None:
        spot.forget(held)
    return held is not None


def place_undo(path: str | os.PathLike[str], *, files: Files | None = None) -> bool:
    """Put the old disk back; the point that was in its place goes. Was there one? Raises Busy where it is in use."""
    spot = _Spot(real_path(path), files or LocalFiles())
    held = spot.placed()
    spot.clear()
    if held is None:
        return False
    spot.refuse_used()
    spot.files.replace(held, spot.path)
    spot.files.flush_dir(spot.folder)
    return True


def _format(spot: _Spot, wanted: str | None) -> str:
    """Of the disk that lies there, or of the one that is made."""
    if not spot.there():
        return check_format(wanted or named_format(spot.path) or "raw")
    if not isinstance(spot.files, LocalFiles):
        return check_format(wanted or "raw")
    found = settle(spot.path, wanted)
    if found not in ("raw", "vhdx", "vhd"):
        raise errors.Refused(f"a {found} is no disk that a point is put in the place of", path=spot.path)
    return found


class _Spot:
    """The place of a disk, and the names beside it."""

    def __init__(self, path: str, files: Files) -> None:
        self.path, self.files = path, files
        self.folder, self.name = posixpath.dirname(path) or ".", posixpath.basename(path)
        self.draft = posixpath.join(self.folder, f".{self.name}.secondsite-placing")
        # What `restore` makes a new file under.
        self._partial = posixpath.join(self.folder, f".{posixpath.basename(self.draft)}.secondsite-partial")

    def before(self, point: str) -> str:
        return f"{self.path}.before-{point}"

    def there(self) -> bool:
        return self.files.exists(self.path)

    def refuse_used(self) -> None:
        """Raises Busy, and Refused for a device."""
        if not isinstance(self.files, LocalFiles) or not self.there():
            return
        if not os.path.isfile(self.path):
            raise errors.Refused("is no file: a point is written to a device by restore --in-place", path=self.path)
        if is_served(self.path):
            raise errors.Busy("a tracking server serves it; end that first", path=self.path)
        if _locked(self.path):
            raise errors.Busy("another program has it open and locked; is its machine off?", path=self.path)

    def _held(self) -> list[str]:
        named = re.compile(re.escape(f"{self.name}.before-") + "[0-9]+")
        return [posixpath.join(self.folder, name) for name in self.files.listdir(self.folder) if named.fullmatch(name)]

    def placed(self) -> str | None:
        """The old disk beside a point that is in place."""
        return next((held for held in self._held() if not self.files.same(held, self.path)), None)

    def clear(self) -> None:
        """Take away what a call that was cut short left."""
        for held in self._held():
            if self.files.same(held, self.path):
                self.forget(held)
        self.files.unlink(self.draft)
        self.files.unlink(self._partial)

    def forget(self, held: str) -> None:
        self.files.unlink(held)
        self.files.flush_dir(self.folder)

    def put(self, point: str) -> str | None:
        """The draft in the disk's place; what the old disk is called then."""
        held = self.before(point) if self.there() else None
        if held is not None:
            self._dress()
            self.files.link(self.path, held)
        self.files.flush_dir(self.folder)
        self.files.replace(self.draft, self.path)
        self.files.flush_dir(self.folder)
        return held

    def _dress(self) -> None:
        """The hypervisor must be able to open the new one as it did the old one."""
        if not isinstance(self.files, LocalFiles):
            return
        try:
            old = os.stat(self.path)
            os.chmod(self.draft, old.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.chown(self.draft, old.st_uid, old.st_gid)
            for name in os.listxattr(self.path):
                with suppress(OSError):
                    os.setxattr(self.draft, name, os.getxattr(self.path, name))
        except OSError as error:
            raise errors.from_os(error, self.draft, "give it the owner and mode of the disk") from None


class _How:
    """What the draft is made of."""

    def __init__(
        self, spot: _Spot, root: str, at: str, format: str, allow: list[str], workers: int | None, state: State
    ) -> None:  # fmt: skip
        self.spot, self.root, self.at, self.format, self.allow = spot, root, at, format, allow
        self.workers, self.state, self.method = workers, state, ""
        self._local = not is_place(root) and not url.is_remote(root)

    def again(
        self, held: str, began: float, progress: Callable[[Progress], None] | None,
        cancel: Callable[[], bool] | None,
    ) -> Placed:  # fmt: skip
        """Of a point that is in place, and is proved there once more: its machine may have been started meanwhile, and
        what it wrote is neither gone on with nor written over. Raises Refused for that, and where it is another point.
        """
        spot = self.spot
        name, size = self._meant()
        if held != spot.before(name):
            told = f"holds a point that was put there before ({posixpath.basename(held)}): commit or undo that first"
            raise errors.Refused(told, path=spot.path)
        with self._placed() as image:
            same = 0 <= image.size - size <= _ROUNDED and self._proved(Beginning(image, size), name, progress, cancel)
            if not same or any(image.read(size, image.size - size)):
                told = f"was written on since point {name} was put there: commit it, or undo it and lose that"
                raise errors.Refused(told, path=spot.path)
        return Placed(spot.path, held, name, size, 0, "done before", time.monotonic() - began, [])

    def _meant(self) -> tuple[str, int]:
        """The point, and its size."""
        if self._local:
            point = Replica.open(self.root, self.spot.files).choose(self.at)
            return point.name, point.virtual_bytes
        with open_steady(self.root, self.at, self.state, lambda line: None) as found:
            return found.name, found.size

    def _placed(self) -> Image:
        if not isinstance(self.spot.files, LocalFiles):
            return self.spot.files.open(self.spot.path, "r")
        return open_image(self.spot.path, format=self.format, allow_parent_path=self.allow)

    def _proved(
        self, image: Image, at: str, progress: Callable[[Progress], None] | None, cancel: Callable[[], bool] | None
    ) -> bool:
        return verify(
            self.root, source=image, at=at, workers=self.workers, progress=progress, cancel=cancel,
            files=self.spot.files if self._local else None, state=self.state,
        ).ok  # fmt: skip

    def draft(self, progress: Callable[[Progress], None] | None, cancel: Callable[[], bool] | None) -> Restored:
        """Make it, whole and proved."""
        draft, files = self.spot.draft, self.spot.files
        self.method = self._begin(Monitor(progress, cancel))
        fresh = self.method == "new"
        made = restore(
            self.root, draft, at=self.at, in_place=not fresh, format=self.format, allow_parent_path=self.allow,
            workers=self.workers, progress=progress, cancel=cancel, files=files if self._local else None,
            state=self.state,
        )  # fmt: skip
        files.flush_dir(self.spot.folder)
        return made

    def _begin(self, monitor: Monitor) -> str:
        """Lay down what is nearest to the point and costs least; how that is called."""
        spot, files = self.spot, self.spot.files
        if self.format == "raw" and self._local and self._clone_point():
            return "clone of the replica"
        if spot.there() and files.clone(spot.path, spot.draft):
            return "clone of the disk"
        if not spot.there() or (self.format == "raw" and self._local):
            return "new"
        _copy(files, spot.path, spot.draft, monitor)
        return "copy of the disk"

    def _clone_point(self) -> bool:
        """What is wrong in it, since a cycle was writing the head say, is written over."""
        opened = Replica.open(self.root, self.spot.files)
        if opened.layout.kind != "raw":
            return False
        with opened.reading(proving=True):
            point = opened.choose(self.at)
            self.at = point.name
            return self.spot.files.clone(chains.find(opened, point.generation).base_path, self.spot.draft)


def _copy(files: Files, source: str, target: str, monitor: Monitor) -> None:
    """A file byte by byte, with its holes."""
    with files.open(source, "r") as old, files.open(target, "create") as new:
        size = old.size
        new.resize(size)
        monitor.begin("copy", size)
        for extent in old.extents(0, size):
            end = extent.start + extent.length
            for at in range(extent.start, end, _COPY):
                monitor.check()
                length = min(_COPY, end - at)
                if not extent.zero:
                    new.write(at, old.read_bytes(at, length))
                monitor.advance(length)
        new.flush()


def _locked(path: str) -> bool:
    """Does another program hold a lock of a range, as QEMU does of each image that it has open?"""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise errors.from_os(error, path, "open it") from None
    try:
        found = fcntl.fcntl(fd, _F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return False  # this file system has no such locks
    finally:
        os.close(fd)
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)
