"""Networks, subnets and addresses after a failover and after the way back: one test a rule."""

from __future__ import annotations

import msgspec
import pytest

from secondsite.orchestration.estate.model import Item, Machine, Network, Nic, Subnet
from secondsite.orchestration.mapping.networks import connect, failback
from secondsite.orchestration.mapping.placement import Chosen, Connection, Facts
from secondsite.orchestration.scenarios import matrix

ROW = matrix.load().by_id("network-mapping")
HERE, AZURE, OWN = ROW.cell("S2"), ROW.cell("S4"), ROW.cell("S1")
POOLED = Subnet(name="servers", range="10.0.0.0/24", pool=("10.0.0.10", "10.0.0.12"))
PLAIN = Subnet(name="edge", range="10.1.0.0/24")
NETWORKS = {
    one.name: one
    for one in (
        Network(name="dr", subnets=(PLAIN, POOLED)),
        Network(name="bare"),
        Network(name="virtual", virtualized=True, subnets=(POOLED,)),
        Network(name="virtual-bare", virtualized=True, subnets=(PLAIN,)),
        Network(name="azure", azure=True, subnets=(PLAIN, POOLED)),
        Network(name="azure-2", azure=True, subnets=(PLAIN,)),
        Network(name="azure-tiny", azure=True, subnets=(Subnet(name="t", range="10.3.0.0/29"),)),
    )
}
ALL = {f"10.0.0.{n}" for n in (10, 11, 12)}
ITEM = Item(machine="m", protection="p")


def one(nic: Nic, mapped: dict[str, str], *, cell: matrix.Cell = HERE, taken: set[str] | None = None) -> Connection:
    machine = Machine(name="m", host="h", disks=(), nics=(nic,))
    return connect(ITEM, machine, cell, NETWORKS, mapped, Facts(frozenset(taken or ())))[0]


def test_r11_1_an_unmapped_network_is_no_network() -> None:
    nothing = Chosen(None, "R11.1", "lan is not mapped: it is connected to nothing")
    assert one(Nic(network="lan"), {}) == Connection(nothing)
    assert "of its recovery plan" in one(Nic(network="lan"), {}, cell=AZURE).network.why
    assert one(Nic(), {"lan": "dr"}).network.value is None


def test_r11_2_many_networks_may_be_mapped_to_one() -> None:
    mapped = {"lan": "dr", "dmz": "dr"}
    assert [one(Nic(network=name), mapped).network.value for name in mapped] == ["dr", "dr"]


def test_r11_3_the_subnet_of_the_same_name_or_the_first() -> None:
    assert one(Nic(network="lan", subnet="servers"), {"lan": "dr"}).subnet == Chosen(
        "servers", "R11.3", "the subnet of the same name"
    )
    other = one(Nic(network="lan", subnet="backup"), {"lan": "dr"}).subnet
    assert other is not None and (other.value, other.rule) == ("edge", "R11.3")
    none = one(Nic(network="lan"), {"lan": "bare"}).subnet
    assert none is not None and none.value is None


@pytest.mark.parametrize(
    ("taken", "expected"),
    [(set(), "10.0.0.11"), ({"10.0.0.11"}, "10.0.0.10"), ({"10.0.0.10", "10.0.0.11"}, "10.0.0.12")],
)
def test_r11_7_the_same_address_if_it_is_free_else_another(taken: set[str], expected: str) -> None:
    found = one(Nic(network="lan", subnet="servers", address="10.0.0.11"), {"lan": "dr"}, taken=taken).address
    assert found is not None and found.value == expected


@pytest.mark.parametrize(
    ("nic", "target", "taken", "message"),
    [
        (Nic(network="lan", address="10.1.0.5"), "dr", set(), "10.1.0.5 is static"),
        (Nic(network="lan", address="10.1.0.5"), "bare", set(), "10.1.0.5 is static"),
        (Nic(network="lan"), "virtual-bare", set(), "is virtualized and has no pool"),
        (Nic(network="lan", subnet="servers", address="10.0.0.11"), "dr", ALL, "no address of"),
    ],
)
def test_r11_7_without_an_address_the_failover_fails(nic: Nic, target: str, taken: set[str], message: str) -> None:
    problem = one(nic, {"lan": target}, taken=taken).problem
    assert problem is not None and problem.startswith("R11.7: ") and message in problem


def test_r11_7_dhcp_is_not_ours_but_in_a_virtualized_network() -> None:
    found = one(Nic(network="lan", subnet="servers"), {"lan": "dr"}).address
    assert found is not None and found.value is None
    found = one(Nic(network="lan"), {"lan": "virtual"}).address
    assert found is not None and found.value == "10.0.0.10"


def test_r11_8_azure_takes_the_named_address_or_any_free_one() -> None:
    named = one(Nic(network="lan", target_address="10.1.0.9"), {"lan": "azure"}, cell=AZURE)
    assert named.address is not None and named.address.value == "10.1.0.9" and not named.problem
    free = one(Nic(network="lan", address="10.9.9.9"), {"lan": "azure"}, cell=AZURE, taken={"10.1.0.4"}).address
    assert free is not None and free.value == "10.1.0.5"


@pytest.mark.parametrize(
    ("nic", "target", "taken", "message"),
    [
        (Nic(network="lan", target_address="10.1.0.9"), "azure", {"10.1.0.9"}, "is in use"),
        (Nic(network="lan", target_address="10.7.0.9"), "azure", set(), "is not in subnet 'edge'"),
        (Nic(network="lan"), "azure-tiny", {f"10.3.0.{n}" for n in (4, 5, 6)}, "no address of subnet 't'"),
    ],
)
def test_r11_8_an_address_in_use_fails(nic: Nic, target: str, taken: set[str], message: str) -> None:
    problem = one(nic, {"lan": target}, cell=AZURE, taken=taken).problem
    assert problem is not None and problem.startswith("R11.8: ") and message in problem


def test_r11_9_as_many_cards_as_the_target_has_all_in_one_network() -> None:
    machine = Machine(name="m", host="h", disks=(), nics=(Nic(network="a"), Nic(network="b"), Nic(network="a")))
    mapped = {"a": "azure", "b": "azure-2"}
    made = connect(ITEM, machine, AZURE, NETWORKS, mapped, Facts())
    assert [bool(card.problem) for card in made] == [False, True, False]
    assert made[1].problem is not None and made[1].problem.startswith("R11.9")
    small = msgspec.structs.replace(ITEM, cards=1)
    assert [card.problem for card in connect(small, machine, AZURE, NETWORKS, mapped, Facts())] == [None]
    here = connect(ITEM, machine, HERE, NETWORKS, {"a": "bare", "b": "dr"}, Facts())
    assert [card.problem for card in here] == [None] * 3


def test_two_cards_of_a_machine_never_get_one_address() -> None:
    machine = Machine(name="m", host="h", disks=(), nics=(Nic(network="a"), Nic(network="a")))
    made = connect(ITEM, machine, AZURE, NETWORKS, {"a": "azure"}, Facts())
    assert [card.address.value for card in made if card.address] == ["10.1.0.4", "10.1.0.5"]


def test_s1_an_item_names_its_own_network_and_subnet() -> None:
    item = Item(machine="m", protection="p", network="azure", subnet="servers")
    machine = Machine(name="m", host="h", disks=(), nics=(Nic(network="lan", subnet="edge"),))
    made = connect(item, machine, OWN, NETWORKS, {}, Facts())[0]
    assert (made.network.value, made.subnet and made.subnet.value) == ("azure", "servers")
    assert one(Nic(network="lan"), {}, cell=OWN).network.value is None


@pytest.mark.parametrize(
    ("now", "back", "expected"),
    [
        ("dr", {}, "lan"),
        ("dr", {"dr": "lan"}, "lan"),
        (None, {"dr": "lan"}, None),
        ("lab", {"dr": "lan"}, None),
        ("dr", {"dr": "new"}, "new"),
        ("lab", {"lab": "test"}, "test"),
    ],
)
def test_r11_5_the_way_back(now: str | None, back: dict[str, str], expected: str | None) -> None:
    """Unchanged; unchanged and mapped; disconnected by its user; moved to an unmapped network; the map was changed."""
    assert failback("lan", now, "dr", back).value == expected
