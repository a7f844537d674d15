"""The sample that unmasks a tracker: which blocks are drawn, and how likely one that hides changes is to be caught.

A tracker is never trusted blindly (DESIGN D7): each cycle also hashes some blocks that it did not name. They are drawn
before the cut, since a source that goes on being written keeps for a cycle only what it was told to.
"""

from __future__ import annotations

import math
import random
from array import array

from secondsite.engine import errors

SAMPLED_BLOCKS = 64
# More are drawn than are looked at: some of them will be named. With nine blocks of ten named, none of 64 is left over
# once in 850 cycles.
_DRAWN_BLOCKS = 64
# What is reported: a tracker that hides one change of a thousand, watched for a hundred cycles.
HIDDEN, CYCLES = 0.001, 100


def check_count(count: int) -> None:
    """Raises Usage: a cycle looks at one block at least."""
    if count < 1:
        raise errors.Usage(f"distrust is the number of blocks to look at, at least one, not {count}")


def draw(total: int, count: int, chance: random.Random) -> array[int]:
    """Different blocks of `total`, ascending, of which `count` will be looked at; each set is as likely as another."""
    wanted = min(total, max(2 * count, _DRAWN_BLOCKS))
    return array("Q", sorted(chance.sample(range(total), wanted)))


def caught(changed: int, unmarked: int, sampled: int, *, hidden: float = HIDDEN, cycles: int = CYCLES) -> float:
    """The probability with which a tracker that hides a share of the changes is caught within so many cycles like this.

    In each cycle `changed` blocks were named and did change; the tracker keeps silent, at random, about the share
    `hidden` of all that change: of changed / (1 - hidden). What is hidden is among the `unmarked` blocks, of which
    `sampled` are looked at in each cycle, and stays wrong until then (a block that is written again and named then
    would be right again; that is left out). A block hidden in one of the last `a` cycles has been met with
    1 - (1 - sampled / unmarked) ** a. Where nothing changes there is nothing to hide, and the answer is 0.
    """
    if not 0 <= hidden < 1:
        raise ValueError(f"a share of {hidden}")
    if min(changed, unmarked, sampled) <= 0:
        return 0.0
    written = changed / (1 - hidden)
    missed = 1 - min(sampled / unmarked, 1.0)
    silence = sum(math.log1p(-hidden * (1 - missed**age)) for age in range(1, cycles + 1))
    return -math.expm1(written * silence)
