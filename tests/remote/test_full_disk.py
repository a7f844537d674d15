"""The agent's disk is full: the sender waits and says so, nothing is lost, and with room again it goes on by itself."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import SECONDSITE
from hosting import Site, site, soon

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.results.cycle import Replicated
from secondsite.engine.units import KIB, MIB

pytestmark = [pytest.mark.needs("root", "mount"), pytest.mark.timeout(120)]
SIZE = 6 * MIB
BLOCK = 64 * KIB


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Site]:
    """An agent whose replicas lie on a file system of 64 MiB."""
    with small(tmp_path / "root", "64m"), site(tmp_path) as made:
        yield made


@contextlib.contextmanager
def small(folder: Path, size: str) -> Iterator[Path]:
    """A new folder that is a file system of that size."""
    folder.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size}", "secondsite-test", str(folder)), check=True)
    try:
        yield folder
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


@pytest.fixture
def clones(xfs_dir: Path, tmp_path: Path) -> Iterator[Site]:
    folder = xfs_dir / tmp_path.name
    folder.mkdir()
    with site(folder) as made:
        yield made


def fill(folder: Path, left: int) -> Path:
    """A file that leaves so many bytes free."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        while (free := room(folder) - left) > 0:
            try:
                os.posix_fallocate(file.fileno(), ballast.stat().st_size, free)
            except OSError:  # the file system's own tables take some of it
                left += 64 * KIB
    return ballast


def room(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


class Sender:
    """A cycle in a thread; `told` is what the user was told."""

    def __init__(self, source: Path, there: Site, state: Path, **link: object) -> None:
        self.told: list[str] = []
        self.done: Replicated | None = None
        self.error: errors.Error | None = None
        how = engine.Link(delays=(0.02,), notify=self.told.append, **link)  # type: ignore[arg-type]

        def run() -> None:
            try:
                self.done = engine.replicate(source, there.url(), state=state, link=how, codec="none")
            except errors.Error as error:
                self.error = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def waits(self, times: int) -> bool:
        """Was it told so often that there is no room, and is it still there?"""

        def full() -> bool:
            return sum("No space left" in line for line in self.told) >= times

        return soon(lambda: full() or not self.thread.is_alive(), 30) and full()

    def end(self) -> Replicated:
        self.thread.join(60)
        assert not self.thread.is_alive() and self.error is None and self.done is not None, (self.error, self.told)
        return self.done


def disk(folder: Path) -> Path:
    path = folder / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def rewrite(path: Path, blocks: int) -> None:
    with path.open("r+b") as file:
        file.write(random.Random(2).randbytes(blocks * BLOCK))


def left_over(there: Site) -> set[str]:
    names = {path.name for path in (there.root / "disk").iterdir()} - {"incoming.lock"}
    return {name for name in names if name.startswith(("incoming.", "next-"))}


@pytest.mark.parametrize("left", [0, 4096, 12288, 100 * KIB, MIB, 3 * MIB, 5 * MIB, SIZE - 4096, SIZE, SIZE + 8192])
@pytest.mark.sweep(sample=4)
def test_a_first_copy_waits_for_room(there: Site, tmp_path: Path, left: int) -> None:
    source, state = disk(tmp_path), there.host()
    ballast = fill(there.root, left)
    sender = Sender(source, there, state)
    assert sender.waits(8), sender.told  # longer than for a cut link, which is given up after five
    assert "waiting for room" in sender.told[-1]
    ballast.unlink()
    assert sender.end().kind == "initial"
    finish(there, source, {1: source.read_bytes()})


@pytest.mark.parametrize("left", [0, 4096, 12288, 100 * KIB, MIB, 3 * MIB, 4 * MIB + 65536, 5 * MIB, 7 * MIB, 8 * MIB])
@pytest.mark.sweep(sample=4)
def test_a_delta_waits_for_room(there: Site, tmp_path: Path, left: int) -> None:
    """First for the spool, then for the old contents."""
    changed(there, tmp_path, left)


@pytest.mark.needs("xfs")
@pytest.mark.parametrize("left", [0, 100 * KIB, 3 * MIB, 5 * MIB])
@pytest.mark.sweep(sample=1)
def test_a_delta_with_clones_waits_for_room(clones: Site, tmp_path: Path, left: int) -> None:
    changed(clones, tmp_path, left)


def changed(there: Site, folder: Path, left: int) -> None:
    source, state = disk(folder), there.host()
    engine.replicate(source, there.url(), state=state)
    before = source.read_bytes()
    rewrite(source, 64)
    ballast = fill(there.root, left)
    sender = Sender(source, there, state)
    assert sender.waits(8), sender.told
    assert [point.generation for point in engine.points(there.root / "disk")] == [1]
    ballast.unlink()
    assert sender.end().kind == "delta"
    finish(there, source, {1: before, 2: source.read_bytes()})


def finish(there: Site, source: Path, points: dict[int, bytes]) -> None:
    """Nothing is lost, and nothing is left."""
    assert (there.root / "disk" / "head.raw").read_bytes() == source.read_bytes()
    assert engine.verify(there.root / "disk").ok
    for point, data in points.items():
        out = source.with_suffix(f".{point}")
        engine.restore(there.root / "disk", out, at=str(point))
        assert out.read_bytes() == data
    assert not left_over(there)


def test_who_says_how_often_is_told_after_that(there: Site, tmp_path: Path) -> None:
    source, state = disk(tmp_path), there.host()
    ballast = fill(there.root, 2 * MIB)
    sender = Sender(source, there, state, retries=3)
    sender.thread.join(30)
    assert len(sender.told) <= 8  # what is sent into a full disk is no progress
    assert isinstance(sender.error, errors.Full) and sender.error.exit_code == errors.UNREACHABLE
    ballast.unlink()
    done = engine.replicate(source, there.url(), state=state)
    assert done.over_bytes < SIZE  # what was there is not sent again
    finish(there, source, {1: source.read_bytes()})


def test_the_command_says_so_on_the_screen_and_goes_on(there: Site, tmp_path: Path) -> None:
    source, state = disk(tmp_path), there.host()
    ballast = fill(there.root, 2 * MIB)
    sender = subprocess.Popen(
        (*SECONDSITE, "replicate", str(source), there.url(), "--state", str(state), "--codec", "none",
         "--retry-delays", "0.1"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert sender.stderr is not None
    line = sender.stderr.readline()
    assert "No space left on device; waiting for room there, nothing is lost; tried again in 0.1 s" in line
    time.sleep(1)
    assert sender.poll() is None
    ballast.unlink()
    said, _ = sender.communicate(timeout=60)
    assert sender.returncode == 0 and said.startswith("initial: point 1")
    finish(there, source, {1: source.read_bytes()})


def test_watching_tells_it_and_goes_on(there: Site, tmp_path: Path) -> None:
    source, state = disk(tmp_path), there.host()
    seen: list[engine.Status] = []
    stop = threading.Event()

    def run() -> None:
        with pytest.raises(errors.Cancelled):
            engine.watch(source, there.url(), every=1, state=state, observe=seen.append, cancel=stop.is_set)

    ballast = fill(there.root, 2 * MIB)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert soon(lambda: any(now.state == "retrying" and "No space left" in (now.error or "") for now in seen), 20)
        ballast.unlink()
        assert soon(lambda: any(now.last is not None for now in seen), 30)
    finally:
        stop.set()
        thread.join(30)
    finish(there, source, {1: source.read_bytes()})


def test_a_sender_without_room_for_its_map_has_made_the_point_all_the_same(there: Site, tmp_path: Path) -> None:
    """What this host keeps of the replica's block map is made anew; that it could not be kept is a warning."""
    source, state = disk(tmp_path), there.host()
    with small(state / "maps", "40k"):  # a working copy fits, two do not
        done = engine.replicate(source, there.url(), block_size=4096, state=state)
        assert done.kind == "initial" and any("No space left" in warning for warning in done.warnings), done
        assert not [name for name in (state / "maps").iterdir() if name.suffix == ".new"]
        rewrite(source, 3)
        again = engine.replicate(source, there.url(), state=state)
        assert (again.kind, again.changed_bytes) == ("delta", 3 * BLOCK)
    finish(there, source, {2: source.read_bytes()})


def test_a_sender_without_any_room_says_where_and_loses_nothing(there: Site, tmp_path: Path) -> None:
    source, state = disk(tmp_path), there.host()
    engine.replicate(source, there.url(), state=state)
    before = source.read_bytes()
    rewrite(source, 40)
    with small(tmp_path / "full", "512k") as folder:
        shutil.copytree(state, folder / "state")
        with contextlib.suppress(OSError), (folder / "ballast").open("wb", 0) as file:
            while True:
                file.write(bytes(4096))
        done = engine.replicate(source, there.url(), state=folder / "state", link=engine.Link(0))
        assert (done.kind, done.changed_bytes) == ("delta", 40 * BLOCK)
        assert any(str(folder) in warning and "No space left" in warning for warning in done.warnings), done.warnings
    middle = source.read_bytes()
    rewrite(source, 50)
    again = engine.replicate(source, there.url(), state=state)  # what it keeps is of the point before
    assert again.kind == "delta" and again.changed_bytes == 10 * BLOCK
    finish(there, source, {1: before, 2: middle, 3: source.read_bytes()})


@pytest.mark.parametrize("left", [0, 7 * MIB])
def test_several_connections_wait_for_room_together(there: Site, tmp_path: Path, left: int) -> None:
    source, state = disk(tmp_path), there.host()
    engine.replicate(source, there.url(), state=state)
    before = source.read_bytes()
    rewrite(source, 90)
    ballast = fill(there.root, left)
    sender = Sender(source, there, state, connections=4)
    assert sender.waits(8), sender.told
    ballast.unlink()
    assert sender.end().kind == "delta"
    finish(there, source, {1: before, 2: source.read_bytes()})
