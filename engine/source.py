"""The source of a cycle: what it is called, and whether it stood still while it was read."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from secondsite.engine import errors, units
from secondsite.engine.images import Image, Stamp, detect, is_blob, is_qcow2, is_url, open_image
from secondsite.engine.images.base import ShortImage
from secondsite.engine.images.raw import real_path

# What reads replicas is imported where one is at hand: it takes 30 ms, which a conversion need not pay.
if TYPE_CHECKING:
    from secondsite.engine.replica.directory import Replica

# Letters of a name that stands for a source's path.
MAX_NAME = 4000
# File systems on which ctime moves with every write: local ones. Others (network, FUSE, FAT) may cache or round it.
TRUSTED_MAGIC = {
    0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs", 0xF2F52010: "f2fs",
    0x2FC12FC1: "zfs", 0xCA451A4E: "bcachefs",
}  # fmt: skip
# A write in the same tick of the clock as the last look would not show: what is younger than this is looked at.
RACY_NS = 2_000_000_000
# Files are stamped by a clock that ticks every 1 to 10 ms: of two writes in one tick the second does not show.
TICK_NS = 20_000_000
_SETTLE_TRIES = 5
# Formats whose files say where the disk's data lie.
_CONTAINERS = ("vhdx", "vhd", "vmdk")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_OCTAL = re.compile(rb"\\([0-3][0-7][0-7])")


@dataclass(frozen=True, slots=True)
class Given:
    """A source as a caller names it, not yet opened; see Source."""

    source: str | os.PathLike[str] | Image
    name: str | None = None
    format: str | None = None
    allow_parent_path: Sequence[str] = ()
    running: bool = False
    moment: str | None = None

    def open(self) -> Source:
        """Raises Unreachable, Damaged, Refused, Usage."""
        return Source(
            self.source, self.name, format=self.format, allow_parent_path=self.allow_parent_path, running=self.running,
            moment=self.moment,
        )  # fmt: skip


class Source:
    """An image that is read, by path or already open (an embedding program's own); `by_path` says which.

    Of an NBD export `bitmap` is the metadata context that its URL asks for, whether the server has it or not.

    `running`: a QEMU reads it for us, so that it may be a QCOW2 image too. `moment` is when its bytes were what they
    are, where that is not when they are read: the time of a recovery point (R2.1).

    What a container's tables say is read at its opening, or when they are first needed: they are those of its data only
    where none of its files was written since. `reread` opens it anew where one was.
    """

    _anew: Callable[[], Image] | None = None
    _read: tuple[Stamp, ...] | None = None

    def __init__(
        self,
        source: str | os.PathLike[str] | Image,
        name: str | None,
        *,
        format: str | None = None,
        allow_parent_path: Sequence[str] = (),
        running: bool = False,
        moment: str | None = None,
    ) -> None:
        if name is not None and len(name) > MAX_NAME:
            raise errors.Usage(f"a source's name has at most {MAX_NAME} letters, not {len(name)}")
        self.moment = moment
        self.bitmap: str | None = None
        self.allow_parent_path = allow_parent_path
        if isinstance(source, Image):
            self.image, self.format = source, "raw"
        elif is_url(source):
            from secondsite.engine.images.nbd import open_export

            self.format = format or "raw"
            self.image, self.bitmap = open_export(os.fspath(source), self.format)
        elif is_blob(source):
            self.format = format or "raw"  # its disk, whatever lies around that
            self.image = open_image(source, format=self.format)
        elif running and format in (None, "qcow2") and is_qcow2(source):
            # QEMU reads it for us; the file tells only whether it stands still.
            self.image, self.format = open_image(source, format="raw"), "qcow2"
        else:
            _refuse_url(os.fspath(source))
            self.format = format or detect(source)
            anew = partial(open_image, source, format=self.format, allow_parent_path=allow_parent_path)
            self.image = self._opened(anew, os.fspath(source))
            if self.format in _CONTAINERS:
                self._anew = anew
        self.by_path = not isinstance(source, Image)
        self.is_url = not isinstance(source, Image) and is_url(source)
        self.path = self.image.path
        self._name = name
        elsewhere = self.is_url or (not isinstance(source, Image) and is_blob(source))
        self._on_disk = (self.by_path and not elsewhere) or self.image.stamps() is not None
        self.name = self._names(self.path)

    def _names(self, path: str) -> str:
        if self._name:
            return units.printable(f"name:{self._name}")
        return place(path) if self._on_disk else units.printable(f"{_machine()}:{path}")

    def follows(self, name: str) -> bool:
        """Is the disk called `name` this one, or a file that this one is a difference to?

        A checkpoint makes a child of the file that was replicated, and the machine goes on in the child. The other way
        round says nothing: many disks may be made over one parent.
        """
        return name == self.name or (not self._name and name in map(self._names, self.image.files()))

    @staticmethod
    def _opened(anew: Callable[[], Image], path: str) -> Image:
        """Raises SourceChanged where it makes no sense because it is being written."""
        before = _stamp(path)
        try:
            return anew()
        except errors.Damaged:
            if before is None or (_stamp(path) == before and not _fresh((before,))):
                raise
        raise errors.SourceChanged("it was written while it was opened", path=path) from None

    def reread(self) -> None:
        """Before it is read as it is. Raises SourceChanged where it is written all the time, and as opening it."""
        if self._anew is None:
            return
        stamp = self._rest()
        if stamp != self._read:
            image = self._opened(self._anew, self.path)
            self.image.close()
            self.image, self._read = image, stamp

    @contextmanager
    def standing(self, before: tuple[Stamp, ...] | None, *, frozen: bool) -> Iterator[None]:
        """While it is read, unless from a `frozen` view: what makes no sense of files that are not as they were
        `before` is no damage. Raises SourceChanged in its place.
        """
        try:
            yield
        except errors.Damaged as error:
            ours = not frozen and not isinstance(error, ShortImage) and error.path in self.image.files()
            if not ours or before is None or self.stamp() == before:
                raise
            raise errors.SourceChanged("it was written while it was read", path=self.path) from None

    def rested(self) -> tuple[Stamp, ...] | None:
        """The stamp, if it is old enough already that any later write changes it; None otherwise."""
        stamp = self.stamp()
        return stamp if stamp is not None and time.time_ns() - _newest(stamp) > TICK_NS else None

    def stamp(self) -> tuple[Stamp, ...] | None:
        """Its files' identity and times; None where it has none (a device, another program's image)."""
        return self.image.stamps()

    def settled(self) -> tuple[Stamp, ...] | None:
        """The stamp, old enough that any later write changes it. Raises SourceChanged for a file that is written
        all the time, or was since its tables were read.
        """
        stamp = self._rest()
        if self._read is not None and stamp != self._read:
            raise errors.SourceChanged("it was written while it was read", path=self.path)
        return stamp

    def _rest(self) -> tuple[Stamp, ...] | None:
        for _ in range(_SETTLE_TRIES):
            stamp = self.stamp()
            # Not the caller's clock: this is about the one that stamps files.
            if stamp is None or not _fresh(stamp):
                return stamp
            time.sleep(TICK_NS / 1e9)
        raise errors.SourceChanged("it is being written", path=self.path)

    def trusted(self) -> bool:
        """Is it a regular file on a file system whose times can be trusted?"""
        if self.image.stamps() is None:
            return False
        return all(file_system(path) in TRUSTED_MAGIC.values() for path in self.image.files())

    def close(self) -> None:
        if self.by_path:
            self.image.close()


def _refuse_url(path: str) -> None:
    """Raises Usage for a URL that is no NBD export, unless there is such a file."""
    if _SCHEME.match(path) and not os.path.exists(path):
        raise errors.Usage(
            "is a URL; a source is an image, a device, the folder of a replica here, an NBD export or a disk of Azure",
            path=path,
        )


def place(path: str | os.PathLike[str]) -> str:
    """How a replica calls a source that has no name but its path."""
    return units.printable(f"{_machine()}:{real_path(path)}")


def _newest(stamps: tuple[Stamp, ...]) -> int:
    """The latest of all their times, in nanoseconds."""
    return max(max(stamp.mtime_ns, stamp.ctime_ns) for stamp in stamps)


def _fresh(stamps: tuple[Stamp, ...]) -> bool:
    """May a write in the same tick of the clock not show?"""
    return abs(time.time_ns() - _newest(stamps)) <= TICK_NS


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _machine() -> str:
    """What tells this machine from others with the same paths; empty where the system does not say."""
    try:
        return Path("/etc/machine-id").read_text().strip()[:32]
    except OSError:
        return ""


def _octal(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8)])


def file_system(path: str) -> str | None:
    """The type of the file system that holds a file, if it is one of TRUSTED_MAGIC."""
    best, kind = "", None
    try:
        mounts = Path("/proc/self/mounts").read_bytes().split(b"\n")
    except OSError:
        return None
    real = real_path(path)
    for line in mounts:
        fields = line.split()
        # Blanks and the like are octal there: a name that is not recognized would leave the mount above it, which
        # may be one to trust.
        place = os.fsdecode(_OCTAL.sub(_octal, fields[1])) if len(fields) > 2 else ""
        if len(place) >= len(best) and (real == place or real.startswith(place.rstrip("/") + "/")):
            best, kind = place, os.fsdecode(fields[2])
    return kind


def remember(replica: Replica, stamp: tuple[Stamp, ...] | None, generation: int, now_ns: int) -> None:
    """Note what the source looked like when it was last equal to the head. Advice: losing it costs a scan."""
    from secondsite.engine.replica import record

    fields = {"generation": generation, "checked_ns": now_ns, "stamp": [list(part) for part in stamp or ()]}
    try:
        replica.files.write_bytes(replica.layout.checked, record.pack(fields), durable=False)
    except errors.Error as error:
        replica.warn(str(error))


# Why nothing was looked at.
BY_TIMES = "its times say that it is unchanged"


def unchanged(replica: Replica, source: Source, generation: int) -> bool:
    """Does everything that `stat` says of the source equal what was noted for this generation?"""
    stamp = source.stamp()
    if stamp is None or not source.trusted():
        return False
    found = noted(replica, generation)
    return found is not None and found.stamp == list(stamp) and _newest(stamp) < found.checked_ns - RACY_NS


class Noted(NamedTuple):
    """What the source's files looked like when they were last equal to the head, and when that was."""

    stamp: list[Stamp]
    checked_ns: int


def noted(replica: Replica, generation: int) -> Noted | None:
    """What was noted for this generation, or None where nothing was, or the note does not read."""
    from secondsite.engine.replica import record

    path = replica.layout.checked
    try:
        fields, _ = record.read(replica.files, path)
        stamp = [Stamp(*part) for part in record.field(fields, "stamp", list, path)]
        checked = record.field(fields, "checked_ns", int, path)
    except (errors.Error, TypeError):
        return None
    return Noted(stamp, checked) if stamp and fields.get("generation") == generation else None


def refuse_inside(origin: Source, root: str) -> None:
    """Raises Refused for a file of the replica itself, in the folder `root`."""
    if isinstance(origin.image, Image):
        inside = os.path.commonpath([real_path(root), real_path(origin.path)]) == real_path(root)
        if inside and origin.stamp() is not None:
            raise errors.Refused("the source lies inside the replica", path=origin.path)
