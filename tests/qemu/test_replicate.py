"""`replicate` of disks that a QEMU writes on: what is read, what the points hold, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qemukit import MIB, Daemon, wait_for

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.qemu.qmp import Monitor

pytestmark = pytest.mark.needs("qemu-storage-daemon")
Start = Callable[..., Daemon]
PROGRAM = Path(sysconfig.get_path("scripts"), "secondsite")


def cycle(made: Daemon, replica: Path, **options: Any) -> engine.Replicated:
    return engine.replicate(made.paths[0], replica, qemu=engine.Qemu(str(made.socket)), **options)


def test_a_cycle_reads_what_changed(daemon: Start, tmp_path: Path) -> None:
    made, replica = daemon(64 * MIB), tmp_path / "replica"
    disk = made.writer()
    disk.write(0, b"a" * (32 * MIB))
    first = cycle(made, replica, distrust=1)
    assert (first.kind, first.tracker, first.why) == ("initial", "qemu", "its QEMU was named")
    assert first.read_bytes == 32 * MIB  # of 64: what is zero is not read
    disk.write(5 * MIB, b"b" * 512)
    disk.zero(MIB, 65536)
    second = cycle(made, replica, distrust=1)
    assert (second.kind, second.scanned) == ("delta", False)
    assert second.changed_bytes == second.read_bytes == 2 * 65536
    assert second.stall_seconds is not None
    unchanged = cycle(made, replica, distrust=1)
    assert (unchanged.kind, unchanged.read_bytes, unchanged.warnings) == ("unchanged", 0, [])
    disk.flush()
    assert engine.verify(replica, source=made.paths[0]).ok
    disk.close()
    made.restart()
    again = cycle(made, replica)
    assert (again.kind, again.scanned, again.warnings) == ("unchanged", True, [])
    assert made.added() == []
    made.stop()  # and without QEMU the file is as good
    assert engine.replicate(made.paths[0], replica).kind == "unchanged"


def test_a_point_is_one_instant_while_a_writer_goes_on(daemon: Start, tmp_path: Path) -> None:
    """The writer moves a number through the disk, from the front to the end and again: a state has it at most twice."""
    made, replica = daemon(4 * MIB), tmp_path / "replica"
    stop = threading.Event()

    def sweep() -> None:
        disk, number = made.writer(), 0
        while not stop.is_set():
            number += 1
            for at in range(0, 4 * MIB, 65536):
                disk.write(at, number.to_bytes(8, "little") * 8192)
        disk.close()

    writer = threading.Thread(target=sweep)
    writer.start()
    try:
        for _ in range(8):
            done = cycle(made, replica)
            assert done.tracker == "qemu"
            with engine.open_point(replica, done.point) as image:
                data = bytes(image.read(0, 4 * MIB))
            numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, 4 * MIB, 4096)]
            assert numbers[0] - numbers[-1] in (0, 1)
            assert numbers == sorted(numbers, reverse=True)
    finally:
        stop.set()
        writer.join()
    assert engine.verify(replica).ok


def test_a_bitmap_that_lies_is_caught(daemon: Start, tmp_path: Path) -> None:
    made, replica = daemon(), tmp_path / "replica"
    disk = made.writer()
    cycle(made, replica)
    disk.write(0, b"a" * 4 * MIB)
    made.other.run("block-dirty-bitmap-clear", {"node": "disk0", "name": made.bitmaps()[0]})
    done = cycle(made, replica, distrust=129)
    assert done.scanned
    assert "tracker 'qemu' did not name" in done.warnings[0]
    disk.flush()
    assert engine.verify(replica, source=made.paths[0]).ok


def test_a_qemu_that_ends_leaves_the_replica_as_it_was(daemon: Start, tmp_path: Path) -> None:
    made, replica = daemon(64 * MIB), tmp_path / "replica"
    disk = made.writer()
    disk.write(0, b"a" * (8 * MIB))
    cycle(made, replica)
    disk.write(0, b"b" * (8 * MIB))
    now = threading.Event()

    def seen(progress: engine.Progress) -> None:
        if not now.is_set():
            now.set()
            made.kill()

    with pytest.raises(errors.Unreachable):
        cycle(made, replica, progress=seen, limit=MIB)
    assert now.is_set()
    assert [point.point for point in engine.points(replica)] == ["1"]
    assert engine.verify(replica).ok


@pytest.mark.needs("qemu-img")
def test_a_qcow2_is_its_virtual_disk_and_never_its_file(daemon: Start, tmp_path: Path) -> None:
    made, replica, path = daemon(), tmp_path / "replica", tmp_path / "vm.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(3 * MIB)], check=True)
    made.other.run(
        "blockdev-add", {"driver": "qcow2", "node-name": "q", "file": {"driver": "file", "filename": str(path)}}
    )
    made.other.run("block-export-add", {"type": "nbd", "id": "q", "node-name": "q", "name": "disk9", "writable": True})
    made.writer(9).write(MIB, b"data" * 128)
    monitor = engine.Qemu(str(made.socket))
    done = engine.replicate(path, replica, qemu=monitor)
    assert (done.virtual_bytes, done.tracker) == (3 * MIB, "qemu")
    with engine.open_point(replica) as image:
        assert image.read(MIB, 512) == b"data" * 128
    for refused in (
        lambda: engine.replicate(path, replica),
        lambda: engine.verify(replica, source=path),
    ):
        with pytest.raises(errors.Usage, match="which only its QEMU reads: name its monitor with --qmp"):
            refused()
    with pytest.raises(errors.Refused, match="QEMU reads it as 'qcow2', and the source is of format raw"):
        engine.replicate(path, tmp_path / "other", qemu=monitor, source_format="raw")
    for options in ({"tracker": "scan"}, {"changed": tmp_path / "list"}):
        with pytest.raises(errors.Usage, match="would read the file that QEMU writes on"):
            engine.replicate(path, replica, qemu=monitor, **options)
    with pytest.raises(errors.Usage, match="its monitor has to be named"):
        engine.replicate(made.paths[0], tmp_path / "third", tracker="qemu")


def test_the_command(daemon: Start, tmp_path: Path) -> None:
    made = daemon()
    command = [PROGRAM, "replicate", made.paths[0], tmp_path / "replica"]
    done = subprocess.run([*command, "--qmp", made.socket, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tracker"] == "qemu"
    wrong = subprocess.run([*command, "--guest-agent", "x"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--guest-agent is for the QEMU that --qmp names" in wrong.stderr
    gone = subprocess.run([*command, "--qmp", tmp_path / "no.sock"], capture_output=True, text=True)
    assert gone.returncode == errors.UNREACHABLE
    assert gone.stderr.count("\n") == 1
    assert "no.sock: cannot connect: No such file" in gone.stderr


@pytest.mark.needs("qemu-system-x86_64")
@pytest.mark.parametrize("how", ["drive", "blockdev", "iothread"])
def test_disks_of_a_system_emulator(tmp_path: Path, how: str) -> None:
    """A machine that is not started: its disk's node has no name of its own, has one, or runs in its own thread."""
    disk, qmp, replica = tmp_path / "disk.raw", tmp_path / "qmp.sock", tmp_path / "replica"
    disk.write_bytes(b"disk" * (MIB // 4))
    named = ["-blockdev", f"driver=file,node-name=f,filename={disk}", "-blockdev", "driver=raw,node-name=d,file=f"]
    options = {
        "drive": ["-drive", f"file={disk},format=raw,if=virtio"],
        "blockdev": [*named, "-device", "virtio-blk-pci,drive=d"],
        "iothread": [*named, "-object", "iothread,id=io", "-device", "virtio-blk-pci,drive=d,iothread=io"],
    }[how]  # fmt: skip
    command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", "64", "-nodefaults", "-display", "none"]
    machine = subprocess.Popen([*command, "-S", "-qmp", f"unix:{qmp},server=on,wait=off", *options])
    try:
        wait_for(qmp)
        monitor = engine.Qemu(str(qmp))
        assert engine.replicate(disk, replica, qemu=monitor).kind == "initial"
        done = engine.replicate(disk, replica, qemu=monitor)
        assert (done.kind, done.scanned, done.read_bytes, done.warnings) == ("unchanged", False, 0, [])
        with Monitor.connect(str(qmp)) as look:
            assert "secondsite" not in str(look.run("query-block-jobs")) + str(look.run("query-block-exports"))
            nodes = look.listed("query-named-block-nodes", {"flat": True})
            assert not [node for node in nodes if str(node["node-name"]).startswith("secondsite")]
    finally:
        machine.kill()
        machine.wait()
    assert (replica / "head.raw").read_bytes() == disk.read_bytes()
