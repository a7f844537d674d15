"""Parts of the QEMU driver: which accelerator, what a guest prints, its namespace, its command line, its addresses."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from machinekit import Machine
from netkit import devices
from qemukit import ScriptedAgent

from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import DiskSpec, MachineSpec, NicSpec
from secondsite.orchestration.hypervisors import guests
from secondsite.orchestration.hypervisors.qemu import accelerator, arguments
from secondsite.orchestration.hypervisors.qemu.arguments import Card
from secondsite.orchestration.hypervisors.qemu.console import Console

Make = Callable[..., Machine]
WORKS = ("sh", "-c", "echo SeaBIOS; echo No bootable device.; sleep 60")


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (WORKS, "kvm"),
        (("sh", "-c", "echo SeaBIOS; sleep 60"), "tcg"),
        (("sh", "-c", "echo SeaBIOS; kill -ABRT $$"), "tcg"),
        (("sh", "-c", "yes SeaBIOS"), "tcg"),
        (("/nowhere/qemu",), "tcg"),
    ],
)
def test_kvm_is_taken_where_it_boots_a_machine(
    command: Sequence[str], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "_TRY_SECONDS", 0.7)
    began = time.monotonic()
    assert accelerator.choose(str(tmp_path), "/dev/null", command) == found
    assert time.monotonic() - began < 10
    assert accelerator.choose(str(tmp_path), "/dev/null", ("/never/run",)) == found, "until the host boots again"
    cache = tmp_path / ".accelerator"
    cache.write_text(json.dumps({**json.loads(cache.read_text()), "boot": "another"}))
    assert accelerator.choose(str(tmp_path), "/dev/null", WORKS) == "kvm"
    cache.write_text("[]")
    assert accelerator.choose(str(tmp_path), "/dev/null", WORKS) == "kvm"
    assert accelerator.choose(str(tmp_path), "/nowhere/kvm", WORKS) == "tcg"


@pytest.mark.parametrize(
    ("options", "own"),
    [
        (["-accel", "tcg"], True), (["-enable-kvm"], True), (["-machine", "q35,accel=kvm"], True),
        (["-vga", "std"], False),
    ],
)
def test_a_machine_may_say_which_itself(options: list[str], own: bool) -> None:
    assert accelerator.chosen(options) == own


@pytest.mark.needs("qemu-system-x86_64")
def test_what_a_guest_prints_is_kept_up_to_a_bound(machine: Make) -> None:
    one = machine()
    one.start()

    def say(text: str) -> None:
        with one.monitor() as monitor:
            monitor.run("ringbuf-write", {"device": "serial", "data": text})

    say("first\n")
    assert one.call("console", bytes=100)["text"] == "first\n"
    say("second \u2192\n")
    assert one.call("console", bytes=100)["text"] == "first\nsecond \u2192\n"
    say("x" * 70000)  # more than one piece
    assert len(one.call("console", bytes=4 << 20)["text"]) == 70000 + len("first\nsecond \u2192\n")
    say("last xxx")
    one.kill()
    assert one.call("console", bytes=3)["text"] == "xxx", "it is there after the end"
    one.start()
    assert one.call("console", bytes=100)["text"] == "", "and begins anew with a start"


def test_its_file_is_cut_at_its_beginning(tmp_path: Path) -> None:
    console = Console(str(tmp_path))
    for number in range(60):
        console._add(b"%02d" % number * 32768)
    assert arguments.CONSOLE_BYTES <= (tmp_path / "serial").stat().st_size <= 2 * arguments.CONSOLE_BYTES
    assert console.last(4) == b"5959"


@pytest.mark.needs("qemu-system-x86_64", "root", "namespaces")
def test_it_runs_in_the_namespace_of_its_bridges(machine: Make, place: str) -> None:
    one = machine(namespace=place, nics=[{"bridge": "br-lan"}, {"mac": "02:00:00:00:00:07"}])
    pid = one.start()["pid"]
    assert os.path.samefile(f"/proc/{pid}/ns/net", f"/run/netns/{place}")
    taps = {name: found for name, found in devices(place).items() if name != "br-lan"}
    assert [found.get("master") for found in taps.values()] == ["br-lan", None]
    with one.monitor() as monitor:
        cards = monitor.run("human-monitor-command", {"command-line": "info network"})
    assert "02:00:00:00:00:07" in cards and len(re.findall("model=virtio-net-pci", cards)) == 2
    one.kill()
    assert one.remove() and devices(place) == {}


@pytest.mark.needs("qemu-system-x86_64", "root", "namespaces")
def test_a_namespace_that_is_not_there_starts_nothing(machine: Make) -> None:
    one = machine(namespace="secondsite-nowhere", nics=[{"bridge": "br-lan"}])
    with pytest.raises(errors.Refused, match="no network namespace"):
        one.start()
    assert one.remove()


def spec(**more: Any) -> MachineSpec:
    return MachineSpec(name="app1", folder="/run/vms", **more)


def test_windows_gets_what_it_has_drivers_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_FIRMWARES", (("/bin/sh", "/bin/true"),))
    said = spec(guest="windows", generation=2, disks=(DiskSpec(name="os", path="/d,x.vhdx", format="vhdx"),))
    nodes = [arguments.image("/d,x.vhdx", "vhdx", False)]
    line = " ".join(arguments.command(said, "kvm", nodes, [Card("sstap", "02:00:00:00:00:01")], "variables.fd"))
    for word in ("ide-hd", '"bus": "sata.0"', "e1000e", "localtime", "-machine q35", "file=/bin/sh", '"/d,x.vhdx"'):
        assert word in line, word
    assert '"driver": "vhdx"' in line and "virtio-blk" not in line and "virtio-net" not in line


def test_generation_2_takes_a_firmware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_FIRMWARES", (("/nowhere", "/nowhere"),))
    with pytest.raises(errors.Refused, match="install the package ovmf"):
        arguments.firmware()


CARD = "02:00:00:00:00:01"
INTERFACES = [
    {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4"}]},
    {"name": "Ethernet 2", "hardware-address": CARD.upper(), "ip-addresses": [
        {"ip-address": "fe80::1", "ip-address-type": "ipv6"}, {"ip-address": "10.0.0.4", "ip-address-type": "ipv4"}]},
]  # fmt: skip
NICS = [NicSpec(mac=CARD, address="10.0.0.4/20", gateway="10.0.0.1"), NicSpec()]


def scripted(folder: Path, **answers: Any) -> ScriptedAgent:
    said = {
        "guest-network-get-interfaces": INTERFACES, "guest-get-osinfo": {"id": "mswindows"}, "guest-ping": {},
        "guest-exec": {"pid": 7}, "guest-exec-status": {"exited": True, "exitcode": 0}, **answers,
    }  # fmt: skip
    return ScriptedAgent(folder / "agent", said)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"guest-network-get-interfaces": []}, f"the guest has no network card {CARD}"),
        ({"guest-network-get-interfaces": "none"}, f"the guest has no network card {CARD}"),
        ({"guest-exec-status": {"exited": True, "exitcode": 2}}, "address name=Ethernet 2 static .*ends with 2"),
        ({"guest-exec-status": {"exited": True, "signal": 9}}, "ends with a signal"),
        ({"guest-exec": Exception("guest-exec has been disabled")}, "the guest refuses guest-exec"),
    ],
)
def test_an_address_that_cannot_be_set_says_why(tmp_path: Path, answers: dict[str, Any], said: str) -> None:
    agent = scripted(tmp_path, **answers)
    try:
        with pytest.raises(errors.Refused, match=said):
            guests.configure(str(agent.path), NICS, [CARD, "02:00:00:00:00:02"], lambda: False)
    finally:
        agent.close()


def test_addresses_are_set_on_the_cards_that_have_one(tmp_path: Path) -> None:
    agent = scripted(tmp_path)
    try:
        assert guests.configure(str(agent.path), NICS, [CARD, "02:00:00:00:00:02"], lambda: False) == 1
        assert agent.log.count("exec") == 1 and guests.answers(str(agent.path))
        assert guests.addresses(str(agent.path)) == ["10.0.0.4"]
    finally:
        agent.close()
    assert guests._windows("Ethernet 2", NICS[0])[0][-3:] == ["10.0.0.4", "255.255.240.0", "10.0.0.1"]
    assert guests._linux("eth0", NICS[0])[-1] == ["ip", "route", "replace", "default", "via", "10.0.0.1", "dev", "eth0"]


def test_a_command_in_the_guest_that_hangs_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "_COMMAND_SECONDS", 0.3)
    agent = scripted(tmp_path, **{"guest-exec-status": {"exited": False}})
    try:
        with pytest.raises(errors.Unreachable, match="netsh does not end"):
            guests.configure(str(agent.path), NICS, [CARD, "02:00:00:00:00:02"], lambda: False)
        with pytest.raises(errors.Cancelled):
            guests.configure(str(agent.path), NICS, [CARD, "02:00:00:00:00:02"], lambda: True)
    finally:
        agent.close()


def test_nobody_is_asked_where_no_card_has_an_address(tmp_path: Path) -> None:
    assert guests.configure("/nowhere", [NicSpec()], [CARD], lambda: False) == 0
    assert not guests.answers("/nowhere")
