"""R5: first copies by medium and from copies that lie at the target, over real images, in folders and at an agent."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cycles import SIZE, Bench

sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))
from hosting import Site, site

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, ledger, report
from secondsite.orchestration.protection.item import Made
from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database

MEDIA = 'initial = "media"'
EXISTING = 'initial = "existing"'
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def usb(short_path: Path) -> Path:
    return short_path


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Database]:
    """What the two kinds of vaults may do differently is tried with the first test alone."""
    with database.create(str(tmp_path / "lite.db")) as made:
        yield made


def at_agent(there: Site, vault: Database, **more: Any) -> Bench:
    state = there.host("source", "app1.system", "app1.data", allow="send,read,administer")
    return Bench(there.folder, vault, host=f'address = "{there.address}"', state=str(state), **more)


def step(bench: Bench, seconds: int = 300) -> State:
    """Another cycle, five minutes later; the state behind it."""
    bench.clock.now += seconds
    bench.cycle()
    return bench.item().state


def imported(bench: Bench, usb: Path, root: Path, *names: str) -> None:
    for name in names:
        engine.import_seed(usb / "app1" / name, root / f"app1.{name}")


def test_r5_4_what_is_sent_before_the_medium_has_come_is_held_and_becomes_points(
    there: Site, vault: Database, usb: Path
) -> None:
    bench = at_agent(there, vault, additional=9, policy=MEDIA, said=f'medium = "{usb}"')
    states = []
    for _ in range(3):
        bench.write()
        states.append(bench.source())
        assert step(bench, 3600) is State.WAITING_FOR_INITIAL_REPLICATION
    item = bench.item()
    assert bench.points() == [], "R5.7: nothing can be chosen yet"
    row = report.rows(vault, bench.clock.now)[0]
    assert f"secondsite import-seed {usb}/app1/data FOLDER/app1.data" in str(row.reason) and row.rpo is None
    held = engine.info(item.disks[str(bench.folder / "data.raw")], state=bench.state)
    assert isinstance(held, engine.ReplicaInfo) and (held.waits, held.held) == (True, 2)
    imported(bench, usb, there.root, "data")
    assert step(bench, 3600) is State.WAITING_FOR_INITIAL_REPLICATION, "R5.7: not before all disks have theirs"
    assert bench.points() == []
    imported(bench, usb, there.root, "system")
    bench.write()
    states += [bench.source()] * 2
    assert step(bench, 3600) is State.REPLICATING and bench.item().reason is None
    assert [point.number for point in bench.points()] == [1, 2, 3, 4, 5]
    for point, state in zip(bench.points(), [*states[:3], states[2], states[4]], strict=True):
        assert contents(bench, point) == state


def contents(bench: Bench, point: Made) -> dict[str, bytes]:
    found = {}
    for path, replica in bench.item().disks.items():
        with engine.open_point(replica, at=str(point.generations[path]), state=bench.state) as image:
            found[path] = image.read(0, SIZE)
    return found


def test_what_was_held_goes_by_the_policy_like_any_other_point(there: Site, lite: Database, usb: Path) -> None:
    bench = at_agent(there, lite, policy=MEDIA, said=f'medium = "{usb}"')
    step(bench)
    imported(bench, usb, there.root, "data", "system")
    for _ in range(9):
        bench.clock.now += 3300
        bench.write()
        assert step(bench) is State.REPLICATING
    assert len(bench.points()) == 4
    for replica in bench.item().disks.values():
        assert len(engine.points(replica, state=bench.state)) <= 5


def test_a_medium_for_replicas_in_folders_is_waited_for_and_nothing_lies_there_before(
    tmp_path: Path, lite: Database, usb: Path
) -> None:
    bench = Bench(tmp_path, lite, policy=MEDIA, said=f'medium = "{usb}"')
    for _ in range(2):
        assert step(bench) is State.WAITING_FOR_INITIAL_REPLICATION
    seeded = bench.source()
    assert not (tmp_path / "replicas/app1/data").exists()
    bench.write()
    for name in ("data", "system"):
        engine.import_seed(usb / "app1" / name, tmp_path / f"replicas/app1/{name}")
    assert step(bench) is State.REPLICATING
    first, second = bench.points()
    assert bench.contents(first) == seeded and bench.contents(second) == bench.source()


def test_an_export_that_fails_is_tried_again(tmp_path: Path, lite: Database, usb: Path) -> None:
    bench = Bench(tmp_path, lite, policy=MEDIA, said=f'medium = "{usb}"')
    (tmp_path / "data.raw").rename(tmp_path / "away.raw")
    assert step(bench) is State.READY_FOR_INITIAL_REPLICATION and bench.item().failures == 1
    (tmp_path / "away.raw").rename(tmp_path / "data.raw")
    assert step(bench) is State.WAITING_FOR_INITIAL_REPLICATION and bench.item().failures == 0


def copies(bench: Bench, changed: int = 1) -> None:
    """Older copies of the disks, as a restored backup has them."""
    for name in ("system", "data"):
        shutil.copy(bench.folder / f"{name}.raw", bench.folder / f"{name}.old")
        with (bench.folder / f"{name}.old").open("r+b") as file:
            file.write(os.urandom(65536 * changed))


def test_r5_6_copies_become_the_first_content_and_only_what_differs_is_sent(tmp_path: Path, lite: Database) -> None:
    bench = Bench(tmp_path, lite, policy=EXISTING, said=f'existing = ["{tmp_path}/system.old", "{tmp_path}/data.old"]')
    copies(bench)
    assert step(bench) is State.REPLICATING
    (point,) = bench.points()
    assert bench.contents(point) == bench.source() and point.changed_bytes == 2 * 65536
    bench.write()
    step(bench)
    for replica in bench.item().disks.values():
        listed = [one.generation for one in engine.points(replica)]
        assert listed[0] == 2, "what the copy held is no point of the machine, and goes"
    assert (tmp_path / "system.old").exists(), "the copy itself stays"


def test_r5_6_a_copy_that_is_not_there_begins_nothing(tmp_path: Path, lite: Database) -> None:
    bench = Bench(tmp_path, lite, policy=EXISTING, said=f'existing = ["{tmp_path}/system.old", "{tmp_path}/data.old"]')
    copies(bench)
    (tmp_path / "data.old").rename(tmp_path / "elsewhere")
    assert step(bench) is State.READY_FOR_INITIAL_REPLICATION and bench.points() == []
    (tmp_path / "elsewhere").rename(tmp_path / "data.old")
    assert step(bench) is State.REPLICATING and bench.contents(bench.points()[0]) == bench.source()


@pytest.mark.parametrize("reached", [True, False], ids=["reached", "by hand"])
def test_r5_6_copies_at_an_agent_are_adopted_on_its_host(there: Site, lite: Database, reached: bool) -> None:
    """By the command that reaches the host; without one somebody is told what to do."""
    bench = at_agent(
        there, lite, policy=EXISTING, said=f'existing = ["{there.folder}/system.old", "{there.folder}/data.old"]'
    )
    copies(bench)
    if reached:
        bin = Path(sys.executable).parent
        bench.host += f'\nreach = ["env", "PATH={bin}:{os.environ["PATH"]}"]'
    (there.folder / "replicas").rmdir()
    (there.folder / "replicas").symlink_to(there.root)  # the agent's folder, as the estate names it
    bench.apply()
    if not reached:
        assert step(bench) is State.WAITING_FOR_INITIAL_REPLICATION
        told = f"secondsite adopt {there.folder}/data.old FOLDER/app1.data"
        assert told in str(bench.item().reason)
        for name in ("system", "data"):
            engine.adopt(there.folder / f"{name}.old", there.root / f"app1.{name}")
    assert step(bench) is State.REPLICATING
    (point,) = bench.points()
    assert contents(bench, point) == bench.source() and point.changed_bytes == 2 * 65536


def test_an_item_that_failed_before_its_first_copy_begins_again(tmp_path: Path, lite: Database) -> None:
    """R5.7: an operator who lets it try again does not make it protected by that."""
    bench = Bench(tmp_path, lite)
    engine.replicate(tmp_path / "system.raw", tmp_path / "replicas/app1/data")
    assert step(bench) is State.ERROR
    assert ledger.act(lite, "app1", "recover", bench.clock.now) is State.READY_FOR_INITIAL_REPLICATION
    with pytest.raises(errors.Refused, match=r"R8\.1"):
        ledger.act(lite, "app1", "pause", bench.clock.now)
    shutil.rmtree(tmp_path / "replicas/app1/data")
    assert step(bench) is State.REPLICATING


def test_r5_2_until_its_time_an_item_is_not_due_and_status_says_when(tmp_path: Path, lite: Database) -> None:
    """The bench begins at 2027-01-15 08:00 UTC."""
    bench = Bench(tmp_path, lite, policy="initial_at = 2027-01-16T01:30:00+01:00")
    assert leases.claim(lite, bench.holder, bench.clock.now + 16 * 3600, 1) == []
    (row,) = report.rows(lite, bench.clock.now)
    assert row.reason == "R5.2: the first copy begins at 2027-01-16T00:30:00+00:00"
    assert len(leases.claim(lite, bench.holder, bench.clock.now + 16.6 * 3600, 1)) == 1
