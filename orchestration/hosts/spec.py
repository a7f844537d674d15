"""What a host is told of a machine that it is to run, and of the one that runs there by itself.

It holds all that is needed: a host asks nobody else. It travels as JSON; what is none of this is refused (D11).
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.estate.model import Commands, Signal, Table
from secondsite.orchestration.typed import ready

Json = dict[str, Any]
Way = Literal["agent", "acpi", "kill"]
Kind = TypeVar("Kind")


class DiskSpec(Table, frozen=True):
    """A disk, in the order in which the guest sees them: the image at `path`, written in place, or with `replica` an
    overlay over its point `at`, which is made where it is not there yet. `name` is unique in the machine.
    """

    name: str
    path: str | None = None
    replica: str | None = None
    at: str = "latest"
    format: Literal["raw", "vhd", "vhdx", "vmdk", "qcow2"] = "raw"


class NicSpec(Table, frozen=True):
    """A network card. Without a bridge it is connected to nothing; `isolated` ones join a bridge of the machine's own.
    `address` with its prefix length (10.0.0.4/24), where one is to be set.
    """

    mac: str | None = None
    bridge: str | None = None
    address: str | None = None
    gateway: str | None = None
    isolated: bool = False


class MachineSpec(Table, frozen=True):
    """A machine. Its files lie in a folder of its own below `folder`, which goes with it where it is `alone` in that.
    `qmp` and `guest_agent` are sockets of the one that its user started himself, which has the disks of `path`.
    `memory` is in MiB. A `windows` has no drivers of virtual disks and cards from the beginning, and gets those of real
    ones. `state` is the folder of what the host knows of others, which a replica elsewhere takes.
    """

    name: str
    folder: str
    disks: tuple[DiskSpec, ...] = ()
    hypervisor: Literal["qemu", "libvirt", "external"] = "qemu"
    namespace: str | None = None
    memory: int = 1024
    processors: int = 1
    guest: Literal["windows", "linux"] = "linux"
    generation: Literal[1, 2] = 1
    options: tuple[str, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    addresses: Literal["dhcp", "agent", "guest"] = "dhcp"
    commands: Commands | None = None
    qmp: str | None = None
    guest_agent: str | None = None
    state: str | None = None
    alone: bool = False


class OnMachine(Table, frozen=True):
    """`machine.prepare`, `machine.start` and `machine.status`."""

    machine: MachineSpec


class Remove(Table, frozen=True):
    """`machine.remove`. With `force` a replica that does not answer is not told that its overlay is gone."""

    machine: MachineSpec
    force: bool = False


class Configure(Table, frozen=True):
    """`machine.configure`: its guest agent sets its addresses."""

    machine: MachineSpec


class Stop(Table, frozen=True):
    """`machine.stop`: each of `how` in its order, all within `seconds`."""

    machine: MachineSpec
    how: tuple[Way, ...] = ("agent", "acpi")
    seconds: int = 120


class Screenshot(Table, frozen=True):
    """`machine.screenshot`: a PNG, in the answer as base64, or written to `path` on the host."""

    machine: MachineSpec
    path: str | None = None


class Wait(Table, frozen=True):
    """`machine.wait`: until the signal is there, for `seconds` at most."""

    machine: MachineSpec
    signal: Signal
    seconds: int = 300


class ConsoleBytes(Table, frozen=True):
    """`machine.console`: the last so many bytes of what the machine printed on its serial line."""

    machine: MachineSpec
    bytes: int = 65536


def packed(value: Table) -> Json:
    """As JSON has it, without what is as it is by itself."""
    made = msgspec.to_builtins(value)
    assert isinstance(made, dict)
    return made


def unpacked(kind: type[Kind], arguments: Json) -> Kind:
    """Raises Usage, with the place of what is wrong."""
    ready(kind)
    try:
        return msgspec.convert(arguments, kind, strict=True)
    except msgspec.ValidationError as error:
        raise errors.Usage(f"the call makes no sense: {error}") from None
