"""Others at an image that is served: a file that takes its place, writers beside the server, a second replica."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.tracked.mapfile import beside

MIB = 1 << 20
SIZE = 40 * MIB
# A write that no tracker names and the sample does not hit.
UNSEEN = {"distrust": 1}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(MIB))
    os.truncate(path, SIZE)
    return path


def changed(path: Path) -> None:
    """Another program writes into the file."""
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"others")


def equal(image: Path, root: Path) -> bool:
    return image.read_bytes() == (root / "head.raw").read_bytes()


def at_rest(image: Path) -> None:
    """Wait until the server has retired all regions."""
    deadline = time.monotonic() + 40
    while engine.tracking_status(image)["active_regions"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("cycle_meanwhile", [False, True])
def test_a_file_that_took_the_place_is_read_whole(image: Path, tmp_path: Path, cycle_meanwhile: bool) -> None:
    """The marks are of the file that was served: no cycle says of the other one that it is unchanged."""
    root = tmp_path / "r"
    with engine.track([image], socket=str(tmp_path / "s")):
        engine.replicate(image, root)
        other = tmp_path / "other"
        other.write_bytes(image.read_bytes())
        changed(other)
        other.rename(image)
        if cycle_meanwhile:
            with pytest.raises(errors.Unreachable, match="another file"):
                engine.replicate(image, root, **UNSEEN)
    with engine.track([image], socket=str(tmp_path / "s")):
        engine.replicate(image, root, **UNSEEN)
        assert equal(image, root)


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("ended", [False, True])
def test_who_writes_beside_a_resting_server_costs_a_scan(image: Path, tmp_path: Path, ended: bool) -> None:
    """While no region is active no guest writes; a file whose time moves all the same was written by somebody else."""
    root = tmp_path / "r"
    with engine.track([image], socket=str(tmp_path / "s")) as tracking:
        with engine.open_image(tracking.urls[0], "rw") as guest:
            guest.write(0, b"guest")
        engine.replicate(image, root)
        at_rest(image)
        assert engine.replicate(image, root).read_bytes == 0
        time.sleep(1.5)
        changed(image)
        if not ended:
            engine.replicate(image, root, **UNSEEN)
            assert equal(image, root)
            assert engine.replicate(image, root).read_bytes == 0
    if ended:
        with engine.track([image], socket=str(tmp_path / "s")):
            engine.replicate(image, root, **UNSEEN)
            assert equal(image, root)


def test_a_size_that_another_changed_is_told(image: Path, tmp_path: Path) -> None:
    with engine.track([image], socket=str(tmp_path / "s")):
        engine.replicate(image, tmp_path / "r")
        os.truncate(image, SIZE // 2)
        with pytest.raises(errors.Unreachable, match="has another size"):
            engine.replicate(image, tmp_path / "r")


def test_no_restore_into_an_image_that_is_served(image: Path, tmp_path: Path) -> None:
    root = tmp_path / "r"
    engine.replicate(image, root)
    changed(image)
    engine.replicate(image, root)
    with engine.track([image], socket=str(tmp_path / "s")):
        with pytest.raises(errors.Busy, match="serves it"):
            engine.restore(root, image, at="1", in_place=True)
        assert equal(image, root)


def test_a_restore_voids_the_map_that_a_killed_server_left(image: Path, tmp_path: Path) -> None:
    """The server's last sign of life is seconds old: times cannot tell this writer from it."""
    root = tmp_path / "r"
    engine.replicate(image, root)
    changed(image)
    with engine.track([image], socket=str(tmp_path / "s")):
        engine.replicate(image, root)
        left = Path(beside(image, "map")).read_bytes()
    Path(beside(image, "map")).write_bytes(left)
    engine.restore(root, image, at="1", in_place=True)
    with engine.track([image], socket=str(tmp_path / "s")):
        engine.replicate(image, root, **UNSEEN)
        assert equal(image, root)


@pytest.mark.parametrize("others", [False, True])
def test_who_writes_right_after_a_resting_server_was_killed(image: Path, tmp_path: Path, others: bool) -> None:
    """Without an active region the last write is older than the server's last sign of life, by however little."""
    root, file = tmp_path / "r", Path(beside(image, "map"))
    with engine.track([image], socket=str(tmp_path / "s")):
        engine.replicate(image, root)
        left, alive = file.read_bytes(), file.stat().st_mtime_ns
    file.write_bytes(left)
    os.utime(file, ns=(alive, alive))
    if others:
        changed(image)
    with engine.track([image], socket=str(tmp_path / "s")):
        assert engine.replicate(image, root, **UNSEEN).scanned == others
        assert equal(image, root)


def test_replicas_of_one_served_image_wait_for_each_other(image: Path, tmp_path: Path) -> None:
    """A cut that another's cycle holds passes: a watch tries again and does not end."""
    with engine.track([image], socket=str(tmp_path / "s")):
        begun, done = threading.Event(), threading.Event()

        def hold(_: engine.Progress) -> None:
            begun.set()
            done.wait(20)

        holder = threading.Thread(target=engine.replicate, args=(image, tmp_path / "a"), kwargs={"progress": hold})
        holder.start()
        try:
            assert begun.wait(20)
            with pytest.raises(errors.Busy, match="a cut of it is open"):
                engine.replicate(image, tmp_path / "b")
        finally:
            done.set()
            holder.join()


def test_one_server_whatever_the_name(image: Path, tmp_path: Path) -> None:
    """A hard link has a map of its own, in which the other server's writes would be missing."""
    other = tmp_path / "other.raw"
    other.hardlink_to(image)
    with engine.track([image], socket=str(tmp_path / "s")), pytest.raises(errors.Busy):
        engine.track([other], socket=str(tmp_path / "s2"))
    with engine.track([other], socket=str(tmp_path / "s2")):
        pass
    with pytest.raises(errors.Busy, match="locked"):
        engine.track([image, other], socket=str(tmp_path / "s2"))
