"""Logs to test with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from secondsite.engine.files import LocalFiles
from secondsite.engine.hrl import HrlWriter

Write = tuple[int, bytes]


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
