"""The command line of a QEMU. What comes from an estate is in JSON, or a word that is checked: no comma of a name is
taken for an option.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import MachineSpec
from secondsite.orchestration.hypervisors.disks import SOCKET
from secondsite.orchestration.hypervisors.qemu.accelerator import PROGRAM

# A power of two. What a guest prints is kept in memory up to this much, and never fills a disk (D14).
CONSOLE_BYTES = 1 << 20
# Writes wait so long for a disk server that is being started again; then the guest is paused.
RECONNECT_SECONDS = 600
FORMATS = {"raw": "raw", "vhd": "vpc", "vhdx": "vhdx", "vmdk": "vmdk", "qcow2": "qcow2"}
# Where distributions have the firmware of generation 2, and its variables.
_FIRMWARES = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)


@dataclass(frozen=True)
class Card:
    """A network card: the tap that it is, and the address that the guest sees."""

    tap: str
    mac: str


def command(
    spec: MachineSpec, accelerator: str, disks: Sequence[dict[str, Any]], cards: Sequence[Card], variables: str | None
) -> list[str]:
    """To be run in the machine's folder, where its sockets are made. `disks` are block nodes of QEMU, in their order,
    `variables` the machine's own copy of its firmware's.
    """
    made = [
        PROGRAM, "-name", f"guest={spec.name.replace(',', ',,')}", "-machine", "q35" if spec.generation == 2 else "pc",
        "-cpu", "max", "-m", str(spec.memory), "-smp", str(spec.processors), "-nodefaults", "-no-user-config",
        "-no-shutdown", "-display", "none", "-device", "VGA",
        "-rtc", f"base={'localtime' if spec.guest == 'windows' else 'utc'}",
    ]  # fmt: skip
    if accelerator:
        made += ["-accel", accelerator]
    if variables is not None:
        for number, (path, fixed) in enumerate(((firmware()[0], "on"), (variables, "off"))):
            made += ["-drive", f"if=pflash,format=raw,unit={number},readonly={fixed},file={path.replace(',', ',,')}"]
    return made + _channels() + _disks(spec, disks) + _cards(spec, cards) + list(spec.options)


def firmware() -> tuple[str, str]:
    """Code and variables of the firmware of generation 2. Raises Refused where this host has none."""
    for code, variables in _FIRMWARES:
        if os.path.exists(code) and os.path.exists(variables):
            return code, variables
    raise errors.Refused("machines of generation 2 need a firmware, which this host lacks: install the package ovmf")


def _channels() -> list[str]:
    """Two monitors: `qmp` for cycles and users, and `control` for us, as one serves one client at a time."""
    made = []
    for name in ("qmp", "control"):
        made += ["-chardev", f"socket,id={name},path={name},server=on,wait=off", "-mon", f"chardev={name},mode=control"]
    made += ["-chardev", f"ringbuf,id=serial,size={CONSOLE_BYTES}", "-serial", "chardev:serial"]
    made += ["-chardev", "socket,id=agent,path=agent,server=on,wait=off", "-device", "virtio-serial-pci"]
    return [*made, "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]


def image(path: str, format: str, block_device: bool) -> dict[str, Any]:
    """The block node of an image that is written in place."""
    file = {"driver": "host_device" if block_device else "file", "filename": path, "discard": "unmap"}
    return {"driver": FORMATS[format], "file": file, "discard": "unmap"}


def export(name: str) -> dict[str, Any]:
    """The block node of a disk that the machine's own server has."""
    server = {"type": "unix", "path": SOCKET}
    return {
        "driver": "nbd", "server": server, "export": name, "reconnect-delay": RECONNECT_SECONDS, "discard": "unmap",
    }  # fmt: skip


def _disks(spec: MachineSpec, disks: Sequence[dict[str, Any]]) -> list[str]:
    """Windows finds its disks by a driver that it has from the beginning. An error of a disk pauses the guest."""
    made = ["-device", "ich9-ahci,id=sata"] if spec.guest == "windows" else []
    for number, node in enumerate(disks):
        name = f"disk{number}"
        made += ["-blockdev", json.dumps({**node, "node-name": name})]
        device: dict[str, Any] = {
            "driver": "virtio-blk-pci", "drive": name, "id": f"drive{number}", "bootindex": number + 1,
            "werror": "stop", "rerror": "stop",
        }  # fmt: skip
        if spec.guest == "windows":
            device |= {"driver": "ide-hd", "bus": f"sata.{number}"}
        made += ["-device", json.dumps(device)]
    return made


def _cards(spec: MachineSpec, cards: Sequence[Card]) -> list[str]:
    driver = "e1000e" if spec.guest == "windows" else "virtio-net-pci"
    made = []
    for number, card in enumerate(cards):
        made += ["-netdev", f"tap,id=net{number},ifname={card.tap},script=no,downscript=no"]
        made += ["-device", json.dumps({"driver": driver, "netdev": f"net{number}", "mac": card.mac})]
    return made
