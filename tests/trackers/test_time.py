"""The time of a point: nothing in it is of later, so that `--at TIME` restores nothing that came after TIME (R2.1).

The disk is written with the time itself, as late as it still comes into the point: just before it is cut, or where it
is read as it is, just before it is at rest, or to the end.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.source import Source
from secondsite.engine.together import Disk, export_seeds_together, replicate_together
from secondsite.engine.trackers import served
from secondsite.engine.trackers.clone import CloneTracker

SIZE = 1 << 20
KINDS = ["scan", "nbd", pytest.param("clone", marks=pytest.mark.needs("xfs"))]
# Longer than the ticks of the clock that stamps files.
TICKS = 0.05


def stamp() -> bytes:
    return (time.time_ns() // 1000).to_bytes(8, "little")


def moment(text: str | None) -> int:
    """In microseconds since 1970."""
    assert text is not None
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1e6)


def record(replica: str | Path, at: str = "latest") -> int:
    with engine.open_point(replica, at=at) as image:
        return int.from_bytes(image.read(0, 8), "little")


def writing(path: Path, write: Callable[[bytes], Any]) -> None:
    """A record, a while after what was before it and before what comes."""
    time.sleep(TICKS)
    write(stamp())
    time.sleep(TICKS)


def into(path: Path) -> Callable[[bytes], Any]:
    def write(data: bytes) -> None:
        with path.open("r+b") as file:
            file.write(data)

    return write


@contextmanager
def late(kind: str, paths: list[Path], monkeypatch: pytest.MonkeyPatch, socket: Path) -> Iterator[None]:
    """Disks that get a record each at the last moment at which it still comes into the point."""
    writers = {str(path): into(path) for path in paths}

    def before(made: Any, *arguments: Any) -> Any:
        for path in paths:
            writing(path, writers[str(path)])
        return made(*arguments)

    if kind == "nbd":
        with engine.track([str(path) for path in paths], socket=str(socket)) as tracking:
            writers.update({str(path): (lambda data, one=image.disk: one.write(0, data))
                            for path, image in zip(paths, tracking.images, strict=True)})  # fmt: skip
            cut = served.begin_together
            monkeypatch.setattr(served, "begin_together", lambda *plain: before(cut, *plain))
            yield
        return
    owner, name = (Source, "settled") if kind == "scan" else (CloneTracker, "begin")
    real = getattr(owner, name)

    def once(it: Any, *plain: Any) -> Any:
        writing(Path(it.path), writers[it.path])
        return real(it, *plain)

    monkeypatch.setattr(owner, name, once)
    yield


def folder(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where its disks are."""
    if kind != "clone":
        return tmp_path
    made: Path = request.getfixturevalue("xfs_dir") / tmp_path.name
    made.mkdir()
    return made


def disk(where: Path, name: str = "disk") -> Path:
    path = where / f"{name}.raw"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.mark.parametrize("history", ["auto", "log"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_point_holds_nothing_later_than_its_time(
    kind: str, history: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replica = disk(folder(kind, request, tmp_path)), tmp_path / "copy"
    with late(kind, [path], monkeypatch, tmp_path / "socket"):
        for number in (1, 2):
            done = engine.replicate(path, replica, tracker=kind, history=history)
            (point,) = [one for one in engine.points(replica) if one.point == str(number)]
            assert record(replica) <= moment(point.time) == moment(done.cut_at) <= time.time_ns() // 1000
    assert record(replica, "1") < record(replica)


@pytest.mark.parametrize("kind", KINDS)
def test_points_of_one_instant_hold_nothing_later_than_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = folder(kind, request, tmp_path)
    paths = [disk(where, name) for name in ("ab" if kind == "nbd" else "a")]
    disks = [Disk(str(path), str(tmp_path / f"{path.stem}.copy")) for path in paths]
    with late(kind, paths, monkeypatch, tmp_path / "socket"):
        for _ in range(2):
            results = replicate_together(disks, tracker=kind)
            times = {moment(engine.points(one.replica)[-1].time) for one in disks}
            assert times == {moment(one.cut_at) for one in results} and len(times) == 1
            assert max(record(one.replica) for one in disks) <= min(times) <= time.time_ns() // 1000


def test_files_that_are_read_as_they_are_share_the_time_at_which_they_were_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is written once the first is at rest, after both were cut; so is neither after the time."""
    paths = [disk(tmp_path, name) for name in "ab"]
    for path in paths:
        os.utime(path, (1, 1))
    disks = [Disk(str(path), str(path.with_suffix(".copy")), {"tracker": "scan"}) for path in paths]
    with late("scan", paths, monkeypatch, tmp_path / "socket"):
        replicate_together(disks)
    times = {engine.points(one.replica)[-1].time for one in disks}
    assert len(times) == 1 and max(record(one.replica) for one in disks) <= moment(times.pop())


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_holds_nothing_later_than_its_time(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = disk(folder(kind, request, tmp_path)), tmp_path / "state"
    with late(kind, [path], monkeypatch, tmp_path / "socket"):
        alone = engine.export_seed(path, tmp_path / "alone", tracker=kind, state=state)
        wanted = Disk(str(path), str(tmp_path / "together"), {"tracker": kind})
        (together,) = export_seeds_together([wanted], state=tmp_path / "other")
    for name, done in (("alone", alone), ("together", together)):
        engine.import_seed(tmp_path / name, tmp_path / f"{name}.copy")
        assert record(tmp_path / f"{name}.copy") <= moment(done.time)


class Written(MemoryImage):
    """Nothing tells when it is written, as of a device. The first block is written just before it is read."""

    def read_into(self, offset: int, buffer: Any) -> None:
        if offset == 0:
            time.sleep(TICKS)
            self.write(0, stamp())
            time.sleep(TICKS)
        super().read_into(offset, buffer)


@pytest.mark.parametrize("history", ["auto", "log"])
def test_what_does_not_tell_of_writes_has_the_time_of_the_end(history: str, tmp_path: Path) -> None:
    image = Written(os.urandom(SIZE), path="device")
    both: Any = Disk(image, str(tmp_path / "together"), {"history": history})  # type: ignore[arg-type]
    alone = engine.replicate(image, tmp_path / "alone", history=history)
    found = {"alone": alone, "together": replicate_together([both])[0]}
    for name, done in found.items():
        (point,) = engine.points(tmp_path / name)
        assert 1 << 50 < record(tmp_path / name) <= moment(point.time) == moment(done.cut_at)
