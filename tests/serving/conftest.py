"""A replica of a few points, and what each of them holds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import pytest

from secondsite import engine

MIB = 1 << 20


class Points(NamedTuple):
    """`states` are the bytes of points 1, 2, 3 in the replica `root` of `disk`."""

    root: Path
    states: list[bytes]
    disk: Path

    def cycle(self, **more: object) -> None:
        """One point more, of a disk that has changed somewhere."""
        chance, data = random.Random(len(self.states)), bytearray(self.states[-1])
        for _ in range(20):
            at = chance.randrange(len(data) - 9000)
            data[at : at + 9000] = bytes(9000) if chance.random() < 0.3 else chance.randbytes(9000)
        self.disk.write_bytes(data)
        engine.replicate(self.disk, self.root, tracker="scan", **more)
        self.states.append(bytes(data))


@pytest.fixture
def points(tmp_path: Path) -> Points:
    return made(tmp_path)


def made(folder: Path, history: str = "undo", size: int = 4 * MIB + 777) -> Points:
    """Three points in a folder."""
    disk = folder / "disk.raw"
    disk.write_bytes(random.Random(1).randbytes(size))
    found = Points(folder / "replica", [disk.read_bytes()], disk)
    engine.replicate(disk, found.root, history=history, tracker="scan")
    for _ in range(2):
        found.cycle()
    return found
