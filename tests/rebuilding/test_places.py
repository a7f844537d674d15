"""Replicas at an agent and in Azure, encrypted too, give a lost vault back as those in folders do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azurite.emulator import Azurite, running
from rebuildkit import ON_SQLITE, differences, snapshot
from remote.hosting import Site, site
from store.storekit import azure_store
from test_cycles import Bench

from secondsite import engine
from secondsite.orchestration.estate.loading import Loaded, parse
from secondsite.orchestration.rebuilding import restoring
from secondsite.orchestration.vault import inventory
from secondsite.orchestration.vault.database import Database

Fresh = Callable[[], Database]
S1 = """
[vault]
name = "v"
region = "r"
subscription = "s"
[[site]]
name = "one"
[[host]]
name = "h1"
site = "one"
provider = "3"
agent = "2"
[[network]]
name = "n1"
site = "one"
[[account]]
name = "recovery"
url = "azure://tests/rebuild"
region = "r"
subscription = "s"
redundancy = "RAGRS"
[[machine]]
name = "app1"
host = "h1"
disks = [{{ path = "{folder}/system.raw", os = true }}, {{ path = "{folder}/data.raw" }}]
[[policy]]
name = "p"
copy_frequency = 300
hours = 24
encrypt = true
[[protection]]
name = "pair"
scenario = "S1"
source = "one"
target = "recovery"
policy = "p"
[[item]]
machine = "app1"
protection = "pair"
"""


class Elsewhere(Bench):
    """A bench whose replicas are not in folders of this host; `estate` takes the place of its own one."""

    estate = ""

    @property
    def text(self) -> str:
        return self.estate or super().text

    def loaded(self) -> Loaded:
        return parse(self.text.encode())

    def run(self, cycles: int) -> None:
        for _ in range(cycles):
            self.clock.now += 4000
            self.write()
            self.cycle()
            assert self.item().failures == 0, self.item().reason

    def rebuilt(self, database: Database, *places: str, **more: Any) -> restoring.Outcome:
        given = {"partial": False, "who": "me", "now": self.clock.now, "state": self.state, **more}
        return restoring.rebuild(database, self.loaded(), places, **given)


def check(bench: Elsewhere, made: Database) -> None:
    """It is what it was, and goes on with what changed."""
    assert bench.rebuilt(made).written
    assert differences(snapshot(bench.database), snapshot(made)) == []
    with made.reading() as connection:
        before, held = inventory.last_estate(connection), inventory.items(connection)
    assert inventory.plan(bench.loaded(), before, held, bench.clock.now).changes == ()
    was = bench.points()
    bench.database, bench.cycles = made, replace(bench.cycles, database=made)
    bench.run(1)
    now = bench.points()[-1]
    assert now.number == was[-1].number + 1 and now.changed_bytes == 65536
    assert {path: number for path, number in now.generations.items() if "system" in path} == {
        path: number for path, number in was[-1].generations.items() if "system" in path
    }, "the disk that did not change was not copied"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "far").mkdir()
    with site(tmp_path / "far") as made:
        yield made


@ON_SQLITE
@pytest.mark.parametrize("kind", ["undo", "log"])
def test_at_an_agent(tmp_path: Path, vault: Database, fresh: Fresh, there: Site, kind: str) -> None:
    """Another host asks, which is paired with the agent, too: the one of before may be gone with the vault."""
    names = ("app1.system", "app1.data")
    state = there.host("orchestrator", *names, allow="send,read,administer")
    bench = Elsewhere(tmp_path, vault, host=f'address = "{there.address}"', state=str(state))
    if kind == "log":
        for name in ("system", "data"):
            source = bench.folder / f"{name}.raw"
            engine.replicate(source, there.url(f"app1.{name}"), history="log", state=state)
    bench.run(2)
    found = bench.rebuilt(fresh(), state=str(tmp_path / "nobody"))
    assert not found.written and "has no identity" in found.left[0].why, found.left
    bench.state = str(there.host("other", *names, allow="send,read,administer"))
    assert bench.rebuilt(fresh()).written
    bench.state = str(state)
    check(bench, fresh())


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    with running() as emulator:
        yield emulator


@ON_SQLITE
@pytest.mark.needs("azurite")
def test_in_azure_with_the_key_alone(
    tmp_path: Path, vault: Database, fresh: Fresh, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12.14: names of machines are sealed with everything else; which key opens it is said."""
    for name in [name for name in os.environ if name.startswith(("AZURE_", "SECONDSITE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    prefix = f"rebuild-{vault.engine.dialect.name}"
    azure_store(azurite, f"{prefix}/").close()
    engine.new_key_file(tmp_path / "key")
    with engine.using_key(engine.Key(file=tmp_path / "key")):
        bench = Elsewhere(tmp_path, vault, enabled=False)
        bench.estate = S1.format(folder=tmp_path).replace("tests/rebuild", f"tests/{prefix}")
        for name in ("system", "data"):  # R12.10: Azure has no smaller ones
            os.truncate(tmp_path / f"{name}.raw", 20 << 20)
        bench.apply()
        bench.run(3)
    found = bench.rebuilt(fresh())
    assert not found.written
    assert "no key was given" in found.left[0].why and "opens with the key file of slot 1" in found.left[0].why
    with engine.using_key(engine.Key(file=tmp_path / "key")):
        check(bench, fresh())
