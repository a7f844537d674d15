"""The disks of a machine: images in their place, and overlays over recovery points behind one server.

An overlay takes what the machine writes, so that the replica stays as it is. It is served by `secondsite track`, in a
process of the machine's own, which knows what was written: replicating it back costs what changed. Image files in their
place are served so too where the hypervisor is ours: else nothing could cut them while they are written. The server has
QEMU's locks on them then, so that its user's own machine does not start beside it.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import stat
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import DiskSpec, MachineSpec
from secondsite.orchestration.hypervisors import filelocks
from secondsite.orchestration.hypervisors.base import Cancel
from secondsite.orchestration.hypervisors.daemons import Daemon
from secondsite.orchestration.hypervisors.folder import Folder

SOCKET = "disks"
# What a tracking server takes besides overlays.
_TRACKED = ("raw", "vhd", "vhdx")
# A point behind a long chain of deltas is put together first; a store may have to be asked.
_SERVE_SECONDS = 60.0
_END_SECONDS = 20.0
_LOOK_SECONDS = 0.02
# What a server that was killed, or a removal, leaves beside an overlay that is gone.
_LEFT = re.compile(r"\..+\.overlay\.secondsite-(map|control)(\..+)?")
_OURS = "from secondsite.orchestration.entry import main; main()"


class Disks:
    """Those of a machine. `socket` is where they are exported, under their names: overlays, and with `all_served` image
    files in their place.
    """

    def __init__(self, spec: MachineSpec, folder: Folder, *, all_served: bool = False) -> None:
        self._spec, self._folder, self._all = spec, folder, all_served
        self.server = Daemon(folder.path, "disks")
        self.socket = folder.file(SOCKET)
        if len({disk.name for disk in spec.disks}) != len(spec.disks):
            raise errors.Usage(f"machine {spec.name!r} has two disks of one name")
        if len({folder.overlay(disk) for disk in spec.disks}) != len(spec.disks):
            raise errors.Usage(f"names of disks of machine {spec.name!r} are too much alike")
        for disk in spec.disks:
            if (disk.path is None) == (disk.replica is None):
                raise errors.Usage(f"disk {disk.name!r} of machine {spec.name!r} has either a path or a replica")

    @property
    def overlaid(self) -> list[DiskSpec]:
        return [disk for disk in self._spec.disks if disk.replica is not None]

    @property
    def served(self) -> list[DiskSpec]:
        """All of a machine's files or none: its disks are cut at one instant."""
        files = [disk for disk in self._spec.disks if disk.path is not None]
        if not self._all or not files or self.overlaid or not {disk.format for disk in files} <= set(_TRACKED):
            return self.overlaid
        return [] if any(is_block_device(str(disk.path)) for disk in files) else files

    def prepare(self, cancel: Cancel) -> None:
        """Overlays that are there stay, with what was written. Raises Refused where one lies over another point."""
        for disk in self._spec.disks:
            if disk.path is not None and not os.path.exists(disk.path):
                raise errors.Unreachable("the disk is not there", path=disk.path)
        for disk in self.overlaid:
            path = self._folder.overlay(disk)
            if disk.at != "latest" or not os.path.exists(path):
                engine.create_overlay(path, str(disk.replica), disk.at, state=self._spec.state)
        if served := self.served:
            self._serve(served, cancel)

    def _serve(self, served: list[DiskSpec], cancel: Cancel) -> None:
        if not self.server.running():
            command = [sys.executable, "-c", _OURS, "track", "--socket", SOCKET]
            command += [f"--name={disk.name}" for disk in served]
            # A guest could write into a raw disk what looks like another format.
            command += [f"--format={disk.format}" for disk in served if disk.path is not None]
            images = [disk.path or os.path.basename(self._folder.overlay(disk)) for disk in served]
            with ExitStack() as stack:
                kept = [self._held(disk.path, stack) for disk in served if disk.path is not None]
                if (key := _key(served, stack)) is not None:
                    kept, command = [*kept, key[0]], [*command, *key[1]]
                self.server.start([*command, "--", *images], kept=kept)
        until = time.monotonic() + _SERVE_SECONDS
        while not self._listens():
            if not self.server.running():
                text = f"its disks cannot be served: {self.server.last_words() or 'the server ended'}"
                raise errors.Unreachable(text, path=self._folder.path)
            if cancel():
                raise errors.Cancelled("the caller is gone")
            if time.monotonic() > until:
                raise errors.Unreachable(f"its disks are not served after {_SERVE_SECONDS:.0f} s", path=self.socket)
            time.sleep(_LOOK_SECONDS)

    @staticmethod
    def _held(path: str, stack: ExitStack) -> int:
        found = filelocks.hold(path)
        stack.callback(os.close, found)
        return found

    def _listens(self) -> bool:
        """Does it accept connections?"""
        fd = os.open(self._folder.path, os.O_PATH | os.O_CLOEXEC)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(f"/proc/self/fd/{fd}/{SOCKET}")
                return True
            except OSError:
                return False
            finally:
                os.close(fd)

    def told(self) -> list[dict[str, Any]]:
        """Where each disk is, for who replicates it or hands it to another hypervisor."""
        served = bool(self.served) and self.server.running()
        return [self._one(disk, served) for disk in self._spec.disks]

    def _one(self, disk: DiskSpec, served: bool) -> dict[str, Any]:
        if disk.path is not None:
            return {
                "name": disk.name, "path": disk.path, "format": disk.format, "overlay": False,
                "there": os.path.exists(disk.path), "served": served,
            }  # fmt: skip
        path = self._folder.overlay(disk)
        return {
            "name": disk.name, "path": path, "format": "raw", "overlay": True, "there": os.path.exists(path),
            "served": served, "socket": self.socket, "replica": disk.replica, "at": disk.at,
        }  # fmt: skip

    def end(self) -> None:
        """Nobody serves them any more. Raises Busy where the server does not end."""
        if not self.server.end(signal.SIGTERM, _END_SECONDS) and not self.server.end(signal.SIGKILL, _END_SECONDS):
            raise errors.Busy("the server of its disks does not end", path=self._folder.path)

    def remove(self, force: bool) -> bool:
        """The overlays go, with what was written into them. Was there one?"""
        self.end()
        found = False
        for path in self._overlays():
            found = engine.remove_overlay(path, force=force) or found
        for name in self._there():
            if _LEFT.fullmatch(name):
                with suppress(FileNotFoundError):
                    os.unlink(self._folder.file(name))
        return found

    def _there(self) -> list[str]:
        return os.listdir(self._folder.path) if self._folder.exists() else []  # noqa: PTH208

    def _overlays(self) -> list[str]:
        """Those of this description, and any other that lies there: made for one before it."""
        return sorted({
            *(self._folder.overlay(disk) for disk in self.overlaid),
            *(self._folder.file(name) for name in self._there() if name.endswith(".overlay")),
        })  # fmt: skip


def _key(served: list[DiskSpec], stack: ExitStack) -> tuple[int, list[str]] | None:
    """What the caller opens replicas with, for a server that is to read one that is encrypted (R9.14): in a file
    without a name, whose descriptor it inherits, and the options that say so; in no argument, environment or folder.
    """
    key = engine.current_key()
    if not key.given and (key.ask is None or not any(map(_encrypted, served))):
        return None
    said = key.packed()
    if said is None:
        return None
    fd = os.memfd_create("key", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    os.fchmod(fd, 0o600)
    os.write(fd, base64.b64decode(said["value"]))
    option = "--key-file" if said["kind"] == "key file" else "--passphrase-file"
    return fd, [option, f"/proc/self/fd/{fd}"]


def _encrypted(disk: DiskSpec) -> bool:
    try:
        return disk.replica is not None and bool(engine.replica_keys(disk.replica))
    except errors.Error:
        return False


def is_block_device(path: str) -> bool:
    """QEMU wants to be told."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False
