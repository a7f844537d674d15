"""The clone tracker as a user meets it: a file in use on XFS, and everything that may happen between two cycles."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.trackers import clone
from secondsite.engine.trackers.clone import CloneTracker

BLOCK, SIZE = 4096, 2 << 20

pytestmark = pytest.mark.needs("xfs")


class Machine:
    """A disk on XFS and its replica, on another file system."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.disk, self.root, self.chance = folder / "disk.raw", root, random.Random(7)
        self.disk.write_bytes(self.chance.randbytes(SIZE))

    def write(self, at: int, data: bytes) -> None:
        with self.disk.open("r+b") as file:
            file.seek(at)
            file.write(data)

    def change(self) -> None:
        for _ in range(5):
            self.write(self.chance.randrange(SIZE // BLOCK) * BLOCK, self.chance.randbytes(BLOCK))

    def cycle(self, root: Path | None = None, **options: Any) -> engine.Replicated:
        return engine.replicate(self.disk, root or self.root, **{"block_size": BLOCK, "workers": 2, **options})

    def hold(self, root: Path | None = None) -> None:
        assert ((root or self.root) / "head.raw").read_bytes() == self.disk.read_bytes()

    def clones(self) -> list[str]:
        return sorted(path.name for path in self.disk.parent.iterdir() if path.name.startswith("."))

    @property
    def id(self) -> str:
        found = engine.info(self.root)
        assert isinstance(found, engine.ReplicaInfo)
        return found.replica_id


@pytest.fixture
def machine(xfs_dir: Path, tmp_path: Path) -> Machine:
    folder = xfs_dir / f"clone-{tmp_path.name}"
    folder.mkdir()
    return Machine(folder, tmp_path / "replica")


def test_auto_takes_it_and_one_clone_is_kept(machine: Machine) -> None:
    done = machine.cycle()
    assert (done.kind, done.tracker, done.scanned) == ("initial", "clone", True)
    assert done.why == "its file system clones files"
    assert machine.clones() == [f".disk.raw.secondsite-{machine.id[:8]}-1"]
    machine.change()
    done = machine.cycle()
    assert (done.kind, done.tracker, done.scanned) == ("delta", "clone", False)
    assert done.read_bytes == 5 * BLOCK == done.kept_bytes and done.sampled == 64 and done.stall_seconds is not None
    assert done.caught is not None and 0 < done.caught < 1
    done = machine.cycle()
    assert (done.kind, done.read_bytes, done.caught) == ("unchanged", 0, None)
    assert machine.clones() == [f".disk.raw.secondsite-{machine.id[:8]}-2"]
    machine.hold()


@pytest.mark.needs("btrfs")
def test_auto_takes_it_on_btrfs(btrfs_dir: Path, tmp_path: Path) -> None:
    folder = btrfs_dir / f"clone-{tmp_path.name}"
    folder.mkdir()
    machine = Machine(folder, tmp_path / "replica")
    machine.cycle()
    machine.change()
    done = machine.cycle()
    assert (done.tracker, done.scanned, done.read_bytes) == ("clone", False, 5 * BLOCK)
    machine.hold()


def test_info_tells_of_clones_and_scan_drops_them(machine: Machine) -> None:
    machine.cycle()
    machine.change()
    os.sync()  # what is not written back is shared until then
    found = engine.info(machine.root)
    assert isinstance(found, engine.ReplicaInfo)
    assert [Path(path).name for path in found.clones] == machine.clones() and found.clone_bytes == 5 * BLOCK
    # Also where the replica is gone.
    shutil.rmtree(machine.root)
    image = engine.info(machine.disk)
    assert isinstance(image, engine.ImageInfo)
    assert len(image.notes) == 1 and machine.clones()[0] in image.notes[0] and "20.0 KiB" in image.notes[0]
    other = Machine(machine.disk.parent, machine.root)
    other.cycle()
    assert len(machine.clones()) == 2
    other.cycle(tracker="scan")
    assert len(machine.clones()) == 1, "only its own"


def replaced(machine: Machine) -> None:
    machine.disk.with_name("new.raw").write_bytes(random.Random(9).randbytes(SIZE))
    machine.disk.with_name("new.raw").replace(machine.disk)


def reverted(machine: Machine) -> None:
    """To what it was one write before: every address but one is that of the kept clone."""
    subprocess.run(["cp", "--reflink=always", machine.disk, machine.disk.with_name("old")], check=True)
    machine.change()
    machine.cycle()
    subprocess.run(["cp", "--reflink=always", machine.disk.with_name("old"), machine.disk], check=True)


def moved_back(machine: Machine) -> None:
    subprocess.run(["cp", "--reflink=always", machine.disk, machine.disk.with_name("old")], check=True)
    machine.change()
    machine.cycle()
    machine.disk.with_name("old").replace(machine.disk)


def copied_over(machine: Machine) -> None:
    """The same bytes in other places."""
    machine.disk.write_bytes(machine.disk.read_bytes())


def another_in_the_place_of_the_clone(machine: Machine) -> None:
    kept = machine.disk.with_name(machine.clones()[0])
    machine.change()
    kept.unlink()
    subprocess.run(["cp", "--reflink=always", machine.disk, kept], check=True)
    machine.change()


def clone_that_was_written(machine: Machine) -> None:
    kept = machine.disk.with_name(machine.clones()[0])
    machine.change()
    with kept.open("r+b") as file:
        file.write(b"x" * BLOCK)


def clone_copied_with_its_attribute(machine: Machine) -> None:
    kept = machine.disk.with_name(machine.clones()[0])
    machine.change()
    subprocess.run(["cp", "-a", "--reflink=always", machine.disk, kept.with_name("other")], check=True)
    os.setxattr(kept.with_name("other"), "user.secondsite.clone", os.getxattr(kept, "user.secondsite.clone"))
    kept.with_name("other").replace(kept)
    machine.change()


def linked(machine: Machine) -> None:
    machine.disk.rename(machine.disk.with_name("real"))
    machine.disk.symlink_to("real")


def grown(machine: Machine) -> None:
    with machine.disk.open("ab") as file:
        file.write(b"grown")


def cut(machine: Machine) -> None:
    os.truncate(machine.disk, SIZE // 2 + 77)


@pytest.mark.parametrize(
    "what",
    [replaced, reverted, moved_back, copied_over, another_in_the_place_of_the_clone, clone_that_was_written,
     clone_copied_with_its_attribute, linked, grown, cut],
)  # fmt: skip
def test_what_may_happen_between_two_cycles(machine: Machine, what: Callable[[Machine], None]) -> None:
    machine.cycle()
    machine.change()
    machine.cycle()
    what(machine)
    done = machine.cycle(accept_source=what is linked)
    machine.hold()
    assert done.tracker == "clone" and done.warnings == []
    assert len(machine.clones()) == 1 + (what is linked)
    machine.change()
    assert not machine.cycle().scanned
    machine.hold()
    assert engine.verify(machine.root).ok


def test_a_replica_that_was_taken_back(machine: Machine, tmp_path: Path) -> None:
    machine.cycle()
    shutil.copytree(machine.root, tmp_path / "yesterday")
    machine.change()
    machine.cycle()
    shutil.rmtree(machine.root)
    (tmp_path / "yesterday").rename(machine.root)
    machine.change()
    assert machine.cycle().scanned
    machine.hold()
    # The same generation, made twice of different contents, and the clone is of the other.
    shutil.copytree(machine.root, tmp_path / "twice")
    machine.change()
    machine.cycle(tmp_path / "twice")
    machine.change()
    done = machine.cycle()
    assert done.scanned and done.generation == 3
    machine.hold()


def test_points_made_without_it(machine: Machine) -> None:
    machine.cycle()
    machine.change()
    machine.cycle(tracker="scan")
    machine.change()
    assert machine.cycle().scanned
    machine.change()
    assert machine.cycle(resync=True).scanned
    machine.change()
    assert not machine.cycle().scanned
    machine.hold()


def test_the_room_that_a_clone_takes_has_a_bound(machine: Machine) -> None:
    machine.cycle()
    with CloneTracker(machine.disk, machine.id, max_kept_bytes=4 * BLOCK) as tracker:
        assert tracker.trim() is None and tracker.kept_bytes() == 0
        machine.change()
        done = machine.cycle(tracker=tracker)
        assert not done.scanned and len(done.warnings) == 1 and "20480 bytes, 16384 are allowed" in done.warnings[0]
        assert machine.clones() == []
        assert machine.cycle(tracker=tracker).scanned and machine.clones()
        machine.change()
        os.sync()
        said = tracker.trim()
        assert said is not None and "next cycle scans" in said and machine.clones() == []
        assert machine.cycle(tracker=tracker).scanned
    machine.hold()


def test_what_lies_in_the_way_is_not_touched(machine: Machine) -> None:
    machine.cycle()
    way = machine.disk.with_name(f".disk.raw.secondsite-{machine.id[:8]}-next")
    way.mkdir()
    (way / "mine").touch()
    machine.change()
    with pytest.raises(errors.Refused, match="lies where the clone should"):
        machine.cycle()
    assert (way / "mine").exists()
    (way / "mine").unlink()
    way.rmdir()
    way.symlink_to(machine.disk)
    with pytest.raises(errors.Refused):
        machine.cycle()
    assert not machine.cycle(tracker="scan").warnings
    machine.hold()


def test_a_clone_that_cannot_be_kept_loses_no_point(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.cycle()
    machine.change()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(clone, "keep", fail)
        done = machine.cycle()
    assert (done.kind, done.point) == ("delta", "2") and "cannot be kept" in done.warnings[0]
    assert machine.clones() == []
    with monkeypatch.context() as patch:
        patch.setattr(clone.CloneCut, "acknowledge", fail)
        machine.change()
        done = machine.cycle()
    assert (done.kind, done.point) == ("delta", "3") and "was not told" in done.warnings[0]
    machine.hold()
    assert machine.cycle().scanned and machine.clones()


def test_a_lying_map_is_unmasked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.cycle()
    with monkeypatch.context() as patch:
        patch.setattr(clone.CloneCut, "changed", lambda cut: None if cut._ranges is None else iter(()))
        machine.disk.write_bytes(random.Random(1).randbytes(SIZE))
        done = machine.cycle()
        assert done.scanned and "did not name" in done.warnings[0]
        machine.hold()
        patch.setattr(clone.CloneCut, "changed", lambda cut: [(8192, 10), (0, 10)] if cut._ranges else None)
        machine.change()
        done = machine.cycle()
        assert done.scanned and "no range behind the one before" in done.warnings[0]
    machine.hold()


def test_where_files_cannot_be_cloned(machine: Machine, tmp_path: Path) -> None:
    device = tmp_path / "shm.raw"
    if clone.supported(tmp_path / "replica") is None:
        pytest.skip("the temporary folder lies where files can be cloned")
    device.write_bytes(b"x" * SIZE)
    assert engine.replicate(device, tmp_path / "r").tracker == "scan"
    with pytest.raises(errors.Refused, match="cannot be tracked by clones: its file system cannot clone files"):
        engine.replicate(device, tmp_path / "r", tracker="clone")
    with pytest.raises(errors.Usage, match=r"tracker is auto, scan, .*clone"):
        engine.replicate(device, tmp_path / "r", tracker="magic")


# -- in use ------------------------------------------------------------------------------------------------------


@contextmanager
def busy(machine: Machine) -> Any:
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            machine.change()
            time.sleep(0.001)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_verify_of_a_source_that_moves(machine: Machine) -> None:
    machine.cycle()
    with busy(machine):
        for _ in range(3):
            machine.cycle()
            time.sleep(0.02)
            found = engine.verify(machine.root, source=machine.disk)
            assert (found.ok, found.against) == (True, "kept clone")
        found = engine.verify(machine.root, source=machine.disk, at="1")
        assert (found.ok, found.against) == (False, "clone")
    # What the replica has wrong is found all the same.
    with (machine.root / "head.raw").open("r+b") as head:
        head.write(b"rot")
    assert not engine.verify(machine.root).ok
    for path in machine.clones():
        machine.disk.with_name(path).unlink()
    machine.write(0, b"changed since")
    found = engine.verify(machine.root, source=machine.disk)
    assert (found.ok, found.against, found.bad[0][0]) == (False, "clone", 0)


def test_a_container_in_use(machine: Machine) -> None:
    """A VHDX is opened from its clone, with its log as it was at that instant; all of its disk is read."""
    from secondsite.engine.images.vhdx.create import create

    disk, chance = machine.disk.with_suffix(".vhdx"), random.Random(3)
    create(disk, 8 << 20, block_size=1 << 20)
    for number in range(1, 4):
        with engine.open_image(disk, "rw") as image:
            image.write(number << 20, chance.randbytes(100_000))
            image.flush()
            done = engine.replicate(disk, machine.root, tracker="clone")
            assert (done.tracker, done.scanned, done.generation) == ("clone", True, number)
            want = bytes(image.read(0, image.size))
        assert (machine.root / "head.raw").read_bytes() == want
    assert machine.clones() == []


KILLED = """
import sys
from secondsite import engine
while True:
    engine.replicate(sys.argv[1], sys.argv[2], tracker="clone", workers=2)
"""


def test_kill_at_any_time(machine: Machine, sweep: bool) -> None:
    """kill -9 of a program that makes cycles: what the next one writes is the source, and it never says otherwise."""
    machine.cycle()
    chance = random.Random(int(os.environ.get("SECONDSITE_SEED", "1")))
    program, scanned, rounds = [sys.executable, "-c", KILLED, machine.disk, machine.root], 0, 200 if sweep else 10
    for _ in range(rounds):
        with busy(machine):
            child = subprocess.Popen(program)
            time.sleep(0.25 + chance.random() * 0.15)
            child.send_signal(signal.SIGKILL)
            child.wait()
        done = machine.cycle(distrust=SIZE // BLOCK)  # looks at every block: a lie would be unmasked
        machine.hold()
        assert done.warnings == [] and done.tracker == "clone"
        scanned += done.scanned
        assert machine.clones() == [f".disk.raw.secondsite-{machine.id[:8]}-{done.generation}"]
    assert scanned < rounds, "a crash between cycles costs no scan"
    assert engine.verify(machine.root).ok
