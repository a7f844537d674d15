"""Does the check of racing writers say what is true? Of histories whose instants are known, with no disk at all."""

from __future__ import annotations

import random
from typing import cast

import pytest
from trackerkit import RECORD, Op, Rig, Writers, record

SLOTS = 24


class History:
    """Three writers over a disk in memory; each write begins where the one before it has ended."""

    def __init__(self) -> None:
        self.writers, self.now = Writers(cast(Rig, None), size=SLOTS * RECORD), 0
        self.disk = bytearray(SLOTS * RECORD)

    def write(self, slot: int, *, zero: bool = False, lost: bool = False) -> None:
        number = slot % 3
        log = self.writers.logs[number]
        if not lost:
            data = bytes(RECORD) if zero else record(number, slot, len(log) + 1)
            self.disk[slot * RECORD : (slot + 1) * RECORD] = data
        log.append(Op(slot, zero, self.now, self.now + 1))
        self.now += 2


@pytest.mark.parametrize("seed", range(10))
def test_what_the_disk_was_at_an_instant_is_right(seed: int) -> None:
    """The newest record of a writer may have been zeroed again: then the slots show older ones alone."""
    chance, history = random.Random(seed), History()
    seen = []
    for _ in range(100):
        history.write(chance.randrange(SLOTS), zero=chance.random() < 0.4)
        seen.append((history.now, bytes(history.disk)))
    for begun, disk in seen:
        history.writers.check(disk, begun)


def test_a_record_that_was_zeroed_again_is_not_missing() -> None:
    history = History()
    history.write(0)
    history.write(0, zero=True)
    history.write(1)
    history.writers.check(bytes(history.disk), history.now)


@pytest.mark.parametrize("zero", [False, True])
def test_a_write_that_is_missing_where_a_later_one_is_there(zero: bool) -> None:
    history = History()
    history.write(0)
    history.write(0, zero=zero, lost=True)
    history.write(1)
    with pytest.raises(AssertionError, match="no single instant"):
        history.writers.check(bytes(history.disk), 0)


def test_a_write_that_had_ended_before_the_cut() -> None:
    history = History()
    history.write(0, lost=True)
    history.writers.check(bytes(history.disk), 0)
    with pytest.raises(AssertionError, match="a write that had ended is missing"):
        history.writers.check(bytes(history.disk), history.now)


def test_a_writer_s_own_order() -> None:
    history = History()
    history.write(0, lost=True)
    history.write(3)
    with pytest.raises(AssertionError, match="writer 0: its slots were never like this"):
        history.writers.check(bytes(history.disk), 0)


def test_half_a_record() -> None:
    history = History()
    history.write(0)
    history.disk[RECORD - 8 : RECORD] = bytes(8)
    with pytest.raises(AssertionError, match="never written there at once"):
        history.writers.check(bytes(history.disk), 0)
