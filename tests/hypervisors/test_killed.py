"""A start, a stop or a removal that is killed at any step is completed by the next, and no process or file stays."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import killing
import pytest
from killing import Killed
from machinekit import Machine, make_replica, processes

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.hypervisors.daemons import Daemon
from secondsite.orchestration.hypervisors.disks import Disks
from secondsite.orchestration.hypervisors.folder import Folder
from secondsite.orchestration.hypervisors.qemu.process import Process

Make = Callable[..., Machine]
pytestmark = pytest.mark.needs("qemu-system-x86_64")
# More than there are: the last cases are not killed at all.
STEPS = 64


class Steps(killing.Steps):
    """Of what changes a host."""

    def __init__(self, at: int, patch: pytest.MonkeyPatch) -> None:
        super().__init__(at)
        for kind, names in (
            (Folder, ("save", "clear")), (Daemon, ("start", "end")), (Disks, ("_serve", "prepare")),
            (Process, ("wait", "kill")),
        ):  # fmt: skip
            for name in names:
                patch.setattr(kind, name, self.around(getattr(kind, name)))
        for name in ("create_overlay", "remove_overlay"):
            patch.setattr(engine, name, self.around(getattr(engine, name)))


def survived(action: Callable[[], object]) -> bool:
    try:
        action()
    except Killed:
        return False
    return True


@pytest.mark.sweep(sample=5)
@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_killed_at_any_step_the_next_one_completes_it(
    at: int, machine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A life of a machine; each of its actions is repeated until it was not killed."""
    replica = make_replica(tmp_path)
    one = machine(disks=[{"name": "os", "replica": str(replica), "at": "1"}])
    with monkeypatch.context() as patch:
        steps = Steps(at, patch)
        for action in (one.start, one.kill, one.start, one.kill, one.remove):
            while not survived(action):
                assert len(processes(one.run)) <= 2
        assert (steps.left <= 0) == (at <= steps.taken) and steps.taken < STEPS, "every step is a case"
    assert processes(one.run) == [] and list(one.run.iterdir()) == []
    assert engine.verify(replica).ok
    assert engine.prune(replica, keep=1) == 1, "no overlay holds a point any more"


CALL = """
import json, sys
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
print("ready", flush=True)
sys.stdin.readline()
hosts.reach(Host(name="h", site="s")).call(sys.argv[1], json.loads(sys.argv[2]))
"""


def test_killed_at_random_moments_it_is_one_machine(machine: Make, tmp_path: Path) -> None:
    seed = int(os.environ.get("SECONDSITE_SEED", "1"))
    chance, replica = random.Random(seed), make_replica(tmp_path)
    one = machine(disks=[{"name": "os", "replica": str(replica), "at": "1"}])
    for _ in range(3):
        for operation in ("machine.start", "machine.remove"):
            arguments = json.dumps({"machine": one.said})
            command = [sys.executable, "-c", CALL, operation, arguments]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdin is not None and process.stdout is not None
            process.stdout.readline()
            process.stdin.write(b"\n")
            process.stdin.flush()
            time.sleep(chance.random() * 0.8)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if operation == "machine.start":
                found = one.start()
                assert found["state"] == "running" and len(processes(one.run)) == 2, seed
                one.kill()
            else:
                one.remove()
                assert processes(one.run) == [] and list(one.run.iterdir()) == [], seed


def test_after_a_reboot_nothing_of_it_is_believed(machine: Make, tmp_path: Path) -> None:
    """Its files are there, its processes are not, and their numbers are other processes'."""
    one = machine(disks=[{"name": "os", "replica": str(make_replica(tmp_path)), "at": "1"}])
    one.start()
    for process in processes(one.run):
        os.kill(process, signal.SIGKILL)
    until = time.monotonic() + 10
    while processes(one.run):
        assert time.monotonic() < until
        time.sleep(0.02)
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        for name in ("qemu.pid", "disks.pid"):
            Path(Folder(one.spec).file(name)).write_text(f"{bystander.pid}\n")
        found = one.status()
        assert found["state"] == "stopped" and not found["disks"][0]["served"]
        assert one.kill()["by"] == "" and bystander.poll() is None
        assert one.start()["state"] == "running" and one.status()["pid"] != bystander.pid
        one.kill()
        assert one.remove() and bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.needs("root")
def test_without_room_it_says_so_and_goes_on_where_there_is_some(machine: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", run], check=True)
    try:
        filler = run / "filler"
        filler.write_bytes(bytes(os.statvfs(run).f_bavail * os.statvfs(run).f_frsize))
        one = machine(disks=[{"name": "os", "replica": str(make_replica(tmp_path)), "at": "1"}])
        with pytest.raises(errors.Full, match="No space left on device"):
            one.start()
        assert processes(run) == []
        filler.unlink()
        assert one.start()["state"] == "running"
        one.kill()
        assert one.remove() and list(run.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", run], check=True)
