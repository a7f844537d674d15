"""R11.3, R11.6 to R11.8 by a failover's own command: the subnet and the address of a card where its machine comes up,
of two machines too, and what is refused in one line before anything is begun. No network is there: it is not asked.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shellkit import Shell
from sqlalchemy import update

from bench import SIZE, Bench
from secondsite.orchestration.failover.machines import Known
from secondsite.orchestration.health.states import State
from secondsite.orchestration.hosts.spec import NicSpec
from secondsite.orchestration.protection import leases, lookup, said
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import holders, inventory, schema
from secondsite.orchestration.vault.database import Database

HOME = '[{{ name = "s", range = "10.1.0.0/24" }}, {{ name = "t", range = "10.3.0.0/24" }}]'
AWAY = """[
    {{ name = "first", range = "10.2.0.0/24", gateway = "10.2.0.1", pool = ["10.2.0.11", "10.2.0.12"] }},
    {{ name = "s", range = "10.1.0.0/24", gateway = "10.1.0.1", pool = ["10.1.0.11", "10.1.0.12"] }},
]"""
AWAY = " ".join(AWAY.split())
SECOND = """
[[machine]]
name = "app2"
host = "h1"
nics = [{{ network = "n1", subnet = "s", address = "10.1.0.98" }}]
disks = [{{ path = "{folder}/other.raw", os = true }}]
[[item]]
machine = "app2"
protection = "pair"
"""


class Two(Bench):
    """app1 has the card that a test says, app2 one whose address the target's pool does not have."""

    card = '{{ network = "n1", subnet = "s", address = "10.1.0.99" }}'
    more: Callable[[str], str] = staticmethod(lambda text: text)

    def __init__(self, folder: Path, vault: Database) -> None:
        (folder / "other.raw").write_bytes(os.urandom(SIZE))
        super().__init__(folder, vault, text=self._estate)
        self.replicate()

    def _estate(self, text: str) -> str:
        for name, subnets in (("n1", HOME), ("n2", AWAY)):
            text = text.replace(f'name = "{name}"\n', f'name = "{name}"\nsubnets = {subnets}\n')
        text = text.replace('host = "h1"\n', f'host = "h1"\nnics = [{self.card}]\n', 1)
        return self.more(text + SECOND + '[[mapping.network]]\nsource = "n1"\ntarget = "n2"\n')

    def replicate(self) -> None:
        """A point of each."""
        with self.database.reading() as connection:
            estate = inventory.last_estate(connection)
        assert estate is not None
        cycles = Cycles(self.database, holders.new(), EngineWorker(), self.clock.clocks())
        for item in leases.claim(self.database, cycles.holder, self.clock.now + 1e9, 2):
            assert cycles.run(item, said.protected(estate)[item.machine]) is None

    def comes_to(self, machine: str = "app1") -> NicSpec:
        """Its card, once it failed over."""
        (item,) = lookup.load(self.database, machine)
        assert item.away is not None and item.away.spec is not None
        (card,) = item.away.spec.nics
        return card


@pytest.fixture
def two(folder: Path, vault: Database) -> Iterator[Two]:
    made = Two(folder, vault)
    yield made
    made.end()


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], two: Two) -> Shell:
    return Shell(capsys, two.folder / "vault.db")


@pytest.mark.sweep(sample=2)
@pytest.mark.parametrize(("subnet", "address", "expected"), [
    ("s", "10.1.0.12", ("10.1.0.12/24", "10.1.0.1")),
    ("s", "10.1.0.99", ("10.1.0.11/24", "10.1.0.1")),
    ("t", "10.3.0.7", ("10.2.0.11/24", "10.2.0.1")),
    ("t", "10.2.0.12", ("10.2.0.12/24", "10.2.0.1")),
])  # fmt: skip
def test_the_subnet_of_the_same_name_and_the_same_address(
    two: Two, shell: Shell, subnet: str, address: str, expected: tuple[str, str]
) -> None:
    """R11.3: else the first subnet; R11.7: where the pool has it, else the next one."""
    two.card = f'{{{{ network = "n1", subnet = "{subnet}", address = "{address}" }}}}'
    two.apply()
    shell("failover", "unplanned", "app1")
    card = two.comes_to()
    assert (card.address, card.gateway) == expected


def test_two_machines_that_move_at_once_have_two_addresses(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """R11.7, R12.5: as those of a plan do, whose data is made ready beside each other."""
    away = Known.away

    def slowly(*arguments: object) -> object:
        made = away(*arguments)  # type: ignore[arg-type]
        time.sleep(0.3)
        return made

    monkeypatch.setattr(Known, "away", slowly)
    threads = [
        threading.Thread(target=two.failovers().fail_over, args=(name, "unplanned")) for name in ("app1", "app2")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {two.comes_to("app1").address, two.comes_to("app2").address} == {"10.1.0.11/24", "10.1.0.12/24"}


def test_the_third_is_refused_in_one_line(two: Two, shell: Shell) -> None:
    """R11.7: a pool whose addresses other machines have; its source runs on, and nothing is begun."""
    two.more = lambda text: text.replace('"10.1.0.12"', '"10.1.0.11"')
    two.apply()
    shell("failover", "unplanned", "app2")
    assert two.comes_to("app2").address == "10.1.0.11/24"
    two.start_home()
    for action in ("planned", "unplanned"):
        told = shell("failover", action, "app1", status=3)
        assert told == "secondsite: machine 'app1': R11.7: no address of the pool 10.1.0.11 to 10.1.0.11 is free\n"
        assert (two.item.state, two.item.failover) == (State.REPLICATING, None) and two.runs("source")
    shell("failover", "cancel", "app2")
    shell("failover", "planned", "app1")
    assert two.comes_to().address == "10.1.0.11/24"


def test_the_host_that_has_its_replicas_reaches_its_network_or_it_is_refused(two: Two, shell: Shell) -> None:
    """R11.6: another host that would is of no use, as its disks are not there."""
    other = """
[[host]]
name = "h4"
cloud = "c2"
logical = ["dr"]
path = "{folder}/replicas"
"""
    two.more = lambda text: other + text.replace('name = "n2"\n', 'name = "n2"\nlogical = "dr"\n').replace(
        'name = "h2"\n', 'name = "h2"\naddress = "h2.example"\n'
    )
    two.apply()
    with two.database.begin() as connection:
        for path, replica in two.item.homes.items():
            there = replica.replace(f"{two.folder}/replicas", "secondsite://h2.example")
            connection.execute(update(schema.disk).where(schema.disk.c.path == path).values(replica=there))
    for action in ("planned", "unplanned"):
        told = shell("failover", action, "app1", status=3)
        assert told == "secondsite: R11.6: host 'h2', which has its replicas, does not reach n2\n"
        assert (two.item.state, two.item.failover) == (State.REPLICATING, None)
