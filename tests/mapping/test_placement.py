"""Hosts and storage, and the whole of a machine's placement in the sample estates."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from secondsite.orchestration import cli
from secondsite.orchestration.mapping.explain import Mapper
from secondsite.orchestration.mapping.placement import Facts, Placement

sys.path.insert(0, str(Path(__file__).parents[1] / "estate"))
import samples

MIB = 1 << 20
ITEM = 'protection = "london-to-azure"\n'


def place(scenario: str, machine: str, *edits: tuple[str, str], facts: Facts | None = None) -> Placement:
    mapper = Mapper.of(samples.edited(scenario, *edits).estate)
    found = mapper.machine(machine)
    assert found is not None
    return mapper.place(*found, facts or Facts())


def test_r11_6_the_host_reaches_the_networks_and_has_the_storage() -> None:
    placed = place("S2", "app1")
    assert placed.host is not None and (placed.host.value, placed.host.rule) == ("lds1", "R11.6")
    assert placed.disks["/csv/fast/app1.vhdx"].value == "/fast" and not placed.all_problems
    moved = place("S2", "app1", ('{ host = "lds1", path = "/fast" }, ', ""))
    assert moved.host is not None and moved.host.value == "lds2"


def test_r11_6_no_host_reaches_the_network() -> None:
    placed = place("S2", "app1", ('logical = ["recovery"]', "logical = []"), ('["recovery", "lab"]', '["lab"]'))
    assert placed.host is None
    assert placed.all_problems == ["R11.6: no host at 'gold-dr' reaches prod-dr"]


def test_r11_10_of_several_places_the_one_with_most_room() -> None:
    second = ('{ host = "lds1", path = "/fast" }', '{ host = "lds1", path = "/fast" }, { host = "lds1", path = "/f2" }')
    facts = Facts(free={("lds1", "/fast"): 5 * MIB, ("lds1", "/f2"): 9 * MIB, ("lds2", "/fast"): MIB})
    assert place("S2", "app1", second, facts=facts).disks["/csv/fast/app1.vhdx"].value == "/f2"
    full = Facts(free={("lds1", "/fast"): 0, ("lds2", "/fast"): 1 << 40})
    sized = ('classification = "fast" }', 'classification = "fast", size = 1073741824 }')
    placed = place("S2", "app1", sized, facts=full)
    assert placed.host is not None and placed.host.value == "lds2"


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (('[[mapping.storage]]\nsource = "fast"\ntarget = "fast-dr"', ""), "fast is not mapped"),
        (('host = "lds1", path = "/fast" }, { host = "lds2"', 'host = "lon-cluster"'), "has no room for it"),
    ],
)
def test_r11_10_unmapped_or_without_a_place_it_is_the_default_location(edit: tuple[str, str], why: str) -> None:
    chosen = place("S2", "app1", edit).disks["/csv/fast/app1.vhdx"]
    assert (chosen.value, chosen.rule) == ("/replicas", "R11.10") and why in chosen.why


def test_r11_10_without_a_default_location_it_fails() -> None:
    placed = place("S2", "app1", ('path = "/replicas"\n', ""))
    assert placed.all_problems == [
        "R11.10: disk '/csv/bulk/app1-data.vhdx': the disk has no classification, and lds1 has no default location"
    ]


def test_r11_11_the_pool_of_an_arrays_group() -> None:
    placed = place("S3", "erp1")
    assert [chosen.value for chosen in placed.disks.values()] == ["san-leeds/p1"]
    assert place("S3", "erp1", ("[[mapping.pool]]", "[[mapping.array]]"), ('"san-london/p1"', '"san-london"'),
                 ('"san-leeds/p1"', '"san-leeds"')).all_problems  # fmt: skip


def test_r6_6_a_disk_that_is_left_out_goes_nowhere() -> None:
    assert "/vm/db1/swap.vhdx" not in place("S1", "db1").disks


def test_the_command_explains_and_fails_where_the_failover_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "estate.toml"
    path.write_text(samples.text("S2"))
    assert cli.run(["mapping", "explain", "app1", "--estate", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "R11.6" in shown and "10.1.0.20" in shown
    path.write_text(samples.text("S2").replace(', pool = ["10.1.0.10", "10.1.0.200"]', ""))
    assert cli.run(["mapping", "explain", "app1", "--estate", str(path)]) == 3
    assert "R11.7" in capsys.readouterr().err


SECOND = """
[[network]]
name = "lab"
server = "vmm-london"
[[network]]
name = "azure-lab"
azure = true
[[mapping.network]]
source = "lab"
target = "azure-lab"
"""


def test_r11_9_a_smaller_machine_is_not_refused_for_cards_that_it_does_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, text = tmp_path / "estate.toml", samples.text("S4")
    wanted = '{ network = "prod", subnet = "servers", address = "10.1.0.11" }'
    small = text.replace(wanted, '{ network = "prod" }, { network = "lab" }').replace(ITEM, f"{ITEM}cards = 1\n")
    path.write_text(small + SECOND)
    assert cli.run(["mapping", "explain", "web1", "--estate", str(path)]) == 0
    assert re.search(r"card 2 +- +R11.9 +the machine there has 1\n", capsys.readouterr().out)


@pytest.mark.parametrize(("rule", "card", "told"), [
    ("R11.8", '{ network = "prod", target_address = "10.8.0.4" }',
     "10.8.0.4 is not in subnet 'servers' (10.9.0.0/24)"),
    ("R11.9", '{ network = "prod" }, { network = "lab" }', "all cards of a machine are in one network, here "),
])  # fmt: skip
def test_what_would_fail_in_azure_is_refused_before_it_is_protected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: str, card: str, told: str
) -> None:
    """By `apply` too, so that no failover comes to it (R11.8, R11.9)."""
    path, vault = tmp_path / "estate.toml", str(tmp_path / "vault.db")
    text, wanted = samples.text("S4"), '{ network = "prod", subnet = "servers", address = "10.1.0.11" }'
    assert wanted in text
    path.write_text(text.replace(wanted, card) + SECOND)
    assert cli.run(["mapping", "explain", "web1", "--estate", str(path)]) == 3
    assert f"{rule}: {told}" in capsys.readouterr().err
    assert cli.run(["vault", "init", "--vault", vault]) == 0
    capsys.readouterr()
    assert cli.run(["apply", str(path), "--vault", vault]) == 3
    found, line = capsys.readouterr()
    assert f"{rule}: machine 'web1': {told}" in found
    assert line == f"secondsite: {path}: 1 rule is broken; nothing was changed\n"
