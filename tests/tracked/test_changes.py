"""The change map against plain bytes: what a cut shows, what it names, what a file keeps, with threads that write."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_nbd = pytest.importorskip("secondsite.engine._nbd")
ChangeMap, Disk = _nbd.ChangeMap, _nbd.Disk

SIZE, GRANULE, REGION = (1 << 20) + 700, 4096, 64 << 10
HEADERS = 8192


class Bench:
    """A disk with a map that keeps a file, and the bytes that it should have."""

    def __init__(self, folder: Path) -> None:
        self.image = os.open(folder / "disk", os.O_RDWR | os.O_CREAT, 0o600)
        self.area = os.open(folder / "area", os.O_RDWR | os.O_CREAT, 0o600)
        self.file = os.open(folder / "map", os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self.image, SIZE)
        self.model = bytearray(SIZE)
        self.changes = self.attach()

    def attach(self) -> _nbd.ChangeMap:
        self.changes = ChangeMap(SIZE, GRANULE, REGION)
        self.marks_at = HEADERS + self.changes.active_bytes
        os.pwrite(self.file, b"h" * HEADERS, 0)
        os.ftruncate(self.file, self.marks_at + self.changes.marks_bytes)
        self.changes.keep(self.file, HEADERS, self.marks_at)
        self.disk = Disk(None, SIZE, fd=self.image, changes=self.changes)
        return self.changes

    def crash(self) -> None:
        """Another map, from what the file holds."""
        self.attach()
        self.changes.load(
            os.pread(self.file, self.changes.active_bytes, HEADERS),
            os.pread(self.file, self.changes.marks_bytes, self.marks_at),
        )

    def write(self, offset: int, data: bytes) -> None:
        self.disk.write(offset, data)
        self.model[offset : offset + len(data)] = data

    def cut(self, everything: bool = False, sample: list[tuple[int, int]] | None = None, limit: int = SIZE * 2) -> None:
        self.changes.prepare(GRANULE, everything, sample or [], self.area, limit)
        ChangeMap.cut([self.changes])
        self.view = Disk(None, SIZE, fd=self.image, changes=self.changes, frozen=True)

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self.view.read_into(offset, data)
        return bytes(data)

    def ranges(self, of_cut: bool = True) -> list[tuple[int, int]]:
        flat = self.changes.ranges(of_cut)
        return list(zip(flat[::2], flat[1::2], strict=True))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for fd in (made.image, made.area, made.file):
        os.close(fd)


def some(chance: random.Random) -> tuple[int, bytes]:
    length = chance.choice([1, 512, GRANULE, 3 * GRANULE, chance.randrange(1, 40_000)])
    return chance.randrange(SIZE - length + 1), chance.randbytes(length)


@pytest.mark.parametrize("seed", range(4))
def test_a_replica_that_follows_the_cuts_stays_equal(bench: Bench, seed: int) -> None:
    """Writes, cuts that end in both ways, saves and crashes in any order."""
    chance, replica = random.Random(seed), bytearray(SIZE)
    for _ in range(60):
        for _ in range(chance.randrange(4)):
            if chance.random() < 0.3:
                offset = chance.randrange(SIZE)
                length = chance.randrange(SIZE - offset) // chance.choice([1, 30])
                bench.disk.zero(offset, length, chance.random() < 0.5)
                bench.model[offset : offset + length] = bytes(length)
            else:
                bench.write(*some(chance))
        if chance.random() < 0.3:
            assert bench.changes.save(bench.disk, chance.random() < 0.3) == 0
        if chance.random() < 0.2:
            bench.crash()
        bench.cut()
        then = bytes(bench.model)
        for _ in range(chance.randrange(6)):
            bench.write(*some(chance))
        if chance.random() < 0.3:
            assert bench.changes.save(bench.disk, chance.random() < 0.3) == 0
        if chance.random() < 0.1:
            bench.crash()
            continue
        made = bytearray(replica)
        for start, length in bench.ranges():
            made[start : start + length] = bench.read(start, length)
        assert made == then
        done = chance.random() < 0.6
        if done:
            replica = made
        bench.changes.end(done)
    assert bench.changes.broken == 0


def test_a_region_is_active_in_the_file_before_its_first_write_returns(bench: Bench) -> None:
    bench.write(5 * REGION, b"x")
    assert os.pread(bench.file, 1, HEADERS) == bytes([1 << 5])
    assert bench.changes.activations == 1
    bench.write(5 * REGION + 9000, b"x")
    assert bench.changes.activations == 1
    bench.changes.save(bench.disk, False)
    assert os.pread(bench.file, 1, HEADERS) == bytes([1 << 5]), "it was written since the save before"
    bench.changes.save(bench.disk, False)
    assert os.pread(bench.file, 1, HEADERS) == b"\0"
    bench.crash()
    assert bench.ranges(False) == [(5 * REGION, GRANULE), (5 * REGION + 2 * GRANULE, GRANULE)]


def test_after_a_crash_all_of_an_active_region_counts(bench: Bench) -> None:
    bench.write(3 * REGION, b"x")
    bench.write(SIZE - 1, b"x")
    bench.crash()
    assert bench.ranges(False) == [(3 * REGION, REGION), (SIZE // REGION * REGION, SIZE % REGION)]


def test_marks_of_a_cut_stay_in_the_file_until_it_is_acknowledged(bench: Bench) -> None:
    bench.write(0, b"x")
    bench.cut()
    bench.changes.save(bench.disk, True)
    saved = os.pread(bench.file, 1, bench.marks_at)
    bench.changes.end(True)
    assert saved == os.pread(bench.file, 1, bench.marks_at) == b"\1"
    bench.changes.save(bench.disk, True)
    assert os.pread(bench.file, 1, bench.marks_at) == b"\0"


def test_what_nobody_keeps_is_not_shown(bench: Bench) -> None:
    bench.write(0, b"a" * GRANULE)
    bench.cut(sample=[(10 * GRANULE + 5, 1)])
    bench.write(20 * GRANULE, b"new")
    bench.write(10 * GRANULE, b"new")
    assert bench.read(0, GRANULE) == b"a" * GRANULE
    assert bench.read(10 * GRANULE, GRANULE) == bytes(GRANULE)
    for place in (20 * GRANULE, 30 * GRANULE, GRANULE - 1):
        with pytest.raises(OSError) as caught:
            bench.read(place, 2)
        assert caught.value.errno == errno.ESTALE
    assert bench.changes.copied_bytes == GRANULE


def test_a_view_ends_with_its_cut(bench: Bench) -> None:
    bench.write(0, b"a")
    bench.cut(everything=True)
    old = bench.view
    bench.changes.end(False)
    for after in ("the end", "the next begins"):
        if after != "the end":
            bench.cut(everything=True)
        with pytest.raises(OSError) as caught:
            old.read_into(0, bytearray(9))
        assert caught.value.errno == errno.ESTALE
    old.zero(0, SIZE)  # lets go of nothing of another cut
    assert bench.read(0, 1) == b"a"


def test_a_full_area_ends_the_cut_and_not_the_writes(bench: Bench) -> None:
    bench.cut(everything=True, limit=2 * GRANULE)
    for at in range(4):
        bench.write(at * GRANULE, b"x" * GRANULE)
    assert bench.changes.lost == errno.ENOSPC
    with pytest.raises(OSError) as caught:
        bench.read(0, GRANULE)
    assert caught.value.errno == errno.ENOSPC
    bench.changes.end(False)
    assert bench.ranges(False) == [(0, 4 * GRANULE)]
    bench.cut()
    assert bench.read(0, 4 * GRANULE) == b"x" * 4 * GRANULE and not bench.changes.lost


def test_what_was_let_go_is_not_copied(bench: Bench) -> None:
    bench.cut(everything=True)
    bench.view.zero(100, 3 * GRANULE)  # the whole granules of it: 1 and 2
    for at in range(4):
        bench.write(at * GRANULE, b"x" * GRANULE)
    assert bench.changes.area_bytes == 2 * GRANULE
    assert bench.read(0, GRANULE) + bench.read(3 * GRANULE, GRANULE) == bytes(2 * GRANULE)
    with pytest.raises(OSError):
        bench.read(GRANULE, 1)


def test_what_was_read_once_is_not_copied(bench: Bench) -> None:
    bench.write(0, b"a" * 4 * GRANULE)
    bench.cut(everything=True)
    bench.view.read_once()
    assert bench.read(100, 3 * GRANULE) == b"a" * 3 * GRANULE  # the whole granules of it: 1 and 2
    for at in range(4):
        bench.write(at * GRANULE, b"x" * GRANULE)
    assert bench.changes.area_bytes == 2 * GRANULE
    assert bench.read(0, GRANULE) + bench.read(3 * GRANULE, GRANULE) == b"a" * 2 * GRANULE
    with pytest.raises(OSError):
        bench.read(GRANULE, 1)


def test_a_file_that_cannot_be_written_is_void(bench: Bench, tmp_path: Path) -> None:
    """Its headers go, so that nothing is believed after a crash; the guest's write is done all the same."""
    small = os.open(tmp_path / "read-only", os.O_RDONLY | os.O_CREAT, 0o600)
    bench.changes.keep(small, HEADERS, bench.marks_at)
    bench.write(0, b"x")
    assert bench.changes.broken == errno.EBADF and os.pread(bench.image, 1, 0) == b"x"
    assert bench.changes.save(bench.disk, False) == errno.EBADF
    os.close(small)
    bench.attach()
    bench.changes.keep(bench.file, 1 << 63, bench.marks_at)
    bench.write(0, b"x")
    assert bench.changes.broken and os.pread(bench.file, HEADERS, 0) == bytes(HEADERS)


def test_nonsense_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="no cut"):
        Disk(None, SIZE, fd=bench.image, changes=bench.changes, frozen=True)
    for call in (
        lambda: ChangeMap.cut([bench.changes, bench.changes]),
        lambda: ChangeMap.cut([]),
        lambda: bench.changes.mark(SIZE, 1),
        lambda: bench.changes.status(1, SIZE, 5),
        lambda: bench.changes.prepare(GRANULE, False, [(SIZE, 1)], bench.area, 1),
        lambda: bench.changes.load(b"short", b""),
        lambda: ChangeMap(SIZE, 1000, REGION),
    ):
        with pytest.raises(ValueError):
            call()
    bench.cut()
    with pytest.raises(OSError):
        bench.cut()


def test_threads_that_write_while_cuts_follow_each_other(bench: Bench) -> None:
    """A writer's sequence numbers go round its slots, so that a cut tells whether it is one instant; a replica that
    only reads what is named has them all. A saver retires regions as fast as it can meanwhile.
    """
    slots, stop, failed = 40, threading.Event(), []

    def write(writer: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            slot = (number * 7) % slots * 3 + writer
            bench.disk.write(slot * 6000, number.to_bytes(8, "little") * 700)

    def save() -> None:
        while not stop.is_set():
            failed.extend([1] * bool(bench.changes.save(bench.disk, False)))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)] + [threading.Thread(target=save)]
    for thread in threads:
        thread.start()
    replica, ends, cuts = bytearray(SIZE), time.monotonic() + 2.5, 0
    try:
        while time.monotonic() < ends:
            bench.cut()
            for start, length in bench.ranges():
                replica[start : start + length] = bench.read(start, length)
            bench.changes.end(True)
            cuts += 1
            for writer in range(3):
                seen = []
                for slot in range(slots):
                    at = (slot * 3 + writer) * 6000
                    assert replica[at : at + 5600] == replica[at : at + 8] * 700
                    seen.append(int.from_bytes(replica[at : at + 8], "little"))
                last = max(seen)
                due = {number * 7 % slots: number for number in range(max(1, last - slots + 1), last + 1)}
                assert seen == [due.get(slot, 0) for slot in range(slots)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert cuts > 5 and not failed
    bench.cut()
    for start, length in bench.ranges():
        replica[start : start + length] = bench.read(start, length)
    assert replica == os.pread(bench.image, SIZE, 0)
    assert bench.changes.copied_bytes > 0


def test_two_disks_are_cut_at_one_instant(tmp_path: Path) -> None:
    """A number goes to the first disk, then to the second: never does a cut have it on the second alone."""
    benches = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        benches.append(Bench(tmp_path / name))
    one, two = benches
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for bench in benches:
                bench.disk.write(0, number.to_bytes(8, "little"))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(300):
            for bench in benches:
                bench.changes.prepare(GRANULE, True, [], bench.area, SIZE)
            ChangeMap.cut([one.changes, two.changes])
            seen = []
            for bench in (two, one):
                view, data = Disk(None, SIZE, fd=bench.image, changes=bench.changes, frozen=True), bytearray(8)
                view.read_into(0, data)
                seen.append(int.from_bytes(data, "little"))
            for bench in benches:
                bench.changes.end(True)
            assert seen[1] - seen[0] in (0, 1)
    finally:
        stop.set()
        thread.join()


def test_disks_of_a_machine_are_cut_together(tmp_path: Path) -> None:
    """As above, through a server's control channel: all of the cuts or none, and given back with the connection."""
    from secondsite import engine
    from secondsite.engine import errors
    from secondsite.engine.trackers.served import ServedTracker, begin_together

    paths = [tmp_path / "a.raw", tmp_path / "b.raw"]
    for path in paths:
        path.write_bytes(bytes(SIZE))
    stop = threading.Event()
    with engine.track(paths, socket=str(tmp_path / "s")) as tracking:
        disks = [image.disk for image in tracking.images]

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                for disk in disks:
                    disk.write(0, number.to_bytes(8, "little"))

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(40):
                cuts = begin_together([(ServedTracker(path), None, ()) for path in paths])
                second, first = (int.from_bytes(cut.image.read(0, 8), "little") for cut in reversed(cuts))
                for cut in cuts:
                    cut.give_back()
                assert first - second in (0, 1)
            with ServedTracker(paths[1]) as other:
                other.begin(None)
                with pytest.raises(errors.Refused):
                    begin_together([(ServedTracker(path), None, ()) for path in paths])
            assert not any(engine.tracking_status(path)["cut_open"] for path in paths)
        finally:
            stop.set()
            thread.join()
