"""R12.10 to R12.13, R5.8: what is asked before the first byte of an item goes anywhere, all of it at once."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cycles import SIZE, Bench

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.health.rules import Level
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import report
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Database]:
    with database.create(str(tmp_path / "lite.db")) as made:
        yield made


def refused(bench: Bench) -> str:
    """An item that does not begin, and waits to be asked again; why."""
    bench.cycle()
    item, (row,) = bench.item(), report.rows(bench.database, bench.clock.now)
    assert item.state is State.READY_FOR_INITIAL_REPLICATION and bench.points() == []
    assert row.level is Level.CRITICAL and item.due > bench.clock.now
    assert not [path for path in bench.folder.glob("replicas/app1/*") if path.is_dir()], "nothing was begun"
    return str(item.reason)


def test_all_that_is_wrong_is_told_at_once_and_it_begins_when_that_is_mended(tmp_path: Path, vault: Database) -> None:
    bench = Bench(tmp_path, vault)
    (tmp_path / "system.raw").rename(tmp_path / "away")
    with (tmp_path / "data.raw").open("r+b") as file:
        file.write(b"KDMV" + (1).to_bytes(4, "little"))  # the header of a VMDK, which S2 has no disks of
        file.truncate(100)
    told = refused(bench)
    assert "R12.10" in told and "system.raw" in told and "data.raw" in told
    (tmp_path / "away").rename(tmp_path / "system.raw")
    (tmp_path / "data.raw").write_bytes(bytes(SIZE))
    bench.clock.now += 300
    bench.cycle()
    assert bench.item().state is State.REPLICATING and bench.item().reason is None


@pytest.mark.needs("qemu-img")
def test_r12_10_a_disk_is_what_it_was_found_to_be(tmp_path: Path, lite: Database) -> None:
    bench = Bench(tmp_path, lite, more=f', {{ path = "{tmp_path}/other.vmdk" }}')
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", tmp_path / "other.vmdk", "1M"], check=True)
    assert "is a vmdk (possible: raw, vhd, vhdx)" in refused(bench)


@pytest.mark.needs("root")
def test_r5_8_what_the_disks_hold_fits_where_it_goes(tmp_path: Path, lite: Database) -> None:
    """Used blocks count (R5.9): a hole needs no room."""
    bench = Bench(tmp_path, lite)
    small = tmp_path / "replicas"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "secondsite-test", small], check=True)
    try:
        told = refused(bench)
        assert f"R5.8: {small} has 1.0 MiB free, and the disks hold 2.0 MiB: make room there" in told
        for name in ("system", "data"):
            (tmp_path / f"{name}.raw").unlink()
            with (tmp_path / f"{name}.raw").open("wb") as file:
                file.write(b"boot" * 16384)
                file.truncate(64 * SIZE)
        bench.cycle()
        assert bench.item().state is State.REPLICATING
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_r12_12_an_agent_that_does_not_know_this_host(tmp_path: Path, lite: Database) -> None:
    bench = Bench(tmp_path, lite, host='address = "127.0.0.1:1"', state=str(tmp_path / "nobody"))
    told = refused(bench)
    assert told.startswith("R12.12: ") and "`secondsite identity init` makes one" in told


@pytest.mark.parametrize(
    ("policy", "item", "told"),
    [
        ("media", 'medium = "{0}-usb"', "R5.4: the medium {0}-usb is not there"),
        ("existing", 'existing = ["{0}/a", "{0}/b"]', "R5.6: {0}/b has 524288 bytes, its disk {0}/data.raw has"),
    ],
)
def test_what_the_way_of_the_first_copy_needs(
    tmp_path: Path, lite: Database, policy: str, item: str, told: str
) -> None:
    (tmp_path / "a").write_bytes(bytes(SIZE))
    (tmp_path / "b").write_bytes(bytes(SIZE // 2))
    bench = Bench(tmp_path, lite, policy=f'initial = "{policy}"', said=item.format(tmp_path))
    assert told.format(tmp_path) in refused(bench)


class Asked(EngineWorker):
    """Counts how often an account is asked, which is not there."""

    asked = 0

    def account(self, url: str) -> engine.StoreChecked:
        self.asked += 1
        raise errors.Unreachable("no answer", path=url)


def test_r12_11_an_account_is_asked_once_for_items_that_begin_together(tmp_path: Path, lite: Database) -> None:
    from secondsite.orchestration.estate.model import Account

    bench, worker = Bench(tmp_path, lite), Asked()
    cycles = Cycles(lite, bench.holder, worker, bench.clock.clocks())
    said = bench.protected()
    account = Account(name="a", url="azure://a/b", region="r", subscription="s", redundancy="GRS")
    object.__setattr__(said.pair.target, "account", account)
    for _ in range(3):
        why = r"R12\.11: account 'a' cannot be asked: azure://a/b: no answer"
        with pytest.raises(errors.Refused, match=why) as told:
            cycles._prerequisites.check(bench.item(), said)
        assert told.value.retryable
    assert worker.asked == 1
