"""The sample that unmasks a tracker, and the probability that is reported, against a simulation of it."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from secondsite.engine import errors
from secondsite.engine.distrust import caught, check_count, draw


def simulate(changed: int, unmarked: int, sampled: int, hidden: float, cycles: int, chance: random.Random) -> bool:
    """Is a tracker caught that hides each change with the probability `hidden`? Block by block, as it happens."""
    wrong: set[int] = set()
    for _ in range(cycles):
        silent = sum(chance.random() < hidden for _ in range(round(changed / (1 - hidden))))
        wrong.update(chance.randrange(unmarked) for _ in range(silent))
        if wrong and not wrong.isdisjoint(chance.sample(range(unmarked), sampled)):
            return True
    return False


@pytest.mark.parametrize(
    ("changed", "unmarked", "sampled", "hidden", "cycles"),
    [(100, 2000, 16, 0.01, 20), (20, 500, 1, 0.05, 40), (5, 64, 64, 0.02, 5), (300, 5000, 64, 0.001, 30),
     (10, 100, 3, 0.5, 3), (1000, 100_000, 64, 0.01, 12)],
)  # fmt: skip
def test_the_probability_is_that_of_a_simulation(
    changed: int, unmarked: int, sampled: int, hidden: float, cycles: int
) -> None:
    chance, rounds = random.Random(8), 500
    seen = sum(simulate(changed, unmarked, sampled, hidden, cycles, chance) for _ in range(rounds)) / rounds
    told = caught(changed, unmarked, sampled, hidden=hidden, cycles=cycles)
    assert 0.05 < told < 0.999, "a case that tells something"
    # Four standard deviations of the simulation, and what two hidden changes of one block make.
    assert abs(seen - told) < 4 * math.sqrt(told * (1 - told) / rounds) + 0.02


def test_what_a_user_may_expect() -> None:
    """64 MiB a cycle in blocks of 64 KiB: 1 GiB of disk is nearly certain, 1 TiB would need a larger sample."""
    assert caught(1024, (16 << 10) - 1024, 64) > 0.999
    assert 0.01 < caught(1024, (16 << 20) - 1024, 64) < 0.03
    assert caught(1024, (16 << 20) - 1024, 16384) > 0.98


def test_more_of_anything_is_more() -> None:
    base = caught(1000, 100_000, 64)
    assert caught(2000, 100_000, 64) > base < caught(1000, 100_000, 65)
    assert caught(1000, 99_000, 64) > base < caught(1000, 100_000, 64, cycles=101)
    assert 0 < base < 1


@pytest.mark.parametrize("numbers", [(0, 10, 10), (10, 0, 10), (10, 10, 0)])
def test_where_there_is_nothing_to_catch(numbers: tuple[int, int, int]) -> None:
    assert caught(*numbers) == 0


def test_ends() -> None:
    assert caught(10, 5, 64, hidden=0.5) > 0.99, "a sample of everything"
    assert caught(10, 100, 5, hidden=0) == 0
    assert caught(1 << 40, 1 << 40, 1 << 20) == 1
    with pytest.raises(ValueError):
        caught(1, 1, 1, hidden=1)


def test_the_blocks_that_are_drawn() -> None:
    chance = random.Random(2)
    for total, count, expected in ((0, 64, 0), (1, 64, 1), (100, 1, 64), (1000, 64, 128), (1000, 300, 600)):
        drawn = draw(total, count, chance)
        assert len(drawn) == expected == len(set(drawn)) and list(drawn) == sorted(drawn)
        assert all(0 <= block < total for block in drawn)
    often = Counter(block for _ in range(3000) for block in draw(256, 1, chance))
    assert all(600 < often[block] < 900 for block in range(256)), "750 times each"
    assert len(draw(1 << 40, 64, chance)) == 128


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one(count: int) -> None:
    with pytest.raises(errors.Usage, match="at least one"):
        check_count(count)
