"""What names the changed blocks: VHDX checkpoints, and lists from elsewhere; and what unmasks them."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from formatkit import KIB, MIB, child, content, hold, read, replicate, sparse, write

from secondsite import engine
from secondsite.engine import errors, source
from secondsite.engine.images.vhdx.create import create

BLOCK = 64 * KIB
SIZE = 8 * MIB


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """This test's folder may lie on a file system whose times are not trusted."""
    monkeypatch.setattr(source, "file_system", lambda path: "ext4")


class Machine:
    """A VHDX with checkpoints, and its replica."""

    def __init__(self, folder: Path, head: str | None = None) -> None:
        self.folder, self.root, self.head = folder, folder / "replica", head
        self.data = content(SIZE, 5)
        self.base = folder / "base.vhdx"
        create(self.base, SIZE, block_size=MIB)
        write(self.base, (0, bytes(self.data)))
        self.points: dict[str, bytes] = {}

    def checkpoint(self, parent: Path, name: str, *pieces: tuple[int, bytes]) -> Path:
        for offset, piece in pieces:
            self.data[offset : offset + len(piece)] = piece
        return child(self.folder / name, parent, *pieces)

    def cycle(self, disk: Path, **options: Any) -> engine.Replicated:
        done = replicate(disk, self.root, head=self.head, **options)
        self.points[done.point] = bytes(self.data)
        return done


def blocks(*pieces: tuple[int, int]) -> int:
    """Bytes of the blocks that ranges touch."""
    touched = {block for at, length in pieces for block in range(at // BLOCK, (at + length - 1) // BLOCK + 1)}
    return len(touched) * BLOCK


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("head", ["raw", "vhdx"])
def test_checkpoints_are_read_alone(tmp_path: Path, head: str) -> None:
    machine = Machine(tmp_path, head)
    assert machine.cycle(machine.base).tracker == "scan"
    first = machine.checkpoint(machine.base, "child.avhdx", (100_000, b"a" * 100_000), (5 * MIB, b"b" * 512))
    done = machine.cycle(first)
    assert (done.kind, done.tracker) == ("delta", "vhdx")
    assert done.read_bytes == blocks((100_000, 100_000), (5 * MIB, 512)) and done.warnings == []
    second = machine.checkpoint(first, "grand.avhdx", (7 * MIB + 99, b"c" * 5000))
    done = machine.cycle(second)
    assert (done.tracker, done.read_bytes) == ("vhdx", blocks((7 * MIB + 99, 5000)))
    hold(machine.root, machine.points)
    assert engine.verify(machine.root, source=second).ok
    # The same file again: only a scan can tell what was written in it.
    assert machine.cycle(second).tracker == "scan"


def test_two_checkpoints_at_once(machine: Machine) -> None:
    machine.cycle(machine.base)
    first = machine.checkpoint(machine.base, "child.avhdx", (MIB, b"a" * 512))
    second = machine.checkpoint(first, "grand.avhdx", (3 * MIB, b"c" * 512), (MIB + 4096, b"d" * 512))
    done = machine.cycle(second)
    assert (done.tracker, done.read_bytes) == ("vhdx", 2 * BLOCK)
    hold(machine.root, machine.points)


def test_an_empty_checkpoint_changes_nothing(machine: Machine) -> None:
    machine.cycle(machine.base)
    done = machine.cycle(machine.checkpoint(machine.base, "child.avhdx"))
    assert (done.kind, done.tracker, done.read_bytes) == ("unchanged", "vhdx", 0)


def test_a_parent_that_was_touched_means_a_scan(machine: Machine) -> None:
    machine.cycle(machine.base)
    first = machine.checkpoint(machine.base, "child.avhdx", (MIB, b"a" * 512))
    now = time.time_ns()
    os.utime(machine.base, ns=(now, now))
    done = machine.cycle(first)
    assert (done.kind, done.tracker) == ("delta", "scan")
    hold(machine.root, machine.points)


def test_a_parent_that_was_written_under_its_child(machine: Machine) -> None:
    """Even a write that leaves all of its identifiers alone."""
    machine.cycle(machine.base)
    first = machine.checkpoint(machine.base, "child.avhdx", (MIB, b"a" * 512))
    at = machine.base.read_bytes().index(bytes(machine.data[2 * MIB + 300_000 : 2 * MIB + 300_064]).ljust(64))
    with machine.base.open("r+b") as file:
        file.seek(at)
        file.write(b"behind the back")
    machine.data[:] = read(first)
    done = machine.cycle(first)
    assert (done.kind, done.tracker) == ("delta", "scan")
    hold(machine.root, machine.points)


def test_file_systems_whose_times_are_not_trusted(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.cycle(machine.base)
    monkeypatch.setattr(source, "file_system", lambda path: "nfs4")
    assert machine.cycle(machine.checkpoint(machine.base, "c.avhdx", (0, b"a"))).tracker == "scan"


def test_another_child_of_the_same_parent_is_another_disk(machine: Machine) -> None:
    machine.cycle(machine.base)
    machine.cycle(machine.checkpoint(machine.base, "one.avhdx", (MIB, b"1" * 512)))
    other = child(machine.folder / "two.avhdx", machine.base, (MIB, b"2" * 512))
    with pytest.raises(errors.Refused, match="follows another image"):
        replicate(other, machine.root)
    with pytest.raises(errors.Refused, match="follows another image"):
        replicate(machine.base, machine.root)
    hold(machine.root, machine.points)
    # Where the user says that it is the one, what the first child had is no part of it.
    machine.data[:] = read(other)
    assert machine.cycle(other, accept_source=True).tracker == "scan"
    hold(machine.root, machine.points)


def test_a_named_source_goes_from_child_to_child(machine: Machine) -> None:
    machine.cycle(machine.base, source_id="vm-7")
    machine.cycle(machine.checkpoint(machine.base, "one.avhdx", (MIB, b"1" * 512)), source_id="vm-7")
    other = child(machine.folder / "two.avhdx", machine.base, (2 * MIB, b"2" * 512))
    machine.data[:] = read(other)
    assert machine.cycle(other, source_id="vm-7").tracker == "scan"
    hold(machine.root, machine.points)


def test_a_tracker_is_not_asked_where_it_shall_not(machine: Machine) -> None:
    machine.cycle(machine.base)
    first = machine.checkpoint(machine.base, "child.avhdx", (MIB, b"a" * 512))
    assert machine.cycle(first, tracker="scan").tracker == "scan"
    second = machine.checkpoint(first, "grand.avhdx", (2 * MIB, b"a" * 512))
    assert machine.cycle(second, resync=True).tracker == "scan"
    hold(machine.root, machine.points)


# -- lists from elsewhere ------------------------------------------------------------------------------------------


class Listed:
    """A raw disk, its replica, and a file with a list."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.disk = folder, folder / "replica", folder / "disk.raw"
        self.data = bytearray(random.Random(8).randbytes(SIZE + 512))
        self.list = folder / "changed.json"
        sparse(self.disk, self.data)
        replicate(self.disk, self.root)
        self.points = {"1": bytes(self.data)}

    def put(self, *pieces: tuple[int, bytes]) -> None:
        with self.disk.open("r+b") as file:
            for offset, piece in pieces:
                self.data[offset : offset + len(piece)] = piece
                file.seek(offset)
                file.write(piece)

    def cycle(self, value: object, **options: Any) -> engine.Replicated:
        self.list.write_text(json.dumps(value))
        done = replicate(self.disk, self.root, changed=self.list, **options)
        self.points[done.point] = bytes(self.data)
        return done


@pytest.fixture
def listed(tmp_path: Path) -> Listed:
    return Listed(tmp_path)


def spellings(ranges: list[tuple[int, int]]) -> list[object]:
    """As this program, Hyper-V and vSphere say it."""
    ours = [{"offset": start, "length": length} for start, length in ranges]
    hyperv = [{"ByteOffset": start, "ByteLength": length} for start, length in ranges]
    vsphere = [{"start": start, "length": length} for start, length in ranges]
    return [
        ours, {"extents": ours}, {"Ranges": hyperv, "other": 1},
        {"changedArea": vsphere, "startOffset": 0, "length": SIZE},
    ]  # fmt: skip


@pytest.mark.parametrize("spelling", range(4))
def test_only_the_listed_extents_are_read(listed: Listed, spelling: int) -> None:
    listed.put((MIB, b"a" * 512), (6 * MIB + 100, b"b" * BLOCK), (SIZE, b"tail"))
    ranges = [(SIZE, 4), (MIB, 512), (6 * MIB + 100, BLOCK), (MIB + 10, 5)]
    done = listed.cycle(spellings(ranges)[spelling])
    assert (done.kind, done.tracker) == ("delta", "changed")
    assert done.read_bytes == 3 * BLOCK + 512
    hold(listed.root, listed.points)
    assert engine.verify(listed.root, source=listed.disk).ok


def test_an_empty_list_says_that_nothing_changed(listed: Listed) -> None:
    done = listed.cycle([])
    assert (done.kind, done.tracker, done.read_bytes) == ("unchanged", "changed", 0)
    assert listed.cycle([{"offset": 5, "length": 0}]).kind == "unchanged"


BAD = [
    {"offset": -1, "length": 5}, {"offset": 0, "length": -5}, {"offset": SIZE, "length": 513},
    {"offset": 1 << 70, "length": 1}, {"offset": 1.5, "length": 5}, {"offset": "1", "length": 5},
    {"offset": True, "length": 5}, {"offset": 1}, {"length": 1},
    [1, 2], 7, None, "x",
]  # fmt: skip


@pytest.mark.parametrize("entry", BAD, ids=repr)
def test_a_bad_entry_is_named(listed: Listed, entry: object) -> None:
    with pytest.raises(errors.Damaged, match="entry 1 is no range") as caught:
        listed.cycle([{"offset": 0, "length": 1}, entry])
    assert str(listed.list) in str(caught.value)
    hold(listed.root, {"1": bytes(listed.data)})


@pytest.mark.parametrize("text", ["", "{", "7", "null", '"x"', "{}", '{"a": []}', "\xff", "[" * 100_000, "9" * 5000])
def test_what_is_no_list(listed: Listed, text: str) -> None:
    listed.list.write_bytes(text.encode("latin-1"))
    with pytest.raises(errors.Damaged) as caught:
        replicate(listed.disk, listed.root, changed=listed.list)
    assert str(listed.list) in str(caught.value)


def test_a_list_that_cannot_be_read(listed: Listed, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(errors.Unreachable) as caught:
            replicate(listed.disk, listed.root, changed=path)
        assert str(path) in str(caught.value)


def test_a_list_that_hides_everything_is_unmasked(listed: Listed) -> None:
    data = random.Random(9).randbytes(len(listed.data))
    listed.put((0, data))
    done = listed.cycle([{"offset": 0, "length": BLOCK}])
    assert (done.kind, done.tracker, done.read_bytes) == ("delta", "scan", len(data))
    assert len(done.warnings) == 1 and str(listed.disk) in done.warnings[0] and "'changed'" in done.warnings[0]
    hold(listed.root, listed.points)


def test_what_a_list_hid_is_found_by_the_next_scan(listed: Listed) -> None:
    """One block of many is mostly not in the sample: what was not seen is not noted as equal."""
    replicate(listed.disk, listed.root)
    listed.put((4 * MIB, b"hidden"))
    for _ in range(3):
        listed.cycle([])
    done = replicate(listed.disk, listed.root, trust_mtime=True)
    listed.points = {"1": listed.points["1"], "2": bytes(listed.data)}
    assert done.tracker == "scan"
    assert engine.verify(listed.root, source=listed.disk).ok


def test_a_disk_that_grew_is_scanned(listed: Listed) -> None:
    listed.data += b"grown"
    sparse(listed.disk, listed.data)
    assert listed.cycle([]).tracker == "scan"
    hold(listed.root, listed.points)


def test_the_first_cycle_reads_everything(tmp_path: Path, listed: Listed) -> None:
    listed.list.write_text("[]")
    assert replicate(listed.disk, tmp_path / "new", changed=listed.list).tracker == "scan"
    assert engine.verify(tmp_path / "new", source=listed.disk).ok
