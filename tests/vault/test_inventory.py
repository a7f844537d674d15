"""An estate is planned and applied: what changes, what is refused, and that applying again changes nothing."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import select, update

sys.path.insert(0, str(Path(__file__).parents[1] / "estate"))
import samples

from secondsite.engine import errors
from secondsite.orchestration.estate.loading import parse
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.scenarios.matrix import SCENARIOS
from secondsite.orchestration.vault import database, inventory, schema
from secondsite.orchestration.vault.database import Database
from secondsite.orchestration.vault.inventory import Plan

NOW = 1_800_000_000.0
Edit = tuple[str, str]
WEB1 = '[[item]]\nmachine = "web1"\nprotection = "rotterdam-to-azure"\nnetwork = "azure-lan"\nsubnet = "web"\n'
DB1 = '[[item]]\nmachine = "db1"\nprotection = "rotterdam-to-azure"\nnetwork = "azure-lan"\nsubnet = "servers"\n'


def text(scenario: str, *edits: Edit) -> str:
    found = samples.text(scenario)
    for old, new in edits:
        assert old in found, old
        found = found.replace(old, new)
    return found


def apply(vault: Database, scenario: str, *edits: Edit) -> Plan:
    return inventory.apply(vault, parse(text(scenario, *edits).encode()), "me", NOW)


def items(vault: Database) -> dict[str, inventory.Item]:
    with vault.begin() as connection:
        return {item.machine: item for item in inventory.items(connection)}


def told(plan: Plan, kind: str = "item") -> list[str]:
    return [str(change) for change in plan.changes if change.kind == kind]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_sample_is_applied_and_applying_it_again_changes_nothing(vault: Database, scenario: str) -> None:
    first = apply(vault, scenario)
    held = items(vault)
    disks = [(one.machine, *disk) for one in held.values() for disk in one.disks.items()]
    said = [f"add disk item {machine}: {path} to {place}" for machine, path, place in disks]
    assert bool(told(first, "mapping")) == ("[mapping" in text(scenario)), "what the file does not have is not added"
    assert held and sorted(change for change in told(first) if not change.startswith("enable item")) == sorted(said)
    assert all(item.state is State.READY_FOR_INITIAL_REPLICATION and item.disks for item in held.values())
    assert apply(vault, scenario).changes == ()
    assert items(vault) == held


def test_replicas_lie_where_the_mapping_and_the_account_say(vault: Database) -> None:
    apply(vault, "S1")
    assert items(vault)["db1"].disks == {
        "/vm/db1/system.vhdx": "azure://recovery/rotterdam/db1/system",
        "/vm/db1/data.vhdx": "azure://recovery/rotterdam/db1/data",
    }


def test_an_agent_has_replicas_side_by_side_and_a_folder_has_one_a_machine(vault: Database) -> None:
    apply(vault, "S2", ('address = "lds1.example:8084"\n', ""))
    disks = items(vault)["app1"].disks
    assert disks["/csv/fast/app1.vhdx"] == "/fast/app1/app1"
    assert disks["/csv/bulk/app1-data.vhdx"] == "/replicas/app1/app1-data"


def test_two_disks_of_one_name_have_two_replicas(vault: Database) -> None:
    apply(vault, "S1", ("/vm/db1/data.vhdx", "/vm/db1-data/system.vhdx"))
    disks = items(vault)["db1"].disks
    assert len(set(disks.values())) == 2 and all("/db1/system-" in one for one in disks.values())


def test_items_come_and_go_and_so_do_disks(vault: Database) -> None:
    place = "azure://recovery/rotterdam"
    assert told(apply(vault, "S1", (DB1, ""))) == [
        "enable item web1: by rotterdam-to-azure", f"add disk item web1: /vm/web1/system.vhdx to {place}/web1/system",
    ]  # fmt: skip
    assert told(apply(vault, "S1"))[0] == "enable item db1: by rotterdam-to-azure"
    swap = ("size = 17179869184, exclude = true", "size = 17179869184")
    assert told(apply(vault, "S1", swap)) == [f"add disk item db1: /vm/db1/swap.vhdx to {place}/db1/swap"]
    assert set(items(vault)["db1"].disks) == {f"/vm/db1/{name}.vhdx" for name in ("system", "data", "swap")}
    assert told(apply(vault, "S1")) == ["remove disk item db1: /vm/db1/swap.vhdx"]
    assert told(apply(vault, "S1", (DB1, ""))) == ["disable item db1: the replica stays (R1.10)"]


def test_a_replica_goes_with_its_item_where_the_policy_says_so(vault: Database) -> None:
    reach = ("logical = [\"recovery\"", "reach = [\"ssh\", \"lds\"]\nlogical = [\"recovery\"")
    apply(vault, "S2", reach)
    gone = ('[[item]]\nmachine = "app1"\nprotection = "london-to-leeds"\nmedium = "/media/seeds"\n', "")
    assert told(apply(vault, "S2", reach, gone)) == ["disable item app1: the replica is deleted (R1.10)"]


def test_a_replica_that_only_its_host_could_delete_is_said_to_stay(vault: Database) -> None:
    apply(vault, "S2")
    stay = ", ".join(items(vault)["app1"].disks.values())
    gone = ('[[item]]\nmachine = "app1"\nprotection = "london-to-leeds"\nmedium = "/media/seeds"\n', "")
    assert told(apply(vault, "S2", gone)) == [
        f"disable item app1: replicas stay that only their host can delete, as no reach is said for it: {stay} (R1.10)"
    ]


def test_r1_5_what_a_pair_leads_to_stays_while_machines_are_protected_by_it(vault: Database) -> None:
    second = ("[[policy]]", '[[account]]\nname = "two"\nurl = "azure://two/x"\nregion = "westeurope"\n'
              'subscription = "4f1e"\nredundancy = "GRS"\n\n[[policy]]')  # fmt: skip
    apply(vault, "S1")
    before = items(vault)
    with pytest.raises(errors.Refused, match=r"line \d+: R1\.5: target of 'rotterdam-to-azure' was"):
        apply(vault, "S1", second, ('target = "contosorecovery"', 'target = "two"'))
    assert items(vault) == before


def test_r1_6_another_place_is_for_those_that_are_enabled_afterwards(vault: Database) -> None:
    apply(vault, "S1", (DB1, ""))
    apply(vault, "S1", ("azure://recovery/rotterdam", "azure://elsewhere/rotterdam"))
    held = items(vault)
    assert held["web1"].disks == {"/vm/web1/system.vhdx": "azure://recovery/rotterdam/web1/system"}
    assert held["db1"].disks["/vm/db1/data.vhdx"] == "azure://elsewhere/rotterdam/db1/data"


def test_a_broken_rule_changes_nothing(vault: Database) -> None:
    apply(vault, "S1")
    before = items(vault)
    with pytest.raises(errors.Refused, match=r"line \d+: R12\.11"):
        apply(vault, "S1", (WEB1, ""), ('redundancy = "GRS"', 'redundancy = "LRS"'))
    with pytest.raises(errors.Refused, match=r"R11\.8"):
        apply(vault, "S1", ("10.1.0.11", "10.1.0.13"), ('target_address = "10.9.1.11"', 'target_address = "10.7.0.1"'))
    assert items(vault) == before


def test_a_policy_that_changes_is_told_with_its_values(vault: Database) -> None:
    apply(vault, "S1")
    changed = apply(vault, "S1", ("copy_frequency = 30", "copy_frequency = 300"))
    assert told(changed, "policy") == ["change policy half-minute: copy_frequency 30 to 300"]
    assert told(apply(vault, "S1", ('region = "West Europe"', 'region = "westeurope"')), "vault") == [
        "change vault contoso: region 'West Europe' to 'westeurope'"
    ]


def due(vault: Database, machine: str) -> float:
    with vault.begin() as connection:
        found = connection.execute(select(schema.item.c.due).where(schema.item.c.machine == machine)).scalar()
    assert found is not None
    return float(found)


def test_a_frequency_that_goes_up_counts_at_once(vault: Database) -> None:
    """Items that were apart stay apart; one that waits after an error goes on waiting."""
    slow, mended = ("copy_frequency = 30", "copy_frequency = 300"), schema.item.c.machine == "web1"
    apply(vault, "S1", slow)
    with vault.begin() as connection:
        connection.execute(update(schema.item).values(state=int(State.REPLICATING), failures=1, due=NOW + 287))
        connection.execute(update(schema.item).where(mended).values(failures=0))
    apply(vault, "S1")
    assert (due(vault, "web1"), due(vault, "db1")) == (NOW + 17, NOW + 287)
    apply(vault, "S1", slow)
    assert due(vault, "web1") == NOW + 17


@pytest.mark.parametrize(("zone", "hours"), [("Europe/Amsterdam", 9), ("UTC", 10), ("America/New_York", 15)])
def test_r5_2_a_first_copy_begins_at_the_time_of_the_source_host(vault: Database, zone: str, hours: int) -> None:
    """NOW is 2027-01-15 08:00 UTC."""
    at = ("copy_frequency = 30", "copy_frequency = 30\ninitial_at = 2027-01-15T18:00:00")
    host = ('name = "hv1"', f'name = "hv1"\nzone = "{zone}"')
    apply(vault, "S1", at, host)
    assert due(vault, "web1") == NOW + hours * 3600
    apply(vault, "S1", (at[0], at[1].replace("18:00:00", "20:00:00Z")), host)
    assert due(vault, "web1") == NOW + 12 * 3600
    apply(vault, "S1")
    assert due(vault, "web1") == NOW


def test_r5_2_it_begins_within_a_week(vault: Database) -> None:
    week = "2027-01-22T08:00:0"
    later = ("copy_frequency = 30", f"copy_frequency = 30\ninitial_at = {week}1Z")
    with pytest.raises(errors.Refused, match=r"line \d+: R5\.2: .* in 7 days; at most 7"):
        apply(vault, "S1", later)
    apply(vault, "S1", (later[0], later[1].replace(f"{week}1Z", f"{week}0Z")))
    assert due(vault, "web1") == NOW + 7 * 86400
    assert not apply(vault, "S1", later).findings, "those that are enabled already wait for what is said now"


def test_two_that_apply_at_once_enable_once(vault: Database) -> None:
    failed: list[BaseException] = []
    plans: list[Plan] = []

    def run() -> None:
        try:
            plans.append(apply(vault, "S4"))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert sum(bool(plan.changes) for plan in plans) == 1 and len(plans) == 4


def test_a_rotten_value_is_damage_and_a_rotten_packed_estate_is_read_from_its_text(tmp_path: Path) -> None:
    """A byte that flipped in the file of a vault is no bug of this program; PostgreSQL has its own checksums."""
    with database.create(str(tmp_path / "vault.db")) as vault:
        apply(vault, "S1")
        with vault.begin() as connection:
            whole = inventory.last_estate(connection)
            connection.exec_driver_sql("UPDATE revision SET packed = '{' || packed")
            connection.exec_driver_sql("UPDATE item SET statistics = '{' || statistics")
            assert inventory.last_estate(connection) == whole is not None
        with pytest.raises(errors.Damaged, match=r"cannot be read.*vault rebuild"):
            lookup.load(vault)
