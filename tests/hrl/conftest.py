"""Makes `hrlkit` importable, and opens logs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secondsite.engine.hrl import HrlReader

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Callable[..., HrlReader]]:
    """Make a log and open it; all are closed at the end."""
    from hrlkit import write_log

    opened: list[HrlReader] = []

    def make(writes: list[tuple[int, bytes]], unique: int = 2, previous: int = 1) -> HrlReader:
        path = write_log(tmp_path / f"{len(opened)}-{unique}.hrl", writes, unique, previous)
        opened.append(HrlReader(str(path)))
        return opened[-1]

    yield make
    for reader in opened:
        reader.close()
