"""The QEMU tracker over a real storage daemon: what it names, what it shows, and what it leaves behind."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from qemukit import GRAIN, MIB, Daemon, first_point, have, named, whole

from secondsite.engine import errors
from secondsite.engine.nbd.url import NbdUrl
from secondsite.engine.qemu.fleece import Fleece, Zeros
from secondsite.engine.trackers.base import Have

pytestmark = pytest.mark.needs("qemu-storage-daemon")
Start = Callable[..., Daemon]


def test_a_cycle_and_the_next(daemon: Start) -> None:
    made = daemon()
    tracker, disk = made.tracker(), made.writer()
    disk.write(0, b"a" * 512)
    cut = tracker.begin(None)
    assert cut.frozen
    assert not cut.application
    assert cut.stall_seconds is not None
    assert cut.stall_seconds < 5
    disk.write(0, b"b" * 512)
    disk.write(3 * MIB, b"c" * 512)
    assert whole(cut.image) == b"a" * 512 + bytes(made.sizes[0] - 512)
    with pytest.raises(errors.Refused, match="a cut of this disk is open already"):
        tracker.begin(None)
    cut.acknowledge(have(1))
    cut.acknowledge(have(2))  # ending twice does nothing
    cut.give_back()
    again = tracker.begin(have(1))
    assert named(again) == [(0, GRAIN), (3 * MIB, GRAIN)]
    assert whole(again.image)[:1] == b"b"
    again.acknowledge(have(2))
    assert made.added() == []
    (kept,) = made.bitmaps()
    assert kept.startswith(f"secondsite-{tracker.replica_id[:8]}-2-")
    unchanged = tracker.begin(have(2))
    assert named(unchanged) == []
    disk.write(MIB, b"d")
    unchanged.acknowledge(have(2))  # the point stays the same one
    last = tracker.begin(have(2))
    assert named(last) == [(MIB, GRAIN)]
    last.give_back()
    assert not last.warnings
    tracker.close()


@pytest.mark.parametrize("how", ["data", "zero", "trim"])
def test_the_view_is_of_the_instant_wherever_a_read_begins(daemon: Start, how: str) -> None:
    """QEMU 7.2 shows new contents to reads that cross into what was overwritten, and tells of new holes there."""
    made = daemon(4 * MIB)
    tracker, disk = made.tracker(), made.writer()
    then = b"".join(bytes([1 + number % 250]) * 4096 for number in range(512)) + bytes(2 * MIB)
    disk.write(0, then)
    cut = tracker.begin(None)
    for at, length in ((3, 9), (40, 5), (63, 2), (200, 100), (600, 3)):
        if how == "data":
            disk.write(at * 4096, b"\xff" * 4096 * length)
        else:
            disk.zero(at * 4096, length * 4096, punch=how == "trim")
    for step in (4096, 65536, 3 * 65536, 4 * MIB):
        read = b"".join(bytes(cut.image.read(at, min(step, 4 * MIB - at))) for at in range(0, 4 * MIB, step))
        assert read == then, step
    for extent in cut.image.extents(0, 4 * MIB):
        assert not (extent.zero and any(then[extent.start : extent.start + extent.length]))
    cut.give_back()


def test_a_sparse_disk_is_read_where_it_has_data(daemon: Start) -> None:
    made = daemon(16 * MIB)
    disk = made.writer()
    disk.write(4 * MIB, b"a" * MIB)
    cut = made.tracker().begin(None)
    disk.write(10 * MIB, b"b" * MIB)
    told = [(extent.start, extent.length, extent.zero) for extent in cut.image.extents(MIB, 14 * MIB)]
    assert told == [(MIB, 3 * MIB, True), (4 * MIB, MIB, False), (5 * MIB, 10 * MIB, True)]
    assert not any(cut.image.read(10 * MIB, MIB))
    cut.give_back()


def test_zeros_that_are_written_before_the_cut_are_none(daemon: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    made = daemon(16 * MIB)
    disk = made.writer()
    look_ahead = Fleece.look_ahead

    def and_write(self: Fleece, server: NbdUrl) -> Zeros:
        found = look_ahead(self, server)
        disk.write(3 * MIB, b"a" * 512)
        return found

    monkeypatch.setattr(Fleece, "look_ahead", and_write)
    cut = made.tracker().begin(None)
    assert [extent.start for extent in cut.image.extents(0, 16 * MIB) if not extent.zero] == [3 * MIB]
    assert cut.image.read(3 * MIB, 512) == b"a" * 512
    cut.give_back()


@pytest.mark.parametrize("seed", range(20))
def test_zeros_without_what_was_written_since(seed: int) -> None:
    chance = random.Random(seed)

    def ranges() -> list[tuple[int, int]]:
        at, found = 0, []
        while at < 60:
            start = at + chance.randrange(4)
            at = start + chance.randrange(1, 9)
            found.append((start * MIB, at * MIB))
        return found

    zeros, written = ranges(), ranges()
    left = Zeros(zeros).without((start, end - start) for start, end in written)
    inside = {at for start, end in zeros for at in range(start, end, MIB)}
    inside -= {at for start, end in written for at in range(start, end, MIB)}
    first, last = 5 * MIB, 55 * MIB
    covered, at = set(), first
    for extent in left.extents(first, last - first):
        assert extent.start == at
        at += extent.length
        covered |= set(range(extent.start, at, MIB)) if extent.zero else set()
    assert at == last
    assert covered == {at for at in inside if first <= at < last}


def test_zeros_and_trims_are_changes_and_the_tail_is_named_inside_the_disk(daemon: Start) -> None:
    made = daemon()
    tracker, disk = made.tracker(), made.writer()
    disk.write(0, b"a" * (4 * MIB))
    disk.write(made.sizes[0] - 512, b"z" * 512)
    disk.flush()
    known = first_point(tracker)
    disk.zero(MIB, GRAIN)
    disk.zero(2 * MIB, GRAIN, punch=False)
    disk.write(made.sizes[0] - 512, b"y" * 512)
    cut = tracker.begin(known)
    assert named(cut) == [(MIB, GRAIN), (2 * MIB, GRAIN), (8 * MIB, 512)]
    cut.give_back()


@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_writes_cuts_failures_and_restarts(daemon: Start, seed: int) -> None:
    chance, made = random.Random(seed), daemon(2 * MIB + 512)
    size, model = made.sizes[0], bytearray(made.sizes[0])
    tracker, disk = made.tracker(), made.writer()
    known: Have | None = None
    replica = b""

    def write() -> None:
        for _ in range(chance.randrange(4)):
            length = 512 * chance.randrange(1, 200)
            at = 512 * chance.randrange((size - length) // 512 + 1)
            data = chance.randbytes(1) * length if chance.random() < 0.7 else bytes(length)
            disk.write(at, data)
            model[at : at + length] = data

    for number in range(1, 26):
        write()
        truth = bytes(model)
        cut = tracker.begin(known)
        write()
        changed = cut.changed()
        new = bytearray(replica or truth)
        for start, length in [(0, size)] if changed is None else changed:
            new[start : start + length] = cut.image.read(start, length)
        assert new == truth, number
        ending = chance.random()
        if ending < 0.5:
            known, replica = have(number, f"{number:02x}"), bytes(new)
            cut.acknowledge(known)
        elif ending < 0.75:
            cut.give_back()
        elif ending < 0.9:  # our process is gone; what it had begun stays in QEMU
            cut._monitor.close()
            cut.image.close()
            tracker = made.tracker()
        else:
            disk.close()
            made.restart()
            tracker, disk = made.tracker(), made.writer()
            model[:] = made.paths[0].read_bytes()
        assert known is None or replica


def test_what_is_not_known_is_a_scan(daemon: Start) -> None:
    made = daemon()
    tracker, disk = made.tracker(), made.writer()
    known = first_point(tracker)
    node = {"node": "disk0", "name": made.bitmaps()[0]}
    for spoil in ("disable", "remove"):
        made.other.run(f"block-dirty-bitmap-{spoil}", node)
        cut = tracker.begin(known)
        assert cut.changed() is None, spoil
        cut.acknowledge(known)
    for other in (have(2), Have(known.replica_id, 1, "ab" * 32), None):
        cut = tracker.begin(other)
        assert cut.changed() is None
        cut.acknowledge(known)
    disk.close()
    made.restart()
    cut = tracker.begin(known)
    assert cut.changed() is None
    cut.give_back()
    assert not cut.warnings


def test_a_disk_of_another_size_is_another_disk(daemon: Start) -> None:
    made = daemon(2 * MIB, server=False)
    tracker = made.tracker(node="disk0")
    known = first_point(tracker)
    for size in (3 * MIB, MIB, 2 * MIB):
        made.other.run("block_resize", {"node-name": "disk0", "size": size})
        cut = tracker.begin(known)
        assert cut.image.size == size
        assert cut.changed() is None
        cut.acknowledge(known)
        again = tracker.begin(known)
        assert named(again) == []
        again.give_back()


def test_bitmaps_of_others_stay(daemon: Start) -> None:
    made = daemon()
    made.other.run("block-dirty-bitmap-add", {"node": "disk0", "name": "backup"})
    other = made.tracker(replica_id="ffffffff" + "0" * 24)
    first_point(other)
    first_point(made.tracker())
    made.tracker().begin(None).give_back()
    assert len(made.bitmaps()) == 2  # theirs, the other replica's; our own went, for what was asked is a new beginning
    assert "backup" in made.bitmaps()
