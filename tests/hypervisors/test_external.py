"""A hypervisor of the user's own commands: what they say is not taken for granted, and none of them hangs a call."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from machinekit import Machine, make_replica, processes

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.hypervisors import driven

Make = Callable[..., Machine]
# A machine is a file here, which its commands make, look for and remove; they keep what they were told.
HYPERVISOR = """
import json, os, sys, time
folder, verb = sys.argv[1], sys.argv[2]
told = json.load(sys.stdin)
how = os.environ.get("SECONDSITE_HOW", "")
with open(f"{folder}/log", "a") as log:
    log.write(json.dumps([verb, how, told]) + chr(10))
runs = f"{folder}/runs"
for line in open(f"{folder}/behave"):
    if line.split(":")[0] == verb:
        exec(line.split(":", 1)[1].strip())
if verb == "start": open(runs, "w").close()
if verb == "stop" and os.path.exists(runs): os.unlink(runs)
if verb == "status": sys.exit(0 if os.path.exists(runs) else 3)
if verb == "screenshot": open(os.environ["SECONDSITE_OUTPUT"], "wb").write(bytes.fromhex("89504e470d0a1a0a") + bytes(9))
"""


class Outside:
    """The machine, and how its commands behave: lines `VERB: Python`."""

    def __init__(self, make: Make, folder: Path, seconds: int = 20, **more: Any) -> None:
        self.folder = folder
        (folder / "hypervisor.py").write_text(HYPERVISOR)
        self.behave()
        command = [sys.executable, "-S", str(folder / "hypervisor.py"), str(folder)]
        commands = {verb: [*command, verb] for verb in ("start", "stop", "status", "screenshot")}
        self.machine = make(hypervisor="external", commands={**commands, "seconds": seconds}, **more)

    def behave(self, *lines: str) -> None:
        (self.folder / "behave").write_text("".join(f"{line}\n" for line in lines))

    def log(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [tuple(json.loads(line)) for line in (self.folder / "log").read_text().splitlines()]

    def calls(self) -> list[str]:
        """What was called, status aside."""
        return [f"{verb} {how}".strip() for verb, how, _ in self.log() if verb != "status"]


@pytest.fixture
def outside(machine: Make, tmp_path: Path) -> Callable[..., Outside]:
    return lambda **more: Outside(machine, tmp_path, **more)


def test_started_once_stopped_and_removed(outside: Callable[..., Outside], tmp_path: Path) -> None:
    replica = make_replica(tmp_path)
    disks = [{"name": "os", "replica": str(replica), "at": "1"}]
    one = outside(disks=disks, nics=[{"bridge": "br0", "address": "10.0.0.4/24"}])
    assert one.machine.start()["state"] == one.machine.start()["state"] == "running"
    assert one.calls() == ["start"]
    told = next(said for verb, _, said in one.log() if verb == "start")
    assert told["name"] == "app1" and told["nics"][0]["bridge"] == "br0" and len(told["nics"][0]["mac"]) == 17
    with engine.open_image(told["disks"][0]["url"]) as disk, engine.open_point(replica, at="1") as point:
        assert bytes(disk.read(0, disk.size)) == bytes(point.read(0, point.size))
    with pytest.raises(errors.Refused, match="runs; stop it first"):
        one.machine.remove()
    assert one.machine.call("stop", how=["agent", "acpi"], seconds=20)["by"] == "acpi"
    assert one.machine.kill()["by"] == "" and one.calls() == ["start", "stop acpi"]
    assert one.machine.remove() and not one.machine.remove()
    assert processes(one.machine.run) == [] and list(one.machine.run.iterdir()) == []


def test_a_kill_is_only_where_it_was_asked_for(outside: Callable[..., Outside]) -> None:
    one = outside()
    one.behave("stop: how != 'kill' and sys.exit(0)")
    one.machine.start()
    with pytest.raises(errors.Refused, match=r"machine 'app1' still runs; agent: .* no guest agent; acpi: it goes on"):
        one.machine.call("stop", seconds=1)
    assert "stop kill" not in one.calls()
    assert one.machine.call("stop", how=["acpi", "kill"], seconds=2)["by"] == "kill"


@pytest.mark.parametrize(
    ("behaviour", "kind", "said"),
    [
        ("start: print('no memory', file=sys.stderr); sys.exit(9)", errors.Refused, "ended with 9: no memory"),
        ("start: sys.exit(1)", errors.Refused, "ended with 1: it said nothing"),
        ("start: sys.exit(0)", errors.Refused, "was started, and does not run"),
        ("start: time.sleep(60)", errors.Unreachable, "did not end within 2 s"),
        ("start: os.kill(os.getpid(), 9)", errors.Refused, "ended with -9"),
        ("start: os.write(1, b'y' * (64 << 20)); sys.exit(4)", errors.Refused, "ended with 4: y{300}$"),
        ("status: sys.exit(1)", errors.Unreachable, "runs is not known: .*ended with 1"),
        ("status: time.sleep(60)", errors.Unreachable, "runs is not known: .*did not end within 2 s"),
    ],
)
def test_a_start_that_goes_wrong(
    outside: Callable[..., Outside], behaviour: str, kind: type[errors.Error], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(driven, "_START_SECONDS", 0.5)
    one, began = outside(seconds=2), time.monotonic()
    one.behave(behaviour)
    with pytest.raises(kind, match=said):
        one.machine.start()
    assert time.monotonic() - began < 15
    one.behave()
    assert one.machine.start()["state"] == "running"


def test_what_is_not_known_is_neither_running_nor_stopped(outside: Callable[..., Outside]) -> None:
    one = outside()
    one.machine.start()
    one.behave("status: print('the manager is away'); sys.exit(17)")
    found = one.machine.status()
    assert (found["state"], found["why"]) == ("unknown", "its status command ended with 17: the manager is away")
    for operation in (one.machine.kill, one.machine.remove):
        with pytest.raises(errors.Refused, match="the manager is away"):
            operation()
    one.behave()
    assert one.machine.status()["state"] == "running"


def test_its_screenshot_is_a_file_that_it_writes(outside: Callable[..., Outside], tmp_path: Path) -> None:
    one = outside()
    one.machine.start()
    one.machine.call("screenshot", path=str(tmp_path / "screen.png"))
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")
    one.behave("screenshot: open(os.environ['SECONDSITE_OUTPUT'], 'w').write('no'); sys.exit(0)")
    with pytest.raises(errors.Refused, match="is no PNG"):
        one.machine.call("screenshot")
    one.behave("screenshot: sys.exit(0)")
    with pytest.raises(errors.Unreachable, match="screenshot command wrote: No such file"):
        one.machine.call("screenshot")


def test_without_commands_nothing_is_done(machine: Make) -> None:
    one = machine(hypervisor="external")
    with pytest.raises(errors.Usage, match="external hypervisor without commands"):
        one.start()
    one.said["hypervisor"] = "qemu"


def test_a_command_that_is_not_there(machine: Make) -> None:
    command = ["/nowhere/hypervisor"]
    one = machine(hypervisor="external", commands={"start": command, "stop": command, "status": command})
    found = one.status()
    assert found["state"] == "unknown" and "cannot run it" in found["why"]
    assert not os.path.exists(one.run)


def test_a_start_whose_caller_was_killed_is_waited_for(outside: Callable[..., Outside]) -> None:
    """Its command goes on by itself: who stops the machine then stops what it started, and not nothing."""
    one = outside()
    one.behave("start: time.sleep(2)")
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            one.machine.start()
        os._exit(1)
    while not (one.folder / "log").exists() or "start" not in one.calls():
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert one.machine.call("status")["state"] == "running", "and not that it is off"
    assert one.machine.kill()["by"] == "kill"
    time.sleep(1)
    assert one.machine.call("status")["state"] == "stopped"
