"""Command lines, run in this process or as the program that a user starts, and disks for them to work on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

from secondsite.orchestration import cli

KIB, MIB = 1 << 10, 1 << 20
PROGRAM = str(Path(sysconfig.get_path("scripts"), "secondsite"))


class Done(NamedTuple):
    """How a command line ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output."""
        value = json.loads(self.out)
        assert isinstance(value, dict), self.out
        return value

    @property
    def complaint(self) -> str:
        """The one line on standard error."""
        assert self.err.startswith("secondsite: ") and self.err.endswith("\n"), self
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err[:-1]


class Shell:
    """Runs command lines in this process."""

    def __init__(self, capsys: Any) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | os.PathLike[str]) -> Done:
        self._capsys.readouterr()
        status = cli.run([os.fspath(argument) for argument in arguments])
        return Done(status, *self._capsys.readouterr())

    def ok(self, *arguments: str | os.PathLike[str]) -> str:
        """Standard output of a command that succeeds and has nothing to complain of."""
        done = self(*arguments)
        assert (done.status, done.err) == (0, ""), done
        return done.out

    def json(self, *arguments: str | os.PathLike[str], status: int = 0) -> dict[str, Any]:
        done = self(*arguments, "--json")
        assert done.status == status, done
        return done.json


def start(*arguments: str | os.PathLike[str], **options: Any) -> subprocess.Popen[str]:
    """The real program, as a process."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([PROGRAM, *map(os.fspath, arguments)], **options)


def program(*arguments: str | os.PathLike[str], **options: Any) -> Done:
    """What the real program did."""
    child = start(*arguments, **options)
    out, err = child.communicate(timeout=60)
    return Done(child.returncode, out or "", err or "")


def python(code: str, *arguments: str | os.PathLike[str]) -> str:
    """What another interpreter prints that runs `code`."""
    command = [sys.executable, "-c", code, *map(os.fspath, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def make_disk(path: Path, size: int = 600 * KIB + 512, seed: int = 1) -> Path:
    """Data, then zeros, then data that ends in the middle of a block."""
    data = bytearray(random.Random(seed).randbytes(size))
    data[size // 4 : size // 2] = bytes(size // 2 - size // 4)
    path.write_bytes(data)
    return path


def change(path: Path, offset: int, length: int = 100, seed: int = 2) -> None:
    """Other bytes in a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(random.Random(seed).randbytes(length))


class Pair(NamedTuple):
    """A disk, its replica with points 1 and 2, and what each of them holds."""

    disk: Path
    root: Path
    first: bytes
    second: bytes
