"""Machines under libvirt. Those that we start are transient: once off they are gone, and nobody starts one by mistake
whose replica is no longer the newest. A domain of the machine's name that its user defined is started as it is.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import MachineSpec
from secondsite.orchestration.hypervisors import foreign, stopping
from secondsite.orchestration.hypervisors.base import Running, Status
from secondsite.orchestration.hypervisors.driven import Driven
from secondsite.orchestration.hypervisors.libvirt.definition import define, identity
from secondsite.orchestration.hypervisors.qemu import accelerator
from secondsite.orchestration.hypervisors.qemu.arguments import Card
from secondsite.orchestration.hypervisors.qemu.console import Console
from secondsite.orchestration.hypervisors.qemu.process import screen
from secondsite.orchestration.processes import limited

_SECONDS = 60.0
_DEFINITION = "machine.xml"
# As virsh says them, in the language of programs.
_GONE = ("failed to get domain", "Domain not found")
_OFF = ("shut off",)


class Libvirt(Driven):
    """virsh finds its daemon as it does for its user: by LIBVIRT_DEFAULT_URI, or the system's."""

    def __init__(self, spec: MachineSpec) -> None:
        super().__init__(spec)
        self._console = Console(self.folder.path)
        self._uuid = identity(spec)

    def look(self) -> tuple[Running, str]:
        try:
            if (found := self._domain()) is not None:
                return ("stopped" if found[1] in _OFF else "running"), f"libvirt calls it {found[1]}"
        except errors.Error as error:
            return "unknown", str(error)
        if len(self.disks.overlaid) == len(self.spec.disks):
            return "stopped", "libvirt does not know it"
        return foreign.disks(self.spec)

    def _domain(self) -> tuple[str, str] | None:
        """Its UUID and state: ours, or the one that its user defined under its name."""
        with suppress(_NoDomain):
            return self._uuid, self._virsh("domstate", f"--domain={self._uuid}")
        with suppress(_NoDomain):
            number = self._virsh("domuuid", f"--domain={self.spec.name}")
            return number, self._virsh("domstate", f"--domain={number}")
        return None

    def _its(self) -> str:
        found = self._domain()
        if found is None:
            raise errors.Refused(f"libvirt does not know machine {self.name!r}")
        return f"--domain={found[0]}"

    def begin(self) -> None:
        if (found := self._domain()) is not None:
            self._virsh("start", f"--domain={found[0]}")
            return
        kind = "kvm" if accelerator.choose(self.spec.folder) == "kvm" else "qemu"
        text = define(self.spec, kind, self.folder.path, self.disks.told(), self._cards(), self._models())
        path = self.folder.file(_DEFINITION)
        try:
            Path(path).write_text(text)
        except OSError as error:
            raise errors.from_os(error, path, "write it") from None
        self._console.clear()
        self._virsh("create", f"--file={path}")

    def _cards(self) -> list[Card]:
        if not self.spec.nics:
            return []
        if self.spec.namespace is not None:
            raise errors.Refused(
                f"libvirt runs machines in its own network namespace, and the networks of machine {self.name!r} are "
                f"in {self.spec.namespace!r}"
            )
        from secondsite.orchestration.networks import attaching

        taps = attaching.attach(self.name, self.spec.nics, dhcp=self.spec.addresses == "dhcp")
        return [Card(tap.name, tap.mac) for tap in taps]

    def _models(self) -> list[str]:
        """Its security models."""
        try:
            found = Xml.fromstring(self._virsh("capabilities"))
        except Xml.ParseError as error:
            raise errors.Unreachable(f"what libvirt is capable of makes no sense: {error}") from None
        return [one.text for one in found.findall("./host/secmodel/model") if one.text and one.text != "none"]

    def status(self) -> Status:
        found = super().status()
        ours = found.ours and found.state == "running" and os.path.exists(self.folder.file("agent"))
        return replace(found, guest_agent=self.folder.file("agent")) if ours else found

    def ask(self) -> None:
        """Ours has a channel of our own, its user's one of libvirt's."""
        if (agent := self.status().guest_agent) is not None:
            stopping.ask(agent)
        else:
            self._virsh("shutdown", self._its(), "--mode=agent")

    def press(self) -> None:
        self._virsh("shutdown", self._its(), "--mode=acpi")

    def kill(self) -> None:
        self._virsh("destroy", self._its())

    def forget(self) -> None:
        """It was transient. Its taps are ours, and its files."""
        if self.spec.nics and self.spec.namespace is None:
            from secondsite.orchestration.networks import attaching

            attaching.detach(self.name)
        for name in (_DEFINITION, "agent", "serial", "serial.new"):
            with suppress(FileNotFoundError):
                os.unlink(self.folder.file(name))

    def run(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """A command of QEMU's monitor, through libvirt."""
        said = json.dumps({"execute": command, "arguments": arguments or {}})
        try:
            answer = json.loads(self._virsh("qemu-monitor-command", self._its(), f"--cmd={said}"))
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or "return" not in answer:
            raise errors.Refused(f"QEMU refuses {command} for machine {self.name!r}: {str(answer)[:300]}")
        return answer["return"]

    def screenshot(self) -> bytes:
        if self.look()[0] != "running":
            raise errors.Refused(f"machine {self.name!r} does not run here")
        os.makedirs(self.folder.path, 0o700, exist_ok=True)
        return screen(self, self.folder.file("screen.png"))

    def console(self, most: int) -> str:
        with suppress(errors.Error):
            if self.folder.exists() and self.look()[0] == "running":
                self._console.take(self)
        return self._console.last(most).decode(errors="replace")

    def _virsh(self, *words: str) -> str:
        """What it says. Raises Unreachable where there is no daemon, Refused with its words."""
        ended = limited.run(["virsh", "--quiet", *words], _SECONDS, environment={"LC_ALL": "C"}, most=1 << 20)
        if ended.late:
            raise errors.Unreachable(f"virsh {words[0]} did not end within {_SECONDS:.0f} s")
        if ended.status == 0:
            return ended.output.strip()
        said = " ".join(ended.errors.replace("error: ", "").split())[:500]
        if "failed to connect to the hypervisor" in said:
            raise errors.Unreachable(f"libvirt: {said}")
        kind = _NoDomain if any(one in said for one in _GONE) else errors.Refused
        raise kind(f"virsh {words[0]}: {said or f'ended with {ended.status}'}")


class _NoDomain(errors.Refused):
    """It does not know such a machine."""
