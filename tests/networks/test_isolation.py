"""Two sites in namespaces: who reaches whom after a failover, and in a test of it (R9.2, R11.1, R11.2).

The guests are programs at the taps; tests/networks/test_guests.py has the same with a Linux that boots.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest
from namespaces import Host, ip, row
from netkit import devices, wait_for_port
from station import Station, answering, reaches

from secondsite.orchestration.estate.loading import parse
from secondsite.orchestration.mapping.explain import Mapper
from secondsite.orchestration.mapping.placement import Facts
from secondsite.orchestration.networks import connections, names, namespaces, probing
from secondsite.orchestration.networks.attaching import attach, detach
from secondsite.orchestration.networks.connections import Cards

pytestmark = pytest.mark.needs("root", "namespaces")
NET = '{ name = "servers", range = "10.1.0.0/24", gateway = "10.1.0.1", pool = ["10.1.0.10", "10.1.0.20"] }'
ESTATE = f"""
vault = {{ name = "v", region = "r", subscription = "s" }}
site = [{{ name = "london" }}, {{ name = "leeds" }}]
server = [{{ name = "vl", site = "london", version = "2012 R2", provider = "3" }},
          {{ name = "vd", site = "leeds", version = "2012 R2", provider = "3" }}]
cloud = [{{ name = "gold", server = "vl" }}, {{ name = "gold-dr", server = "vd" }}]
host = [{{ name = "lon", cloud = "gold" }}, {{ name = "lds", cloud = "gold-dr", path = "/r" }}]
network = [
  {{ name = "front", server = "vl", bridge = "front0", subnets = [{NET}] }}, {{ name = "back", server = "vl" }},
  {{ name = "front-dr", server = "vd", bridge = "front-dr0", subnets = [{NET}] }},
  {{ name = "lab", server = "vd", bridge = "lab0", subnets = [{NET}] }},
]
policy = [{{ name = "p", copy_frequency = 300, additional = 1 }}]
protection = [{{ name = "a", scenario = "S2", source = "gold", target = "gold-dr", policy = "p" }}]
machine = [
  {{ name = "app1", host = "lon", disks = [], nics = [{{ network = "front", address = "10.1.0.11" }}] }},
  {{ name = "app2", host = "lon", disks = [], nics = [{{ network = "front", address = "10.1.0.12" }}] }},
  {{ name = "app3", host = "lon", disks = [], nics = [{{ network = "back", address = "10.1.0.13" }}] }},
]
item = [{{ machine = "app1", protection = "a" }}, {{ machine = "app2", protection = "a" }},
        {{ machine = "app3", protection = "a" }}]
[mapping]
network = [{{ source = "front", target = "front-dr" }}]
"""
MAPPER = Mapper.of(parse(ESTATE.encode()).estate)


@pytest.fixture
def sites() -> Iterator[list[Host]]:
    """One Ethernet over both sites: bridges of the user's, joined by a cable."""
    with row("lon", "lds") as hosts:
        for host, bridge, port in zip(hosts, ("front0", "front-dr0"), ("to-lds", "to-lon"), strict=True):
            ip("-n", host.namespace, "link", "add", bridge, "type", "bridge")
            ip("-n", host.namespace, "link", "set", port, "master", bridge)
            ip("-n", host.namespace, "link", "set", bridge, "up")
        yield hosts


def cards(machine: str, kind: str, host: str, taken: frozenset[str] = frozenset()) -> Cards:
    mapper = connections.onto(MAPPER, "lab") if kind == "lab" else MAPPER
    found = mapper.machine(machine)
    assert found is not None
    made, networks = mapper.place(*found, Facts(taken)).connections, mapper.index.tables["network"]
    if kind == "home":
        return connections.back(found[2], networks, mapper.network, [], [])
    if kind == "copy":
        return connections.isolated(found[2], made, networks, "drill", host)
    return connections.unconnected(found[2]) if kind == "none" else connections.real(found[2], made, networks)


class Site:
    """Machines that run, each as a station with the address of its first card."""

    def __init__(self, host: Host, stack: contextlib.ExitStack) -> None:
        self.host, self._stack = host, stack

    def start(self, machine: str, kind: str, *, test: str = "") -> Station:
        named = cards(machine, kind, self.host.namespace)
        place = named.namespace or self.host.namespace
        (tap,) = attach(f"{machine}{test}", named.nics, place, dhcp=False)
        self._stack.callback(detach, f"{machine}{test}", place)
        address = named.nics[0].address or "10.1.0.13/24"
        made = self._stack.enter_context(Station(tap.name, tap.mac, place, address.partition("/")[0]))
        wait_for_port(place, tap.name)
        return made


def test_who_reaches_whom(sites: list[Host]) -> None:
    before = [devices(host.namespace).keys() for host in sites]
    with contextlib.ExitStack() as stack:
        london, leeds = (Site(host, stack) for host in sites)
        at_home = london.start("app1", "home")
        over = leeds.start("app2", "real")
        unmapped = leeds.start("app3", "real")
        tested = [leeds.start(name, "copy", test=" - Test") for name in ("app1", "app2")]
        alone = leeds.start("app3", "none", test=" - Test")
        assert reaches(at_home, over) and reaches(over, at_home)
        # The same addresses as at home and as failed over, and the same cards.
        assert [one.address for one in tested] == [at_home.address, over.address]
        assert [one.mac for one in tested] == [at_home.mac, over.mac]
        assert reaches(*tested) and reaches(*reversed(tested))
        for one, other in itertools.permutations([over, at_home, unmapped, alone, tested[0]], 2):
            if {one, other} != {over, at_home}:
                one.forget()
                other.forget()
                assert not reaches(one, other, 0.08)
                assert one.from_guests() == other.from_guests() == []
    assert [devices(host.namespace).keys() for host in sites] == before
    assert namespaces.of_tests(sites[1].namespace) == []


def test_an_address_that_the_other_site_uses_is_seen(sites: list[Host]) -> None:
    """R11.7: the machine that fails over gets another one; on a network that is full it is refused."""
    with contextlib.ExitStack() as stack:
        home = Site(sites[0], stack).start("app1", "home")
        here = sites[1].namespace
        attach("app1", cards("app1", "real", here).nics, here, dhcp=False)
        stack.callback(detach, "app1", here)
        home.send(home.ask("10.1.0.99"))  # the bridges learn where it is
        probe = probing.in_use("front-dr0", ["10.1.0.12"], here, seconds=0.1)
        assert probe == {}
        stack.enter_context(answering(home))
        taken = probing.in_use("front-dr0", ["10.1.0.11", "10.1.0.12"], here, seconds=0.6)
        assert taken == {"10.1.0.11": home.mac.hex(":")}
    found = cards("app1", "real", "", frozenset(taken))
    assert found.nics[0].address == "10.1.0.10/24" and not found.problems
    full = cards("app1", "real", "", frozenset(f"10.1.0.{number}" for number in range(10, 21)))
    assert full.problems == ("R11.7: no address of the pool 10.1.0.10 to 10.1.0.20 is free",)


def test_a_test_on_a_network_that_is_there_and_leads_nowhere(sites: list[Host]) -> None:
    """R9.2; it is the user's: nothing of it goes with the test."""
    place = sites[1].namespace
    ip("-n", place, "link", "add", "lab0", "type", "bridge")
    ip("-n", place, "link", "set", "lab0", "up")
    with contextlib.ExitStack() as stack:
        leeds = Site(sites[1], stack)
        over, tested, other = leeds.start("app1", "real"), *(leeds.start(n, "lab", test="T") for n in ("app1", "app2"))
        assert reaches(tested, other)
        assert not reaches(tested, over, 0.1) and not reaches(over, other, 0.1)
    assert "lab0" in devices(place)
    assert not any(name.startswith(names.tap("app1T", 0)) for name in devices(place))
