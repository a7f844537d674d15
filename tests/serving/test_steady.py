"""Points that are served stay what they are while cycles go on, are taken back, and points are dropped."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.images.failing import Faults
from secondsite.engine.replica import lease
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.steady import SteadyPoint

MIB = 1 << 20
BLOCK = 4096


class Source:
    """A file that changes at random, and the replica of it; `states` has the bytes of each point."""

    def __init__(self, folder, seed, history="undo", head="raw", size=4 * MIB + 777):
        self.chance = random.Random(seed)
        self.path, self.root = str(folder / "disk.raw"), str(folder / "replica")
        self.data = bytearray(self.chance.randbytes(2 * MIB) + bytes(size - 2 * MIB))
        self.options = {"history": history, "block_size": BLOCK, "tracker": "scan", "head": head}
        self.states: dict[int, bytes] = {}
        self.cycle()

    def change(self, resize=True):
        for _ in range(self.chance.randrange(1, 12)):
            at, length = self.chance.randrange(len(self.data)), self.chance.randrange(1, 60_000)
            piece = bytes(length) if self.chance.random() < 0.3 else self.chance.randbytes(length)
            self.data[at : at + length] = piece[: len(self.data[at : at + length])]
        if resize and self.chance.random() < 0.3:
            size = self.chance.randrange(MIB, 5 * MIB)
            self.data = self.data[:size] + bytes(max(0, size - len(self.data)))

    def cycle(self, **more):
        Path(self.path).write_bytes(self.data)
        done = engine.replicate(self.path, self.root, **self.options, **more)
        self.states[done.generation] = bytes(self.data)
        return done

    def open(self, at="latest"):
        return SteadyPoint(Replica.open(self.root), at)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def whole(point):
    return bytes(point.read(0, point.size))


@pytest.fixture(params=["undo", pytest.param("clone", marks=pytest.mark.needs("xfs"))])
def source(tmp_path, request):
    folder = tmp_path
    if request.param == "clone":
        folder = request.getfixturevalue("xfs_dir") / tmp_path.name
        folder.mkdir()
    return Source(folder, 3, request.param)


def test_every_point_stays_itself_while_cycles_and_pruning_go_on(source):
    for _ in range(4):
        source.change()
        source.cycle()
    points = {generation: source.open(str(generation)) for generation in source.states}
    for _ in range(12):
        source.change()
        source.cycle(keep=3)
        generation, point = source.chance.choice(list(points.items()))
        if source.chance.random() < 0.5:
            point.follow()
        assert whole(point) == source.states[generation]
    for generation, point in points.items():
        assert whole(point) == source.states[generation], generation
        point.close()
    assert not [name for name in names(source.root) if name.startswith(("lease-", "serving-"))]
    assert engine.verify(source.root).ok
    source.cycle(keep=1)
    assert len(engine.points(source.root)) == 1


def test_readers_race_with_cycles(tmp_path):
    """Reads of random ranges, while the head below them is overwritten; each byte is the point's."""
    source = Source(tmp_path, 5)
    source.change()
    source.cycle()
    stop, wrong = threading.Event(), []

    def read(generation, point, seed):
        chance, want = random.Random(seed), source.states[generation]
        try:
            while not stop.is_set():
                at = chance.randrange(point.size)
                length = min(chance.randrange(1, 300_000), point.size - at)
                if bytes(point.read(at, length)) != want[at : at + length]:
                    wrong.append((generation, at, length))
        except BaseException as error:
            wrong.append(error)

    points = [(generation, source.open(str(generation))) for generation in source.states for _ in range(2)]
    threads = [threading.Thread(target=read, args=(*one, seed)) for seed, one in enumerate(points)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        source.change()
        source.cycle()
    stop.set()
    for thread in threads:
        thread.join(30)
    for _, point in points:
        point.close()
    assert not wrong


def test_a_cycle_that_is_taken_back_is_seen_through(tmp_path):
    """Its undo delta was taken in; the head is again what it was; the next cycle's delta is another file."""
    source = Source(tmp_path, 7)
    failed = 0
    with source.open() as point:
        for call in range(2, 40, 3):
            source.change()
            Path(source.path).write_bytes(source.data)
            files = FailingFiles(LocalFiles(), Faults(at=call))
            try:
                done = engine.replicate(source.path, source.root, files=files, **source.options)
                source.states[done.generation] = bytes(source.data)
            except errors.Error:
                failed += 1
            assert whole(point) == source.states[1]
        source.change()
        source.cycle()
        assert whole(point) == source.states[1]
    assert failed > 3


@pytest.mark.parametrize("kind", ["vhdx", "vhd"])
def test_heads_that_are_containers(tmp_path, kind):
    source = Source(tmp_path, 9, head=kind, size=4 * MIB)
    source.change(resize=False)
    source.cycle()
    newest = max(source.states)
    with source.open() as point:
        for _ in range(6):
            source.change(resize=False)
            source.cycle()
            assert whole(point) == source.states[newest]


def test_what_is_served_is_not_dropped(tmp_path):
    source = Source(tmp_path, 11)
    point = source.open()
    for _ in range(3):
        source.change()
        done = source.cycle(keep=1)
    assert any("being served" in warning for warning in done.warnings)
    assert [one.generation for one in engine.points(source.root)] == [1, 2, 3, 4]
    with pytest.raises(errors.Refused, match="served"):
        engine.prune(source.root, drop=["2"])
    assert whole(point) == source.states[1]
    point.follow()  # what it needed is in its own file now
    source.change()
    source.cycle(keep=1)
    assert [one.generation for one in engine.points(source.root)] == [4, 5]
    assert whole(point) == source.states[1]
    point.close()
    source.cycle(keep=1)


def test_leases_of_the_dead_count_for_nothing(tmp_path):
    held = lease.Lease(str(tmp_path), 5)
    other = lease.Lease(str(tmp_path), 9)
    assert lease.lowest(str(tmp_path)) == 5
    held.move(12)
    assert lease.lowest(str(tmp_path)) == 9
    other.end()
    other.end()
    assert lease.lowest(str(tmp_path)) == 12
    os.close(held._fd)  # as when its process is killed
    assert names(tmp_path)
    assert lease.lowest(str(tmp_path)) is None
    assert not names(tmp_path)


def test_leases_of_far_readers_count_for_a_while_and_are_taken_again(tmp_path, monkeypatch):
    root, clock = str(tmp_path), [1000.0]
    monkeypatch.setattr(lease.time, "time", lambda: clock[0])
    one, other = (lease.Lease(root, 5, far=True) for _ in range(2))
    one.leave()
    other.leave()
    clock[0] += 10_000  # the grace begins when somebody asks
    assert lease.lowest(root) == 5
    clock[0] += lease.GRACE_SECONDS - 1
    assert lease.lowest(root) == 5 and len(names(tmp_path)) == 2
    again = lease.Lease(root, 5, far=True)
    assert len(names(tmp_path)) == 2
    lease.Lease(root, 7, far=True).end()
    clock[0] += 2
    assert lease.lowest(root) == 5 and len(names(tmp_path)) == 1
    again.leave()
    assert lease.lowest(root) == 5  # another grace
    clock[0] -= 1
    assert lease.lowest(root) is None and not names(tmp_path)


def test_a_lease_that_cannot_be_read_keeps_everything(tmp_path):
    held = lease.Lease(str(tmp_path), 5)
    os.pwrite(held._fd, b"000000000007", 0)
    assert lease.lowest(str(tmp_path)) == 0
    held.end()


def test_a_damaged_delta_is_named_and_others_are_served(tmp_path):
    source = Source(tmp_path, 13)
    for _ in range(2):
        source.change(resize=False)
        source.cycle()
    path = os.path.join(source.root, "points", f"{1:012}.undo")
    with open(path, "r+b") as file:
        file.seek(200)
        byte = file.read(1)
        file.seek(200)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(errors.Damaged, match="undo"), source.open("1") as point:
        whole(point)
    with source.open("2") as point:
        assert whole(point) == source.states[2]


def test_a_damaged_block_of_a_delta_costs_that_block_alone(tmp_path):
    source = Source(tmp_path, 17)
    source.data[: 8 * BLOCK] = source.chance.randbytes(8 * BLOCK)
    source.cycle()
    path = Path(source.root, "points", f"{1:012}.undo")
    raw = bytearray(path.read_bytes())
    raw[raw.index(source.states[1][3 * BLOCK : 4 * BLOCK]) + 5] ^= 1
    path.write_bytes(raw)
    with source.open("1") as point:
        for block in (*range(3), *range(4, 8)):
            assert point.read(block * BLOCK, BLOCK) == source.states[1][block * BLOCK : (block + 1) * BLOCK]
        for start, length in ((3 * BLOCK, BLOCK), (3 * BLOCK + 100, 10), (0, 8 * BLOCK)):
            with pytest.raises(errors.Damaged, match=r"undo.*block 3 does not have the hash"):
                point.read(start, length)


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_parts_of_blocks_in_any_order(tmp_path, codec):
    source = Source(tmp_path, 19)
    source.options["codec"] = codec
    for _ in range(6):
        source.change()
        source.cycle()
    for at in ("1", "3"):
        with source.open(at) as point:
            wanted = source.states[int(at)]
            for _ in range(300):
                start = source.chance.randrange(len(wanted))
                length = min(source.chance.choice((1, 512, BLOCK, 3 * BLOCK)), len(wanted) - start)
                assert point.read(start, length) == wanted[start : start + length]


def test_writes_are_refused(tmp_path):
    with Source(tmp_path, 15).open() as point:
        for change in (lambda: point.write(0, b"x"), lambda: point.zero(0, 1), lambda: point.resize(1)):
            with pytest.raises(errors.Refused):
                change()


@pytest.mark.needs("root")
def test_a_replica_on_a_read_only_mount(source, tmp_path):
    """A copy that nobody can write is served too, and not over the head of who goes on with it elsewhere."""
    source.change()
    source.cycle()
    folder = tmp_path / "read-only"
    folder.mkdir()
    subprocess.run(["mount", "--bind", source.root, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        for at in source.states:
            with SteadyPoint(Replica.open(str(folder)), str(at)) as point:
                assert whole(point) == source.states[at]
        with SteadyPoint(Replica.open(str(folder))) as point:
            source.change()
            source.cycle()
            with pytest.raises(errors.Unreachable, match="read-only here"):
                whole(point)
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.sweep(sample=4)
@pytest.mark.parametrize("seed", range(12))
def test_holes_are_told_and_right(tmp_path, seed):
    """Also behind undo deltas and over a head that cycles go on with: a hole of the point is none of its later data."""
    chance, source = random.Random(seed), Source(tmp_path, seed)
    for _ in range(3):
        source.change()
        source.cycle()
    for at in ("1", "latest"):
        with source.open(at) as point:
            want = source.states[point.point.generation]
            for _ in range(3):
                holes = 0
                start = chance.randrange(len(want))
                for low, length in ((0, len(want)), (start, chance.randrange(len(want) - start + 1))):
                    end = low
                    for extent in point.extents(low, length):
                        assert extent.start == end and extent.length > 0
                        end += extent.length
                        if extent.zero:
                            holes += extent.length
                            assert not any(want[extent.start : end]), (at, extent)
                    assert end == low + length
                assert holes or len(want) < 2 * MIB
                source.change()
                source.cycle()
            assert whole(point) == want


def test_a_terabyte_behind_deltas_is_read_where_it_holds_something(tmp_path):
    disk, root, size = tmp_path / "disk.raw", tmp_path / "replica", 1 << 40
    with disk.open("wb") as file:
        file.truncate(size)
        for turn in range(4):
            for at in range(turn, 40, 3):
                file.seek(at * (size // 41))
                file.write(b"%d" % turn * 4096)
            file.flush()
            engine.replicate(disk, root, history="undo", tracker="scan")
    with SteadyPoint(Replica.open(str(root)), "2") as point:
        data = [extent for extent in point.extents(0, size) if not extent.zero]
        assert 0 < sum(extent.length for extent in data) <= 40 * 2 * 65536
