"""What a cycle says of the data that replaces other data: whether it packs (M15)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from secondsite import engine

MIB = 1 << 20
TEXT = (Path(__file__).read_bytes() * 10_000)[: 2 * MIB]


def write(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize("history", ["undo", "auto", "log"])
def test_only_what_replaces_data_by_what_does_not_pack_is_dense(tmp_path: Path, history: str) -> None:
    disk, replica = tmp_path / "disk.raw", tmp_path / "replica"
    disk.write_bytes(TEXT + bytes(6 * MIB))

    def cycle() -> tuple[int, int]:
        done = engine.replicate(disk, replica, history=history, codec="none")
        return done.looked, done.dense

    assert cycle()[1] == 0, "a first copy replaces nothing"
    assert cycle() == (0, 0)
    write(disk, 0, TEXT[::-1])
    looked, dense = cycle()
    assert looked >= 16 and dense == 0, "it packs as before"
    write(disk, 4 * MIB, os.urandom(2 * MIB))
    looked, dense = cycle()
    assert looked >= 16 and dense == 0, "nothing was there"
    write(disk, 0, os.urandom(2 * MIB))
    looked, dense = cycle()
    assert looked == dense >= 16
    write(disk, 0, bytes(2 * MIB))
    assert cycle() == (0, 0), "zeros are no data"


def test_few_pieces_are_looked_at_however_much_changed(tmp_path: Path) -> None:
    disk, replica = tmp_path / "disk.raw", tmp_path / "replica"
    disk.write_bytes(os.urandom(64 * MIB))
    engine.replicate(disk, replica)
    disk.write_bytes(os.urandom(64 * MIB))
    done = engine.replicate(disk, replica)
    assert 64 <= done.looked == done.dense <= 256 + 64
