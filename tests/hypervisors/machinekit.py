"""Machines on a host: what is called, and what is looked at from outside."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.hosts.spec import MachineSpec, unpacked

MIB = 1 << 20
# Software emulation is there everywhere, and whether KVM works is not tried each time.
PLAIN = ("-accel", "tcg")
# Of a process that has let go of its locks, and not yet of its folder (PF_EXITING).
_EXITING = 4
# The device of its first disk.
DRIVE = "/machine/peripheral/drive0/virtio-backend"


class Machine:
    """A machine of a host; by default one without an operating system, whose firmware finds nothing to boot."""

    def __init__(self, folder: Path, name: str, calls: hosts.Calls | None = None, **more: Any) -> None:
        self.calls = calls or hosts.reach(Host(name="lds1", site="second"))
        self.said = {"name": name, "folder": str(folder), "memory": 32, "options": PLAIN, **more}
        self.run = folder

    @property
    def spec(self) -> MachineSpec:
        return unpacked(MachineSpec, {**self.said, "options": list(self.said["options"])})

    def call(self, operation: str, **more: Any) -> dict[str, Any]:
        return self.calls.call(f"machine.{operation}", {"machine": self.said, **more})

    def start(self) -> dict[str, Any]:
        return self.call("start")

    def status(self) -> dict[str, Any]:
        return self.call("status")

    def kill(self) -> dict[str, Any]:
        return self.call("stop", how=["kill"], seconds=20)

    def remove(self) -> bool:
        return bool(self.call("remove")["removed"])

    def monitor(self) -> engine.Monitor:
        return engine.Monitor.connect(self.status()["qmp"], 20)

    def do(self, command: str) -> str:
        """What QEMU's own shell of disks says to a command for its first disk; it prints where QEMU does."""
        log = Path(self.status()["qmp"]).with_name("qemu.log")
        before = len(log.read_bytes())
        with self.monitor() as monitor:
            monitor.run("human-monitor-command", {"command-line": f'qemu-io -d {DRIVE} "{command}"'})
        return log.read_bytes()[before:].decode()

    def end(self) -> None:
        """Whatever a test left."""
        for operation in (self.kill, self.remove):
            try:
                operation()
            except errors.Error:
                for process in processes(self.run):
                    os.kill(process, 9)


def processes(run: Path) -> list[int]:
    """Those at work in the folders of machines of a host, whoever they are; not those that are about to be gone."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                flags = int((process / "stat").read_text().rpartition(")")[2].split()[6])
                if (process / "cwd").readlink().is_relative_to(run) and not flags & _EXITING:
                    found.append(int(process.name))
            except OSError:
                continue
    return sorted(found)


def make_disk(path: Path, size: int = MIB, seed: int = 1) -> Path:
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def make_replica(folder: Path, points: int = 2, size: int = MIB) -> Path:
    """A replica with so many points; point N holds the bytes of seed N."""
    for number in range(1, points + 1):
        engine.replicate(make_disk(folder / "source.raw", size, number), folder / "replica")
    return folder / "replica"
