"""The source of a cycle: what it is called, and whether it stood still while it was read."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.files import Files
from secondsite.engine.images import Image, RawImage, Stamp, open_image
from secondsite.engine.images.raw import real_path
from secondsite.engine.replica import record
from secondsite.engine.replica.directory import Replica

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
_OCTAL = re.compile(rb"\\([0-3][0-7][0-7])")


class Source:
    """An image that is read, by path or already open (an embedding program's own)."""

    def __init__(self, source: str | os.PathLike[str] | Image, name: str | None) -> None:
        self.image = source if isinstance(source, Image) else open_image(source)
        self._owned = not isinstance(source, Image)
        self.path = self.image.path
        self.name = f"name:{name}" if name else f"{_machine()}:{self._real()}"

    def _real(self) -> str:
        return real_path(self.path) if isinstance(self.image, RawImage) else self.path

    def stamp(self) -> Stamp | None:
        """Its file's identity and times; None where it has none (a device, another program's image)."""
        return self.image.stamp() if isinstance(self.image, RawImage) else None

    def settled(self) -> Stamp | None:
        """The stamp, old enough that any later write changes it. Raises SourceChanged for a file that is written
        all the time.
        """
        for _ in range(_SETTLE_TRIES):
            stamp = self.stamp()
            # Not the caller's clock: this is about the one that stamps files.
            if stamp is None or abs(time.time_ns() - max(stamp.mtime_ns, stamp.ctime_ns)) > TICK_NS:
                return stamp
            time.sleep(TICK_NS / 1e9)
        raise errors.SourceChanged("it is being written", path=self.path)

    def trusted(self) -> bool:
        """Is it a regular file on a file system whose times can be trusted?"""
        if not isinstance(self.image, RawImage) or self.image.device:
            return False
        return file_system(self.image.path) in TRUSTED_MAGIC.values()

    def close(self) -> None:
        if self._owned:
            self.image.close()


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


def remember(replica: Replica, stamp: Stamp | None, generation: int, now_ns: int) -> None:
    """Note what the source looked like when it was last equal to the head. Advice: losing it costs a scan."""
    fields = {"generation": generation, "checked_ns": now_ns, "stamp": list(stamp) if stamp else []}
    try:
        replica.files.write_bytes(replica.layout.checked, record.pack(fields), durable=False)
    except errors.Error as error:
        replica.warn(str(error))


def unchanged(replica: Replica, source: Source, generation: int) -> bool:
    """Does everything that `stat` says of the source equal what was noted for this generation?"""
    stamp = source.stamp()
    if stamp is None or not source.trusted():
        return False
    files: Files = replica.files
    try:
        fields, _ = record.read(files, replica.layout.checked)
        noted = record.field(fields, "stamp", list, replica.layout.checked)
        checked = record.field(fields, "checked_ns", int, replica.layout.checked)
    except errors.Error:
        return False
    if fields.get("generation") != generation or noted != list(stamp):
        return False
    return bool(max(stamp.mtime_ns, stamp.ctime_ns) < checked - RACY_NS)
