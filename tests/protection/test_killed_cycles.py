"""An orchestrator is killed at any step of enabling, cycles, pruning and disabling: the next one completes it, and no
point is ever listed that does not restore.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import killing
import pytest
from killing import Killed
from sqlalchemy import update
from test_cycles import Bench, Clock, wait

from secondsite import engine
from secondsite.orchestration.protection import leases, lookup
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.disabling import Disabling
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import audit, holders, schema
from secondsite.orchestration.vault.database import Database

# More than there are from enabling to the end: the last cases are not killed at all.
STEPS, CYCLES = 120, 4


class Steps(killing.Steps):
    """Of transactions and calls of the engine, unless it is off."""

    off = True

    def step(self) -> None:
        if not self.off:
            super().step()


class Life:
    """An item from its beginning to its end, whoever is killed meanwhile."""

    def __init__(self, bench: Bench, steps: Steps) -> None:
        self.bench, self.steps = bench, steps
        self.states: dict[str, dict[str, bytes]] = {}
        self.worker = EngineWorker()
        for name in ("replicate", "generations", "drop", "identify", "release", "delete"):
            setattr(self.worker, name, steps.around(getattr(self.worker, name)))

    def run(self) -> None:
        for action in [self.enable, *[self.cycle] * CYCLES, self.disable, self.end]:
            self.bench.clock.now += 4000
            self.bench.write()
            while not self.survived(action):
                self.bench.holder = holders.new()
                self.bench.clock.now += leases.LEASE_SECONDS + 1

    def survived(self, action: Callable[[], None]) -> bool:
        self.steps.off = False
        try:
            action()
        except Killed:
            return False
        finally:
            self.steps.off = True
            self.check()
        return True

    def check(self) -> None:
        for item in lookup.load(self.bench.database):
            for point in lookup.points(self.bench.database, item.id):
                assert self.bench.contents(point) == self.states[point.time], point

    def enable(self) -> None:
        self.bench.apply()

    def cycle(self) -> None:
        bench = self.bench
        for item in leases.claim(bench.database, bench.holder, bench.clock.now, 1):
            self.states[bench.clock.clocks().datetime().isoformat()] = bench.source()
            cycles = Cycles(bench.database, bench.holder, self.worker, bench.clock.clocks())
            assert cycles.run(item, bench.protected()) is None
            self.nothing_between(item.disks)

    def nothing_between(self, disks: Mapping[str, str]) -> None:
        """What a killed cycle left in the replicas is gone with the next one that was not."""
        held = self.bench.points()
        spent = lookup.points(self.bench.database, self.bench.item().id, dropped=True)
        for path, replica in disks.items():
            known = {one.generations[path] for one in [*held, *spent]}
            there = {point.generation for point in engine.points(replica)}
            assert {one for one in there if one >= min(known)} <= known, path

    def disable(self) -> None:
        self.bench.apply(protect=False)

    def end(self) -> None:
        bench = self.bench
        for item in leases.claim(bench.database, bench.holder, bench.clock.now, 1):
            assert item.ending is not None
            ended = Disabling(bench.database, bench.holder, self.worker)
            assert ended.run(item, item.ending, bench.clock.now) is None


@pytest.mark.sweep(sample=6)
@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_killed_at_any_step_the_next_one_completes_it(
    at: int, tmp_path: Path, vault: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(at)
    bench = Bench(tmp_path, vault, additional=1, delete=True, enabled=False)
    monkeypatch.setattr(Database, "begin", killing.stepping(steps.step))
    life = Life(bench, steps)
    life.run()
    assert (steps.left <= 0) == (at <= steps.taken) and steps.taken < STEPS, "every step is a case"
    assert lookup.load(vault) == [] and len(life.states) >= CYCLES
    assert not [path for path in tmp_path.glob("replicas/app1/*") if path.is_dir()]
    assert [one.what for one in audit.newest(vault)].count("disable") == 1


# `secondsite run`, with leases of a second and a half.
RUN = """
import sys
from secondsite.orchestration.protection import leases, lookup, orchestrator
leases.LEASE_SECONDS = 1.5
orchestrator._RENEW_SECONDS = 0.3
from secondsite.orchestration.cli import main
main()
"""


def test_killed_at_random_moments_points_stay_whole_and_another_takes_over(
    tmp_path: Path, url: str, vault: Database
) -> None:
    """Of two on one PostgreSQL one lives on; a file has one at a time. A dead one's item is taken after its lease."""
    bench = Bench(tmp_path, vault, every=30, clock=Clock(now=time.time()))
    seed = int(os.environ.get("SECONDSITE_SEED", "1"))
    chance, running = random.Random(seed), [start(url) for _ in range(2 if vault.shared else 1)]
    states = [bench.source()]
    try:
        wait(lambda: bool(bench.points()))
        for _ in range(3):
            bench.write()
            states.append(bench.source())
            hurry(vault)
            time.sleep(chance.random() * 0.3)
            victim = running.pop(0)
            victim.send_signal(signal.SIGKILL)
            victim.wait(30)
            running.append(start(url))
            wait(lambda: caught_up(bench, vault, states[-1]), 90)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(60)
    for point in bench.points():
        assert bench.contents(point) in states, seed


def start(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, "run", "--vault", url], stdout=subprocess.DEVNULL)


def caught_up(bench: Bench, vault: Database, state: dict[str, bytes]) -> bool:
    """Within a second or two, or it is made due once more: a cycle that saw its source written is tried later again."""
    hurry(vault)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        if bench.contents(bench.points()[-1]) == state:
            return True
        time.sleep(0.05)
    return False


def hurry(vault: Database) -> None:
    """The next cycle is due at once, whoever has the item."""
    with vault.begin() as connection:
        connection.execute(update(schema.item).values(due=0.0))
