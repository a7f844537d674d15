"""Machines of a hypervisor that is somebody else's: it is asked and told, and what it says is not taken for granted.

Overlays and their server are ours as with QEMU; it gets them as NBD exports.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import MachineSpec, Way
from secondsite.orchestration.hypervisors import stopping
from secondsite.orchestration.hypervisors.base import SERVER_GONE, Cancel, Running, Status
from secondsite.orchestration.hypervisors.disks import SOCKET, Disks
from secondsite.orchestration.hypervisors.folder import Folder, State
from secondsite.orchestration.networks import names

# Between the end of a start and a machine that is there.
_START_SECONDS = 10.0
_LOOK_SECONDS = 0.2
# How long the status of a machine waits for who starts or stops it.
_SETTLE_SECONDS = 30.0


class Driven(ABC):
    """A machine (base.py says what each call promises). It is a target of stopping.stop itself."""

    def __init__(self, spec: MachineSpec) -> None:
        self.spec, self.name, self.agent = spec, spec.name, spec.guest_agent
        self.folder = Folder(spec)
        self.disks = Disks(spec, self.folder)

    @abstractmethod
    def look(self) -> tuple[Running, str]:
        """How it is, and what that was told from."""

    @abstractmethod
    def begin(self) -> None:
        """Start it; all that it needs is there. Raises what stands against that."""

    def ask(self) -> None:
        """Its guest agent."""
        stopping.ask(self.agent)

    @abstractmethod
    def press(self) -> None:
        """Its power button."""

    @abstractmethod
    def kill(self) -> None:
        """As a power loss."""

    @abstractmethod
    def forget(self) -> None:
        """The hypervisor need not know it any more."""

    @abstractmethod
    def screenshot(self) -> bytes:
        """A PNG."""

    def console(self, most: int) -> str:
        raise errors.Refused(f"the serial line of machine {self.name!r} is not read by this hypervisor's driver")

    def macs(self) -> tuple[str, ...]:
        return tuple(nic.mac or names.mac(self.name, number) for number, nic in enumerate(self.spec.nics))

    def prepare(self, cancel: Cancel) -> None:
        with self.folder.locked(cancel=cancel):
            self._check_known()
            self._prepare(cancel)

    def _check_known(self) -> None:
        """While it runs, it has the disks that it was started with."""
        known = self.folder.load()
        if known is not None and known.spec.disks != self.spec.disks and self.look()[0] != "stopped":
            raise errors.Refused(f"machine {self.name!r} runs from other disks or points; stop it first")

    def _prepare(self, cancel: Cancel) -> None:
        self.folder.save(State(spec=self.spec, macs=self.macs()))
        self.disks.prepare(cancel)

    def start(self, cancel: Cancel) -> None:
        with self.folder.locked(cancel=cancel):
            self._check_known()
            state, why = self.look()
            if state == "unknown":
                raise errors.Unreachable(f"whether machine {self.name!r} runs is not known: {why}")
            self._prepare(cancel)
            if state == "stopped":
                self.begin()
                self._see(cancel)

    def _see(self, cancel: Cancel) -> None:
        """What was started is there, whatever the start said. Raises Refused."""
        until = time.monotonic() + _START_SECONDS
        while (found := self.look())[0] != "running":
            if cancel():
                raise errors.Cancelled("the caller is gone")
            if time.monotonic() > until:
                raise errors.Refused(f"machine {self.name!r} was started, and does not run: {found[1] or found[0]}")
            time.sleep(_LOOK_SECONDS)

    def over(self) -> bool:
        """Has it stopped, for sure?"""
        return self.look()[0] == "stopped"

    def stop(self, how: Sequence[Way], seconds: float, cancel: Cancel) -> str:
        with self.folder.locked(make=False, cancel=cancel):
            state, why = self.look()
            if state == "unknown":
                raise errors.Refused(f"whether machine {self.name!r} runs is not known: {why}")
            return stopping.stop(self, how, seconds, cancel)

    def status(self) -> Status:
        known = self.folder.load()
        state, why = self._settled()
        lost = state == "running" and bool(self.disks.overlaid) and not self.disks.server.running()
        return Status(
            state, ours=known is not None and state != "unknown", why=why, wrong=SERVER_GONE if lost else "",
            guest_agent=self.agent, disks=self.disks.told(),
        )  # fmt: skip

    def _settled(self) -> tuple[Running, str]:
        """One that is off while somebody starts it may be up the next moment: that is waited for. The start may be of a
        process that was killed.
        """
        until = time.monotonic() + _SETTLE_SECONDS
        while (found := self.look())[0] == "stopped" and self.folder.busy():
            if time.monotonic() > until:
                return "unknown", "somebody starts or stops it just now"
            time.sleep(_LOOK_SECONDS)
        return found

    def remove(self, force: bool) -> bool:
        with self.folder.locked(make=False) as there:
            state, why = self.look()
            if state == "running" or (state == "unknown" and there):
                raise errors.Refused(f"machine {self.name!r} {'runs' if state == 'running' else why}; stop it first")
            if not there:
                self.folder.leave()
                return False
            self.folder.load()  # or it would be another machine's
            self.forget()
            self.disks.remove(force)
            self.folder.clear((SOCKET, *self.disks.server.files, "screen.png"))
            return True
