"""Segments that are mostly dead are moved out of by cycles (engine/store/log/compact.py)."""

from __future__ import annotations

import os
import random
from itertools import count

import pytest
from store.logkit import BLOCK, Failing, Lab, changing
from store.prunekit import HOUR, PruneLab, cut, small, some, spread

from secondsite.engine import errors
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.progress import Monitor
from secondsite.engine.remote.sending import sender
from secondsite.engine.store.log import compact, segment
from secondsite.engine.store.log.reading import Replica, restore
from secondsite.engine.store.memory import MemoryStore

BUDGET = 8 * BLOCK


def narrow(monkeypatch):
    """Segments of a few blocks, of which a cycle may move some."""
    small(monkeypatch)
    monkeypatch.setattr(compact, "_LEAST_BYTES", BUDGET)
    monkeypatch.setattr(compact, "PAGE_COST", 100)


@pytest.mark.sweep(sample=3)
@pytest.mark.parametrize("seed", range(200))
def test_every_point_that_stays_comes_back(seed, monkeypatch):
    """Random histories with prunes, cuts and time going by; a cycle moves no more than it may. In the end exactly what
    is named lies there.
    """
    narrow(monkeypatch)
    chance, lab = random.Random(seed), PruneLab(workers=1 + seed % 2)
    step, moved = changing(seed) if seed % 3 else spread(seed), 0
    for _ in range(16 if seed % 3 else 9):
        turn = chance.random()
        if turn < 0.15:
            cut(lab, step(), Failing(lab.store, chance.randrange(6, 40), after=chance.random() < 0.5))
        else:
            done = lab.cycle(step(), keep=chance.choice([None, 2, 3]))
            assert done.moved_bytes <= max(BUDGET, done.sent_bytes // 4)
            moved += done.moved_bytes
            lab.settle()
        if turn > 0.7 and lab.generations():
            lab.prune(drop=some(chance, lab.generations()), grace=chance.choice([0, HOUR]))
        lab.later(chance.choice([1, 500, 2 * HOUR]))
        assert lab.needed() <= lab.held()
    newest = lab.generations()[-1]
    if seed % 3:
        lab.check()
    assert lab.restored(newest) == lab.contents[newest]
    lab.prune(collect=True)
    lab.later()
    lab.prune()
    assert lab.restored(newest) == lab.contents[newest]
    assert {name for name in lab.held() if f"/{newest + 1:012}/" not in name} == lab.needed()
    print(f"seed {seed}: {moved} bytes moved")


def long_history(monkeypatch, cycles=70):
    """A disk of 512 blocks, of which each cycle writes 32 anywhere; three points stay. How much lies there for each
    byte of the disk, at most over the second half, and how many bytes were moved.
    """
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 34 * BLOCK)
    monkeypatch.setattr(sender, "SMALL_BATCH_BYTES", 8 * BLOCK)
    chance, lab = random.Random(7), PruneLab()
    data, most, moved = bytearray(chance.randbytes(512 * BLOCK)), 0.0, 0
    for number in range(cycles):
        for block in chance.sample(range(512), 32):
            data[block * BLOCK : block * BLOCK + 2000] = chance.randbytes(2000)
        done = lab.cycle(data, keep=3)
        moved += done.moved_bytes
        lab.settle()
        lab.later()
        if number > cycles // 2:
            most = max(most, sum(len(held.data) for held in lab.store.objects.values()) / len(data))
    lab.check()
    return most, moved


def test_what_lies_there_after_a_long_history_is_bounded(monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(compact, "useful", lambda head: False)
        loose, nothing = long_history(monkeypatch)
    close, moved = long_history(monkeypatch)
    print(f"{loose:.2f} times the disk without compaction, {close:.2f} with; {moved} bytes moved")
    assert not nothing and moved and close < 2.5 < loose - 0.5


def test_blocks_that_nobody_writes_any_more_are_moved_too(monkeypatch):
    """The first page loses most of each segment before anything is pruned, and then only the second one is written."""
    narrow(monkeypatch)
    lab = PruneLab()
    data = bytearray(os.urandom(30 * BLOCK)) + bytes(4096 * BLOCK)
    lab.cycle(data)
    for block in range(30):
        if block % 3:
            data[block * BLOCK : block * BLOCK + 9] = os.urandom(9)
    lab.cycle(data)
    first = {name for name in lab.held() if name.startswith("segments/000000000001/")}
    assert len(first) > 3
    moved = 0
    for _ in range(7):
        data[4100 * BLOCK : 4100 * BLOCK + 9] = os.urandom(9)
        moved += lab.cycle(data, keep=1).moved_bytes
        lab.settle()
        lab.later()
    assert moved >= 10 * BLOCK and not first & lab.held()
    lab.check()


def compacting(seed=5):
    """A history of which the next cycle moves something, and what that brings."""
    chance, lab = random.Random(seed), PruneLab()
    data = bytearray(chance.randbytes(40 * BLOCK))
    for _ in range(4):
        lab.cycle(data)
        for block in chance.sample(range(40), 12):
            data[block * BLOCK : block * BLOCK + 9] = chance.randbytes(9)
    lab.prune(keep=2)
    return lab, data


@pytest.mark.parametrize("after", [False, True])
def test_a_cut_at_every_call_costs_no_point(after, monkeypatch, sweep):
    narrow(monkeypatch)
    first = 1 if sweep else random.randrange(1, 4)
    print(f"from call {first} on")
    lab, data = compacting()
    assert lab.cycle(data).moved_bytes
    for number in count(first, 1 if sweep else 3):
        lab, data = compacting()
        store = Failing(lab.store, number, after=after)
        try:
            lab.cycle(data, store)
        except errors.Unreachable:
            pass
        if lab.generations()[-1] == 5:
            lab.contents[5] = bytes(data)
        lab.check()
        assert lab.needed() <= lab.held()
        lab.later(100)
        lab.forget()
        data[:9] = os.urandom(9)
        lab.cycle(data)
        lab.check()
        lab.prune(keep=1)
        lab.later()
        lab.prune(collect=True)
        lab.later()
        lab.prune()
        assert lab.held() == lab.needed()
        lab.check()
        if store.calls < number:
            break
    assert number > 15


def test_who_reads_an_older_point_reads_on(monkeypatch):
    """Between any two of his requests cycles move blocks, drop points and remove what is dead, without a grace."""
    narrow(monkeypatch)
    moved = 0
    for at in range(3, 14, 2):
        lab, data = compacting(at)
        want, asked = lab.contents[3], []

        class Between(Failing):
            def _do(self, name, *args, lab=lab, data=data, at=at, asked=asked, **more):
                done = super()._do(name, *args, **more)
                if self.calls == at:
                    for _ in range(3):
                        data[BLOCK : BLOCK + 9] = os.urandom(9)
                        asked.append(lab.cycle(data, keep=1).moved_bytes)
                        lab.settle()
                        lab.later(1)
                        lab.prune(grace=0)
                return done

        try:
            with Replica.open(Between(lab.store)).reading("3", str) as point, MemoryImage() as output:
                restore(point, output, Monitor())
                assert output.read(0, output.size) == want
        except errors.Refused as error:
            assert "dropped just now" in str(error)
        moved += sum(asked)
        lab.check()
    assert moved


def test_where_every_point_stays_or_nothing_changed_nothing_is_moved(monkeypatch):
    narrow(monkeypatch)
    lab, data = Lab(MemoryStore()), bytearray(os.urandom(40 * BLOCK))
    for _ in range(5):
        for block in random.sample(range(40), 20):
            data[block * BLOCK : block * BLOCK + 9] = os.urandom(9)
        assert not lab.cycle(data).moved_bytes
    lab, data = compacting()
    lab.cycle(data)
    before = {name for name in lab.held() if name.startswith("segments/")}
    assert lab.cycle(data).moved_bytes == 0
    assert before == {name for name in lab.held() if name.startswith("segments/")}


def test_a_segment_of_a_point_that_stays_is_left(monkeypatch):
    """Its blocks are needed there."""
    narrow(monkeypatch)
    lab, data = PruneLab(), bytearray(os.urandom(30 * BLOCK))
    lab.cycle(data)
    for _ in range(4):
        for block in range(30):
            if block % 4:
                data[block * BLOCK : block * BLOCK + 9] = os.urandom(9)
        lab.cycle(data)
    lab.prune(drop=[2, 3])
    assert lab.cycle(data[:-1] + b"x").moved_bytes == 0
    lab.prune(drop=[1])
    assert lab.cycle(data).moved_bytes > 0
    lab.check()


def test_damage_is_not_moved_and_said(monkeypatch):
    """A block of a segment of the first point is flipped in each place; the newest point names some of them."""
    narrow(monkeypatch)
    told = 0
    for place in range(600, 24000, 1711):
        lab, data = compacting()
        for name in [name for name in lab.held() if name.startswith("segments/000000000001/")]:
            held = lab.store.objects.pop(name).data
            part = held[place : place + 1]
            lab.store.put_if_absent(name, held[:place] + bytes(255 - byte for byte in part) + held[place + 1 :])
        done = lab.cycle(data)
        told += bool(done.sending.done.warnings)
        try:
            assert lab.restored(5) == bytes(data)
        except errors.Damaged:
            pass
    assert told


def test_a_page_of_the_map_that_is_damaged_fails_no_cycle(monkeypatch):
    """One that the cycle does not change, when its turn comes."""
    narrow(monkeypatch)
    lab, data = PruneLab(), bytearray(os.urandom(9 * BLOCK)) + bytes(4096 * BLOCK)
    told = []
    for number in range(5):
        data[4100 * BLOCK : 4100 * BLOCK + 9] = os.urandom(9)
        told += lab.cycle(data).sending.done.warnings
        if number == 1:
            lab.prune(keep=1)
            lab.store.objects.pop(next(name for name in lab.held() if name.startswith("maps/000000000001/")))
    assert 1 <= len(told) <= 2 and "a segment is missing; `verify` tells" in told[0], told


def test_cycles_compact_in_a_store_of_each_kind(store, monkeypatch):
    narrow(monkeypatch)
    chance, lab, moved = random.Random(3), Lab(store), 0
    data = bytearray(chance.randbytes(40 * BLOCK))
    for _ in range(5):
        for block in chance.sample(range(40), 14):
            data[block * BLOCK : block * BLOCK + 9] = chance.randbytes(9)
        moved += lab.cycle(data, keep=1).moved_bytes
    assert moved and lab.generations() == [5]
    lab.check()
