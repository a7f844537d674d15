"""Power loss: what was not flushed is gone, torn or there by chance, of files and of names alike."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import sweep
from rig import MemoryPlace, Place
from scenarios import ALL, BY_NAME, CYCLES, Scenario

from secondsite.engine import errors
from secondsite.engine.batch import Batch
from secondsite.engine.files import memory
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.images.failing import Crash
from secondsite.engine.replica import recovery
from secondsite.engine.replica.cycle import InPlace
from secondsite.engine.replica.directory import Replica

pytestmark = pytest.mark.usefixtures("small_pieces")

# Fates of what was pending at each call: two without clones, where more is overwritten, and one with.
SEEDS, SEEDS_IN_SWEEP = {False: 2, True: 1}, 8
each_scenario = pytest.mark.parametrize("scenario", CYCLES, ids=lambda scenario: scenario.name)
restores_too = pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
each_place = pytest.mark.parametrize("clones", [False, True], ids=["undo", "clones"])


def enumerate_losses(place: Place, scenario: Scenario, seeds: range) -> int:
    """Lose power at each call in turn, with several fates of what was pending; how many there were."""
    snapshot = sweep.prepare(place, scenario)
    calls = sweep.count(place, scenario, snapshot)
    for n in range(1, calls + 1):
        for seed in seeds:
            files = sweep.lose_power(place, scenario, snapshot, n, random.Random(f"{n} {seed}"))
            label = f"{scenario.name}, power lost at call {n} of {calls}, seed {seed}"
            sweep.judge(place, scenario, sweep.CRASH, files, Crash(), label)
    return calls * len(seeds)


@each_place
@restores_too
def test_at_each_call(clones: bool, scenario: Scenario, sweep_all: bool) -> None:
    seeds = range(SEEDS_IN_SWEEP if sweep_all else SEEDS[clones])
    assert enumerate_losses(MemoryPlace(clones=clones), scenario, seeds) > 3


@each_place
@each_scenario
def test_again_while_it_recovers(clones: bool, scenario: Scenario, sweep_all: bool) -> None:
    """Power fails in the middle of a cycle, and once more in the middle of taking it back."""
    place = MemoryPlace(clones=clones)
    snapshot = sweep.prepare(place, scenario)
    calls = sweep.count(place, scenario, snapshot)
    for seed in range(300 if sweep_all else 8):
        chance = random.Random(f"{scenario.name} {seed}")
        n = chance.randrange(1, calls + 1)
        files = sweep.lose_power(place, scenario, snapshot, n, chance)
        label = f"{scenario.name}, seed {seed}: power lost at call {n} of {calls}"
        if files.size(f"{place.root}/replica.json") < 0:
            continue
        for _ in range(2):
            again = sweep.CRASH.at(chance.randrange(1, 12))
            try:
                with Replica.open(place.root, FailingFiles(files, again)).writing():
                    pass
            except Crash:
                label += f", in recovery at call {again.count}"
            files.power_loss(chance)
        sweep.judge(place, scenario, sweep.CRASH, files, Crash(), label)


# -- does the model fail where the engine is wrong? ------------------------------------------------------------


def no_flush_of_undo(patch: pytest.MonkeyPatch) -> None:
    """The old contents are not durable when a block is overwritten."""
    flush = memory.MemoryImage.flush

    def lazy(self: memory.MemoryImage) -> None:
        if not self.path.endswith(".undo"):
            flush(self)

    patch.setattr(memory.MemoryImage, "flush", lazy)


def no_flush_of_head(patch: pytest.MonkeyPatch) -> None:
    """A cycle is committed before its head is durable."""
    flush = memory.MemoryImage.flush

    def lazy(self: memory.MemoryImage) -> None:
        if not self.path.endswith(".raw"):
            flush(self)

    patch.setattr(memory.MemoryImage, "flush", lazy)


def no_flush_of_names(patch: pytest.MonkeyPatch) -> None:
    """Nobody makes names durable before the commit."""
    patch.setattr(memory.MemoryFiles, "flush_dir", lambda self, path: None)


def head_before_undo(patch: pytest.MonkeyPatch) -> None:
    """A block is overwritten, and then its old contents are kept."""
    keep = InPlace._keep_old

    def late(self: InPlace, batch: Batch, worker: int) -> None:
        self.head.write_blocks(
            batch.blocks, batch.lengths, batch.count, self.block_size, self.size, batch.payload
        )
        keep(self, batch, worker)

    patch.setattr(InPlace, "_keep_old", late)
    patch.setattr(InPlace, "_check_old", lambda self, old: None)


def no_flush_of_way_back(patch: pytest.MonkeyPatch) -> None:
    """Recovery removes the undo delta before what it wrote back is durable."""
    roll_back = recovery.roll_back

    def hasty(replica: Replica, generation: int, *, force: bool) -> None:
        flush = memory.MemoryImage.flush
        memory.MemoryImage.flush = lambda self: None  # type: ignore[method-assign]
        try:
            roll_back(replica, generation, force=force)
        finally:
            memory.MemoryImage.flush = flush  # type: ignore[method-assign]

    patch.setattr(recovery, "roll_back", hasty)


@pytest.mark.parametrize("break_it", [no_flush_of_undo, no_flush_of_head, no_flush_of_names, head_before_undo])
def test_a_broken_engine_is_caught(break_it: Callable[[pytest.MonkeyPatch], None]) -> None:
    """Without this the tests above might pass because they see nothing."""
    place, scenario = MemoryPlace(clones=False), BY_NAME["changed"]
    with pytest.MonkeyPatch.context() as patch:
        break_it(patch)
        with pytest.raises((AssertionError, errors.Damaged)):
            enumerate_losses(place, scenario, range(3))


@pytest.mark.parametrize("break_it", [no_flush_of_head, no_flush_of_names])
def test_a_broken_engine_is_caught_with_clones(break_it: Callable[[pytest.MonkeyPatch], None]) -> None:
    place, scenario = MemoryPlace(clones=True), BY_NAME["changed"]
    with pytest.MonkeyPatch.context() as patch:
        break_it(patch)
        with pytest.raises((AssertionError, errors.Damaged)):
            enumerate_losses(place, scenario, range(3))


def test_a_broken_recovery_is_caught() -> None:
    place, scenario = MemoryPlace(clones=False), BY_NAME["changed"]
    with pytest.MonkeyPatch.context() as patch:
        no_flush_of_way_back(patch)
        with pytest.raises((AssertionError, errors.Damaged)):
            for seed in range(40):
                again_after_recovery(place, scenario, seed)


def again_after_recovery(place: Place, scenario: Scenario, seed: int) -> None:
    """Power fails in a cycle, and again just after recovery was content."""
    snapshot = sweep.prepare(place, scenario)
    chance = random.Random(seed)
    n = chance.randrange(1, sweep.count(place, scenario, snapshot) + 1)
    files = sweep.lose_power(place, scenario, snapshot, n, chance)
    with Replica.open(place.root, files).writing():
        pass
    files.power_loss(chance)
    sweep.judge(place, scenario, sweep.CRASH, files, Crash(), f"seed {seed}, call {n}")


@each_place
@each_scenario
def test_just_after_recovery(clones: bool, scenario: Scenario, sweep_all: bool) -> None:
    """What recovery says is at rest survives a power loss too."""
    place = MemoryPlace(clones=clones)
    if scenario.before:
        for seed in range(200 if sweep_all else 3):
            again_after_recovery(place, scenario, seed)
