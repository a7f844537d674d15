"""The folder of a machine on its host: one at a time changes it, and one file says what it is.

That file is written whole and renamed. What runs is never read from it: processes are asked themselves.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import DiskSpec, MachineSpec
from secondsite.orchestration.typed import ready

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_LOCK_SECONDS = 120.0
_STATE = "machine.json"
# Of a Unix socket, where somebody opens it by its path.
_LONGEST_PATH = 107


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What was last asked for. `macs` are those of its cards, `accelerator` what QEMU was started with."""

    version: int = 1
    spec: MachineSpec
    macs: tuple[str, ...] = ()
    accelerator: str = ""
    started: float = 0.0


def plain(name: str, most: int) -> str:
    """As a file's name: itself where that is a plain word, else the plain part of it and a hash."""
    if _PLAIN.fullmatch(name) and len(name) <= most:
        return name
    word = re.sub(r"[^A-Za-z0-9_-]+", "_", name, flags=re.ASCII)[: most - 9]
    return f"{word}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def short(path: str) -> str:
    """The path of a socket that another hypervisor opens. Raises Usage where that cannot be."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        text = f"is too long a path for a socket: more than {_LONGEST_PATH} bytes; give the host a shorter `run`"
        raise errors.Usage(text, path=path)
    return path


class Folder:
    """The folder `path` of a machine, which need not be there. Its processes run in it and name its sockets without it,
    so that no path is too long for one (107 bytes).
    """

    def __init__(self, spec: MachineSpec) -> None:
        if not os.path.isabs(spec.folder):
            raise errors.Usage("the folder of machines has to be an absolute path", path=spec.folder)
        if not spec.name or "\0" in spec.name or len(spec.name) > 255:
            raise errors.Usage(f"{spec.name[:60]!r} is no name of a machine")
        self.name, self._above = spec.name, spec.folder if spec.alone else None
        self.path = os.path.join(spec.folder, plain(spec.name, 40))
        self.lock: int | None = None

    def file(self, name: str) -> str:
        """The path of a file in it."""
        return os.path.join(self.path, name)

    def overlay(self, disk: DiskSpec) -> str:
        """Where a disk's overlay is."""
        return self.file(f"{plain(disk.name, 24)}.overlay")

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    @contextmanager
    def locked(self, *, make: bool = True, cancel: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Nobody else changes the machine meanwhile. Is the folder there? It is made where `make` says so. `lock` is
        what holds it. Raises Busy after two minutes, Cancelled.
        """
        fd = self.lock = self._lock(make, time.monotonic() + _LOCK_SECONDS, cancel)
        try:
            yield fd is not None
        finally:
            self.lock = None
            if fd is not None:
                os.close(fd)

    def busy(self) -> bool:
        """Does another process, or another call of this one, change the machine just now?"""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return self.lock is None
        finally:
            os.close(fd)

    def _lock(self, make: bool, deadline: float, cancel: Callable[[], bool]) -> int | None:
        while True:
            try:
                if make:
                    os.makedirs(self.path, 0o700, exist_ok=True)
                fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                if make:
                    continue  # removed in between
                return None
            except OSError as error:
                raise errors.from_os(error, self.path, "open the folder of the machine") from None
            try:
                self._wait(fd, deadline, cancel)
                if os.path.exists(self.path) and os.path.samestat(os.fstat(fd), os.stat(self.path)):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # it was removed by who had the lock, and may be there anew

    def _wait(self, fd: int, deadline: float, cancel: Callable[[], bool]) -> None:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if cancel():
                    raise errors.Cancelled("the caller is gone") from None
                if time.monotonic() > deadline:
                    raise errors.Busy("somebody else starts or stops this machine", path=self.path) from None
                time.sleep(0.02)

    def load(self) -> State | None:
        """None where no machine was ever prepared here. Raises Damaged, Refused."""
        path = self.file(_STATE)
        try:
            found = msgspec.json.decode(Path(path).read_bytes(), type=State)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise errors.from_os(error, path, "read it") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise errors.Damaged(f"is no state of a machine: {error}", path=path) from None
        if found.version != 1:
            raise errors.NewerFormat(f"was written by a later version (format {found.version})", path=path)
        if found.spec.name != self.name:
            raise errors.Refused(f"is the folder of another machine, {found.spec.name!r}", path=self.path)
        return found

    def save(self, state: State) -> None:
        """Whole or not at all. What is there already is not written again: a machine comes back on a full disk too."""
        path = self.file(_STATE)
        try:
            if os.path.exists(path) and Path(path).read_bytes() == msgspec.json.encode(state):
                return
            with open(f"{path}.new", "wb") as file:
                file.write(msgspec.json.encode(state))
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{path}.new", path)
        except OSError as error:
            raise errors.from_os(error, path, "write it") from None

    def clear(self, names: tuple[str, ...]) -> None:
        """The files of these names go, the state after them, and the folder where nothing else is in it."""
        for name in (*names, f"{_STATE}.new", _STATE):
            with suppress(FileNotFoundError):
                os.unlink(self.file(name))
        with suppress(OSError):
            os.rmdir(self.path)
        self.leave()

    def leave(self) -> None:
        """The folder that it was alone in goes, where nothing is in it."""
        if self._above is not None:
            with suppress(OSError):
                os.rmdir(self._above)


ready(State)
