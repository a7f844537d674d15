"""A Linux that boots from an overlay on another host: its signals, its addresses, its screen, and its orderly end."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from guestkit import build, check_disk, line, make_disk
from machinekit import PLAIN, Machine, processes
from netkit import devices

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host

Make = Callable[..., Machine]
BOOT_SECONDS = 90
pytestmark = pytest.mark.needs("guest", "root", "namespaces")


def linux(do: str = "records") -> tuple[str, ...]:
    kernel, initrd = build()
    return (*PLAIN, "-kernel", str(kernel), "-initrd", str(initrd), "-append", line(do))


@pytest.fixture
def there(place: str, monkeypatch: pytest.MonkeyPatch) -> hosts.Calls:
    """A host of its own network."""
    monkeypatch.setenv("PATH", os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    return hosts.reach(Host(name="lds1", site="second", reach=("ip", "netns", "exec", place)))


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("how", ["agent", "acpi"])
def test_a_guest_of_another_host_boots_is_reached_and_loses_nothing(
    how: str, machine: Make, there: hosts.Calls, place: str, tmp_path: Path
) -> None:
    engine.replicate(make_disk(tmp_path / "os.raw"), tmp_path / "replica")
    one = machine(
        calls=there, memory=192, options=linux(),
        disks=[{"name": "os", "replica": str(tmp_path / "replica"), "at": "1"}],
        nics=[{"bridge": "br-lan", "address": "10.9.0.4/24", "gateway": "10.9.0.1"}], addresses="agent",
    )  # fmt: skip
    one.call("prepare")
    assert set(devices(place)) >= {"br-lan"}
    subprocess.run(["ip", "-n", place, "address", "add", "10.9.0.1/24", "dev", "br-lan"], check=True)
    began = time.monotonic()
    assert one.start()["state"] == "running"
    signal = {"serial": "GUEST READY 0", "agent": True, "tcp": 80, "url": "http://{address}/"}
    took = one.call("wait", signal=signal, seconds=BOOT_SECONDS)["seconds"]
    assert 0 < took <= time.monotonic() - began
    assert one.call("configure")["cards"] == 1, "as often as it is asked"
    with pytest.raises(errors.Unreachable, match=r"no answer at port 81 within 0 s; its last line: 'SYNCED"):
        one.call("wait", signal={"tcp": 81}, seconds=0)
    with pytest.raises(errors.Unreachable, match="no answer at http"):
        one.call("wait", signal={"url": "http://{address}/nothing"}, seconds=0)
    one.call("screenshot", path=str(tmp_path / "screen.png"))
    assert (tmp_path / "screen.png").read_bytes()[:4] == b"\x89PNG"
    overlay = one.status()["disks"][0]["path"]
    engine.replicate(overlay, tmp_path / "back")
    assert one.call("stop", how=[how], seconds=60)["by"] == how
    with pytest.raises(errors.Unreachable, match=r"it ended before there was text 'more' .*Power down'"):
        one.call("wait", signal={"serial": "more"}, seconds=60)
    done = engine.replicate(overlay, tmp_path / "back")
    assert done.tracker == "nbd" and not done.scanned, "the last delta costs what changed"
    last = int(re.findall(r"GUEST DOWN (\d+)", one.call("console", bytes=4096)["text"])[0])
    engine.restore(tmp_path / "back", tmp_path / "back.raw")
    assert check_disk(tmp_path / "back.raw", tmp_path / "copy.raw") == list(range(1, last + 1))
    assert one.remove() and processes(one.run) == []
    assert set(devices(place)) <= {"br-lan"}
