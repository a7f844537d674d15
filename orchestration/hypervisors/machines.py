"""Operations on the machines of a host, whatever runs them."""

from __future__ import annotations

import base64
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from secondsite.engine import errors
from secondsite.orchestration.hosts.operations import Cancel, Json
from secondsite.orchestration.hosts.spec import (
    Configure,
    ConsoleBytes,
    MachineSpec,
    OnMachine,
    Remove,
    Screenshot,
    Stop,
    Wait,
    unpacked,
)

if TYPE_CHECKING:
    from secondsite.orchestration.hypervisors.base import Hypervisor

# A PNG of more is not the screen of a machine.
_MOST_BYTES = 16 << 20


def driver(spec: MachineSpec) -> Hypervisor:
    """What runs this machine. Raises Usage for a description that makes no sense."""
    if spec.hypervisor == "qemu":
        from secondsite.orchestration.hypervisors.qemu.driver import Qemu

        return Qemu(spec)
    if spec.hypervisor == "external":
        from secondsite.orchestration.hypervisors.external import External

        return External(spec)
    if spec.hypervisor == "libvirt":
        from secondsite.orchestration.hypervisors.libvirt.driver import Libvirt

        return Libvirt(spec)
    raise errors.Usage(f"no driver {spec.hypervisor!r}")


def _told(machine: Hypervisor) -> Json:
    return asdict(machine.status())


def prepare(arguments: Json, cancel: Cancel) -> Json:
    """`machine.prepare`: its status."""
    machine = driver(unpacked(OnMachine, arguments).machine)
    machine.prepare(cancel)
    return _told(machine)


def start(arguments: Json, cancel: Cancel) -> Json:
    """`machine.start`: its status. Twice is one machine."""
    machine = driver(unpacked(OnMachine, arguments).machine)
    machine.start(cancel)
    return _told(machine)


def stop(arguments: Json, cancel: Cancel) -> Json:
    """`machine.stop`: `by` is the way that led there, "" where it did not run; and its status."""
    said = unpacked(Stop, arguments)
    machine = driver(said.machine)
    by = machine.stop(said.how, said.seconds, cancel)
    return {"by": by, **_told(machine)}


def status(arguments: Json, cancel: Cancel) -> Json:
    """`machine.status`: see hypervisors.base.Status."""
    return _told(driver(unpacked(OnMachine, arguments).machine))


def remove(arguments: Json, cancel: Cancel) -> Json:
    """`machine.remove`: was there anything?"""
    said = unpacked(Remove, arguments)
    return {"removed": driver(said.machine).remove(said.force)}


def screenshot(arguments: Json, cancel: Cancel) -> Json:
    """`machine.screenshot`: `png` in base64, or `path` where it was written."""
    said = unpacked(Screenshot, arguments)
    made = driver(said.machine).screenshot()
    if not made.startswith(b"\x89PNG\r\n\x1a\n") or len(made) > _MOST_BYTES:
        raise errors.Refused(f"what machine {said.machine.name!r} shows is no PNG of up to {_MOST_BYTES >> 20} MiB")
    if said.path is None:
        return {"png": base64.b64encode(made).decode()}
    try:
        with open(f"{said.path}.new", "wb") as file:
            file.write(made)
        os.replace(f"{said.path}.new", said.path)
    except OSError as error:
        raise errors.from_os(error, said.path, "write it") from None
    return {"path": said.path}


def console(arguments: Json, cancel: Cancel) -> Json:
    """`machine.console`: `text`."""
    said = unpacked(ConsoleBytes, arguments)
    return {"text": driver(said.machine).console(said.bytes)}


def configure(arguments: Json, cancel: Cancel) -> Json:
    """`machine.configure`: the agent sets the addresses; of how many cards."""
    said = unpacked(Configure, arguments)
    return {"cards": _configure(driver(said.machine), said.machine, cancel)}


def _configure(machine: Hypervisor, spec: MachineSpec, cancel: Cancel) -> int:
    from secondsite.orchestration.hypervisors import guests

    found = machine.status()
    if found.guest_agent is None:
        raise errors.Unreachable(f"machine {spec.name!r} has no guest agent to set its address")
    return guests.configure(found.guest_agent, spec.nics, machine.macs(), cancel)


def wait(arguments: Json, cancel: Cancel) -> Json:
    """`machine.wait`: how many `seconds` the signal took. The agent sets addresses before, where it is to do that."""
    from secondsite.orchestration.hypervisors.signals import Waiting

    said = unpacked(Wait, arguments)
    machine, spec = driver(said.machine), said.machine
    by_agent = spec.addresses == "agent" and any(nic.address for nic in spec.nics)
    configuring = (lambda: _configure(machine, spec, cancel)) if by_agent else None
    return {"seconds": Waiting(machine, spec, said.signal, configuring).run(said.seconds, cancel)}
