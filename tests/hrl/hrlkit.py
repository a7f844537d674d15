"""Logs to test with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from secondsite import engine
from secondsite.engine.files import LocalFiles
from secondsite.engine.hrl import HrlWriter

Write = tuple[int, bytes]
BLOCK = 4096
SIZE = 200 * BLOCK + 700


def number(value: int) -> UUID:
    """An identifier that is easy to read."""
    return UUID(int=value)


def write_log(path: Path, writes: Sequence[Write], unique: int = 2, previous: int = 1) -> Path:
    with LocalFiles().open(str(path), "create") as file:
        writer = HrlWriter(file, number(unique), number(previous), created=1000)
        for offset, data in writes:
            writer.add(offset, data, 1001)
        writer.finish(1002)
    return path


def some_writes(chance: random.Random, size: int, count: int, *, unit: int = 1) -> list[Write]:
    """Random writes inside a disk; `unit` aligns them."""
    found = []
    for _ in range(count):
        length = min(unit * chance.randint(1, chance.choice((1, 8, 64))), size)
        offset = chance.randint(0, (size - length) // unit) * unit
        data = bytes(length) if chance.random() < 0.1 else chance.randbytes(length)
        found.append((offset, data))
    return found


def contents(seed: int, count: int) -> list[bytes]:
    """A disk of random data and zeros, and what it becomes."""
    chance = random.Random(seed)
    disk = bytearray(b"".join(chance.choice([bytes(BLOCK), chance.randbytes(BLOCK)]) for _ in range(SIZE // BLOCK + 1)))
    del disk[SIZE:]
    found = [bytes(disk)]
    for _ in range(count - 1):
        for _ in range(chance.randint(1, 12)):
            start = chance.randrange(SIZE)
            length = min(chance.choice([1, 700, BLOCK, 30 * BLOCK]), SIZE - start)
            disk[start : start + length] = chance.choice([bytes(length), chance.randbytes(length)])
        disk[-1] ^= 1  # so that each is another point
        found.append(bytes(disk))
    return found


def replica_of(folder: Path, disks: list[bytes], **options: Any) -> Path:
    source = folder / "disk.raw"
    for data in disks:
        source.write_bytes(data)
        engine.replicate(source, folder / "r", block_size=BLOCK, **options)
    return folder / "r"
