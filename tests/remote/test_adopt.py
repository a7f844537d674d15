"""A copy of the disk that lies at the target already becomes a replica's first point (R5.6)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hosting import Site
from seedkit import BLOCK, SIZE, head, killed, make, replica, write

from secondsite import engine
from secondsite.engine import errors

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make(tmp_path / "disk.img")


def test_what_it_was_adopted_from_says_nothing_of_its_source(disk: Path, tmp_path: Path) -> None:
    """After a failover an overlay follows: it is not read as the raw disk that was adopted."""
    root, vhdx = tmp_path / "r", tmp_path / "disk.vhdx"
    engine.adopt(disk, root)
    engine.convert(disk, vhdx, format="vhdx")
    done = engine.replicate(vhdx, root)
    assert done.sent_bytes == 0 and (root / "head.raw").read_bytes() == disk.read_bytes()
    assert engine.verify(root, source=vhdx).ok


@pytest.mark.parametrize("move", [False, True])
def test_a_copy_at_the_target_is_adopted_and_compared(there: Site, disk: Path, tmp_path: Path, move: bool) -> None:
    state, copy = there.host(), tmp_path / "restored.raw"
    shutil.copy(disk, copy)
    copy.chmod(0o644)
    done = engine.adopt(copy, replica(there), move=move)
    assert (done.point, done.method == "move", copy.exists()) == ("1", move, not move)
    for block in (3, 11):
        write(disk, block)
    sent = engine.replicate(disk, there.url(), state=state)
    assert (sent.kind, sent.generation, sent.sent_bytes) == ("delta", 2, 2 * BLOCK) and head(there) == disk.read_bytes()
    assert (replica(there) / "head.raw").stat().st_mode & 0o77 == 0 and engine.verify(replica(there)).ok
    # From now on it follows that source.
    with pytest.raises(errors.Refused, match="follows another image"):
        engine.replicate(make(tmp_path / "other.img", 2), there.url(), state=state)


def test_adopted_in_a_local_folder(disk: Path, tmp_path: Path) -> None:
    copy, root = tmp_path / "restored.raw", tmp_path / "r"
    shutil.copy(disk, copy)
    engine.adopt(copy, root, block_size=4096)
    write(disk, 5)
    os.truncate(disk, SIZE + 100)
    done = engine.replicate(disk, root)
    assert (done.kind, done.sent_bytes) == ("delta", BLOCK) and engine.verify(root, source=disk).ok
    assert [point.history for point in engine.points(root)][-1] == "head"


@pytest.mark.needs("xfs")
def test_a_copy_is_cloned_where_that_can_be(xfs_dir: Path) -> None:
    folder = xfs_dir / "adopt"
    folder.mkdir()
    copy = make(folder / "restored.raw")
    assert engine.adopt(copy, folder / "r").method == "clone"
    assert engine.verify(folder / "r", source=copy).ok


def test_what_cannot_be_adopted(disk: Path, tmp_path: Path) -> None:
    copy, root = tmp_path / "restored.raw", tmp_path / "r"
    shutil.copy(disk, copy)
    os.link(copy, tmp_path / "other-name")
    with pytest.raises(errors.Refused, match="it has 2 names, and what the others stand for would change"):
        engine.adopt(copy, root, move=True)
    engine.convert(copy, tmp_path / "copy.vhdx", format="vhdx")
    with pytest.raises(errors.Refused, match="is no raw image file; without --move it is copied"):
        engine.adopt(tmp_path / "copy.vhdx", root, move=True)
    assert copy.read_bytes() == disk.read_bytes() and not list(root.glob("next-*"))
    engine.adopt(tmp_path / "copy.vhdx", root)
    with pytest.raises(errors.Refused, match="has point 1 already"):
        engine.adopt(copy, root)
    with pytest.raises(errors.Usage, match="on the replica's own host"):
        engine.adopt(copy, "secondsite://backup/vm")
    assert engine.verify(root, source=disk).ok


def test_a_move_that_died_behind_the_point_is_finished(disk: Path, tmp_path: Path) -> None:
    """The old name is the last thing that goes; until the point is there a crash takes only the new one away."""
    copy, root = tmp_path / "restored.raw", tmp_path / "r"
    shutil.copy(disk, copy)
    engine.adopt(copy, root, move=True)
    os.link(root / "head.raw", copy)
    assert engine.adopt(copy, root, move=True).method == "move" and not copy.exists()
    for seconds in (0.1, 0.2, 0.25, 0.3):
        again = tmp_path / f"r{seconds}"
        shutil.copy(disk, copy)
        killed(f"adopt({str(copy)!r}, {str(again)!r}, move=True)", seconds)
        if copy.exists():
            assert copy.read_bytes() == disk.read_bytes()
            engine.adopt(copy, again, move=True)
        assert (again / "head.raw").read_bytes() == disk.read_bytes() and not copy.exists()
        assert engine.verify(again).ok
