"""A process that replicates one content after another until it is killed: `python -c` with this folder in its path.

Content number k becomes generation k. Before each cycle it prints `begin K NAMES`, NAMES being points that the cycle
may drop; after it `done K NAMES`, the points that there are.
"""

from __future__ import annotations

import functools
import random
from itertools import count
from pathlib import Path

import pytest
from rig import BLOCK, make_small

from secondsite import engine
from secondsite.engine import source

KIB = 1024
KEEP = 4


@functools.cache
def _base() -> bytes:
    return random.Random("base").randbytes(700 * KIB)


def content(k: int) -> bytes:
    """The same for every process that asks."""
    chance = random.Random(k)
    data = bytearray(_base())
    for _ in range(6):
        at, length = chance.randrange(len(data)), chance.randrange(1, 60 * KIB)
        data[at : at + length] = bytes(length) if chance.random() < 0.3 else chance.randbytes(length)
    data[0:8] = k.to_bytes(8, "little")
    del data[len(data) - chance.randrange(200) * 512 :]
    return bytes(data)


def main(folder: str, history: str, first: int, workers: int) -> None:
    """Never returns."""
    patch = pytest.MonkeyPatch()
    make_small(patch)
    patch.setattr(source, "TICK_NS", -1)  # nobody writes the source while it is read
    root, path = f"{folder}/replica", Path(folder, "source")
    for k in count(first):
        listed = [point.point for point in engine.points(root)] if Path(root, "replica.json").exists() else []
        dropped = listed[: 1 - KEEP] if k % 3 == 0 else listed[1:2] if k % 3 == 1 and len(listed) > 2 else []
        path.write_bytes(content(k))
        print("begin", k, *dropped, flush=True)
        engine.replicate(
            path, root, block_size=BLOCK, history=history, workers=workers, resync=k % 7 == 0,
            keep=KEEP if k % 3 == 0 else None,
        )  # fmt: skip
        if dropped and k % 3 == 1 and history == "undo":
            engine.prune(root, drop=dropped)
        print("done", k, *[point.point for point in engine.points(root)], flush=True)
