"""A real file system that runs full: one clear error, nothing lost, and it works again once there is room."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import rig

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.replica.directory import Replica

KIB = 1024
DISK_KIB = 8 * KIB

pytestmark = pytest.mark.needs("root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of a few MiB."""
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "none", where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


class Fullness:
    """A replica on a small disk, of which a ballast leaves only so much."""

    def __init__(self, small_disk: Path, sources: Path) -> None:
        self.disk, self.sources, self.ballast = small_disk, sources, small_disk / "ballast"
        self.place = rig.DiskPlace(small_disk, "undo")
        self.points: dict[str, bytes] = {}

    def add(self, data: bytes) -> engine.Replicated:
        path = self.sources / "source"
        path.write_bytes(data)
        done = engine.replicate(path, self.place.root, block_size=4096)
        self.points[done.point] = data
        return done

    def leave(self, kib: int) -> None:
        """Let so many KiB be free, and not one more."""
        self.ballast.write_bytes(b"")
        info = subprocess.run(["df", "-k", "--output=avail", self.disk], capture_output=True, text=True)
        free = int(info.stdout.split()[-1])
        self.ballast.write_bytes(bytes(max(free - kib, 0) * KIB))

    def room(self) -> None:
        self.ballast.unlink()

    def check(self) -> None:
        """Everything is there, at rest, and nothing else."""
        assert not Replica.open(self.place.root).interrupted()
        newest = list(self.points.values())[-1]
        expected = rig.Expected(dict(self.points), set(self.points), [newest], b"", "full")
        rig.check_listed(self.place, LocalFiles(), expected, restoring=False)
        for name, data in self.points.items():
            target = self.sources / "restored"
            engine.restore(self.place.root, target, at=name)
            assert target.read_bytes() == data
            target.unlink()


@pytest.fixture
def fullness(small_disk: Path, tmp_path: Path) -> Fullness:
    return Fullness(small_disk, tmp_path)


def contents() -> list[bytes]:
    """An image with holes, and the same after 1.5 MiB of it changed, of which a half was a hole."""
    chance = random.Random("full")
    first = bytearray(2048 * KIB)
    first[: 1024 * KIB] = chance.randbytes(1024 * KIB)
    second = bytearray(first)
    second[256 * KIB : 1792 * KIB] = chance.randbytes(1536 * KIB)
    third = bytearray(second)
    third[0 : 700 * KIB] = chance.randbytes(700 * KIB)
    return [bytes(first), bytes(second), bytes(third)]


@pytest.mark.parametrize("kib", [0, 4, 8, 40, 500, 1000])
def test_initial_copy(fullness: Fullness, kib: int) -> None:
    fullness.leave(kib)
    with pytest.raises(errors.Full) as caught:
        fullness.add(contents()[0])
    assert "No space left on device" in str(caught.value)
    fullness.room()
    assert fullness.add(contents()[0]).kind == "initial"
    fullness.check()


@pytest.mark.parametrize("kib", [0, 4, 16, 100, 500, 760, 1000, 1400])
def test_delta(fullness: Fullness, kib: int) -> None:
    """Runs full in the undo delta, or in the head where a hole was filled, or in the record of the point."""
    first, second, _ = contents()
    fullness.add(first)
    fullness.leave(kib)
    with pytest.raises(errors.Full) as caught:
        fullness.add(second)
    assert "No space left on device" in str(caught.value)
    fullness.check()
    fullness.room()
    assert fullness.add(second).kind == "delta"
    fullness.check()


@pytest.mark.parametrize("kib", [0, 4, 100, 600])
def test_prune_in_the_middle(fullness: Fullness, kib: int) -> None:
    """Merging two undo deltas needs room for a third; where there is none the points stay."""
    for data in contents():
        fullness.add(data)
    fullness.leave(kib)
    with pytest.raises(errors.Full):
        engine.prune(fullness.place.root, drop=["2"])
    fullness.check()
    rig.check_tidy(fullness.place, LocalFiles(), "full")
    fullness.room()
    assert engine.prune(fullness.place.root, drop=["2"]) == 1
    del fullness.points["2"]
    fullness.check()


def test_dropping_the_oldest_needs_no_room(fullness: Fullness) -> None:
    for data in contents():
        fullness.add(data)
    fullness.leave(0)
    assert engine.prune(fullness.place.root, keep=1) == 2
    fullness.points = {"3": fullness.points["3"]}
    fullness.check()


def test_restore(fullness: Fullness) -> None:
    """No half image stays behind."""
    fullness.add(contents()[1])
    fullness.leave(1000)
    with pytest.raises(errors.Full):
        engine.restore(fullness.place.root, fullness.disk / "restored")
    assert sorted(path.name for path in fullness.disk.iterdir()) == ["ballast", "replica"]
    fullness.check()
