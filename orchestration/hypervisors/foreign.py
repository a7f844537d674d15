"""A machine that its user started himself: whether it runs, and how to stop it (R9.6, R9.9).

Three answers. It runs where its monitor answers, or somebody writes its disks; it does not where its monitor is gone or
none was named, and all of its disks are there and nobody writes them; else nobody knows.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import MachineSpec
from secondsite.orchestration.hypervisors import filelocks, stopping
from secondsite.orchestration.hypervisors.base import Running, Status

ANSWER_SECONDS = 5.0


def status(spec: MachineSpec) -> Status:
    """Found out just now."""
    guest = ""
    if spec.qmp is not None:
        state, guest, why = _monitor(spec.qmp)
        if state == "running":
            return Status(state, guest=guest, why=why, qmp=spec.qmp, guest_agent=spec.guest_agent)
        if state == "unknown":
            return Status(state, why=why)
    state, why = disks(spec)
    return Status(state, why=why, guest_agent=spec.guest_agent)


def monitored(address: str | None, disks: Iterable[str]) -> engine.Qemu | None:
    """Who is asked for the changes of a machine's disks: the QEMU that its user named. None where nobody listens there
    and a tracking server has all of them, as with a machine that a failover started at home: that server is asked then.
    """
    if address is None or (nobody_listens(address) and all(_served(path) is not None for path in disks)):
        return None
    return engine.Qemu(address)


def _monitor(address: str) -> tuple[Running, str, str]:
    """(state, guest's state, why); stopped where nobody listens there."""
    try:
        with engine.Monitor.connect(address, ANSWER_SECONDS) as monitor:
            return "running", run_state(monitor), "its monitor answers"
    except errors.Busy:
        return "running", "", "its monitor is in use"
    except errors.Unreachable as error:
        if nobody_listens(address):
            return "stopped", "", "nobody listens at its monitor"
        return "unknown", "", f"its monitor does not answer: {error}"


def run_state(monitor: engine.Monitor) -> str:
    """QEMU's word for what the guest does: running, paused, shutdown, io-error and so on."""
    answer = monitor.run("query-status")
    return str(answer.get("status", "")) if isinstance(answer, dict) else ""


def nobody_listens(address: str) -> bool:
    """Is there surely no server? `address` as engine.Qemu has it."""
    path = address.removeprefix("unix:")
    if not address.startswith("unix:") and "/" not in address and ":" in address:
        return _refused_port(*address.removeprefix("tcp:").rsplit(":", 1))
    fd = -1
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(ANSWER_SECONDS)
        try:
            fd = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_CLOEXEC)
            probe.connect(f"/proc/self/fd/{fd}/{os.path.basename(path)}")
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False
        finally:
            if fd >= 0:
                os.close(fd)
    return False


def _refused_port(host: str, port: str) -> bool:
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):
        return False
    return False


def disks(spec: MachineSpec) -> tuple[Running, str]:
    """What the disks in their place tell, and whose doing it is."""
    paths = [disk.path for disk in spec.disks if disk.path is not None]
    found: list[tuple[Running, str]] = [_disk(path, told=spec.qmp is not None) for path in paths]
    for wanted in ("running", "unknown"):
        for state, why in found:
            if state == wanted:
                return state, why
    if found:
        return "stopped", "nobody writes its disks"
    if spec.qmp is not None:
        return "stopped", "nobody listens at its monitor"
    return "unknown", "neither a monitor nor a disk tells"


def _disk(path: str, told: bool) -> tuple[Running, str]:
    """`told`: a monitor that is gone says already that no machine has it."""
    users = filelocks.users(path)
    if users is None:
        return "unknown", f"{path}: the disk is not there"
    served = _served(path)
    if served is not None and served.get("clients"):
        return "running", f"{path}: its tracking server has clients, {served['clients']} of them"
    if served is not None and "clients" not in served and not told:
        return "unknown", f"{path}: its tracking server, of an older version, does not say who has it; start it again"
    if users.locked and served is None:  # a machine's own server has such a lock too
        return "running", f"{path}: a QEMU writes it"
    if users.writers is None:
        return ("stopped", "") if told else ("unknown", f"{path}: only root sees who writes it; name its monitor (qmp)")
    if len(users.writers) > (served is not None):
        return "running", f"{path}: process {min(users.writers)} writes it"
    return "stopped", ""


def _served(path: str) -> dict[str, Any] | None:
    """What the tracking server of ours tells that has it: it writes for a machine that may be connected or not."""
    try:
        return engine.tracking_status(path)
    except errors.Error:
        return None


class Foreign:
    """As a target of stopping.stop: it has stopped where `status` says so. A guest that is down gets no more power."""

    def __init__(self, spec: MachineSpec) -> None:
        self.spec, self.name = spec, spec.name
        self.monitor, self.agent = spec.qmp, spec.guest_agent

    def over(self) -> bool:
        """Has it stopped?"""
        found = status(self.spec)
        if found.state == "running" and found.guest == "shutdown":
            self.kill()  # its QEMU was told to stay
            return False
        return found.state == "stopped"

    def ask(self) -> None:
        """Its guest agent."""
        stopping.ask(self.agent)

    def press(self) -> None:
        """Its power button."""
        stopping.press(self.monitor)

    def kill(self) -> None:
        """As by its power switch."""
        if self.monitor is None:
            raise errors.Refused("no monitor was named at which it could be ended")
        with engine.Monitor.connect(self.monitor, ANSWER_SECONDS) as monitor:
            monitor.run("quit")
