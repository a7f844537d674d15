"""Cycles of several disks that are cut at one instant: a machine's disks, and what one of them does to the others."""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images import Image, open_image
from secondsite.engine.together import Disk, export_seeds_together, replicate_together
from secondsite.engine.trackers.base import Cut, Have, Tracker

SIZE = 1 << 20
NOON = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)
Writer = Any


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{name}.raw" for name in "abc"]
    for path in found:
        path.write_bytes(os.urandom(SIZE))
        os.utime(path, (1, 1))
    return found


def disks(paths: Sequence[Path], **options: Any) -> list[Disk]:
    return [Disk(str(path), str(path.with_suffix(".copy")), options) for path in paths]


def points(paths: Sequence[Path]) -> list[list[engine.PointInfo]]:
    return [engine.points(str(path.with_suffix(".copy"))) for path in paths]


def numbers(paths: Sequence[Path]) -> list[int]:
    """The number that each disk's newest point begins with."""
    found = []
    for path in paths:
        with engine.open_point(str(path.with_suffix(".copy"))) as image:
            found.append(int.from_bytes(image.read(0, 8), "little"))
    return found


@contextmanager
def counting(writers: Sequence[Writer]) -> Iterator[None]:
    """Each number goes to the first disk, then to the next: no instant has one on a later disk alone."""
    stop = threading.Event()

    def count() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for writer in writers:
                writer(number.to_bytes(8, "little"))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_disks_behind_one_server_are_of_one_instant(paths: list[Path], tmp_path: Path) -> None:
    with engine.track([str(path) for path in paths], socket=str(tmp_path / "socket")) as tracking:
        writers = [lambda data, disk=image.disk: disk.write(0, data) for image in tracking.images]
        with counting(writers):
            for _ in range(12):
                results = replicate_together(disks(paths))
                assert {result.tracker for result in results} == {"nbd"}
                first, second, third = numbers(paths)
                assert first >= second >= third >= first - 1
    listed = points(paths)
    assert len({tuple(point.time for point in one) for one in listed}) == 1, "the points of an instant have one time"


def test_seeds_of_disks_behind_one_server_are_of_one_instant(paths: list[Path], tmp_path: Path) -> None:
    """R5.4, R6.7. An export that is repeated leaves whole seeds as they are."""
    wanted = [Disk(str(path), str(path.with_suffix(".seed"))) for path in paths]
    with engine.track([str(path) for path in paths], socket=str(tmp_path / "socket")) as tracking:
        writers = [lambda data, disk=image.disk: disk.write(0, data) for image in tracking.images]
        with counting(writers):
            done = export_seeds_together(wanted, state=tmp_path / "state")
        again = export_seeds_together(wanted, state=tmp_path / "state")
    assert {(one.kind, one.tracker) for one in done} == {("exported", "nbd")}
    assert {one.kind for one in again} == {"whole"}
    assert len({one.time for one in [*done, *again]}) == 1
    for path in paths:
        engine.import_seed(path.with_suffix(".seed"), path.with_suffix(".copy"))
    found = numbers(paths)
    assert found == sorted(found, reverse=True) and found[0] - found[-1] <= 1


def test_disks_in_folders_on_agents_and_in_logs_go_together(paths: list[Path]) -> None:
    """A plain folder, and logs as in an object store: what `replicate` takes, each for itself."""
    mixed = [*disks(paths[:1]), *disks(paths[1:], history="log")]
    results = replicate_together(mixed, clock=lambda: NOON)
    assert [result.kind for result in results] == ["initial"] * 3
    assert {one[0].time for one in points(paths)} == {"2026-11-26T12:00:00.000000Z"}
    for path in paths:
        assert engine.verify(str(path.with_suffix(".copy"))).ok


def test_files_that_nobody_writes_need_no_server(paths: list[Path]) -> None:
    replicate_together(disks(paths))
    with paths[1].open("r+b") as file:
        file.write(b"x" * 8)
    results = replicate_together(disks(paths))
    assert [result.kind for result in results] == ["unchanged", "delta", "unchanged"]


def test_files_that_are_written_are_cut_again_and_then_refused(paths: list[Path]) -> None:
    replicate_together(disks(paths))
    files = [path.open("r+b", buffering=0) for path in paths]
    began = time.monotonic()
    writers = [lambda data, file=file: os.pwrite(file.fileno(), data, 0) for file in files]
    # A writer that was held up long enough for the cut is noticed later.
    told = "were written while they were cut|it was written meanwhile"
    with counting(writers), pytest.raises(errors.Refused, match=told):
        replicate_together(disks(paths))
    assert time.monotonic() - began < 60
    assert min(len(one) for one in points(paths)) == 1
    replicate_together(disks(paths))
    assert len(set(numbers(paths))) <= 2


def test_a_disk_that_is_not_there_stops_the_others_before_they_are_cut(paths: list[Path]) -> None:
    paths[2].unlink()
    began = time.monotonic()
    with pytest.raises(errors.Unreachable, match=r"c\.raw"):
        replicate_together(disks(paths))
    assert time.monotonic() - began < 20
    assert points(paths[:2]) == [[], []]


def test_a_disk_that_cannot_be_cut_takes_all_cuts_back(paths: list[Path], tmp_path: Path) -> None:
    replicate_together(disks(paths))
    with engine.track([str(path) for path in paths], socket=str(tmp_path / "socket")):
        from secondsite.engine.trackers.served import ServedTracker

        with ServedTracker(paths[2]) as other:
            other.begin(None)
            with pytest.raises(errors.Refused):
                replicate_together(disks(paths))
        assert not any(engine.tracking_status(str(path))["cut_open"] for path in paths)
        replicate_together(disks(paths))
    assert [engine.verify(str(path.with_suffix(".copy"))).ok for path in paths] == [True] * 3


def test_a_disk_that_its_times_call_unchanged_is_not_waited_for(paths: list[Path]) -> None:
    time.sleep(2.1)  # of a younger file its times tell nothing
    replicate_together(disks(paths))
    with paths[0].open("r+b") as file:
        file.write(b"y" * 8)
    results = replicate_together([*disks(paths[:1]), *disks(paths[1:], trust_mtime=True)])
    assert [result.tracker for result in results[1:]] == ["mtime", "mtime"]
    assert results[0].kind == "delta"


class _Liar(Tracker):
    """Names nothing, whatever changed."""

    name = "liar"

    def __init__(self, image: Image) -> None:
        self.image, self.asked = image, list[bool]()

    def begin(self, have: Have | None, sample: Sequence[tuple[int, int]] = ()) -> Cut:
        self.asked.append(have is not None)
        return _Lie(self.image, have is not None)


class _Lie(Cut):
    tracker, frozen = "liar", True

    def __init__(self, image: Image, known: bool) -> None:
        super().__init__()
        self.image, self.known = image, known

    def changed(self) -> Sequence[tuple[int, int]] | None:
        return [] if self.known else None

    def acknowledge(self, have: Have) -> None:
        self.known = True

    def give_back(self) -> None:
        return None


def test_a_tracker_that_lies_is_unmasked_and_all_are_cut_again(paths: list[Path]) -> None:
    """The machine's point is of one instant then too: the disk is read whole, over a cut with the others."""
    replicate_together(disks(paths))
    for path in paths:
        path.write_bytes(os.urandom(SIZE))
        os.utime(path, (2, 2))
    with open_image(str(paths[1])) as image:
        liar = _Liar(image)
        said = disks(paths)
        said[1] = Disk(said[1].source, said[1].replica, {"tracker": liar, "distrust": 16})
        replicate_together(said)
    assert liar.asked == [True, False]
    for path in paths:
        assert engine.verify(str(path.with_suffix(".copy")), source=str(path)).ok


def test_cancelling_ends_all_of_them(paths: list[Path]) -> None:
    with pytest.raises(errors.Cancelled):
        replicate_together(disks(paths), cancel=lambda: True)
    assert points(paths) == [[], [], []]


def test_two_disks_do_not_share_a_replica(paths: list[Path]) -> None:
    with pytest.raises(errors.Usage):
        replicate_together([Disk(str(path), str(paths[0].with_suffix(".copy"))) for path in paths])


def test_what_opens_replicas_is_for_all_disks(paths: list[Path], tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.touch(0o600)
    words.write_text("for all of them\n")
    with engine.using_key(engine.Key(passphrase_file=words)):
        replicate_together(disks(paths), encrypt=True, history="log")
        paths[0].write_bytes(os.urandom(SIZE))
        with engine.using_key(engine.Key(plain=True)):  # names none: that of the block around it
            replicate_together(disks(paths))
            engine.replicate(paths[0], tmp_path / "plain")
        with pytest.raises(errors.Refused, match="is not encrypted, and a key was given"):
            engine.replicate(paths[0], tmp_path / "plain")
    with pytest.raises(errors.Refused, match="no key was given"):
        replicate_together(disks(paths))
