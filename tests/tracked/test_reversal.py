"""The way back after a failover: both sides have changed, and the old disk's replica becomes the active side (issue 8).

A model: random writes on both sides of random points, whatever tracker knows of them; in the end the replica that was
made of the old disk equals the active side byte for byte, and where trackers knew, only what changed was read.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from remote.hosting import Site, site

from secondsite import engine
from secondsite.engine.images.nbd import NbdImage
from secondsite.engine.tracked.mapfile import SLOT, beside, pack, stamp, unpack

pytest.importorskip("secondsite.engine._nbd", reason="the native kernels are not built")

MIB = 1 << 20
SIZE = 40 * MIB + 777
BLOCK = 65536


class Pair:
    """A disk, its replica `fwd`, and what each point of that is."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.disk, self.forward = folder / "old.raw", folder / "fwd"
        self.overlay, self.back = folder / "vm.overlay", folder / "back"
        self.data = bytearray(chance.randbytes(16 * MIB) + bytes(SIZE - 16 * MIB))
        self.disk.write_bytes(self.data)
        self.points: list[bytes] = []

    def write(self, image: engine.Image, model: bytearray, count: int) -> None:
        for _ in range(count):
            at = self.chance.randrange(SIZE - 200_000)
            length = self.chance.choice([1, 512, 65536, 200_000])
            data = bytes(length) if self.chance.random() < 0.3 else self.chance.randbytes(length)
            image.zero(at, length) if not any(data) else image.write(at, data)
            model[at : at + length] = data
        image.flush()

    def home(self, cycles: int, after: int) -> None:
        """A guest at home: cycles, then writes that are never sent."""
        with engine.track([self.disk], socket=str(self.folder / "home")) as tracking:
            for _ in range(cycles):
                self.guest(tracking, self.data, 6)
                engine.replicate(self.disk, self.forward, history="undo")
                self.points.append(bytes(self.data))
            self.guest(tracking, self.data, after)

    def guest(self, tracking: engine.Tracking, model: bytearray, count: int) -> None:
        with NbdImage(tracking.urls[0], "rw") as image:
            self.write(image, model, count)


def failed_over(pair: Pair, at: int) -> bytearray:
    engine.create_overlay(pair.overlay, pair.forward, str(at))
    return bytearray(pair.points[at - 1])


@pytest.mark.sweep(sample=3)
@pytest.mark.parametrize("seed", range(40))
def test_the_way_back(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    pair = Pair(tmp_path, chance)
    pair.home(chance.randrange(1, 4), chance.randrange(8))
    at = len(pair.points) if chance.random() < 0.6 else chance.randrange(1, len(pair.points) + 1)
    model = failed_over(pair, at)
    with engine.track([pair.overlay], socket=str(tmp_path / "s")) as tracking:
        pair.guest(tracking, model, chance.randrange(8))
        before = pair.disk.read_bytes()
        adopted = engine.adopt(pair.disk, pair.back, like=pair.forward)
        assert pair.disk.read_bytes() == before == pair.data
        assert (pair.back / "head.raw").read_bytes() == before and engine.verify(pair.back).ok
        if chance.random() < 0.5:
            pair.guest(tracking, model, 3)
        served = engine.replicate(pair.overlay, pair.back)
        assert (served.tracker, served.scanned, served.warnings) == ("nbd", False, [])
        assert (pair.back / "head.raw").read_bytes() == model
        for _ in range(2):
            pair.guest(tracking, model, 4)
            assert not engine.replicate(pair.overlay, pair.back).scanned
            assert (pair.back / "head.raw").read_bytes() == model
    last = engine.replicate(pair.overlay, pair.back)
    assert (last.tracker, last.kind, last.scanned) == ("overlay", "unchanged", False)
    assert engine.verify(pair.back).ok and engine.verify(pair.back, source=pair.overlay).ok
    assert engine.verify(pair.forward).ok and adopted.point == "1"


def test_only_what_changed_is_read(tmp_path: Path) -> None:
    pair = Pair(tmp_path, random.Random(7))
    pair.home(2, 0)
    with engine.track([pair.disk], socket=str(tmp_path / "home")) as tracking:
        tracking.images[0].disk.write(5 * BLOCK, b"never sent")
    model = failed_over(pair, 2)
    with engine.open_image(pair.overlay, "rw") as image:
        image.write(9 * BLOCK, b"after the failover")
    model[9 * BLOCK : 9 * BLOCK + 18] = b"after the failover"
    # Where the file system does not clone a disk that is not moved is copied, which reads all of it anyway.
    adopted = engine.adopt(pair.disk, pair.back, like=pair.forward, move=True)
    assert adopted.read_bytes == BLOCK
    done = engine.replicate(pair.overlay, pair.back)
    assert (done.tracker, done.read_bytes, done.changed_bytes) == ("overlay", 2 * BLOCK, 2 * BLOCK)
    assert (pair.back / "head.raw").read_bytes() == model


def test_clones_tell_it_too(xfs_dir: Path) -> None:
    folder = xfs_dir / "reversal"
    folder.mkdir()
    pair = Pair(folder, random.Random(3))
    engine.replicate(pair.disk, pair.forward)
    pair.points.append(bytes(pair.data))
    with engine.open_image(pair.disk, "rw") as image:
        image.write(5 * BLOCK, b"never sent")
    model = failed_over(pair, 1)
    adopted = engine.adopt(pair.disk, pair.back, like=pair.forward)
    assert (adopted.method, adopted.read_bytes) == ("clone", BLOCK)
    done = engine.replicate(pair.overlay, pair.back)
    assert (done.read_bytes, done.changed_bytes) == (BLOCK, BLOCK)
    assert (pair.back / "head.raw").read_bytes() == model


def test_a_disk_that_somebody_wrote_behind_its_trackers_is_read(tmp_path: Path) -> None:
    """The map says nothing changed, and most of the disk did: a sample finds it, and all is read (D7)."""
    pair = Pair(tmp_path, random.Random(5))
    pair.home(1, 0)
    pair.disk.write_bytes(random.Random(9).randbytes(SIZE))
    _forge(Path(beside(pair.disk, "map")), pair.disk)
    adopted = engine.adopt(pair.disk, pair.back, like=pair.forward, move=True)
    assert "nobody named" in adopted.warnings[0] and engine.verify(pair.back).ok
    assert adopted.read_bytes >= SIZE


def _forge(kept: Path, disk: Path) -> None:
    """A change map that believes that it knows the file as it is now."""
    data = kept.read_bytes()
    serial, state = max(found for at in (0, SLOT) if (found := unpack(data[at : at + SLOT])))
    forged = state._replace(stamp=stamp([str(disk)]))
    with kept.open("r+b") as file:
        file.seek((serial + 1) % 2 * SLOT)
        file.write(pack(forged, serial + 1))


def test_without_a_relative_both_sides_are_read_once(tmp_path: Path) -> None:
    pair = Pair(tmp_path, random.Random(6))
    pair.home(1, 3)
    model = failed_over(pair, 1)
    engine.adopt(pair.disk, pair.back)
    with engine.track([pair.overlay], socket=str(tmp_path / "s")) as tracking:
        pair.guest(tracking, model, 3)
        done = engine.replicate(pair.overlay, pair.back)
    assert done.scanned and done.changed_bytes < 4 * MIB
    assert (pair.back / "head.raw").read_bytes() == model


def test_when_the_point_was_dropped_the_disk_is_read(tmp_path: Path) -> None:
    pair = Pair(tmp_path, random.Random(8))
    pair.home(2, 3)
    model = failed_over(pair, 1)
    pair.data[:] = pair.disk.read_bytes()
    with engine.open_image(pair.disk, "rw") as image:
        engine.replicate(image, pair.forward, source_id="home", accept_source=True)  # a point that no tracker knows
    engine.prune(pair.forward, drop=["2"])
    adopted = engine.adopt(pair.disk, pair.back, like=pair.forward, move=True)
    assert adopted.read_bytes > 10 * MIB and "no point 2" in adopted.warnings[0]
    engine.replicate(pair.overlay, pair.back)
    assert (pair.back / "head.raw").read_bytes() == model


def test_over_the_network(tmp_path: Path) -> None:
    """Home has an agent; the active side sends to it, and its own replica is the one that the old disk is like."""
    pair = Pair(tmp_path, random.Random(4))
    pair.home(2, 4)
    model = failed_over(pair, 2)
    with ExitStack() as stack:
        (tmp_path / "home-site").mkdir()
        there: Site = stack.enter_context(site(tmp_path / "home-site"))
        state = there.host("active", "back", allow="send,read")
        engine.adopt(pair.disk, there.root / "back", like=pair.forward, move=True)
        tracking = stack.enter_context(engine.track([pair.overlay], socket=str(tmp_path / "s")))
        pair.guest(tracking, model, 3)
        done = engine.replicate(pair.overlay, there.url("back"), state=state)
        assert not done.scanned and done.read_bytes < 8 * MIB and (there.root / "back/head.raw").read_bytes() == model
        copy = tmp_path / "copy.raw"
        copy.write_bytes(model)
        engine.adopt(copy, tmp_path / "third", like=there.url("back"), state=state)  # its map is fetched from the agent
        assert engine.replicate(pair.overlay, tmp_path / "third", source_format="overlay").kind == "unchanged"
