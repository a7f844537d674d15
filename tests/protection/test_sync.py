"""protection sync: a cycle at once, run by whoever runs cycles, and its point."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_cycles import Bench, Clock, wait

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import ledger, sync
from secondsite.orchestration.protection.cycle import Clocks, Cycles
from secondsite.orchestration.protection.orchestrator import Orchestrator
from secondsite.orchestration.protection.sync import Sync
from secondsite.orchestration.protection.worker import Cut, EngineWorker
from secondsite.orchestration.vault.database import Database


class Slow(EngineWorker):
    """A cycle goes on when it is told to, its cut already made."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.go = threading.Event(), threading.Event()

    def replicate(self, *arguments: object, **more: object) -> Cut:
        found = super().replicate(*arguments, **more)  # type: ignore[arg-type]
        self.cut.set()
        assert self.go.wait(30)
        return found


@contextmanager
def running(bench: Bench, worker: EngineWorker) -> Iterator[None]:
    """An orchestrator, meanwhile."""
    runs = Orchestrator(bench.database, Cycles(bench.database, bench.holder, worker, Clocks()))
    thread = threading.Thread(target=runs.run)
    thread.start()
    try:
        yield
    finally:
        runs.stop()
        thread.join(30)


def test_the_point_is_of_a_cycle_that_began_afterwards(tmp_path: Path, vault: Database) -> None:
    """One that runs already has cut its disks before; another follows it, long before it is due."""
    bench, worker = Bench(tmp_path, vault, every=900, clock=Clock(now=time.time())), Slow()
    with running(bench, worker):
        assert worker.cut.wait(30)
        bench.write()
        threading.Timer(0.5, worker.go.set).start()
        made = Sync(vault, "app1", 60).run()
        assert made.number == 2 and bench.contents(made) == bench.source()
        assert Sync(vault, "app1", 60).run().number == 3  # nothing changed, and R2.1: a point all the same


def test_a_cycle_that_fails_says_why(tmp_path: Path, vault: Database) -> None:
    bench = Bench(tmp_path, vault, clock=Clock(now=time.time()))
    bench.cycle()
    (bench.folder / "data.raw").rename(bench.folder / "away.raw")
    with running(bench, EngineWorker()):
        with pytest.raises(errors.Unreachable, match=r"data\.raw: .*No such file.*; it is tried again"):
            Sync(vault, "app1", 60).run()
        (bench.folder / "away.raw").rename(bench.folder / "data.raw")
        engine.raise_epoch(bench.item().disks[str(bench.folder / "data.raw")], 5)
        with pytest.raises(errors.Refused, match="epoch"):
            Sync(vault, "app1", 60).run()
    with pytest.raises(errors.Refused, match=r"R8\.1: 'app1': it is error; no cycle runs"):
        Sync(vault, "app1", 60).run()


def test_it_waits_no_longer_than_it_may(tmp_path: Path, vault: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "_NOBODY_SECONDS", 0.2)
    bench = Bench(tmp_path, vault, clock=Clock(now=time.time()))
    with pytest.raises(errors.Unreachable, match="nobody runs the cycles"):
        Sync(vault, "app1", 60).run()
    assert bench.item().due <= time.time(), "it is due for whoever comes"
    worker = Slow()
    with running(bench, worker):
        wait(lambda: worker.cut.is_set())
        with pytest.raises(errors.Unreachable, match="no point within 1 s"):
            Sync(vault, "app1", 1).run()
        with pytest.raises(errors.Cancelled):
            Sync(vault, "app1", 60, lambda: True).run()
        worker.go.set()
    bench.apply(protect=False)
    with pytest.raises(errors.Refused, match=r"R1\.10"):
        Sync(vault, "app1", 60).run()


def test_what_failed_for_good_before_its_first_copy_begins_with_that_again(tmp_path: Path, vault: Database) -> None:
    """R5.7: it does not say that it replicates."""
    bench = Bench(tmp_path, vault)
    for disk in ("system", "data"):
        engine.replicate(tmp_path / f"{disk}.raw", tmp_path / "replicas" / "app1" / disk, source_id="another")
    bench.cycle()
    assert bench.item().state is State.ERROR
    assert ledger.act(vault, "app1", "recover", bench.clock.now) is State.READY_FOR_INITIAL_REPLICATION


def test_one_that_waits_for_its_first_copy_says_so(tmp_path: Path, lite: Database, short_path: Path) -> None:
    """R5.4: its cycles end in order, and make no point."""
    media = {"policy": 'initial = "media"', "said": f'medium = "{short_path}"'}
    bench = Bench(tmp_path, lite, clock=Clock(now=time.time()), **media)
    with running(bench, EngineWorker()):
        for _ in range(2):
            with pytest.raises(errors.Unreachable, match=r"app1: waits for its first copy; .*import-seed.*tried again"):
                Sync(lite, "app1", 60).run()
