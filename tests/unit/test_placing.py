"""A point at the place of a machine's own disk: its format, what is written, and the way back."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images.vhdx.create import create_vhdx

MIB = 1 << 20
SIZE = 6 * MIB


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    """Two points, whose disk is zeros, noise and zeros again."""
    return replicated(tmp_path)


def replicated(folder: Path, history: str = "undo") -> Path:
    source = folder / "source.raw"
    for turn in (1, 2):
        source.write_bytes(content(turn))
        engine.replicate(source, folder / "replica", history=history, tracker="scan")
    return folder / "replica"


def content(point: int) -> bytes:
    noise = bytes(range(256)) * (2 * MIB // 256)
    return bytes(MIB) + noise + bytes([point]) * 70_000 + bytes(SIZE - 3 * MIB - 70_000)


def whole(path: Path, **more: str) -> bytes:
    with engine.open_image(path, **more) as image:
        return bytes(image.read(0, image.size))


def old_disk(path: Path, format: str) -> bytes:
    """A disk of the machine's, with something of its own."""
    data = bytearray(content(1))
    data[5 * MIB : 5 * MIB + 5] = b"alone"
    raw = path.with_suffix(".data")
    raw.write_bytes(data)
    if format == "raw":
        path.write_bytes(data)
    elif format == "vhdx":
        create_vhdx(path, SIZE, block_size=2 * MIB, logical_sector=4096)
        with engine.open_image(path, "rw") as image:
            image.write(0, data)
    else:
        engine.convert(raw, path, format="vhd")
    raw.unlink()
    return bytes(data)


@pytest.mark.parametrize("format", ["raw", "vhdx", "vhd"])
def test_it_keeps_its_format_and_the_old_disk(replica: Path, tmp_path: Path, format: str) -> None:
    path = tmp_path / "disks" / f"vm.{format}"
    path.parent.mkdir()
    before = old_disk(path, format)
    facts = engine.info(path)
    path.chmod(0o640)
    os.setxattr(path, "user.label", b"mine")
    done = engine.place(replica, path, "1")
    assert done.point == "1" and done.before == f"{path}.before-1"
    assert done.method == ("new" if format == "raw" else "copy of the disk")
    assert whole(path) == content(1) and whole(Path(done.before), format=format) == before
    now = engine.info(path)
    same = ("format", "subformat", "block_size", "logical_sector", "virtual_bytes")
    assert [getattr(now, name) for name in same] == [getattr(facts, name) for name in same]
    assert format == "raw" or done.bytes_written <= 2 * 65536
    assert path.stat().st_mode & 0o777 == 0o640 and os.getxattr(path, "user.label") == b"mine"
    assert engine.place(replica, path, "1").method == "done before"
    with pytest.raises(errors.Refused, match="commit or undo"):
        engine.place(replica, path, "2")
    assert engine.place_undo(path) and not engine.place_undo(path)
    assert whole(path) == before and sorted(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("format", ["raw", "vhdx", "vhd"])
def test_what_was_written_since_is_neither_taken_for_the_point_nor_written_over(tmp_path: Path, format: str) -> None:
    """Its machine was started before all of its disks were in place. A VHD is larger than the disk by rounding."""
    source, path = tmp_path / "source.raw", tmp_path / f"vm.{format}"
    source.write_bytes(content(1)[:-512])
    engine.replicate(source, tmp_path / "replica", tracker="scan")
    engine.restore(tmp_path / "replica", path, format=format)
    engine.place(tmp_path / "replica", path)
    assert engine.place(tmp_path / "replica", path).method == "done before"
    with engine.open_image(path, "rw", format=format) as image:
        image.write(SIZE - 1024, b"by hand")
        image.flush()
    with pytest.raises(errors.Refused, match="was written on since point 1 was put there"):
        engine.place(tmp_path / "replica", path)
    assert whole(path, format=format)[SIZE - 1024 :][:7] == b"by hand"
    assert engine.place_undo(path) and whole(path, format=format)[: SIZE - 512] == content(1)[:-512]


def test_committed_the_old_one_goes_and_the_next_may_come(replica: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.raw"
    old_disk(path, "raw")
    engine.place(replica, path, "1")
    assert engine.place_commit(path) and not engine.place_commit(path)
    engine.place(replica, path)
    assert whole(path) == content(2)
    assert engine.place_undo(path) and whole(path) == content(1)


def test_where_no_disk_is_a_new_one_is_made(replica: Path, tmp_path: Path) -> None:
    for name, format in (("a.raw", None), ("b.vhdx", None), ("c", "vhd")):
        done = engine.place(replica, tmp_path / name, format=format)
        assert (done.before, done.method) == (None, "new")
        found = engine.info(tmp_path / name)
        assert found.format == (format or name.rpartition(".")[2]) and whole(tmp_path / name) == content(2)
        assert not engine.place_undo(tmp_path / name) and (tmp_path / name).exists()


@pytest.mark.parametrize("at", ["1", "2"])
def test_a_raw_disk_is_cloned_where_that_can_be(xfs_dir: Path, at: str) -> None:
    folder = xfs_dir / f"place-{at}"
    folder.mkdir()
    root, path = replicated(folder), folder / "vm.raw"
    old_disk(path, "raw")
    done = engine.place(root, path, at)
    assert done.method == "clone of the replica" and whole(path) == content(int(at))
    assert done.bytes_written <= (2 * 65536 if at == "1" else 0)
    vhdx = folder / "vm.vhdx"
    old_disk(vhdx, "vhdx")
    assert engine.place(root, vhdx, at).method == "clone of the disk" and whole(vhdx) == content(int(at))


def test_rot_in_what_was_cloned_is_written_over(xfs_dir: Path) -> None:
    """The head's own bytes are proved too: what a cloned head does not hold comes from nowhere, and is told."""
    folder = xfs_dir / "rot"
    folder.mkdir()
    root, path = replicated(folder), folder / "vm.raw"
    before = old_disk(path, "raw")
    with (root / "head.raw").open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"rot")
    with pytest.raises(errors.Damaged):
        engine.place(root, path)
    assert whole(path) == before and sorted(folder.glob("*vm*")) == [path]


def test_a_differencing_disk_keeps_its_parent(replica: Path, tmp_path: Path) -> None:
    parent, child = tmp_path / "parent.vhdx", tmp_path / "vm.avhdx"
    old_disk(parent, "vhdx")
    create_vhdx(child, None, subformat="differencing", parent=parent)
    before = parent.read_bytes()
    engine.place(replica, child)
    assert whole(child) == content(2) and parent.read_bytes() == before
    assert engine.info(child).parents and engine.place_undo(child) and whole(child) != content(2)


def test_a_disk_in_use_is_left_alone(replica: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.raw"
    before = old_disk(path, "raw")
    with path.open("r+b") as file:
        lock = struct.pack("hh4xqqi4x", fcntl.F_RDLCK, 0, 100, 1, 0)
        fcntl.fcntl(file, 37, lock)  # F_OFD_SETLK, as QEMU does
        with pytest.raises(errors.Busy, match="machine off"):
            engine.place(replica, path)
    engine.place(replica, path)
    with engine.track([path], socket=str(tmp_path / "s")), pytest.raises(errors.Busy, match="tracking server"):
        engine.place_undo(path)
    assert engine.place_undo(path) and whole(path) == before


def test_what_is_no_place_for_a_disk(replica: Path, tmp_path: Path) -> None:
    engine.create_overlay(tmp_path / "vm.overlay", replica)
    with pytest.raises(errors.Refused, match="overlay"):
        engine.place(replica, tmp_path / "vm.overlay")
    with pytest.raises(errors.Refused, match="no file"):
        engine.place(replica, tmp_path)
    with pytest.raises(errors.Refused, match="inside the replica"):
        engine.place(replica, replica / "vm.raw")
    with pytest.raises(errors.Refused, match="no point"):
        engine.place(replica, tmp_path / "new.raw", "77")
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "new.raw").exists()


def test_cancelled_anywhere_the_old_disk_is_there(replica: Path, tmp_path: Path) -> None:
    for format in ("raw", "vhdx"):
        path = tmp_path / f"vm.{format}"
        before = old_disk(path, format)
        for asked in range(40):
            left = iter(range(asked))
            try:
                engine.place(replica, path, cancel=lambda left=left: next(left, None) is None)
                break
            except errors.Cancelled:
                assert whole(path) == before and not list(tmp_path.glob("*before*")) and not list(tmp_path.glob(".*"))
        assert asked > 1 and whole(path) == content(2) and engine.place_commit(path)


def test_of_a_log_only_what_differs_is_fetched(tmp_path: Path) -> None:
    source, path = tmp_path / "source.raw", tmp_path / "vm.raw"
    source.write_bytes(content(2))
    engine.replicate(source, tmp_path / "log", history="log", state=tmp_path / "state")
    before = old_disk(path, "raw")
    done = engine.place(tmp_path / "log", path, state=tmp_path / "state")
    assert done.method == "copy of the disk" and 0 < done.bytes_written <= 5 * 65536
    assert whole(path) == content(2) and engine.place_undo(path) and whole(path) == before
