"""A machine that its user started himself: running, stopped, or not known, and how it is asked to stop (R9.6, R9.9)."""

from __future__ import annotations

import datetime
import os
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machinekit import Machine, make_disk
from qemukit import Peer, ScriptedAgent, listen, wait_for

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.model import Disk, Policy
from secondsite.orchestration.estate.model import Machine as Named
from secondsite.orchestration.hypervisors import foreign, stopping
from secondsite.orchestration.protection.worker import EngineWorker

Make = Callable[..., Machine]
PROGRAM = str(Path(sysconfig.get_path("scripts"), "secondsite"))
pytestmark = pytest.mark.needs("qemu-system-x86_64", "root")


@contextmanager
def qemu(disk: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """As a user starts one, with its monitor beside the disk."""
    monitor = disk.with_name("vm.qmp")
    command = [
        "qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-drive",
        f"file={disk},format=raw,if=virtio", "-qmp", f"unix:{monitor},server=on,wait=off", *more,
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        wait_for(monitor)
        engine.Monitor.connect(str(monitor), 20).close()  # with its disks, then
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_disk(tmp_path / "os.raw")


def of(machine: Make, disk: Path, *, qmp: bool = True, agent: Path | None = None) -> Machine:
    return machine(
        disks=[{"name": "os", "path": str(disk)}], qmp=str(disk.with_name("vm.qmp")) if qmp else None,
        guest_agent=str(agent) if agent else None,
    )  # fmt: skip


def told(one: Machine) -> tuple[str, str]:
    found = one.status()
    assert not found["ours"]
    return found["state"], found["why"]


def test_its_monitor_tells(machine: Make, disk: Path) -> None:
    one = of(machine, disk)
    with qemu(disk):
        assert told(one) == ("running", "its monitor answers") and one.status()["guest"] == "running"
        with engine.Monitor.connect(str(disk.with_name("vm.qmp"))) as monitor:
            monitor.run("stop")
        assert one.status()["guest"] == "paused" and one.status()["state"] == "running"
    assert told(one) == ("stopped", "nobody writes its disks")


def test_a_monitor_that_somebody_else_has_is_one_of_a_machine(
    machine: Make, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "ANSWER_SECONDS", 0.3)
    with qemu(disk), engine.Monitor.connect(str(disk.with_name("vm.qmp"))):
        assert told(of(machine, disk)) == ("running", "its monitor is in use")


def test_its_disks_tell_where_no_monitor_does(machine: Make, disk: Path) -> None:
    one = of(machine, disk, qmp=False)
    assert told(one) == ("stopped", "nobody writes its disks")
    with qemu(disk):
        assert told(one) == ("running", f"{disk}: a QEMU writes it")
    assert told(one)[0] == "stopped"


def test_a_writer_without_locks_is_seen_too(machine: Make, disk: Path) -> None:
    one = of(machine, disk, qmp=False)
    with disk.open("rb"):
        assert told(one)[0] == "stopped", "a reader is no machine"
    with disk.open("r+b"):
        assert told(one) == ("running", f"{disk}: process {os.getpid()} writes it")


def test_a_disk_that_is_not_there_tells_nothing(machine: Make, disk: Path) -> None:
    disk.unlink()
    assert told(of(machine, disk, qmp=False)) == ("unknown", f"{disk}: the disk is not there")
    assert told(of(machine, disk))[0] == "unknown"


def test_a_monitor_that_babbles_tells_nothing(machine: Make, disk: Path) -> None:
    peer = Peer(disk.with_name("vm.qmp"), lambda sock: sock.sendall(b"hello\n"))
    try:
        state, why = told(of(machine, disk))
        assert state == "unknown" and "does not answer" in why
    finally:
        peer.close()


def test_a_machine_behind_a_tracking_server_is_known_by_its_connection(machine: Make, disk: Path) -> None:
    server = subprocess.Popen(
        [PROGRAM, "track", disk, "--socket", disk.with_name("nbd")], stdout=subprocess.DEVNULL
    )  # fmt: skip
    try:
        wait_for(disk.with_name("nbd"))
        state, why = told(of(machine, disk, qmp=False))
        assert (state, why) == ("stopped", "nobody writes its disks")
        with engine.open_image(f"nbd+unix:///{disk.name}?socket={disk.with_name('nbd')}"):
            state, why = told(of(machine, disk, qmp=False))
            assert state == "running" and "its tracking server has clients, 1 of them" in why
            with pytest.raises(errors.Refused, match=r"still runs; agent: it has no .*; acpi: it has no monitor"):
                of(machine, disk, qmp=False).call("stop", seconds=1)
        assert told(of(machine, disk, qmp=False))[0] == "stopped"
        assert told(of(machine, disk)) == ("stopped", "nobody writes its disks")
        with disk.open("r+b"):
            assert told(of(machine, disk))[0] == "running"
    finally:
        server.terminate()
        server.wait(20)


def test_what_we_started_is_cut_by_its_server_though_its_user_named_a_monitor(machine: Make, disk: Path) -> None:
    """As after a failback. Of his own QEMU, which he starts again some day, the monitor is asked."""
    one, monitor, replica = of(machine, disk), str(disk.with_name("vm.qmp")), str(disk.with_name("replica"))
    one.start()
    said = {"disks": [{"source": str(disk), "replica": replica}], "qmp": monitor}
    (first,) = one.calls.call("replica.replicate", said)["results"]
    estates = Named("app1", "lon1", (Disk(str(disk)),), qmp=monitor)
    now, policy = lambda: datetime.datetime.now(datetime.UTC), Policy("p")
    EngineWorker().replicate(estates, {str(disk): replica}, policy, epoch=1, resync=False, clock=now, cancel=bool)
    assert first["tracker"] == "nbd" and len(engine.points(replica)) == 1
    with qemu(make_disk(disk.with_name("another.raw"))):
        assert foreign.monitored(monitor, [str(disk)]) == engine.Qemu(monitor)
    one.kill()
    one.remove()
    with pytest.raises(errors.Busy, match="cannot connect"):
        one.calls.call("replica.replicate", said)


def test_nobody_but_root_sees_all_writers(machine: Make, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    why = f"{disk}: only root sees who writes it; name its monitor (qmp)"
    assert told(of(machine, disk, qmp=False)) == ("unknown", why)
    assert told(of(machine, disk))[0] == "stopped"


def test_it_is_not_killed_unless_that_was_asked_for(
    machine: Make, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firmware hears no button: R9.6 refuses then."""
    monkeypatch.setattr(stopping, "_ANSWER_SECONDS", 0.3)
    with listen(disk.with_name("vm.agent")) as silent, qemu(disk) as process:
        one = of(machine, disk, agent=Path(silent.getsockname()))
        with pytest.raises(errors.Refused, match=r"still runs; agent: .*did not answer in time; acpi: it goes on"):
            one.call("stop", seconds=1)
        assert process.poll() is None
        done = one.call("stop", how=["acpi", "kill"], seconds=2)
        assert (done["by"], done["state"]) == ("kill", "stopped") and process.wait(10) == 0


def test_a_guest_that_shuts_down_is_let_go_though_its_qemu_stays(machine: Make, disk: Path) -> None:
    """The agent that is asked powers the machine off, and QEMU was told to stay (-no-shutdown)."""
    monitor = str(disk.with_name("vm.qmp"))

    def down(sock: object) -> None:
        """As an operating system does, once the firmware has said where."""
        with engine.Monitor.connect(monitor) as connected:
            while foreign.run_state(connected) != "shutdown":
                connected.run("human-monitor-command", {"command-line": "o /h 0x604 0x2000"})
                time.sleep(0.05)

    agent = ScriptedAgent(disk.with_name("vm.agent"), {"guest-shutdown": down})
    try:
        with qemu(disk, "-no-shutdown", "-machine", "q35") as process:
            one = of(machine, disk, agent=agent.path)
            assert one.call("stop", seconds=20)["by"] == "agent" and process.wait(10) == 0
    finally:
        agent.close()
    assert agent.log == ["sync-delimited", "shutdown"]


def test_one_that_is_off_is_left_alone(machine: Make, disk: Path) -> None:
    assert of(machine, disk).call("stop", seconds=1)["by"] == ""
    disk.unlink()
    with pytest.raises(errors.Refused, match=r"runs is not known: .*is not there"):
        of(machine, disk).call("stop", seconds=1)


def test_it_is_not_started_beside_the_one_that_runs(machine: Make, disk: Path) -> None:
    one = of(machine, disk)
    with qemu(disk), pytest.raises(errors.Refused, match="already, not started from here: its monitor answers"):
        one.start()
    assert one.start()["ours"]


def test_a_status_is_quick(machine: Make, disk: Path) -> None:
    """Looked at with every failover, over all processes of a host."""
    one, began = of(machine, disk), time.monotonic()
    for _ in range(3):
        one.status()
    assert time.monotonic() - began < 6
