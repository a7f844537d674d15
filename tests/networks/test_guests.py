"""The same with a Linux that boots: it asks DHCP for its address, finds its neighbour, and nothing else (R9.2, R11.1).

app1 and app2 are on a mapped network; their second cards are not. app1 is tested meanwhile, with the address that it
has: the test machine does not reach app2, and nobody notices that there are two of it. Of app2 only a sweep boots a
Linux; else it is a program at the taps.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guestkit import Guest
from netkit import Card, devices, servers, wait_until
from station import Station, answering

from secondsite.orchestration.networks import namespaces
from secondsite.orchestration.networks.attaching import attach, detach

pytestmark = pytest.mark.needs("root", "namespaces", "guest")
Start = Callable[..., Guest]
ADDRESS = r"ADDRESS eth0 10\.1\.0\.11/24 via 10\.1\.0\.1 mtu 1500"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Boots a machine on its taps, as a hypervisor does it."""
    running: list[tuple[Guest, str, str]] = []

    def boot(machine: str, place: str, cards: list[Card], *options: str) -> Guest:
        folder = tmp_path / machine
        folder.mkdir()
        given = []
        for number, tap in enumerate(attach(machine, cards, place)):
            given += ["-netdev", f"tap,id=net{number},ifname={tap.name},script=no,downscript=no", "-device",
                      f"virtio-net-pci,netdev=net{number},mac={tap.mac},romfile="]  # fmt: skip
        do = " ".join(["network", *(f"secondsite.{option}" for option in options)])
        running.append((namespaces.within(place, lambda: Guest(folder, given, do)), machine, place))
        return running[-1][0]

    yield boot
    for guest, machine, place in running:
        guest.stop()
        detach(machine, place)


def said(guest: Guest, what: str, times: int = 1) -> bool:
    return len(re.findall(rf"^{what}\r?$", guest.serial(), re.MULTILINE)) >= times


def test_a_linux_finds_its_neighbour_and_nothing_else(place: str, start: Start, sweep: bool) -> None:
    test = namespaces.of_test("a drill", place)
    cards = [[Card("front", address=f"10.1.0.1{n}/24", gateway="10.1.0.1"), Card(None)] for n in (1, 2)]
    copy = [Card("front", address="10.1.0.11/24", gateway="10.1.0.1", isolated=True), Card(None)]
    tested = start("app1 - Test", test, copy, "ping=10.1.0.12", "static=eth1:10.2.0.1/24")
    app1 = start("app1", place, cards[0], "ping=10.1.0.12,10.2.0.2", "static=eth1:10.2.0.1/24")
    with contextlib.ExitStack() as stack:
        if sweep:
            app2 = start("app2", place, cards[1], "ping=10.1.0.11", "static=eth1:10.2.0.2/24")
            app2.wait(lambda: said(app2, r"REACHES 10\.1\.0\.11", 2))
        else:
            for tap, address in zip(attach("app2", cards[1], place), ("10.1.0.12", "10.2.0.2"), strict=True):
                stack.enter_context(answering(stack.enter_context(Station(tap.name, tap.mac, place, address))))
        for guest in (tested, app1):
            guest.wait(lambda guest=guest: said(guest, ADDRESS))  # type: ignore[misc]
        app1.wait(lambda: said(app1, r"REACHES 10\.1\.0\.12", 2) and said(app1, r"MISSES 10\.2\.0\.2", 2))
        tested.wait(lambda: said(tested, r"MISSES 10\.1\.0\.12", 2))
    assert not said(tested, "REACHES .*") and not said(app1, r"REACHES 10\.2\.0\.2")
    for machine, where in (("app1 - Test", test), ("app1", place), ("app2", place)):
        detach(machine, where)
    wait_until(lambda: not servers(place))
    assert devices(place) == {}
    assert namespaces.of_tests(place) == []
