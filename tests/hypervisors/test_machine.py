"""A machine under QEMU: started once however often it is asked, found again, stopped, removed without a rest."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from machinekit import MIB, PLAIN, Machine, make_disk, make_replica, processes

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.hypervisors.folder import Folder

Make = Callable[..., Machine]
pytestmark = pytest.mark.needs("qemu-system-x86_64")


def overlaid(replica: Path, at: str = "1", name: str = "os") -> dict[str, Any]:
    return {"name": name, "replica": str(replica), "at": at}


def test_two_starts_are_one_machine(machine: Make, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "os.raw")
    one = machine(disks=[{"name": "os", "path": str(disk)}])
    assert one.status()["state"] == "stopped"
    first, second = one.start(), one.start()
    assert (first["state"], first["guest"], first["ours"]) == ("running", "running", True)
    (server,) = set(processes(one.run)) - {first["pid"]}
    assert first["pid"] == second["pid"] and first["disks"][0]["served"]
    with pytest.raises(errors.Refused, match="runs; stop it first"):
        one.remove()
    assert one.kill()["by"] == "kill" and one.kill()["by"] == ""
    # Its disks stay served until it is removed, so that what it wrote last is known.
    assert one.status()["state"] == "stopped" and processes(one.run) == [server]
    again = one.start()
    assert again["state"] == "running" and again["pid"] != first["pid"]
    one.kill()
    assert one.remove() and not one.remove()
    assert list(one.run.iterdir()) == [] and disk.exists() and processes(one.run) == []


def test_a_disk_in_its_place_is_cut_while_the_machine_runs(machine: Make, tmp_path: Path) -> None:
    """One that came home is replicated as it writes, on every file system: its server knows what changed."""
    disk = make_disk(tmp_path / "os.raw")
    one = machine(disks=[{"name": "os", "path": str(disk)}])
    one.start()
    assert engine.replicate(disk, tmp_path / "r").tracker == "nbd"
    one.do("write -P 7 64k 64k")
    done = engine.replicate(disk, tmp_path / "r")
    assert (done.tracker, done.changed_bytes) == ("nbd", 65536)
    with engine.open_point(tmp_path / "r") as image:
        assert image.read(65536, 65536) == bytes([7]) * 65536
    one.kill()


def test_disks_of_several_formats_are_cut_together_while_the_machine_runs(machine: Make, tmp_path: Path) -> None:
    """Each is served as what it is said to be: a raw disk whose guest wrote a VHDX into it stays raw."""
    raw, vhdx = make_disk(tmp_path / "os.raw", 4 * MIB), tmp_path / "data.vhdx"
    engine.convert(raw, vhdx, format="vhdx")
    raw.write_bytes(vhdx.read_bytes())
    one = machine(disks=[{"name": "os", "path": str(raw)}, {"name": "data", "path": str(vhdx), "format": "vhdx"}])
    assert [disk["served"] for disk in one.start()["disks"]] == [True, True]
    wanted = [
        engine.Disk(str(disk), str(tmp_path / disk.stem), {"source_format": disk.suffix[1:]}) for disk in (raw, vhdx)
    ]
    engine.replicate_together(wanted)
    one.do("write -P 7 64k 64k")
    done = engine.replicate_together(wanted)
    assert [(each.tracker, each.changed_bytes) for each in done] == [("nbd", 65536), ("nbd", 0)]
    assert [each.virtual_bytes for each in done] == [raw.stat().st_size, 4 * MIB]
    one.kill()


def test_it_runs_from_a_point_and_leaves_the_replica_as_it_is(machine: Make, tmp_path: Path) -> None:
    replica = make_replica(tmp_path)
    one = machine(disks=[overlaid(replica)])
    disks = one.call("prepare")["disks"]
    assert disks[0]["served"] and len(processes(one.run)) == 1
    one.start()
    assert len(processes(one.run)) == 2
    # In the guest's place: what point 1 holds, then other bytes.
    assert "read 1/1" in one.do(f"read -P {random.Random(1).randbytes(1)[0]} 0 1")
    assert "wrote 65536/65536" in one.do("write -P 7 0 64k")
    one.kill()
    engine.replicate(disks[0]["path"], tmp_path / "back")
    with engine.open_point(tmp_path / "back") as image:
        assert bytes(image.read(0, 65536)) == bytes([7]) * 65536
    one.start()
    assert "65536/65536" in one.do("read -P 7 0 64k"), "what was written is there after a start"
    assert "Pattern verification failed" in one.do("read -P 8 0 64k")
    one.kill()
    one.remove()
    assert engine.verify(replica).ok and processes(one.run) == [] and list(one.run.iterdir()) == []


def test_another_point_takes_a_stop_and_a_removal(machine: Make, tmp_path: Path) -> None:
    """As a failover changes its point (R9.10)."""
    replica = make_replica(tmp_path)
    machine(disks=[overlaid(replica, "1")]).start()
    other = machine(disks=[overlaid(replica, "2")])
    with pytest.raises(errors.Refused, match="runs from other disks or points; stop it first"):
        other.start()
    other.kill()
    with pytest.raises(errors.Refused, match="is an overlay over point 1"):
        other.start()
    other.remove()
    assert other.start()["state"] == "running"


def test_a_qemu_that_dies_is_seen_and_started_again(machine: Make, tmp_path: Path) -> None:
    one = machine(disks=[overlaid(make_replica(tmp_path))])
    first = one.start()
    end(first["pid"])
    assert one.status()["state"] == "stopped" and one.status()["disks"][0]["served"]
    second = one.start()
    assert second["state"] == "running" and len(processes(one.run)) == 2


def end(pid: int) -> None:
    """As a power loss; it is gone afterwards."""
    handle = os.pidfd_open(pid)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    assert select.select([handle], [], [], 20)[0]
    os.close(handle)


def test_a_server_of_its_disks_that_dies_is_started_again_and_the_guest_goes_on(machine: Make, tmp_path: Path) -> None:
    one = machine(disks=[overlaid(make_replica(tmp_path))])
    first = one.start()
    one.do("write -P 9 0 64k")
    (server,) = set(processes(one.run)) - {first["pid"]}
    end(server)
    found = one.status()
    assert found["state"] == "running" and found["wrong"].startswith("the server of its disks is gone")
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(one.do("read -P 9 0 64k")))
    reader.start()  # the guest waits
    assert one.start()["pid"] == first["pid"]
    reader.join(30)
    assert "read 65536/65536" in said[0] and one.status()["wrong"] == ""
    for process in processes(one.run):
        end(process)
    Path(found["disks"][0]["path"]).with_name(".gone.overlay.secondsite-map").touch()
    assert one.remove() and list(one.run.iterdir()) == [], "nor what those left that were killed"


def test_what_qemu_refuses_is_one_line(machine: Make, tmp_path: Path) -> None:
    with pytest.raises(errors.Refused, match=r"machine 'app1' cannot be started: .*-nonsense: invalid option"):
        machine(options=[*PLAIN, "-nonsense"]).start()
    with pytest.raises(errors.Unreachable, match=r"os\.raw: the disk is not there"):
        machine(disks=[{"name": "os", "path": str(tmp_path / "os.raw")}]).start()
    with pytest.raises(errors.Error, match="nothing"):
        machine(disks=[overlaid(tmp_path / "nothing")]).start()
    assert processes(tmp_path / "run") == []


def test_a_disk_that_another_machine_has_starts_nothing(machine: Make, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "os.raw")
    one, two = (machine(name, disks=[{"name": "os", "path": str(disk)}]) for name in ("one", "two"))
    one.start()
    found = two.status()
    assert found["state"] == "running" and "its tracking server has clients" in found["why"]
    with pytest.raises(errors.Refused, match=r"not started from here: .*os\.raw: its tracking server has"):
        two.start()
    assert one.status()["state"] == "running" and len(processes(one.run)) == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"disks": [{"name": "a"}]}, "either a path or a replica"),
        ({"disks": [{"name": "a", "path": "/x", "replica": "/y"}]}, "either a path or a replica"),
        ({"disks": [{"name": "a", "path": "/x"}, {"name": "a", "path": "/y"}]}, "two disks of one name"),
        ({"folder": "run"}, "absolute path"),
        ({"name": ""}, "no name of a machine"),
        ({"name": "a\0b"}, "no name of a machine"),
        ({"hypervisor": "esx"}, "esx"),
        ({"memory": "much"}, "memory"),
    ],
)
def test_a_description_that_makes_no_sense_makes_nothing(
    machine: Make, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    one = machine()
    one.said |= wrong
    with pytest.raises(errors.Usage, match=said):
        one.start()
    assert not (tmp_path / "run").exists()
    one.said |= {"name": "app1", "folder": str(tmp_path), "disks": [], "hypervisor": "qemu", "memory": 32}


@pytest.mark.parametrize("name", ["app1, file=/etc/passwd", "../../up", "-name", "a" * 200, "büro/主机\n", ".hidden"])
def test_odd_names_are_names(machine: Make, name: str) -> None:
    one = machine(name, disks=[])
    assert one.start()["state"] == "running"
    with one.monitor() as monitor:
        assert monitor.run("query-name") == {"name": name}
    (folder,) = [path for path in one.run.iterdir() if path.is_dir()]
    assert len(folder.name) <= 40 and folder.name.isascii()
    one.kill()
    assert one.remove()


def test_the_folder_of_another_machine_is_not_touched(machine: Make) -> None:
    one = machine("a/b")
    one.start()
    other = machine(Path(Folder(one.spec).path).name)
    with pytest.raises(errors.Refused, match="is the folder of another machine, 'a/b'"):
        other.start()
    with pytest.raises(errors.Refused, match="runs; stop it first"):
        other.remove()
    assert one.status()["state"] == "running"


def test_a_screenshot_is_a_picture(machine: Make, tmp_path: Path) -> None:
    one = machine()
    with pytest.raises(errors.Refused, match="does not run here"):
        one.call("screenshot")
    one.start()
    made = base64.b64decode(one.call("screenshot")["png"])
    assert made[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">II", made[16:24])) > 100
    one.call("screenshot", path=str(tmp_path / "screen.png"))
    assert (tmp_path / "screen.png").read_bytes()[:8] == made[:8]


STARTS = """
import json, sys
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
machine = json.loads(sys.argv[1])
sys.stdin.readline()
print(hosts.reach(Host(name="h", site="s")).call("machine.start", {"machine": machine})["pid"])
"""


def test_starts_at_one_time_are_one_machine(machine: Make, tmp_path: Path) -> None:
    one = machine(disks=[overlaid(make_replica(tmp_path))])
    command = [sys.executable, "-c", STARTS, json.dumps(one.said)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    pids = {racer.communicate(timeout=60)[0] for racer in racers}
    assert pids == {f"{one.status()['pid']}\n"} and len(processes(one.run)) == 2


def test_its_user_cannot_start_his_own_beside_it(machine: Make, tmp_path: Path) -> None:
    """One that came home has its disks behind a server, which has QEMU's locks on them."""
    disk = make_disk(tmp_path / "os.raw")
    one = machine(disks=[{"name": "os", "path": str(disk)}])
    one.start()
    assert "lock" in own(disk)
    one.kill()
    assert "lock" in own(disk), "what it wrote last is not replicated yet"
    assert one.start()["state"] == "running"
    one.kill()
    one.remove()
    assert own(disk) == ""


def test_a_disk_that_its_user_has_just_taken_is_not_served(machine: Make, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "os.raw")
    with disk.open("rb") as file:
        one = machine(disks=[{"name": "os", "path": str(disk)}])
        # As a QEMU that reads it and wants nobody to write.
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 201, 1, 0))
        with pytest.raises(errors.Busy, match=r"os\.raw: another machine has this disk"):
            one.start()
    assert one.start()["state"] == "running"


def own(disk: Path) -> str:
    """What a QEMU of the user says; it ends at once where it may have the disk."""
    command = ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-S"]
    command += ["-drive", f"file={disk},format=raw,if=virtio", "-qmp", "stdio"]
    done = subprocess.run(
        command, input='{"execute": "qmp_capabilities"}\n{"execute": "quit"}\n', capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    return done.stderr
