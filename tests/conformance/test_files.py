"""What engine/files/base.py promises, sentence by sentence, of every file system."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from secondsite.engine import errors
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.files.memory import MemoryFiles

Place = tuple[Files, str]


def write(files: Files, path: str, data: bytes) -> None:
    with files.open(path, "create") as file:
        file.write(0, data)


def test_open(place: Place) -> None:
    files, root = place
    path = f"{root}/file"
    for mode in ("r", "rw"):
        with pytest.raises(errors.Unreachable, match=path):
            files.open(path, mode)
    write(files, path, b"first content")
    with files.open(path, "rw") as file:
        file.write(0, b"FIRST")
    with files.open(path, "r") as file:
        assert file.read(0, file.size) == b"FIRST content"
        assert file.path == path
    with files.open(path, "create") as file:
        assert file.size == 0


def test_exists_and_size(place: Place) -> None:
    files, root = place
    assert files.exists(root) and not files.exists(f"{root}/file")
    assert files.size(f"{root}/file") == -1
    assert files.size(f"{root}/no/such/folder") == -1
    write(files, f"{root}/file", b"12345")
    assert files.exists(f"{root}/file") and files.size(f"{root}/file") == 5
    assert files.size(f"{root}/file/below") == -1


def test_listdir(place: Place) -> None:
    files, root = place
    assert files.listdir(root) == []
    assert files.listdir(f"{root}/none") == []
    for name in ("b", "a", "c.json"):
        write(files, f"{root}/{name}", b"")
    assert files.listdir(root) == ["a", "b", "c.json"]
    assert files.listdir(f"{root}/a") == []


def test_mkdir(place: Place) -> None:
    files, root = place
    files.mkdir(f"{root}/one/two")
    files.mkdir(f"{root}/one/two")
    assert files.exists(f"{root}/one/two")
    write(files, f"{root}/one/two/file", b"x")
    assert files.listdir(f"{root}/one/two") == ["file"]


def test_replace(place: Place) -> None:
    files, root = place
    write(files, f"{root}/old", b"old")
    write(files, f"{root}/new", b"new")
    files.replace(f"{root}/new", f"{root}/old")
    assert files.read_bytes(f"{root}/old", 100) == b"new"
    assert files.listdir(root) == ["old"]
    with pytest.raises(errors.Unreachable, match=root):
        files.replace(f"{root}/none", f"{root}/old")


def test_link_is_a_second_name(place: Place) -> None:
    files, root = place
    write(files, f"{root}/a", b"aaa")
    write(files, f"{root}/c", b"ccc")
    files.link(f"{root}/a", f"{root}/b")
    files.link(f"{root}/a", f"{root}/c")
    with files.open(f"{root}/b", "rw") as file:
        file.write(0, b"bbb")
    assert files.read_bytes(f"{root}/a", 100) == b"bbb"
    assert files.read_bytes(f"{root}/c", 100) == b"ccc"
    write(files, f"{root}/new", b"new")
    files.replace(f"{root}/new", f"{root}/a")
    assert files.read_bytes(f"{root}/b", 100) == b"bbb"
    with pytest.raises(errors.Unreachable, match=root):
        files.link(f"{root}/none", f"{root}/d")


def test_unlink(place: Place) -> None:
    files, root = place
    write(files, f"{root}/a", b"a")
    with files.open(f"{root}/a", "r") as held:
        files.unlink(f"{root}/a")
        assert held.read(0, 1) == b"a"
    files.unlink(f"{root}/a")
    assert files.listdir(root) == []


def test_flush_dir(place: Place) -> None:
    files, root = place
    files.flush_dir(root)
    if isinstance(files, LocalFiles):
        with pytest.raises(errors.Unreachable, match="none"):
            files.flush_dir(f"{root}/none")


def test_clone_shares_nothing_that_is_written_later(place: Place) -> None:
    files, root = place
    write(files, f"{root}/a", b"a" * 10_000)
    made = files.clone(f"{root}/a", f"{root}/b")
    if not made:
        assert not files.exists(f"{root}/b")
        return
    with files.open(f"{root}/a", "rw") as file:
        file.write(0, b"changed")
    assert files.read_bytes(f"{root}/b", 20_000) == b"a" * 10_000
    with pytest.raises(errors.Unreachable, match="none"):
        files.clone(f"{root}/none", f"{root}/c")


@pytest.mark.needs("xfs")
def test_xfs_clones(xfs_dir: Path) -> None:
    (xfs_dir / "clone-source").write_bytes(b"x" * 100_000)
    assert LocalFiles().clone(str(xfs_dir / "clone-source"), str(xfs_dir / "clone-target"))
    assert (xfs_dir / "clone-target").read_bytes() == b"x" * 100_000


def test_a_temporary_file_has_no_name(place: Place) -> None:
    files, root = place
    before = files.listdir(root)
    with files.temporary(root) as file:
        file.write(0, b"scratch")
        assert file.read(0, 7) == b"scratch"
        assert files.listdir(root) == before
    assert files.listdir(root) == before


def test_locks_exclude(place: Place) -> None:
    files, root = place
    path = f"{root}/lock"
    writer = files.lock(path, exclusive=True)
    assert writer is not None
    assert files.lock(path, exclusive=True) is None
    assert files.lock(path, exclusive=False) is None
    writer.release()
    writer.release()
    readers = [files.lock(path, exclusive=False) for _ in range(3)]
    assert all(reader is not None for reader in readers)
    assert files.lock(path, exclusive=True) is None
    for reader in readers:
        assert reader is not None
        reader.release()
        reader.release()
    last = files.lock(path, exclusive=True)
    assert last is not None
    last.release()


HOLD = """
import sys
from secondsite.engine.files import LocalFiles
held = LocalFiles().lock(sys.argv[1], exclusive=sys.argv[2] == "writer")
print("held" if held else "refused", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(("first", "second", "both"), [
    ("writer", "writer", False), ("writer", "reader", False), ("reader", "writer", False), ("reader", "reader", True),
])  # fmt: skip
def test_locks_exclude_between_processes(tmp_path: Path, first: str, second: str, both: bool) -> None:
    """And a process that is killed lets go."""
    path = str(tmp_path / "lock")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path, first], stdin=pipe, stdout=pipe, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        mine = LocalFiles().lock(path, exclusive=second == "writer")
        assert (mine is not None) == both
        if mine is not None:
            mine.release()
        holder.kill()
        holder.wait()
    after = LocalFiles().lock(path, exclusive=True)
    assert after is not None
    after.release()


def test_small_files_whole(place: Place) -> None:
    files, root = place
    path = f"{root}/record"
    files.write_bytes(path, b"first")
    files.write_bytes(path, b"second", durable=False)
    assert files.read_bytes(path, 100) == b"second"
    assert files.read_bytes(path, 3) == b"sec"
    assert files.listdir(root) == ["record"]
    with pytest.raises(errors.Unreachable, match="none"):
        files.read_bytes(f"{root}/none", 1)


def test_errors_name_the_path(tmp_path: Path) -> None:
    files, path = LocalFiles(), tmp_path / "file"
    path.write_bytes(b"")
    below = str(path / "below")
    for call in (
        lambda: files.mkdir(below),
        lambda: files.flush_dir(str(path)),
        lambda: files.replace(str(path), str(tmp_path / "none" / "x")),
        lambda: files.link(str(path), str(tmp_path / "none" / "x")),
        lambda: files.unlink(str(tmp_path)),
        lambda: files.lock(below, exclusive=True),
        lambda: files.open(below, "create"),
    ):
        with pytest.raises(errors.Unreachable, match=str(tmp_path)):
            call()


def test_memory_keeps_after_a_power_loss_what_was_flushed() -> None:
    """The model that the fault tests stand on: flushed bytes under flushed names stay, whatever else happens."""
    for seed in range(200):
        files = MemoryFiles()
        files.write_bytes("/r/kept", b"durable")
        files.flush_dir("/r")
        files.write_bytes("/r/kept", b"renamed")
        files.write_bytes("/r/lost", b"maybe")
        files.power_loss(random.Random(seed))
        assert files.read_bytes("/r/kept", 100) in (b"durable", b"renamed")
        if files.exists("/r/lost"):
            assert files.read_bytes("/r/lost", 100) == b"maybe"
            assert files.read_bytes("/r/kept", 100) == b"renamed"


def test_folders_and_rmdir(place: Place) -> None:
    files, root = place
    assert files.folders(root) == [] and files.folders(f"{root}/none") == []
    files.mkdir(f"{root}/b/c", 0o700)
    files.mkdir(f"{root}/a")
    write(files, f"{root}/file", b"")
    write(files, f"{root}/a/file", b"")
    assert files.folders(root) == ["a", "b"] and files.folders(f"{root}/b") == ["c"]
    assert files.folders(f"{root}/file") == []
    assert not files.rmdir(f"{root}/a") and not files.rmdir(f"{root}/b")
    files.unlink(f"{root}/a/file")
    assert files.rmdir(f"{root}/a") and files.rmdir(f"{root}/b/c") and files.rmdir(f"{root}/b")
    assert files.rmdir(f"{root}/b") and files.folders(root) == [] and not files.exists(f"{root}/b")
