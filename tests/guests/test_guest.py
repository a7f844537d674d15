"""A Linux that boots, writes and is replicated while it runs; what comes back is a disk that boots again.

Each record that the guest called SYNCED before a cut is in that cut's point, the records are without a gap, and after
the journal is replayed the file system is in order: as after a power loss, and after a freeze even without a replay.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guestkit import Guest, check_disk, make_disk

from secondsite import engine
from secondsite.engine.qemu.qmp import Monitor
from secondsite.orchestration.bench.process import listening

PROGRAM = Path(sysconfig.get_path("scripts"), "secondsite")
EXPORT = "disk.raw"
pytestmark = pytest.mark.needs("guest")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[[], Guest]]:
    started: list[Guest] = []

    def start() -> Guest:
        disk = make_disk(tmp_path / "disk.raw")
        nodes = ["-blockdev", f"driver=file,node-name=file,filename={disk}"]
        nodes += ["-blockdev", "driver=raw,node-name=disk,file=file", "-device", "virtio-blk-pci,drive=disk"]
        started.append(Guest(tmp_path, nodes))
        started[-1].wait(lambda: started[-1].synced() > 0)
        return started[-1]

    yield start
    for one in started:
        one.stop()


def needs_recovery(disk: Path) -> bool:
    """Does the journal of a file system hold what is not in its place yet?"""
    found = subprocess.run(["dumpe2fs", "-h", disk], capture_output=True, text=True, check=True)
    return "needs_recovery" in found.stdout


def test_a_running_machine_is_replicated(machine: Callable[[], Guest], tmp_path: Path) -> None:
    guest, replica = machine(), tmp_path / "replica"
    qemu = engine.Qemu(str(guest.qmp))
    synced = {}
    for _ in range(4):
        before = guest.write_on(8)
        done = engine.replicate(tmp_path / "disk.raw", replica, qemu=qemu)
        synced[done.point] = before
        assert done.tracker == "qemu"
        assert done.scanned == (done.point == "1")
        assert not done.warnings
        assert not done.application
    assert guest.write_on(1) > before  # it goes on
    guest.stop()
    for point in ("4", "2"):
        restored = tmp_path / f"point{point}.raw"
        engine.restore(replica, restored, at=point)
        numbers = check_disk(restored, tmp_path / "copy.raw")
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= synced[point]
    assert engine.verify(replica).ok
    assert boots(replica / "head.raw", tmp_path) >= synced["4"]


def test_a_machine_on_a_tracked_export_is_replicated(tmp_path: Path) -> None:
    disk, replica, socket = make_disk(tmp_path / "disk.raw"), tmp_path / "replica", tmp_path / "track.sock"
    server = subprocess.Popen([PROGRAM, "track", disk, "--socket", socket], stdout=subprocess.DEVNULL)
    try:
        listening(server, socket)
        export = f"driver=nbd,node-name=file,server.type=unix,server.path={socket},export={EXPORT}"
        nodes = ["-blockdev", export, "-blockdev", "driver=raw,node-name=disk,file=file"]
        with Guest(tmp_path, [*nodes, "-device", "virtio-blk-pci,drive=disk"]) as guest:
            for number in range(3):
                before = guest.write_on(6)
                done = engine.replicate(disk, replica)
                assert (done.tracker, done.scanned) == ("nbd", number == 0)
            assert guest.write_on(1) > before
    finally:
        server.terminate()
        server.wait(20)
    numbers = check_disk(replica / "head.raw", tmp_path / "copy.raw")
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= before
    assert engine.verify(replica).ok


def boots(disk: Path, folder: Path) -> int:
    """The number of whole records that a machine finds which starts from a copy of a disk."""
    where = folder / "again"
    where.mkdir()
    copy = where / "disk.raw"
    copy.write_bytes(disk.read_bytes())
    with Guest(where, ["-drive", f"file={copy},format=raw,if=virtio"], do="check") as guest:
        guest.wait(lambda: "GUEST READY" in guest.serial())
        found = re.search(r"GUEST READY (\d+)", guest.serial())
    return int(found[1]) if found else 0


def test_a_frozen_guest_makes_an_application_consistent_point(machine: Callable[[], Guest], tmp_path: Path) -> None:
    guest, disk, replica = machine(), tmp_path / "disk.raw", tmp_path / "replica"
    qemu = engine.Qemu(str(guest.qmp), agent=str(guest.agent))
    for _ in range(2):
        before = guest.write_on(5)
        done = engine.replicate(disk, replica, qemu=qemu)
        assert not done.warnings
        assert done.application
    assert guest.write_on(2) > before  # it was thawed
    assert not needs_recovery(replica / "head.raw")
    numbers = check_disk(replica / "head.raw", tmp_path / "copy.raw")
    assert len(numbers) >= before
    # A guest that stands still cannot freeze, and gives a point all the same.
    with Monitor.connect(str(guest.qmp)) as monitor:
        monitor.run("stop")
    guest.agent = tmp_path / "nobody"
    done = engine.replicate(disk, replica, qemu=engine.Qemu(str(guest.qmp), agent=str(guest.agent)))
    assert not done.application
    assert "were not frozen" in done.warnings[0]
