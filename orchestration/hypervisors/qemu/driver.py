"""Machines under QEMU: started so that they outlive us, and found again by whoever comes next."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from msgspec import structs

from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import MachineSpec, Way
from secondsite.orchestration.hypervisors import daemons, foreign, stopping
from secondsite.orchestration.hypervisors.base import SERVER_GONE, Cancel, Status
from secondsite.orchestration.hypervisors.disks import SOCKET, Disks, is_block_device
from secondsite.orchestration.hypervisors.folder import Folder, State
from secondsite.orchestration.hypervisors.qemu import accelerator, arguments
from secondsite.orchestration.hypervisors.qemu.process import FILES, Process

_VARIABLES = "variables.fd"


class Qemu:
    """A machine (hypervisors/base.py says what each call promises)."""

    def __init__(self, spec: MachineSpec) -> None:
        self.spec, self.folder = spec, Folder(spec)
        self.process, self.disks = Process(self.folder), Disks(spec, self.folder, all_served=True)

    def prepare(self, cancel: Cancel) -> None:
        with self.folder.locked(cancel=cancel):
            self._check_known()
            self._prepare(cancel)

    def start(self, cancel: Cancel) -> None:
        with self.folder.locked(cancel=cancel):
            known = self._check_known()
            if self._is_up(cancel):
                self.process.go_on()
                if self._unplugged():
                    self._attach()
                if known is None:
                    self.folder.save(State(spec=self.spec, started=time.time()))
                return
            self._refuse_second()
            state, cards = self._prepare(cancel)
            self.folder.save(structs.replace(state, started=time.time()))
            self.process.start(self._command(state, cards), self.spec.namespace, cancel)

    def _check_known(self) -> State | None:
        """While it runs, it has the disks that it was started with."""
        known = self.folder.load()
        if known is not None and known.spec.disks != self.spec.disks and self.process.daemon.running():
            raise errors.Refused(f"machine {self.spec.name!r} runs from other disks or points; stop it first")
        return known

    def _is_up(self, cancel: Cancel) -> bool:
        """Also one whose start was killed half way, and that is just coming up. The server of its disks may have died
        since: that goes first, as a QEMU that waits for its disks may not even answer.
        """
        if self.process.daemon.running():
            self.disks.prepare(cancel)
            with suppress(errors.Refused):
                self.process.wait(cancel)
        return not self.process.over()

    def _refuse_second(self) -> None:
        """The disks in their place may be those of a machine that its user started."""
        found = self._elsewhere()
        if found.state == "running":
            raise errors.Refused(f"machine {self.spec.name!r} runs already, not started from here: {found.why}")

    def _prepare(self, cancel: Cancel) -> tuple[State, list[arguments.Card]]:
        """The state says what is to be there before any of it is, so that a removal finds it."""
        known = self.folder.load()
        chosen = "" if accelerator.chosen(self.spec.options) else accelerator.choose(self.spec.folder)
        state = State(spec=self.spec, accelerator=chosen, macs=known.macs if known is not None else ())
        self.folder.save(state)
        self.disks.prepare(cancel)
        cards = self._attach()
        state = structs.replace(state, macs=tuple(card.mac for card in cards))
        self.folder.save(state)
        return state, cards

    def _attach(self) -> list[arguments.Card]:
        if not self.spec.nics:
            return []
        from secondsite.orchestration.networks import attaching

        dhcp = self.spec.addresses == "dhcp"
        taps = attaching.attach(self.spec.name, self.spec.nics, self.spec.namespace, dhcp=dhcp)
        return [arguments.Card(tap.name, tap.mac) for tap in taps]

    def _unplugged(self) -> list[str]:
        """Bridges that its cards were on, and that somebody removed."""
        if not self.spec.nics:
            return []
        from secondsite.orchestration.networks import attaching

        return attaching.missing(self.spec.nics, self.spec.namespace)

    def _command(self, state: State, cards: Sequence[arguments.Card]) -> list[str]:
        served = self.disks.served
        nodes = [
            arguments.export(disk.name) if disk in served
            else arguments.image(str(disk.path), disk.format, is_block_device(str(disk.path)))
            for disk in self.spec.disks
        ]  # fmt: skip
        variables = self._variables() if self.spec.generation == 2 else None
        return arguments.command(self.spec, state.accelerator, nodes, cards, variables)

    def _variables(self) -> str:
        """Its own copy of the firmware's variables, made once."""
        path = self.folder.file(_VARIABLES)
        try:
            with open(path, "xb") as file, open(arguments.firmware()[1], "rb") as empty:
                shutil.copyfileobj(empty, file)
        except FileExistsError:
            pass
        except OSError as error:
            raise errors.from_os(error, path, "make it") from None
        return path

    def stop(self, how: Sequence[Way], seconds: float, cancel: Cancel) -> str:
        with self.folder.locked(make=False, cancel=cancel) as there:
            if there and self.process.daemon.running():
                return stopping.stop(self.process, how, seconds, cancel)
        if "kill" in how and daemons.end_left(self.folder.path, seconds):
            return "kill"
        found = self._elsewhere()
        if found.state == "stopped":
            return ""
        if found.state == "unknown":
            raise errors.Refused(f"whether machine {self.spec.name!r} runs is not known: {found.why}")
        return stopping.stop(foreign.Foreign(self.spec), how, seconds, cancel)

    def status(self) -> Status:
        known = self.folder.load()  # or it would be another machine's
        if not (state := self._state()):
            found = self._elsewhere()
            ours = known is not None and found.state == "stopped"
            return replace(found, ours=ours, disks=self.disks.told())
        return Status(
            "running", ours=True, guest=state, wrong=self._wrong(state),
            pid=self.process.daemon.pid(), qmp=self.process.qmp, guest_agent=self.process.agent,
            disks=self.disks.told(),
        )  # fmt: skip

    def _wrong(self, guest: str) -> str:
        """A guest whose disks are away stands still, some time later QEMU pauses it."""
        if self.disks.served and not self.disks.server.running():
            return SERVER_GONE
        if guest in ("running", ""):
            with suppress(errors.Refused):
                for bridge in self._unplugged():
                    return f"bridge {bridge} was removed under it; failover start makes it anew"
            return ""
        return "its monitor does not answer" if guest == "no answer" else f"QEMU says that its guest is {guest}"

    def _elsewhere(self) -> Status:
        """Started by its user himself? Nobody but us has overlays of ours, or disks that our server has. Or was its
        folder removed under it?
        """
        for process in daemons.left_in(self.folder.path):
            return Status("running", why=f"its folder was removed under process {process}, which goes on")
        if len(self.disks.overlaid) == len(self.spec.disks) or self.disks.server.running():
            spec = structs.replace(self.spec, disks=())
            return foreign.status(spec) if spec.qmp is not None else Status("stopped")
        return foreign.status(self.spec)

    def _state(self) -> str:
        """One whose monitor does not answer runs all the same."""
        try:
            if (found := self.process.state()) != "shutdown":
                return found
            with self.folder.locked(make=False):
                return "" if self.process.over() else self.process.state()
        except errors.Error:
            return "no answer" if self.process.daemon.running() else ""

    def remove(self, force: bool) -> bool:
        with self.folder.locked(make=False) as there:
            if there and not self.process.over():
                raise errors.Refused(f"machine {self.spec.name!r} runs; stop it first")
            known = self.folder.load() if there else None
            self._detach([self.spec] if known is None else [self.spec, known.spec])
            if not there:
                self.folder.leave()
                return False
            self.disks.remove(force)
            files = (*FILES, SOCKET, _VARIABLES, *self.process.daemon.files, *self.disks.server.files)
            self.folder.clear(files)
            return True

    def _detach(self, specs: Sequence[MachineSpec]) -> None:
        for namespace in {spec.namespace for spec in specs if spec.nics}:
            from secondsite.orchestration.networks import attaching

            attaching.detach(self.spec.name, namespace)

    def macs(self) -> tuple[str, ...]:
        known = self.folder.load()
        return known.macs if known is not None else ()

    def screenshot(self) -> bytes:
        self._need_running()
        return self.process.screenshot()

    def console(self, most: int) -> str:
        return self.process.said(most)

    def _need_running(self) -> None:
        if not self.process.daemon.running():
            raise errors.Refused(f"machine {self.spec.name!r} does not run here")
