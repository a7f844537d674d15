"""A machine as libvirt's domain XML (formatdomain.html), made by a library that escapes what it is given.

The guest agent's channel and the serial line are QEMU's own arguments: libvirt would keep the agent to itself, and the
serial line in a file without a bound. The machine's own options come after them.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as Xml

from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import MachineSpec
from secondsite.orchestration.hypervisors.disks import is_block_device
from secondsite.orchestration.hypervisors.folder import plain, short
from secondsite.orchestration.hypervisors.qemu.arguments import CONSOLE_BYTES, FORMATS, RECONNECT_SECONDS, Card

_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_SPACE = uuid.UUID("6a1d1c61-6a0b-4a4a-9d8e-2b1f0b6f3c0a")


def identity(spec: MachineSpec) -> str:
    """The UUID of the domain that is ours for this machine, and nobody else's."""
    return str(uuid.uuid5(_SPACE, f"{os.path.normpath(spec.folder)}\0{spec.name}"))


def define(
    spec: MachineSpec, kind: str, folder: str, disks: Sequence[dict[str, Any]], cards: Sequence[Card],
    models: Sequence[str],
) -> str:  # fmt: skip
    """`kind` is kvm or qemu, `disks` what hypervisors.disks tells of them, `models` libvirt's security models. Raises
    Usage where a path is too long for a socket, Refused for a format that libvirt does not know.
    """
    Xml.register_namespace("qemu", _QEMU)
    domain = Xml.Element("domain", type=kind)
    for name, text in (
        ("name", plain(spec.name, 60)), ("uuid", identity(spec)), ("title", re.sub(r"[^ -~]", "?", spec.name)),
        ("vcpu", str(spec.processors)), ("on_poweroff", "destroy"), ("on_crash", "destroy"),
    ):  # fmt: skip
        Xml.SubElement(domain, name).text = text
    Xml.SubElement(domain, "memory", unit="MiB").text = str(spec.memory)
    Xml.SubElement(domain, "cpu", mode="maximum")
    Xml.SubElement(domain, "clock", offset="localtime" if spec.guest == "windows" else "utc")
    system = Xml.SubElement(domain, "os", {"firmware": "efi"} if spec.generation == 2 else {})
    machine = "q35" if spec.generation == 2 or spec.guest == "windows" else "pc"
    Xml.SubElement(system, "type", arch="x86_64", machine=machine).text = "hvm"
    Xml.SubElement(Xml.SubElement(domain, "features"), "acpi")
    devices = Xml.SubElement(domain, "devices")
    Xml.SubElement(devices, "controller", type="virtio-serial", index="0")
    Xml.SubElement(Xml.SubElement(devices, "video"), "model", type="vga")
    for number, disk in enumerate(disks):
        _disk(devices, spec, number, disk)
    for card in cards:
        _card(devices, spec, card)
    _as_root(domain, models)
    _arguments(domain, folder, spec.options)
    return Xml.tostring(domain, encoding="unicode")


def _disk(devices: Xml.Element, spec: MachineSpec, number: int, told: dict[str, Any]) -> None:
    if told["format"] == "vhdx":
        raise errors.Refused("libvirt runs no machine from a VHDX; convert it to raw or VHD", path=told["path"])
    kind = "network" if told["overlay"] else "block" if is_block_device(told["path"]) else "file"
    disk = Xml.SubElement(devices, "disk", type=kind, device="disk")
    Xml.SubElement(
        disk, "driver", name="qemu", type=FORMATS[told["format"]], discard="unmap", error_policy="stop",
        rerror_policy="stop",
    )  # fmt: skip
    if told["overlay"]:
        source = Xml.SubElement(disk, "source", protocol="nbd", name=told["name"])
        Xml.SubElement(source, "host", transport="unix", socket=short(told["socket"]))
        Xml.SubElement(source, "reconnect", delay=str(RECONNECT_SECONDS))
    else:
        Xml.SubElement(disk, "source", {"dev" if kind == "block" else "file": told["path"]})
    windows = spec.guest == "windows"
    name = f"{'sd' if windows else 'vd'}{_letters(number)}"
    Xml.SubElement(disk, "target", dev=name, bus="sata" if windows else "virtio")
    Xml.SubElement(disk, "boot", order=str(number + 1))


def _letters(number: int) -> str:
    """a to z, then aa and so on, as disks are called."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _card(devices: Xml.Element, spec: MachineSpec, card: Card) -> None:
    interface = Xml.SubElement(devices, "interface", type="ethernet")
    Xml.SubElement(interface, "mac", address=card.mac)
    Xml.SubElement(interface, "target", dev=card.tap, managed="no")
    Xml.SubElement(interface, "model", type="e1000e" if spec.guest == "windows" else "virtio")


def _as_root(domain: Xml.Element, models: Sequence[str]) -> None:
    """It has to reach the server of its disks, whose socket is root's alone, and libvirt labels no sockets."""
    for model in models:
        if model == "dac":
            label = Xml.SubElement(domain, "seclabel", type="static", model=model, relabel="no")
            Xml.SubElement(label, "label").text = "+0:+0"
        else:
            Xml.SubElement(domain, "seclabel", type="none", model=model)


def _arguments(domain: Xml.Element, folder: str, options: Sequence[str]) -> None:
    agent = short(os.path.join(folder, "agent")).replace(",", ",,")
    port = {"driver": "virtserialport", "bus": "virtio-serial0.0", "chardev": "agent",
            "name": "org.qemu.guest_agent.0"}  # fmt: skip
    line = Xml.SubElement(domain, f"{{{_QEMU}}}commandline")
    for word in (
        "-chardev", f"ringbuf,id=serial,size={CONSOLE_BYTES}", "-device", "isa-serial,chardev=serial",
        "-chardev", f"socket,id=agent,path={agent},server=on,wait=off",
        "-device", json.dumps(port), *options,  # as JSON it comes after libvirt's own devices
    ):  # fmt: skip
        Xml.SubElement(line, f"{{{_QEMU}}}arg", value=word)
