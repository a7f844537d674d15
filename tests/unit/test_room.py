"""How much room a failover is said to need is what the engine then takes, or less where files are cloned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine.room import RUN_BYTES
from secondsite.engine.units import KIB, MIB

SIZE = 4 * MIB
DATA = MIB


def disk(path: Path, data: int = DATA) -> Path:
    path.write_bytes(os.urandom(data))
    os.truncate(path, SIZE)
    return path


def taken(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def test_an_overlay_needs_no_more_than_its_disk_has() -> None:
    assert engine.room_to_run(SIZE) == SIZE + MIB
    assert engine.room_to_run(1 << 40) == RUN_BYTES + MIB


def test_what_is_copied_needs_its_data_and_not_its_size(tmp_path: Path) -> None:
    source, replica = disk(tmp_path / "disk.raw"), tmp_path / "not/there/yet"
    said = engine.room_to_adopt(source, replica)
    engine.adopt(source, replica)
    assert said == DATA and DATA <= taken(replica) < DATA + 128 * KIB


@pytest.mark.needs("root", "xfs")
def test_what_is_cloned_needs_nothing(xfs_dir: Path, tmp_path: Path) -> None:
    source = disk(xfs_dir / "disk.raw")
    assert engine.room_to_adopt(source, xfs_dir / "replica") == 0
    assert engine.room_to_adopt(source, tmp_path / "replica") == DATA
    assert engine.room_to_place(xfs_dir / "replica", source, changed=DATA) == 0
    assert engine.room_to_place(tmp_path / "replica", source, changed=64 * KIB, data=DATA) == 64 * KIB


def test_a_disk_is_made_anew_or_copied_beside_the_old_one(tmp_path: Path) -> None:
    """A container keeps its parameters, so that all of it is copied, and what differs is written into it."""
    source, replica = disk(tmp_path / "disk.raw"), tmp_path / "replica"
    engine.replicate(source, replica)
    assert engine.room_to_place(replica, source, data=DATA, changed=64 * KIB) == DATA
    made = tmp_path / "disk.vhdx"
    engine.convert(source, made, format="vhdx")
    allocated = engine.room_to_place(replica, made, data=DATA, changed=64 * KIB) - 64 * KIB
    assert allocated == getattr(engine.info(made), "allocated_bytes", 0) >= DATA
    before = taken(tmp_path)
    engine.place(replica, made)
    assert taken(tmp_path) - before <= allocated + 8 * MIB
    assert engine.room_to_place(replica, tmp_path / "other.vhdx", data=DATA) == DATA


def test_no_trace_of_the_question_is_left(tmp_path: Path) -> None:
    source = disk(tmp_path / "disk.raw")
    engine.room_to_place(tmp_path / "replica", source)
    engine.room_to_adopt(source, tmp_path / "replica")
    assert list(tmp_path.iterdir()) == [source]
