"""Runs of bits, against a list of them."""

from __future__ import annotations

import random
import time

from secondsite.engine import bits


def test_runs_against_a_list_of_bits() -> None:
    chance = random.Random(2)
    for _ in range(60):
        size = chance.randrange(1, 300)
        held, model = bytearray(-(-size // 8)), [False] * size
        for _ in range(chance.randrange(4)):
            first = chance.randrange(size)
            end = chance.randrange(first, size + 1)
            bits.set_run(held, first, end)
            model[first:end] = [True] * (end - first)
        assert [bits.is_set(held, at) for at in range(size)] == model
        for at in range(size):
            end = chance.randrange(at + 1, size + 1)
            stop = next((one for one in range(at, end) if model[one] != model[at]), end)
            assert bits.run_end(held, at, end) == stop


def test_a_terabyte_takes_no_time() -> None:
    held = bytearray(1 << 21)
    held[1 << 20] = 4
    began = time.process_time()
    assert bits.run_end(held, 0, 1 << 24) == (1 << 23) + 2
    assert bits.run_end(held, (1 << 23) + 2, 1 << 24) == (1 << 23) + 3
    assert time.process_time() - began < 0.5
