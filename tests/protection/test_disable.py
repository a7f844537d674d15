"""R1.10: an item that leaves the estate ends, its replica with it where the policy said so; whatever is killed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from test_cycles import Bench, Clock, wait

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.protection import leases, ledger, lookup
from secondsite.orchestration.protection.cycle import Clocks, Cycles
from secondsite.orchestration.protection.disabling import Disabling
from secondsite.orchestration.protection.orchestrator import Orchestrator
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import audit
from secondsite.orchestration.vault.database import Database


def end(bench: Bench) -> errors.Error | None:
    """One try of whoever has the item."""
    item = leases.claim(bench.database, bench.holder, bench.clock.now, 1)[0]
    assert item.ending is not None
    found = Disabling(bench.database, bench.holder, EngineWorker()).run(item, item.ending, bench.clock.now)
    leases.give_back(bench.database, bench.holder, [item.id])
    return found


def replicas(bench: Bench) -> list[Path]:
    return [path for path in bench.folder.glob("replicas/app1/*") if path.is_dir()]


def gone(bench: Bench) -> bool:
    return lookup.load(bench.database) == []


@pytest.fixture(params=[False, True], ids=["stays", "deleted"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, vault: Database) -> Bench:
    made = Bench(tmp_path, vault, delete=request.param)
    for _ in range(3):
        made.clock.now += 600
        made.write()
        made.cycle()
    return made


def test_the_replica_goes_only_where_the_policy_said_so(bench: Bench) -> None:
    """By the policy in force before: one that comes with the removal is for others."""
    paths = list(bench.item().disks.values())
    was, bench.delete = bench.delete, not bench.delete
    bench.apply(protect=False)
    assert end(bench) is None and gone(bench)
    assert len(replicas(bench)) == (0 if was else 2)
    if not was:
        assert all(engine.verify(path).ok for path in paths)
    told = audit.newest(bench.database, 1)[0]
    assert (told.what, told.subject, told.result) == ("disable", "app1", "done")
    assert ("deleted" if was else "left as they are") in str(told.detail)
    assert not list(bench.folder.glob(".*secondsite*")), "no clone stays beside the source"


def test_one_that_comes_back_is_protected_anew(bench: Bench) -> None:
    bench.apply(protect=False)
    bench.apply(protect=False)  # changes nothing more
    with pytest.raises(errors.Refused, match=r"R1\.10.*is being disabled"):
        bench.apply()
    with pytest.raises(errors.Refused, match=r"R1\.10"):
        ledger.act(bench.database, "app1", "pause", bench.clock.now)
    end(bench)
    bench.apply()
    bench.cycle()
    assert len(bench.points()) == 1 and bench.contents(bench.points()[0]) == bench.source()


def test_one_that_failed_over_before_is_protected_anew_in_an_epoch_of_its_own(tmp_path: Path, vault: Database) -> None:
    """D9: whatever its replicas know of then; who sent into them before is refused from now on."""
    bench = Bench(tmp_path, vault)
    bench.cycle()
    system, data = bench.item().disks.values()
    engine.raise_epoch(data, 4)
    bench.apply(protect=False)
    end(bench)
    bench.apply()
    bench.cycle()
    assert bench.contents(bench.points()[0]) == bench.source() and bench.item().epoch == 5
    for source, replica in bench.item().disks.items():
        with pytest.raises(errors.Refused, match="epoch 5, this source at 4"):
            engine.replicate(source, replica, epoch=4)
    assert (system, data) == tuple(bench.item().disks.values())


def test_a_cycle_that_runs_meanwhile_does_not_forget_it(bench: Bench) -> None:
    """The item leaves while its cycle runs, which may fail; it ends at once afterwards."""
    item = leases.claim(bench.database, bench.holder, bench.clock.now + 1e6, 1)[0]
    said = bench.protected()
    bench.apply(protect=False)
    if bench.delete:
        (bench.folder / "data.raw").rename(bench.folder / "away.raw")
    bench.cycles.run(item, said)
    leases.give_back(bench.database, bench.holder, [item.id])
    assert end(bench) is None and gone(bench)


def test_another_replica_in_its_place_stays(tmp_path: Path, vault: Database) -> None:
    bench = Bench(tmp_path, vault, delete=True)
    bench.cycle()
    first = Path(next(iter(bench.item().disks.values())))
    first.rename(first.with_name("aside"))
    engine.replicate(bench.folder / "system.raw", first)
    bench.apply(protect=False)
    assert end(bench) is None and gone(bench)
    told = str(audit.newest(vault, 1)[0].detail)
    assert f"left as they are: {first}" in told and "is another replica" in told
    assert {path.name for path in replicas(bench)} == {first.name, "aside"}


def test_what_is_busy_or_away_is_tried_again(tmp_path: Path, vault: Database) -> None:
    """R6.4."""
    bench = Bench(tmp_path, vault, delete=True)
    bench.cycle()
    with engine.open_point(next(iter(bench.item().disks.values()))):
        bench.apply(protect=False)
        error = end(bench)
    assert isinstance(error, errors.Busy)
    item = bench.item()
    assert (item.failures, item.due, item.doing) == (1, bench.clock.now + 60, "disable")
    assert leases.claim(vault, bench.holder, bench.clock.now + 59, 1) == []
    bench.clock.now += 60
    assert end(bench) is None and gone(bench) and not replicas(bench)


def test_an_orchestrator_ends_it(tmp_path: Path, vault: Database) -> None:
    bench = Bench(tmp_path, vault, every=30, delete=True, clock=Clock(now=time.time()))
    cycles = Cycles(vault, bench.holder, EngineWorker(), Clocks())
    orchestrator = Orchestrator(vault, cycles)
    thread = threading.Thread(target=orchestrator.run)
    thread.start()
    try:
        wait(lambda: bool(bench.points()))
        bench.clock.now = time.time()
        bench.apply(protect=False)
        wait(lambda: gone(bench))
    finally:
        orchestrator.stop()
        thread.join(30)
    assert not replicas(bench)
