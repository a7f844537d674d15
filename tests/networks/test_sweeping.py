"""What is left when a process is killed at any instant of an attach or a detach, and that a sweep removes it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from namespaces import ip
from netkit import Card, addresses, devices, servers, wait_for_port, wait_until
from station import Station

from secondsite.engine import errors
from secondsite.orchestration import cli
from secondsite.orchestration.hosts.operations import find
from secondsite.orchestration.networks import names, namespaces, sweeping
from secondsite.orchestration.networks.attaching import attach, detach
from secondsite.orchestration.networks.sweeping import bridges, ours, sweep

pytestmark = pytest.mark.needs("root", "namespaces")
HERE = Path(__file__).parent
# It attaches and detaches a machine for ever, in a namespace, as a test machine in one of its own too.
BUSY = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
from netkit import Card
from secondsite.orchestration.networks.attaching import attach, detach
place, test = sys.argv[1:]
cards = [Card("front", address="192.0.2.7/24"), Card("back"), Card(None)]
print("ready", flush=True)
while True:
    attach("app1", cards, place); attach("app1 - Test", cards, test)
    detach("app1 - Test", test); detach("app1", place)
"""


def host_devices() -> set[str]:
    """Of this namespace itself, which no test here may touch."""
    done = subprocess.run(["ip", "-json", "link"], capture_output=True, text=True, check=True)
    return {one["ifname"] for one in json.loads(done.stdout)}


@pytest.fixture
def test_place(place: str) -> str:
    return namespaces.of_test("a drill", place)


def test_known_machines_stay_and_others_go(place: str, test_place: str) -> None:
    cards = [Card("front"), Card("back")]
    kept = attach("app1", cards, place)
    attach("app2", [Card("front"), Card("other"), Card(None)], place)
    attach("app2 - Test", cards, test_place)
    ip("-n", place, "tuntap", "add", names.tap("app3", 0), "mode", "tap")
    ip("-n", place, "link", "add", names.unfinished("x"), "type", "bridge")
    ip("-n", place, "link", "add", "theirs", "type", "bridge")
    assert {(one.namespace, one.kind) for one in ours(place)} >= {(place, "tap"), (test_place, "bridge")}
    gone = sweep(lambda: {"app1", "app2 - Test"}, place)
    assert set(devices(place)) == {"front", "back", "theirs", *(tap.name for tap in kept)}
    assert set(gone) == {*(names.tap("app2", n) for n in range(3)), names.tap("app3", 0), "other",
                         names.unfinished("x")}  # fmt: skip
    assert namespaces.exists(test_place)
    sweep(lambda: {"app1"}, place)
    assert not namespaces.exists(test_place)
    assert sweep(lambda: {"app1"}, place) == []
    sweep(set, place)
    assert set(devices(place)) == {"theirs"}


def test_a_tests_networks_come_and_go_with_its_machines(place: str, test_place: str) -> None:
    """R9.2: the same bridges in two namespaces are two networks."""
    before = host_devices()
    attach("app1", [Card("front", address="192.0.2.7/24")], place)
    for machine, address in (("app1 - Test", "192.0.2.7/24"), ("app2 - Test", "192.0.2.8/24")):
        attach(machine, [Card("front", isolated=True, address=address)], test_place)
    assert "front" in devices(test_place)
    detach("app1 - Test", test_place)
    assert namespaces.exists(test_place)
    detach("app2 - Test", test_place)
    detach("app2 - Test", test_place)
    assert not namespaces.exists(test_place) and not Path("/run/netns", test_place).exists()
    assert "front" in devices(place) and host_devices() == before
    # One whose first machine was refused is not left empty.
    with pytest.raises(errors.Refused, match="no bridge"):
        attach("app1 - Test", [Card("lo")], test_place)
    assert not namespaces.exists(test_place)


def test_in_a_tests_networks_the_namespace_is_the_gateway(place: str, test_place: str) -> None:
    """So that a guest that is tested can be reached from within; the two networks do not reach each other."""
    cards = [Card("front", address="10.1.0.11/24", gateway="10.1.0.1"), Card("back", address="10.2.0.254/24"),
             Card("own", address="10.3.0.1/24", gateway="10.3.0.1")]  # fmt: skip
    (front, back, _) = attach("app1 - Test", cards, test_place, dhcp=False)
    try:
        assert addresses(test_place) == {"front": ["10.1.0.1/24"], "back": ["10.2.0.253/24"]}
        with Station(front.name, front.mac, test_place, "10.1.0.11") as guest:
            wait_for_port(test_place, front.name)
            done = subprocess.Popen(["ip", "netns", "exec", test_place, "ping", "-c", "1", "-W", "5", "10.1.0.11"],
                                    stdout=subprocess.DEVNULL) if shutil.which("ping") else None  # fmt: skip
            guest.send(guest.ask("10.1.0.1"))
            told = guest.wait(lambda frame: frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2")
            assert told
            guest.send(guest.ask("10.2.0.253"))
            assert guest.wait(lambda frame: frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2", 0.3) is None
            # Through the router that it takes the namespace for, to a machine of the other network.
            with Station(back.name, back.mac, test_place, "10.2.0.254") as other:
                wait_for_port(test_place, back.name)
                other.forget()
                guest.send(guest.ping(told[22:28], "10.2.0.254"))
                list(other.hear(0.3))
                assert other.from_guests() == []
            assert done is None or done.wait(10) == 0
        attach("app2 - Test", [Card("front", address="10.1.0.1/24")], test_place, dhcp=False)
        assert "front" not in addresses(test_place)  # a machine is the router itself
    finally:
        for machine in ("app1 - Test", "app2 - Test"):
            detach(machine, test_place)
    attach("app1", cards, place)
    assert addresses(place) == {}


def test_what_is_left_of_a_test_that_was_killed_as_it_began(place: str, test_place: str) -> None:
    left = Path("/run/netns", test_place)
    left.touch()
    attach("app1 - Test", [Card("front")], test_place)
    detach("app1 - Test", test_place)
    assert not left.exists()
    left.touch()
    assert sweep(set, place) == [test_place]
    assert not left.exists()


def test_a_test_namespace_that_goes_as_another_machine_comes(place: str, test_place: str) -> None:
    """Three threads whose machines come and go: the namespace is made and removed under them, and no tap is lost."""
    failed: list[BaseException] = []

    def come_and_go(machine: str) -> None:
        try:
            for _ in range(15):
                attach(machine, [Card("front")], test_place)
                assert bridges(machine, test_place) == ["front"]
                detach(machine, test_place)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=come_and_go, args=(f"app{number} - Test",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert not Path("/run/netns", test_place).exists()


def test_where_cards_are_now(place: str) -> None:
    """R11.5: a user moves one, and disconnects another."""
    taps = attach("app1", [Card("front"), Card("front"), Card("back")], place)
    ip("-n", place, "link", "set", taps[0].name, "master", "back")
    ip("-n", place, "link", "set", taps[1].name, "nomaster")
    assert bridges("app1", place) == ["back", None, "back"]
    assert bridges("app2", place) == [] == bridges("app1", "nowhere-at-all")


def test_operations_of_the_host(place: str) -> None:
    attach("app1", [Card("front")], place)
    said = {"namespace": place}
    assert find("network.bridges").load()({**said, "machine": "app1"}, bool) == {"bridges": ["front"]}
    assert len(find("network.list").load()(said, bool)["devices"]) == 2
    probe = {**said, "bridge": "front", "addresses": []}
    assert find("network.probe").load()(probe, bool) == {"in_use": {}}
    assert find("network.sweep").load()({**said, "known": ["app1"]}, bool) == {"removed": []}
    with pytest.raises(errors.Usage, match="unknown field"):
        find("network.sweep").load()({"knwon": []}, bool)


def test_the_command(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    attach("app1", [Card("front", address="192.0.2.7/24")], place)
    attach("app2", [Card("front")], place)
    assert cli.run(["network", "list", "--namespace", place]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "192.0.2.7/24" in "".join(lines)
    assert cli.run(["network", "sweep", "--keep", "app1", "--namespace", place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": [names.tap("app2", 0)]}
    assert cli.run(["network", "sweep", "--keep", "app1", "--namespace", place]) == 0
    assert capsys.readouterr().out == "nothing is left over\n"
    assert cli.run(["network", "list", "--namespace", "nowhere-at-all", "--json"]) == 0


@pytest.mark.sweep(sample=3)
@pytest.mark.parametrize("milliseconds", range(0, 120, 3))
def test_killed_at_any_instant_nothing_is_left(place: str, test_place: str, milliseconds: int) -> None:
    before = host_devices()
    process = subprocess.Popen([sys.executable, "-c", BUSY, place, test_place], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    time.sleep(0.2 + milliseconds / 1000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    # The next attach takes up whatever is there; then a sweep that knows nobody.
    with contextlib.ExitStack() as stack:
        stack.callback(sweep, set, place)
        attach("app1", [Card("front", address="192.0.2.7/24"), Card("back")], place)
        assert bridges("app1", place) == ["front", "back"]
    assert devices(place) == {} and ours(place) == []
    assert not Path("/run/netns", test_place).exists()
    assert host_devices() == before
    wait_until(lambda: not servers(place))


def test_the_first_of_many_waits_for_the_lock_no_longer_than_it_says(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that holds the namespace and hangs."""
    monkeypatch.setattr(namespaces, "_LOCK_SECONDS", 0.3)
    code = "import fcntl,os,sys,time; f=os.open('/proc/self/ns/net',os.O_RDONLY); fcntl.flock(f,fcntl.LOCK_EX)"
    command = ["ip", "netns", "exec", place, sys.executable, "-c", f"{code}; print(flush=True); time.sleep(60)"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline() == b"\n"
        with pytest.raises(errors.Busy, match=f"somebody else changes network namespace {place}"):
            attach("app1", [Card("front")], place)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert sweeping.sweep(set, place) == []
