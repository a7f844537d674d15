"""A disk, and its log at an agent."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

from hosting import Site

from secondsite import engine
from secondsite.engine.remote import url
from secondsite.engine.remote.far.store import RemoteStore
from secondsite.engine.remote.home import Home
from secondsite.engine.units import MIB


def disk(folder: Path, size: int = 3 * MIB) -> Path:
    made = folder / "vm.raw"
    made.write_bytes(random.Random(3).randbytes(size) + bytes(MIB))
    return made


def write(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    os.utime(path)


def restored(folder: Path, replica: str, state: Path, at: str = "latest") -> str:
    output = folder / f"out-{random.randbytes(4).hex()}"
    engine.restore(replica, output, at=at, state=state)
    return hashlib.sha256(output.read_bytes()).hexdigest()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def store(there: Site, state: Path, name: str = "disk") -> RemoteStore:
    return RemoteStore(url.Remote("127.0.0.1", there.port, name), Home.of(state))
