"""Processes of a machine that outlive who started them, and are known again by whoever comes next.

Such a process inherits a lock on its file NAME.pid (an OFD lock: of the open file, so it ends with the process and
with nothing else) and writes its number there before it becomes the program. So it is never started twice; a number
that another process has got meanwhile is never believed; and after a reboot none of them is there.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from secondsite.engine import errors

# The first shell leaves the second behind, which is then nobody's child and needs no waiting for.
_LEAVE = '"$@" &'
_BECOME = 'umask 077; echo $$ >"$0"; exec "$@"'
_FLOCK = "hhqqi4x"
_SPAWN_SECONDS = 20.0
_LOOK_SECONDS = 0.01
_LOG_BYTES = 4096


class Daemon:
    """The process `name` of the machine in `folder`. Its output of the last start is in NAME.log."""

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = folder, name
        self._file, self._log = os.path.join(folder, f"{name}.pid"), os.path.join(folder, f"{name}.log")

    @property
    def files(self) -> tuple[str, ...]:
        """The names of what it leaves in the folder."""
        return f"{self.name}.pid", f"{self.name}.log"

    def start(self, command: Sequence[str], namespace: str | None = None, kept: Sequence[int] = ()) -> None:
        """With the descriptors `kept` open. Raises Busy where it runs, Unreachable where it cannot be begun. Whether it
        stays is the caller's to see.
        """
        if namespace is not None:
            command = ["nsenter", f"--net=/run/netns/{namespace}", "--", *command]
        try:
            fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise errors.from_os(error, self._file, "make it") from None
        try:
            self._lock(fd)
            os.ftruncate(fd, 0)
            whole = ["sh", "-c", _LEAVE, "sh", "sh", "-c", _BECOME, os.path.basename(self._file), *command]
            with open(self._log, "wb") as log:
                subprocess.run(
                    whole, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, pass_fds=(fd, *kept),
                    start_new_session=True, check=True, timeout=_SPAWN_SECONDS,
                )  # fmt: skip
        except OSError as error:
            raise errors.from_os(error, self._log, f"start {self.name}") from None
        except (subprocess.SubprocessError, ValueError) as error:
            raise errors.Unreachable(f"cannot start {self.name}: {error}", path=self.folder) from None
        finally:
            os.close(fd)

    def _lock(self, fd: int) -> None:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except BlockingIOError:
            raise errors.Busy(f"{self.name} of this machine runs already", path=self.folder) from None

    def running(self) -> bool:
        """Asked without taking the lock, so that nobody who looks is taken for the process."""
        try:
            fd = os.open(self._file, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise errors.from_os(error, self._file, "open it") from None
        try:
            query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))
            return bool(found[0] != fcntl.F_UNLCK)
        finally:
            os.close(fd)

    def pid(self) -> int | None:
        """Its number; None where it does not run."""
        until = time.monotonic() + 2.0
        while self.running():
            text = Path(self._file).read_text().strip()
            if text.isdecimal():
                return int(text)
            if time.monotonic() > until:
                raise errors.Unreachable("its process does not say its number", path=self._file)
            time.sleep(_LOOK_SECONDS)
        return None

    def end(self, number: signal.Signals, seconds: float) -> bool:
        """Send it a signal, and wait. Does it run no more?"""
        pid = self.pid()
        if pid is None:
            return True
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return self.gone(seconds)
        try:
            if self.running():  # so the handle is its own, not of a later process with its number
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)
        return self.gone(seconds)

    def gone(self, seconds: float) -> bool:
        """Did it end within so many seconds?"""
        until = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def last_words(self) -> str:
        """The last line that it said, for a message."""
        try:
            with open(self._log, "rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - _LOG_BYTES, 0))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][:500] if lines else ""


def left_in(folder: str) -> list[int]:
    """Processes of a folder that was removed under them: no file tells of them any more, and they go on."""
    return [int(link.parent.name) for link in Path("/proc").glob("[0-9]*/cwd") if _is_left(link, folder)]


def end_left(folder: str, seconds: float) -> bool:
    """End those, as by a power switch. Were there any? Raises Unreachable where one does not end."""
    until, found = time.monotonic() + seconds, False
    while pids := left_in(folder):
        found = True
        if time.monotonic() > until:
            raise errors.Unreachable(f"process {pids[0]} does not end, even killed", path=folder)
        for pid in pids:
            with suppress(ProcessLookupError):
                _kill(pid, folder)
        time.sleep(_LOOK_SECONDS)
    return found


def _is_left(link: Path, folder: str) -> bool:
    try:
        return str(link.readlink()) == f"{folder} (deleted)"
    except OSError:
        return False  # it ended, or is none of ours


def _kill(pid: int, folder: str) -> None:
    handle = os.pidfd_open(pid)
    try:
        if _is_left(Path(f"/proc/{pid}/cwd"), folder):  # so the handle is its own, not of a later process
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)
