"""Fault enumeration: the process ends, or the disk answers with an error, at each call in turn that has an effect.

Afterwards the head is generation N or N+1 byte for byte, every point that was listed restores, `verify` is content,
the next cycle works, and nothing is left lying about. By default crashes are enumerated in memory, without
clones, and the rest is sampled; `--sweep` enumerates everything everywhere.
"""

from __future__ import annotations

import random

import pytest
import sweep
from rig import Place
from scenarios import ALL, Scenario
from sweep import CRASH, KINDS, Fault

pytestmark = pytest.mark.usefixtures("small_pieces")

SAMPLE = 3
each_scenario = pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
each_fault = pytest.mark.parametrize("fault", KINDS, ids=lambda fault: fault.name)


def some_calls(place: Place, scenario: Scenario, fault: Fault, all_of_them: bool) -> None:
    chosen = None if all_of_them else sweep.sample(place, scenario, SAMPLE, fault.name)
    assert sweep.run(place, scenario, fault, chosen) > 0


@each_scenario
@each_fault
def test_in_memory_without_clones(
    memory_undo: Place, scenario: Scenario, fault: Fault, sweep_all: bool
) -> None:
    some_calls(memory_undo, scenario, fault, sweep_all or fault is CRASH)


@each_scenario
@each_fault
def test_in_memory_with_clones(
    memory_clones: Place, scenario: Scenario, fault: Fault, sweep_all: bool
) -> None:
    some_calls(memory_clones, scenario, fault, sweep_all)


@each_scenario
@each_fault
def test_on_disk_without_clones(disk_undo: Place, scenario: Scenario, fault: Fault, sweep_all: bool) -> None:
    some_calls(disk_undo, scenario, fault, sweep_all)


@pytest.mark.needs("xfs")
@each_scenario
@each_fault
def test_on_disk_with_clones(disk_clones: Place, scenario: Scenario, fault: Fault, sweep_all: bool) -> None:
    some_calls(disk_clones, scenario, fault, sweep_all)


@pytest.mark.parametrize("fault", KINDS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("name", ["memory_undo", "memory_clones", "disk_undo"])
def test_with_two_workers(
    name: str, fault: Fault, request: pytest.FixtureRequest, sweep_all: bool
) -> None:
    """Which call is the n-th differs from run to run then; what must hold does not."""
    place: Place = request.getfixturevalue(name)
    chance = random.Random(f"{name} {fault.name}")
    for _ in range(200 if sweep_all else 8):
        scenario = chance.choice(ALL)
        place.workers = 1
        chosen = sweep.sample(place, scenario, 1, chance.random())
        place.workers = 2
        sweep.run(place, scenario, fault, chosen)
