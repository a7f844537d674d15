"""Disks and killed calls for the tests of seeds and of adopted copies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from hosting import Site

from secondsite.engine.units import KIB, MIB

BLOCK = 64 * KIB
SIZE = 6 * MIB


def make(path: Path, seed: int = 1) -> Path:
    """A disk of which half is a hole."""
    path.write_bytes(random.Random(seed).randbytes(SIZE // 2))
    os.truncate(path, SIZE)
    return path


def write(path: Path, block: int, seed: int = 7) -> None:
    with path.open("r+b") as file:
        file.seek(block * BLOCK)
        file.write(random.Random(seed).randbytes(BLOCK))


def replica(there: Site) -> Path:
    return there.root / "disk"


def head(there: Site) -> bytes:
    return (replica(there) / "head.raw").read_bytes()


def killed(call: str, seconds: float) -> bool:
    """Run a call in a process of its own and kill it after a time; did it come to its end before?"""
    child = subprocess.Popen([sys.executable, "-c", f"from secondsite import engine\nengine.{call}"])
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
    return child.wait() == 0
