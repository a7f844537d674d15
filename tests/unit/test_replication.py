"""A cycle as its caller sees it: what it sends, what it refuses, and that it then changed nothing."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors, units
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images import raw
from secondsite.engine.images.failing import Faults
from secondsite.engine.images.memory import MemoryImage

BLOCK = 4096


def test_the_first_cycles(lab: Any) -> None:
    data = bytearray(os.urandom(10 * BLOCK)) + bytes(5 * BLOCK) + b"tail"
    done = lab.cycle(data)
    assert (done.kind, done.generation, done.virtual_bytes) == ("initial", 1, len(data))
    assert (done.changed_bytes, done.sent_bytes) == (10 * BLOCK + 4, 10 * BLOCK + 4)
    data[5] ^= 1
    data[BLOCK : 2 * BLOCK] = bytes(BLOCK)
    done = lab.cycle(data)
    assert (done.kind, done.changed_bytes, done.sent_bytes) == ("delta", 2 * BLOCK, BLOCK)
    assert lab.cycle(data).kind == "unchanged"
    assert lab.points() == ["1", "2"]
    lab.check()


def test_an_unchanged_cycle_writes_nothing_to_head_map_and_points(make_lab: Any) -> None:
    faults = Faults()
    lab = make_lab(FailingFiles(MemoryFiles(), faults))
    data = os.urandom(20 * BLOCK)
    lab.cycle(data)
    faults.log.clear()
    done = lab.cycle(data)
    assert (done.kind, done.generation) == ("unchanged", 1)
    touched = {path for _, path in faults.log}
    assert touched <= {"/r/checked.json", "/r/checked.json.tmp"}


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_tiny_images(lab: Any, size: int) -> None:
    lab.cycle(b"x" * size)
    lab.cycle(b"y" * size + b"grown" * 2000)
    lab.cycle(b"z" * size)
    lab.check()
    assert lab.files.size("/r/head.raw") == size


@pytest.mark.parametrize("clones", [False, True])
@pytest.mark.parametrize("history", ["auto", "undo"])
def test_long_histories(
    make_lab: Any, disk: Callable[..., Callable[[], bytes]], clones: bool, history: str
) -> None:
    lab, step = make_lab(MemoryFiles(clones=clones)), disk(clones + 2 * len(history))
    for _ in range(12):
        lab.cycle(step(), history=history)
    lab.check()
    kinds = {point.history for point in engine.points("/r", files=lab.files)}
    assert kinds == {"head", "clone" if clones and history == "auto" else "undo"}


def test_histories_of_both_kinds(make_lab: Any, disk: Callable[..., Callable[[], bytes]]) -> None:
    lab, step = make_lab(MemoryFiles(clones=True)), disk(5)
    for history in ("undo", "clone", "undo", "undo", "clone", "clone", "undo"):
        lab.cycle(step(), history=history)
    lab.check()
    assert engine.prune("/r", keep=3, files=lab.files) == 4
    lab.check()


def test_clones_that_cannot_be_had_are_refused(lab: Any) -> None:
    lab.cycle(b"x" * BLOCK)
    with pytest.raises(errors.Refused, match="cannot clone"):
        lab.cycle(b"y" * BLOCK, history="clone")
    lab.check()


@pytest.mark.parametrize(
    "options",
    [
        {"history": "magic"}, {"keep": 0}, {"keep": -1}, {"limit": 0}, {"block_size": 5000}, {"block_size": 2048},
        {"codec": "gzip"}, {"codec": "zstd:99"},
    ],
)  # fmt: skip
def test_what_makes_no_sense(lab: Any, options: dict[str, Any]) -> None:
    with pytest.raises(errors.Usage):
        lab.cycle(b"x", **options)
    assert not lab.files.listdir("/r")


def test_the_block_size_stays(lab: Any) -> None:
    lab.cycle(b"x" * 9999)
    with pytest.raises(errors.Refused, match="its block size is 4096, not 8192"):
        lab.cycle(b"y" * 9999, block_size=8192)
    assert lab.cycle(b"y" * 9999, block_size=4096).kind == "delta"
    lab.check()


def test_another_image_is_refused_until_it_is_accepted(lab: Any) -> None:
    lab.cycle(b"x" * 9999)
    other = MemoryImage(b"y" * 9999, path="another")
    with pytest.raises(errors.Refused, match=r"follows another image, disk .*--accept-source"):
        engine.replicate(other, "/r", files=lab.files)
    lab.check()
    engine.replicate(other, "/r", files=lab.files, accept_source=True, history="undo")
    assert engine.replicate(other, "/r", files=lab.files).kind == "unchanged"
    with pytest.raises(errors.Refused, match="follows another image, another"):
        lab.cycle(b"x" * 9999)
    assert (
        engine.replicate(other, "/r", files=lab.files, source_id="vm", accept_source=True).kind == "unchanged"
    )
    moved = MemoryImage(b"y" * 9999, path="elsewhere")
    assert engine.replicate(moved, "/r", files=lab.files, source_id="vm").kind == "unchanged"


def test_a_lower_epoch_is_refused(lab: Any) -> None:
    """D9: a source from before a failover must not write."""
    lab.cycle(b"x" * 9999)
    assert engine.raise_epoch("/r", 5, files=lab.files) == 5
    with pytest.raises(errors.Refused, match="at epoch 5, this source at 4"):
        lab.cycle(b"y" * 9999, epoch=4)
    lab.check()
    lab.cycle(b"y" * 9999, epoch=5)
    lab.cycle(b"z" * 9999, epoch=9)
    assert engine.info("/r", files=lab.files).epoch == 9
    with pytest.raises(errors.Refused, match="epoch 9"):
        lab.cycle(b"w" * 9999, epoch=8)


def test_a_reader_waits_for_a_gap_between_cycles(lab: Any) -> None:
    """A watcher that is late begins the next cycle as soon as one has ended: who must restore then gets a turn."""
    lab.cycle(b"x" * 9999)
    opened, held = lab.open(), threading.Event()

    def cycles() -> None:
        for _ in range(3):
            with opened.locked(exclusive=True):
                held.set()
                time.sleep(0.2)
            time.sleep(0.02)

    writer = threading.Thread(target=cycles)
    writer.start()
    held.wait()
    try:
        assert lab.restore() == b"x" * 9999
    finally:
        writer.join()


def test_a_second_writer_is_busy_and_so_is_one_beside_a_reader(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondsite.engine.replica.directory.READER_SECONDS", 0.1)
    lab.cycle(b"x" * 9999)
    opened = lab.open()
    with opened.locked(exclusive=True):
        for call in (
            lambda: lab.cycle(b"y" * 9999),
            lambda: lab.restore(),
            lambda: engine.verify("/r", files=lab.files),
            lambda: engine.prune("/r", keep=1, files=lab.files),
        ):
            with pytest.raises(errors.Busy, match="/r: is busy"):
                call()
        assert lab.points() == ["1"]  # this one answers while a cycle runs
    with engine.open_point("/r", files=lab.files) as view:
        with pytest.raises(errors.Busy, match="/r: is busy"):
            lab.cycle(b"y" * 9999)
        assert lab.restore() == view.read(0, 9999)
    assert lab.cycle(b"y" * 9999).kind == "delta"


def test_too_many_blocks(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "MAX_BLOCKS", 10)
    with pytest.raises(errors.Usage, match=r"disk: has 44\.0 KiB; in blocks of 4096"):
        lab.cycle(bytes(11 * BLOCK))


def test_keep_drops_the_oldest_after_the_cycle(lab: Any, disk: Callable[..., Callable[[], bytes]]) -> None:
    step = disk(3)
    for _ in range(4):
        lab.cycle(step())
    done = lab.cycle(step(), keep=2)
    assert (done.pruned, lab.points()) == (3, ["4", "5"])
    assert lab.cycle(lab.contents["5"], keep=1).pruned == 1
    lab.check()


def test_the_time_of_a_point_is_the_callers_clock(lab: Any) -> None:
    lab.cycle(b"x")
    lab.cycle(b"y")
    times = [point.time for point in engine.points("/r", files=lab.files)]
    # The first look at the clock is for the replica's own birth; a cycle looks when it begins, and when it was cut.
    assert times == ["2026-11-22T09:03:00.000000Z", "2026-11-22T09:05:00.000000Z"]
    assert lab.restore("2026-11-22T09:03:30") == b"x"


# -- over a real file system: what lies where ------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(50_000))
    return path


def test_a_source_that_cannot_be_read(tmp_path: Path) -> None:
    replica = tmp_path / "r"
    with pytest.raises(errors.Unreachable, match="none: cannot open it: No such file"):
        engine.replicate(tmp_path / "none", replica)
    with pytest.raises(errors.Usage, match="is a directory"):
        engine.replicate(tmp_path, replica)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(errors.Usage, match="neither a file nor a block device"):
        engine.replicate(tmp_path / "pipe", replica)
    assert not replica.exists()


@pytest.mark.parametrize("source", ["secondsite://host/vm", "azure://box/vm", "http://host/vm.img", "SECONDSITE://h/x"])
def test_a_url_that_is_no_source_is_called_one(tmp_path: Path, source: str) -> None:
    with pytest.raises(errors.Usage, match="is a URL; a source is an image"):
        engine.replicate(source, tmp_path / "replica")


def test_a_source_without_permission(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user who is not root meets it; the tests may run as root, who reads everything."""

    def refuse(*arguments: Any) -> int:
        raise PermissionError(errno.EACCES, "x")

    monkeypatch.setattr(raw.os, "open", refuse)
    with pytest.raises(errors.Unreachable, match="Permission denied"):
        engine.replicate(image, image.parent / "r")


def test_a_replica_that_is_a_file(image: Path) -> None:
    other = image.with_name("file")
    other.write_bytes(b"mine")
    for call in (
        lambda: engine.replicate(image, other),
        lambda: engine.replicate(image, other / "below"),
        lambda: engine.points(other),
        lambda: engine.verify(other),
        lambda: engine.restore(other, image.with_name("out")),
    ):
        with pytest.raises(errors.Error, match=str(other)):
            call()
    assert other.read_bytes() == b"mine"


def test_a_folder_with_other_content(image: Path) -> None:
    folder = image.with_name("folder")
    folder.mkdir()
    (folder / "thesis.odt").write_bytes(b"mine")
    with pytest.raises(errors.Refused, match="other content and not a replica"):
        engine.replicate(image, folder)
    assert [entry.name for entry in folder.iterdir()] == ["thesis.odt"]


def test_an_empty_folder_and_parents_that_are_made(image: Path) -> None:
    (image.parent / "empty").mkdir()
    assert engine.replicate(image, image.parent / "empty").kind == "initial"
    assert engine.replicate(image, image.parent / "some/where/else").kind == "initial"


def test_a_source_inside_the_replica(image: Path) -> None:
    replica = image.with_name("r")
    engine.replicate(image, replica)
    for inside in (replica / "head.raw", replica / "points/000000000001.json"):
        with pytest.raises(errors.Refused, match="inside the replica"):
            engine.replicate(inside, replica, accept_source=True)
    link = image.with_name("link")
    link.symlink_to(replica / "head.raw")
    with pytest.raises(errors.Refused, match="inside the replica"):
        engine.replicate(link, replica, accept_source=True)


def test_two_processes_that_make_one_replica(image: Path) -> None:
    """The one that lost the race uses what the other made, instead of making another around it."""
    from secondsite.engine.files import LocalFiles
    from secondsite.engine.replica.directory import Replica
    from secondsite.engine.replica.identity import Identity

    root = str(image.with_name("r"))
    made = [Identity.new(4096, "2026-11-22T09:00:00Z", f"name:{n}", "undo") for n in range(2)]
    first, second = (Replica.create(root, LocalFiles(), identity) for identity in made)
    assert first.identity.replica_id == second.identity.replica_id == made[0].replica_id


@pytest.mark.needs("xfs")
def test_points_as_clones(image: Path, xfs_dir: Path) -> None:
    """On XFS a point is the old head: no undo delta is written, and each restores to its bytes."""
    replica, wanted = xfs_dir / "points-as-clones", {}
    data = bytearray(image.read_bytes())
    for number in range(1, 5):
        data[number * 4096] ^= 0xFF
        data[:100] = os.urandom(100)
        if number == 3:
            del data[30_000:]
        image.write_bytes(data)
        wanted[str(number)] = bytes(data)
        assert engine.replicate(image, replica, block_size=4096).history == "clone"
    assert [p.history for p in engine.points(replica)] == ["clone", "clone", "clone", "head"]
    assert not list((replica / "points").glob("*.undo"))
    for number, content in wanted.items():
        for folder in (image.parent, xfs_dir):
            output = folder / f"clone-out-{number}"
            engine.restore(replica, output, at=number)
            assert output.read_bytes() == content
    assert engine.verify(replica).ok
    assert engine.prune(replica, drop=["2"]) == 1
    assert engine.verify(replica).ok
