"""A replica in memory and a clock that is told the time: for tests of the calls that a program makes."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine.files import Files
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.replica.directory import Replica

BLOCK = 4096


class Clock:
    """Starts on a Sunday in November; each look is a minute later."""

    def __init__(self) -> None:
        self.now = datetime.datetime(2026, 11, 22, 9, 0, tzinfo=datetime.UTC)

    def __call__(self) -> datetime.datetime:
        self.now += datetime.timedelta(minutes=1)
        return self.now


class Lab:
    """One replica at `/r`, and what each of its points must be."""

    def __init__(self, files: Files | None = None) -> None:
        self.files: Files = files or MemoryFiles()
        self.clock, self.root = Clock(), "/r"
        self.contents: dict[str, bytes] = {}

    def cycle(self, data: bytes | bytearray, **options: Any) -> engine.Replicated:
        options = {"history": "undo", "workers": 1, "files": self.files, "clock": self.clock, **options}
        if not self.contents:
            options.setdefault("block_size", BLOCK)
        done = engine.replicate(MemoryImage(bytes(data), path="disk"), self.root, **options)
        self.contents[done.point] = bytes(data)
        return done

    def restore(self, at: str = "latest") -> bytes:
        engine.restore(self.root, "/out", at=at, files=self.files, workers=1)
        data = self.files.read_bytes("/out", 1 << 40)
        self.files.unlink("/out")
        return data

    def points(self) -> list[str]:
        return [point.point for point in engine.points(self.root, files=self.files)]

    def open(self) -> Replica:
        return Replica.open(self.root, self.files)

    def check(self) -> None:
        """Everything that is listed restores to what it was, and verify agrees."""
        for name in self.points():
            assert self.restore(name) == self.contents[name], name
        assert engine.verify(self.root, files=self.files, workers=1).ok


def changing(seed: int, blocks: int = 24) -> Callable[[], bytes]:
    """A disk that changes a little at every call: writes, zeros, other sizes with odd tails."""
    chance = random.Random(seed)
    data = bytearray(chance.randbytes(blocks * BLOCK + 99))

    def step() -> bytes:
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(data))
            data[at : at + 20] = chance.randbytes(min(20, len(data) - at))
        if chance.random() < 0.5:
            at = chance.randrange(len(data) // BLOCK) * BLOCK
            data[at : at + 2 * BLOCK] = bytes(len(data[at : at + 2 * BLOCK]))
        if chance.random() < 0.4:
            size = chance.randrange(BLOCK, 2 * blocks * BLOCK)
            grown = bytes(max(0, size - len(data)))
            del data[size:]
            data.extend(grown)
        return bytes(data)

    return step


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def make_lab() -> type[Lab]:
    return Lab


@pytest.fixture
def disk() -> Callable[..., Callable[[], bytes]]:
    return changing
