"""A source that is written or cut while it is read is never taken for one that stood still."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors, scan
from secondsite.engine.attempts import ATTEMPTS
from secondsite.engine.replica.directory import Replica

KIB = 1024
SIZE = 3000 * KIB + 512


@pytest.fixture(autouse=True)
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of many spans, so that it is asked between them whether to stop: there the tests step in."""
    monkeypatch.setattr(scan, "SPAN_BYTES", 256 * KIB)


class Moving:
    def __init__(self, folder: Path, history: str) -> None:
        self.path, self.root, self.history = folder / "source", folder / "replica", history
        self.old = random.Random(1).randbytes(SIZE)
        self.path.write_bytes(self.old)
        self.replicate()

    def replicate(self, step_in: Callable[[int], None] | None = None) -> engine.Replicated:
        """`step_in(n)` is called at the n-th question whether to stop."""
        asked = 0

        def cancel() -> bool:
            nonlocal asked
            asked += 1
            if step_in:
                step_in(asked)
            return False

        return engine.replicate(
            self.path, self.root, block_size=4096, history=self.history, workers=1, cancel=cancel
        )

    def put(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def held(self) -> bytes:
        assert not Replica.open(str(self.root)).interrupted()
        return (self.root / "head.raw").read_bytes()

    def check_old(self) -> None:
        """Nothing happened to the replica."""
        assert self.held() == self.old
        assert [point.point for point in engine.points(self.root)] == ["1"]
        assert engine.verify(self.root).ok


@pytest.fixture
def moving(tmp_path: Path) -> Moving:
    return Moving(tmp_path, "undo")


def test_written_at_every_attempt(moving: Moving) -> None:
    """After the attempts are used up it is refused, and may be tried again."""
    starts = 0

    def step_in(n: int) -> None:
        nonlocal starts
        starts += 1
        moving.put(random.Random(n).randrange(SIZE - 8), os.urandom(8))

    with pytest.raises(errors.SourceChanged) as caught:
        moving.replicate(step_in)
    assert caught.value.retryable
    assert starts >= ATTEMPTS * 10
    moving.check_old()
    assert moving.replicate().kind == "delta"
    assert moving.held() == moving.path.read_bytes()


@pytest.mark.parametrize("at", [0, SIZE // 2, SIZE - 1])
@pytest.mark.parametrize("when", [1, 5, 11])
def test_written_once_is_read_again(moving: Moving, at: int, when: int) -> None:
    """Also behind the scan, and before it: what is committed is one state of the file."""
    moving.put(700, b"before the scan")
    done = moving.replicate(lambda n: moving.put(at, b"!") if n == when else None)
    assert done.generation == 2
    assert moving.held() == moving.path.read_bytes()
    assert engine.verify(moving.root, source=moving.path).ok


def test_written_in_the_tick_of_the_last_write(moving: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock that stamps files is coarse, a write just before the scan must not hide one during it."""
    from secondsite.engine.images.raw import RawImage, Stamp

    tick, real = 10_000_000, RawImage.stamp

    def coarse(self: RawImage) -> Stamp | None:
        stamp = real(self)
        assert stamp is not None
        return stamp._replace(
            mtime_ns=stamp.mtime_ns // tick * tick, ctime_ns=stamp.ctime_ns // tick * tick
        )

    monkeypatch.setattr(RawImage, "stamp", coarse)
    for n in range(20):
        moving.put(2900 * KIB, b"just before %d" % n)
        done = moving.replicate(lambda n: moving.put(100, os.urandom(3)) if n == 6 else None)
        assert moving.held() == moving.path.read_bytes(), f"round {n}: generation {done.generation}"


def test_cut_at_every_attempt(moving: Moving) -> None:
    def step_in(n: int) -> None:
        os.truncate(moving.path, max(SIZE - n * 50 * KIB, 0))

    with pytest.raises(errors.SourceChanged):
        moving.replicate(step_in)
    moving.check_old()


def test_cut_once_is_read_again(moving: Moving) -> None:
    assert moving.replicate(lambda n: os.truncate(moving.path, 1000 * KIB + 512) if n == 3 else None).kind == "delta"
    assert moving.held() == moving.old[: 1000 * KIB + 512]
    assert engine.verify(moving.root).ok


def test_grown_while_it_is_read(moving: Moving) -> None:
    moving.replicate(lambda n: moving.put(SIZE, b"more") if n == 3 else None)
    assert moving.held() == moving.old + b"more"


def test_replaced_while_it_is_read(moving: Moving) -> None:
    """The open file stands still, so that it is one state; the next cycle sees the other one."""
    other = moving.path.with_name("other")
    other.write_bytes(random.Random(2).randbytes(SIZE))
    moving.put(10, b"changed")
    state = moving.path.read_bytes()
    moving.replicate(lambda n: os.replace(other, moving.path) if n == 3 else None)
    assert moving.held() in (state, moving.path.read_bytes())
    moving.replicate()
    assert moving.held() == moving.path.read_bytes()


def test_initial_copy_of_a_moving_source(tmp_path: Path) -> None:
    path, root = tmp_path / "source", tmp_path / "replica"
    path.write_bytes(random.Random(3).randbytes(SIZE))

    def write() -> bool:
        with path.open("r+b") as file:
            file.write(os.urandom(4))
        return False

    with pytest.raises(errors.SourceChanged):
        engine.replicate(path, root, cancel=write)
    assert engine.points(root) == []
    assert not (root / "head.raw").exists()
    assert engine.replicate(path, root).kind == "initial"
    assert engine.verify(root, source=path).ok


@pytest.mark.parametrize("workers", [1, 2])
def test_a_thread_that_writes(moving: Moving, workers: int, sweep_all: bool) -> None:
    """It writes a number at the start and then at the end: what is committed never has a start that is older than
    its end, nor newer by more than one.
    """
    stop, chance = threading.Event(), random.Random(workers)

    def write() -> None:
        number = 1
        while not stop.is_set():
            for offset in (0, SIZE - 8):
                moving.put(offset, number.to_bytes(8, "little"))
            number += 1
            # Mostly without a rest that a cycle could slip into, at times with one.
            time.sleep(0.15 if chance.random() < 0.03 else chance.random() * 0.006)

    moving.put(0, bytes(8))
    moving.put(SIZE - 8, bytes(8))
    moving.replicate()
    thread, refused, committed = threading.Thread(target=write), 0, 0
    thread.start()
    try:
        for rounds in range(300):
            if rounds >= 15 and refused and committed and not sweep_all:
                break
            time.sleep(random.random() * 0.1)
            before = moving.held()
            try:
                engine.replicate(moving.path, moving.root, history="undo", workers=workers, keep=3)
                committed += 1
            except errors.SourceChanged:
                refused += 1
                assert moving.held() == before
            head = moving.held()
            first, last = (int.from_bytes(part, "little") for part in (head[:8], head[-8:]))
            assert first - last in (0, 1), f"start {first}, end {last}"
    finally:
        stop.set()
        thread.join()
    assert refused and committed, (refused, committed)
    assert engine.verify(moving.root).ok
