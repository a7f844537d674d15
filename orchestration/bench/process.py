"""Whole commands, with what they cost: seconds, processor seconds and peak memory of the process itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondsite.engine import errors

_LAUNCH = str(Path(__file__).with_name("launch.py"))
# Debian leaves the folders of mke2fs and its like out of a user's PATH.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Ran:
    """One run. `peak` in bytes; `output` is its standard output, where that was asked for."""

    seconds: float
    cpu: float
    peak: int
    output: str = ""

    @property
    def json(self) -> dict[str, Any]:
        """The object that a command of ours printed with --json."""
        value = json.loads(self.output)
        assert isinstance(value, dict)
        return value


def search_path() -> str:
    """PATH with the folders of system commands behind it."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])


def which(name: str) -> str | None:
    """Where a command lies, or None."""
    return shutil.which(name, path=search_path())


def secondsite() -> list[str]:
    """This program as a command, of the installation that is running."""
    script = Path(sys.executable).with_name("secondsite")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "from secondsite.orchestration.entry import main; main()"]


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, keep_output: bool = False) -> Ran:
    """Run a command to its end. Raises Unreachable with the last line of its complaint where it fails."""
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", _LAUNCH, str(writing), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if keep_output else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(writing,),
            env={**os.environ, "PATH": search_path(), **(env or {})},
            check=False,
        )
        os.close(writing)
        writing = -1
        used = os.read(reading, 65536)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if done.returncode or not used:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise errors.Unreachable(f"{command[0]} ended with status {done.returncode}: {lines[-1]}")
    return Ran(**json.loads(used), output=done.stdout.decode() if keep_output else "")


def compiled(bytecode: Path) -> dict[str, str]:
    """The environment in which our compiled modules lie in `bytecode`, as an installed package has them: where
    PYTHONDONTWRITEBYTECODE is set, or the package is not writable, every start would compile all of it.
    """
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bytecode)}


def ours(*arguments: str | Path, bytecode: Path, before: Sequence[str] = ()) -> Ran:
    """`secondsite ... --json` as a whole command; `before` is what runs it somewhere else, such as in a namespace."""
    command = [*before, *secondsite(), *(str(each) for each in arguments), "--json"]
    return run(command, env=compiled(bytecode), keep_output=True)


@contextmanager
def running(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, keep_output: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A process until the end of the block: asked to end, and killed where it does not. Raises Unreachable."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if keep_output else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "PATH": search_path(), **(env or {})},
    )  # fmt: skip
    try:
        yield child
        if child.poll() is not None:
            raise errors.Unreachable(f"{' '.join(command[:2])} ended by itself with status {child.returncode}")
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def listening(server: subprocess.Popen[bytes], path: Path, seconds: float = 20) -> None:
    """Wait until a server takes connections on a Unix socket: its path is there a moment before. Raises Unreachable."""
    end = time.monotonic() + seconds
    while not _listens(path):
        if server.poll() is not None or time.monotonic() > end:
            raise errors.Unreachable("nobody serves there", path=str(path))
        time.sleep(0.005)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def below(folder: Path) -> list[int]:
    """Processes that work in a folder, or below it."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if one.readlink().is_relative_to(folder):
                found.append(int(one.parent.name))
    return found


def end_below(folder: Path) -> None:
    """Kill those: machines, and servers of disks, that nobody else ended."""
    for pid in below(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cpu(pid: int) -> float:
    """Processor seconds of a running process until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def output_bytes(command: Sequence[str]) -> int:
    """How much a command writes to its standard output."""
    total = 0
    environment = {**os.environ, "PATH": search_path()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as child:
        assert child.stdout is not None
        while data := child.stdout.read(1 << 20):
            total += len(data)
    return total
