"""An orchestrator is killed at any step of any failover, and who goes on with it once more: it is completed, or taken
back. At no time do both sides accept writes, no write of the machine and no listed point is lost (lives.py).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial

import lives
import pytest
from lives import Life

from bench import Bench

LIVES: dict[str, Callable[[Life], None]] = {
    "there": lives.there, "and_back": lives.and_back, "lost": lives.lost,
    "delta-before": partial(lives.home, copy="delta", before=True),
    "full-before": partial(lives.home, copy="full", before=True),
    "delta-during": partial(lives.home, copy="delta", before=False),
    "full-during": partial(lives.home, copy="full", before=False),
}  # fmt: skip
# More than each has: the last cases are not killed at all. The ways home share theirs among them, four steps apart.
STEPS = {"there": 37, "and_back": 65, "lost": 47, "delta-before": 59, "full-before": 60, "delta-during": 69,
         "full-during": 66}  # fmt: skip
FIRST = {"delta-before": 1, "full-before": 2, "delta-during": 3, "full-during": 4}
CASES = [
    (name, at) for name, most in STEPS.items() for at in range(FIRST.get(name, 1), most + 1, 4 if name in FIRST else 1)
]
INNER = 9


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize(("name", "at"), CASES)
def test_killed_at_any_step(name: str, at: int, bench: Bench) -> None:
    """Of transactions, calls of hosts and cycles: every action of a life is killed at its step `at`."""
    life = Life(bench, lambda: at, again=1 + at * 7 % 19)
    LIVES[name](life)
    print("longest", life.longest, "killed", life.killed)
    assert life.killed or at > 8, "each of them has more steps than that"
    assert not life.killed or at < STEPS[name], "every step is a case"


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("number", range(1, INNER + 1))
@pytest.mark.parametrize("name", LIVES)
def test_killed_in_the_midst_of_a_step(name: str, number: int, bench: Bench) -> None:
    """At what a step does to files and processes, on its host too, by chance: dense where an action begins."""
    seed = f"{os.environ.get('SECONDSITE_SEED', '1')} {name} {number}"
    chance = random.Random(seed)
    print("seed", seed)
    among = 5 * number * number
    life = Life(bench, lambda: 1 + chance.randrange(among), chance.randrange(1, 200), inner=True)
    LIVES[name](life)
    print("longest", life.longest, "killed", life.killed)
    assert life.killed or number > 2
