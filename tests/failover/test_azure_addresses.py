"""R11.8 to Azure by the commands: of two machines none gets the address of the other, and one that is named and in use
is refused in one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from azurite.emulator import Azurite, configure
from cloudkit import SIZE, Cloud
from operators import Shell

from secondsite.orchestration.failover import record
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, lookup, said
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import holders, inventory
from secondsite.orchestration.vault.database import Database

pytestmark = pytest.mark.needs("azurite")
SECOND = """
[[machine]]
name = "app2"
host = "h1"
nics = [{{ network = "n1"CARD }}]
disks = [{{ path = "{folder}/other.raw", os = true }}]
[[item]]
machine = "app2"
protection = "pair"
"""


class Two(Cloud):
    """app2 is on the same network; `card` is what its card says more."""

    card = ""

    def apply(self, *, protect: bool = True) -> None:
        first, self.text = self.text, lambda text: first(text) + SECOND.replace("CARD", self.card)
        super().apply(protect=protect)
        self.text = first

    def address(self, machine: str) -> str:
        """That it is to have there."""
        (item,) = lookup.load(self.database, machine)
        assert item.away is not None and item.away.definition is not None
        (nic,) = item.away.definition["nics"]  # type: ignore[misc]
        return str(nic["address"])


@pytest.fixture
def two(folder: Path, vault: Database, azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    configure(azurite, folder, monkeypatch)
    (folder / "other.raw").write_bytes(os.urandom(1 << 20) + bytes(SIZE - (1 << 20)))
    made = Two(folder, vault, azurite)
    with vault.reading() as connection:
        estate = inventory.last_estate(connection)
    assert estate is not None
    cycles = Cycles(vault, holders.new(), EngineWorker(), made.clock.clocks())
    for item in leases.claim(vault, cycles.holder, made.clock.now + 1e9, 2):
        assert cycles.run(item, said.protected(estate)[item.machine]) is None
    yield made
    made.end()


@pytest.mark.sweep(sample=0)
@pytest.mark.parametrize("way", ["by the commands"])
def test_of_two_machines_none_gets_the_address_of_the_other(
    two: Two, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    shell = Shell(capsys, two.folder / "vault.db")
    shell("failover", "unplanned", "app1")
    first = two.address("app1")
    two.card = f', target_address = "{first}"'
    two.apply()
    told = shell("failover", "unplanned", "app2", status=3)
    assert told == f"secondsite: machine 'app2': R11.8: {first} is in use in 'azure-lan'\n"
    (item,) = lookup.load(two.database, "app2")
    assert (item.state, item.failover) == (State.REPLICATING, None)
    two.card = ""
    two.apply()
    shell("failover", "unplanned", "app2")
    assert two.address("app2") != first


def test_what_a_machine_in_azure_is_to_have_is_taken(cloud: Cloud) -> None:
    """Also of one that is only about to."""
    placed = Placed({}, definition={"nics": [{"address": "10.9.0.4"}, {"address": None}]})
    item = cloud.item
    for values in ({"away": placed}, {"away": None, "failover": {"there": placed}}):
        with cloud.database.begin() as connection:
            record.update_item(connection, item.id, msgspec.to_builtins(values))
        assert record.taken(cloud.database, "another") == ["10.9.0.4"] and not record.taken(cloud.database, item.id)
