"""Machines under a real libvirt daemon, and the XML that it gets."""

from __future__ import annotations

import base64
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from libvirtkit import daemon, virsh
from machinekit import Machine, make_disk, make_replica, processes

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import DiskSpec, MachineSpec
from secondsite.orchestration.hypervisors import stopping
from secondsite.orchestration.hypervisors.libvirt import definition
from secondsite.orchestration.hypervisors.qemu import accelerator
from secondsite.orchestration.hypervisors.qemu.arguments import Card

Make = Callable[..., Machine]


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    """Its sockets have short paths, as a host's have."""
    with tempfile.TemporaryDirectory(prefix="ss") as folder, daemon(Path(folder)) as found:
        yield found


@pytest.fixture
def under(machine: Make, uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", uri)
    monkeypatch.setattr(stopping, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(accelerator, "choose", lambda folder: "tcg")  # what it finds is tested elsewhere
    with tempfile.TemporaryDirectory(prefix="ss") as folder:
        made: list[Machine] = []

        def make(**more: Any) -> Machine:
            made.append(machine(hypervisor="libvirt", options=[], **more))
            made[-1].said["folder"], made[-1].run = folder, Path(folder)
            return made[-1]

        yield make
        for one in made:
            one.end()


def started_once_from_a_point_stopped_and_removed(under: Make, tmp_path: Path) -> None:
    replica = make_replica(tmp_path)
    one = under(disks=[{"name": "os", "replica": str(replica), "at": "1"}], name="app1/<&>'\"")
    assert one.status()["state"] == "stopped"
    for _ in range(2):
        found = one.start()
        assert (found["state"], found["ours"], found["why"]) == ("running", True, "libvirt calls it running")
    assert len(virsh("list", "--name").split()) == 1
    made = base64.b64decode(one.call("screenshot")["png"])
    assert made[:8] == b"\x89PNG\r\n\x1a\n"
    assert one.call("console", bytes=100)["text"] == ""
    with pytest.raises(errors.Refused, match="runs; stop it first"):
        one.remove()
    with pytest.raises(errors.Refused, match=r"agent: .*did not answer in time; acpi: it goes on"):
        one.call("stop", seconds=2)
    assert one.kill()["by"] == "kill" and one.kill()["by"] == "" and virsh("list", "--all", "--name") == ""
    assert one.remove() and processes(one.run) == [] and list(one.run.glob("[!.]*")) == []
    assert engine.verify(replica).ok and engine.prune(replica, keep=1) == 1


def a_machine_that_its_user_defined_is_started_as_it_is(under: Make, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "os.raw")
    said = MachineSpec(name="mine", folder="/run/x", memory=32, disks=(DiskSpec(name="os", path=str(disk)),))
    told = {"name": "os", "path": str(disk), "format": "raw", "overlay": False}
    text = definition.define(said, "qemu", str(tmp_path), [told], [], ["none"][:0])
    (tmp_path / "mine.xml").write_text(text.replace(definition.identity(said), "5b2c1c61-0000-4a4a-9d8e-2b1f0b6f3c0a"))
    virsh("define", str(tmp_path / "mine.xml"))
    one = under(name="mine", disks=[{"name": "os", "path": str(disk)}])
    try:
        assert (one.status()["state"], one.status()["ours"]) == ("stopped", False)
        assert one.start()["state"] == "running"
        assert one.kill()["by"] == "kill"
        assert virsh("domstate", "mine") == "shut off", "it stays defined"
    finally:
        virsh("undefine", "mine")


def what_libvirt_refuses_is_one_line(under: Make, tmp_path: Path) -> None:
    one = under(memory=1 << 40)
    with pytest.raises(errors.Refused, match="virsh create: "):
        one.start()
    with pytest.raises(errors.Refused, match="in its own network namespace"):
        under(name="app2", namespace="elsewhere", nics=[{"bridge": "br0"}]).start()


# libvirt asks QEMU for all that it can do at the first machine, which takes it seconds.
@pytest.mark.sweep(sample=1)
@pytest.mark.needs("root", "qemu-system-x86_64", "virsh", "libvirtd", "unshare")
@pytest.mark.parametrize(
    "case",
    [
        started_once_from_a_point_stopped_and_removed, a_machine_that_its_user_defined_is_started_as_it_is,
        what_libvirt_refuses_is_one_line,
    ],
)
def test_under_a_real_daemon(case: Callable[[Make, Path], None], under: Make, tmp_path: Path) -> None:
    case(under, tmp_path)


@pytest.mark.needs("virsh")
def test_without_its_daemon_nothing_is_known(machine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu+unix:///system?socket=/nowhere/libvirt-sock")
    one = machine(hypervisor="libvirt")
    found = one.status()
    assert found["state"] == "unknown" and "failed to connect to the hypervisor" in found["why"]
    with pytest.raises(errors.Unreachable, match="runs is not known: libvirt: failed to connect"):
        one.start()


def test_without_its_client_nothing_is_known(machine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = machine(hypervisor="libvirt").status()
    assert found["state"] == "unknown" and "virsh: cannot run it" in found["why"]


ODD = '"/><inject a=\'&amp;\''


def described(name: str = ODD, path: str = ODD, **more: Any) -> Xml.Element:
    said = MachineSpec(name=name, folder="/run/vms", disks=(DiskSpec(name=name, path="/x"),), **more)
    told = [
        {"name": "a", "path": path, "format": "vhd", "overlay": False},
        {"name": name, "path": "/o", "format": "raw", "overlay": True, "socket": "/run/vms/disks"},
    ]
    models = ["apparmor", "dac"]
    return Xml.fromstring(definition.define(said, "kvm", "/run/vms/a", told, [Card("sstap", "02:0:0:0:0:1")], models))


def test_nothing_of_a_name_becomes_xml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition, "is_block_device", lambda path: False)
    found = described(options=(ODD,))
    assert found.find(".//inject") is None
    assert found.findtext("title") == ODD and "/" not in str(found.findtext("name"))
    sources = found.findall("./devices/disk/source")
    assert (sources[0].get("file"), sources[1].get("name")) == (ODD, ODD)
    assert [one.get("dev") for one in found.findall("./devices/disk/target")] == ["vda", "vdb"]
    assert [one.get("type") for one in found.findall("./devices/disk/driver")] == ["vpc", "raw"]
    assert list(found.iter("{http://libvirt.org/schemas/domain/qemu/1.0}arg"))[-1].get("value") == ODD
    labels = {one.get("model"): one.get("type") for one in found.findall("seclabel")}
    assert labels == {"apparmor": "none", "dac": "static"}


def test_windows_gets_what_it_has_drivers_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition, "is_block_device", lambda path: False)
    found = described(guest="windows", generation=2)
    assert found.find("os").get("firmware") == "efi"  # type: ignore[union-attr]
    assert {one.get("bus") for one in found.findall("./devices/disk/target")} == {"sata"}
    assert [one.get("type") for one in found.findall("./devices/interface/model")] == ["e1000e"]


def test_a_format_that_libvirt_does_not_know() -> None:
    told = {"name": "a", "path": "/vms/a.vhdx", "format": "vhdx", "overlay": False}
    with pytest.raises(errors.Refused, match=r"a\.vhdx: libvirt runs no machine from a VHDX"):
        definition.define(MachineSpec(name="a", folder="/x"), "kvm", "/x/a", [told], [], [])


def test_the_disks_of_a_large_machine_have_names() -> None:
    assert [definition._letters(number) for number in (0, 25, 26, 701, 702)] == ["a", "z", "aa", "zz", "aaa"]


def test_a_path_that_is_too_long_for_a_socket() -> None:
    with pytest.raises(errors.Usage, match="too long a path for a socket"):
        definition.define(MachineSpec(name="a", folder="/x"), "kvm", "/" + "a" * 110, [], [], [])


@pytest.mark.needs("virsh")
def test_the_xml_is_of_its_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition, "is_block_device", lambda path: False)
    path = tmp_path / "machine.xml"
    made = Xml.tostring(described("app1", "/vms/app 1.vhd"), encoding="unicode")
    # Known since 9.1, and no harm before.
    made = made.replace('<reconnect delay="600" />', "").replace("02:0:0:0:0:1", "02:00:00:00:00:01")
    path.write_text(made)
    command = ["virsh", "--connect=test:///default", "define", "--validate", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
