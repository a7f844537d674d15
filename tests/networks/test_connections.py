"""What a host is told of a machine's cards: after each kind of failover, in tests, and after the way back."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from secondsite.orchestration.estate.model import Machine, Network, Nic, Subnet
from secondsite.orchestration.hosts.spec import NicSpec
from secondsite.orchestration.mapping.explain import Mapper
from secondsite.orchestration.mapping.placement import Connection, Facts
from secondsite.orchestration.networks import connections, names, namespaces

sys.path.insert(0, str(Path(__file__).parents[1] / "estate"))
import samples

GATEWAY = ('range = "10.1.0.0/24", pool', 'range = "10.1.0.0/24", gateway = "10.1.0.1", pool')
SECOND = ('address = "10.1.0.20" }', 'address = "10.1.0.20" }, { network = "lab" }')
LAB = ("[[classification]]", '[[network]]\nname = "lab"\nserver = "vmm-london"\n\n[[classification]]')


def placed(
    scenario: str, name: str, *edits: tuple[str, str], taken: frozenset[str] = frozenset(), onto: str = ""
) -> tuple[Machine, tuple[Connection, ...], dict[str, Network]]:  # fmt: skip
    """(machine, its connections, the networks)."""
    mapper = Mapper.of(samples.edited(scenario, *edits).estate)
    found = mapper.machine(name)
    assert found is not None
    mapper = connections.onto(mapper, onto) if onto else mapper
    return found[2], mapper.place(*found, Facts(taken)).connections, mapper.index.tables["network"]


def test_r11_1_to_r11_7_after_a_failover() -> None:
    machine, made, networks = placed("S2", "app1", GATEWAY, SECOND, LAB)
    cards = connections.real(machine, made, networks)
    first, second = cards.nics
    assert first == NicSpec(names.mac("app1", 0), "br-prod-dr", "10.1.0.20/24", "10.1.0.1")
    assert second == NicSpec(names.mac("app1", 1))
    assert [one.rule for one in cards.why] == ["R11.2", "R11.1"]
    assert cards.namespace is None and not cards.problems
    moved = connections.real(*placed("S2", "app1", GATEWAY, taken=frozenset({"10.1.0.20"})))
    assert moved.nics[0].address == "10.1.0.10/24"


def test_r11_7_a_pool_without_a_free_address_is_a_problem() -> None:
    small = ('pool = ["10.1.0.10", "10.1.0.200"] },\n]', 'pool = ["10.1.0.10", "10.1.0.11"] },\n]')
    everything = frozenset({"10.1.0.10", "10.1.0.11"})
    cards = connections.real(*placed("S2", "app1", small, taken=everything))
    assert cards.problems == ("R11.7: no address of the pool 10.1.0.10 to 10.1.0.11 is free",)


def test_r11_1_in_azure_the_unmapped_cards_of_a_plan_reach_each_other() -> None:
    machine, made, networks = placed("S4", "web1", ('source = "prod"\ntarget', 'source = "azure-prod"\ntarget'))
    one = connections.real(machine, made, networks, azure=True, plan="shop").nics[0]
    other = connections.real(machine, made, networks, azure=True, plan="bank").nics[0]
    assert one.isolated and one.bridge and one.bridge != other.bridge
    alone = connections.real(machine, made, networks, azure=True).nics[0]
    assert alone == NicSpec(one.mac, None, isolated=True)
    assert connections.real(machine, made, networks).nics[0] == NicSpec(one.mac)


def test_r9_2_a_test_has_no_network_or_copies_of_all() -> None:
    machine, made, networks = placed("S2", "app1", GATEWAY, SECOND, LAB)
    real = connections.real(machine, made, networks)
    none = connections.unconnected(machine)
    assert none.nics == tuple(NicSpec(nic.mac) for nic in real.nics) and none.namespace is None
    copies = connections.isolated(machine, made, networks, "drill of app1")
    assert copies.namespace == namespaces.of_test("drill of app1") != namespaces.of_test("another")
    assert copies.nics[0] == NicSpec(real.nics[0].mac, "br-prod-dr", "10.1.0.20/24", "10.1.0.1", isolated=True)
    assert copies.nics[1] == real.nics[1]
    bare = msgspec.structs.replace(machine, nics=())
    assert connections.isolated(bare, (), networks, "drill of app1", "host").namespace == "host", "nothing makes one"


def test_r9_2_r9_4_a_test_on_a_network_that_is_there() -> None:
    lab = (
        "[[classification]]",
        '[[network]]\nname = "lab"\nserver = "vmm-leeds"\nbridge = "br-lab"\nsubnets = '
        '[{ name = "t", range = "10.7.0.0/16", pool = ["10.7.0.5", "10.7.0.9"] }]\n\n[[classification]]',
    )
    cards = connections.real(*placed("S2", "app1", lab, onto="lab", taken=frozenset({"10.7.0.5"})))
    assert cards.nics[0] == NicSpec(names.mac("app1", 0), "br-lab", "10.7.0.6/16")


def test_a_network_without_a_bridge_has_one_of_ours() -> None:
    assert connections.bridge(Network(name="x")) == names.bridge("x")
    assert len(names.bridge("x")) <= 15
    assert connections.network_of(names.bridge("x"), [Network(name="x")]) == "x"
    assert connections.network_of("lan0", [Network(name="x")]) == "lan0"
    assert connections.network_of(None, [Network(name="x")]) is None


HOME = {
    one.name: one
    for one in (
        Network(name="lan", bridge="lan0", subnets=(
            Subnet(name="a", range="10.1.0.0/24"), Subnet(name="b", range="10.2.0.0/24", gateway="10.2.0.1"))),
        Network(name="new", subnets=(Subnet(name="n", range="10.3.0.0/24", pool=("10.3.0.4", "10.3.0.5")),)),
        Network(name="bare"),
    )
}  # fmt: skip
MACHINE = Machine(name="m", host="h", disks=(), nics=(Nic(network="lan", address="10.2.0.7"),))
MAC = names.mac("m", 0)


@pytest.mark.parametrize(
    ("mapped", "now", "expected"),
    [
        ({"lan": "dr"}, "dr", NicSpec(MAC, "lan0", "10.2.0.7/24", "10.2.0.1")),  # unchanged
        ({"lan": "dr", "new": "dr"}, "dr", NicSpec(MAC, "lan0", "10.2.0.7/24", "10.2.0.1")),  # several to one
        ({"lan": "dr"}, None, NicSpec(MAC)),  # disconnected by the user
        ({"lan": "dr"}, "elsewhere", NicSpec(MAC)),  # moved to a network that is not mapped
        ({"lan": "dr", "new": "dr-2"}, "dr-2", NicSpec(MAC, names.bridge("new"), "10.3.0.4/24")),  # moved to a mapped
        ({"new": "dr", "lan": "dr-3"}, "dr", NicSpec(MAC, names.bridge("new"), "10.3.0.4/24")),  # the map changed
        ({"lan": "dr", "dr": "new"}, "dr", NicSpec(MAC, names.bridge("new"), "10.3.0.4/24")),  # mapped back otherwise
    ],
)
def test_r11_5_the_way_back(mapped: dict[str, str], now: str | None, expected: NicSpec) -> None:
    cards = connections.back(MACHINE, HOME, mapped, ["dr"], [now])
    assert cards.nics == (expected,) and not cards.problems
    assert [one.rule for one in cards.why] == ["R11.5"]


def test_r11_1_r11_5_a_card_that_was_never_mapped_comes_home_to_its_network() -> None:
    """Nobody disconnected it: there was nothing that it could be connected to."""
    cards = connections.back(MACHINE, HOME, {}, [None], [None])
    assert cards.nics == (NicSpec(MAC, "lan0", "10.2.0.7/24", "10.2.0.1"),) and not cards.problems


def test_r11_5_r11_7_an_address_that_is_taken_at_home_is_a_problem() -> None:
    cards = connections.back(MACHINE, HOME, {"lan": "dr"}, ["dr"], ["dr"], frozenset({"10.2.0.7"}))
    assert cards.problems == ("R11.7: 10.2.0.7 is in use in 'lan'",)
    bare = connections.back(MACHINE, HOME, {"lan": "x", "bare": "dr"}, ["dr"], ["dr"])
    assert bare.problems[0].startswith("R11.7: 10.2.0.7 is static")


def test_r11_9_a_card_that_had_no_room_comes_back_as_it_was() -> None:
    cards = connections.back(MACHINE, HOME, {}, [], [])
    assert cards.nics[0].bridge == "lan0" and cards.why[0].rule == "R11.9"
