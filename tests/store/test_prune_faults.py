"""Pruning of a replica in a store that is cut off at any call, or races cycles, other pruners and takeovers."""

from __future__ import annotations

import os
import random
from itertools import count

import pytest
from store.logkit import BLOCK, Failing, Lab, changing
from store.prunekit import HOUR, PruneLab, small

from secondsite.engine import errors
from secondsite.engine.progress import Monitor
from secondsite.engine.store.base import Changed, Fenced
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log import prune
from secondsite.engine.store.log.collect import unnamed
from secondsite.engine.store.log.reading import Replica
from secondsite.engine.store.log.writing import holding, take_over
from secondsite.engine.store.memory import MemoryStore


def history(count=7, seed=4):
    lab, step = PruneLab(), changing(seed)
    for _ in range(count):
        lab.cycle(step())
    return lab


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("how", ["keep", "drop", "collect"])
def test_a_cut_at_every_call_costs_no_point(how, after, monkeypatch, sweep):
    """The n-th call fails and all after it; then another prune does what is left."""
    small(monkeypatch)
    first = 1 if sweep else random.randrange(1, 12)
    print(f"from call {first} on")
    more = {"keep": {"keep": 2}, "drop": {"drop": [2, 3, 5]}, "collect": {"collect": True}}[how]
    for number in count(first, 1 if sweep else 11):
        lab = history()
        lab.prune(drop=[1])
        lab.later()  # so that there is something to remove too
        lab.store.put_if_absent("maps/000000000004/aaaaaa", b"of nobody")
        store = Failing(lab.store, number, after=after)
        try:
            lab.prune(store=store, **more)
        except errors.Unreachable:
            pass
        lab.settle()
        assert set(lab.generations()) in ({2, 3, 4, 5, 6, 7}, {6, 7}, {4, 6, 7}) and lab.needed() <= lab.held()
        lab.check()
        lab.later()
        lab.prune(keep=2)
        lab.later()
        lab.prune(collect=True)
        lab.later()
        lab.prune()
        assert lab.generations() == [6, 7] and lab.held() == lab.needed()
        lab.check()
        if store.calls < number:
            break
    assert number > 10


@pytest.mark.parametrize("after", [False, True])
def test_a_cycle_whose_pruning_is_cut_has_its_point(after, monkeypatch, sweep):
    small(monkeypatch)
    pruned, first = 0, 1 if sweep else random.randrange(1, 7)
    print(f"from call {first} on")
    for number in count(first, 1 if sweep else 6):
        lab, step = PruneLab(), changing(4)
        for _ in range(5):
            lab.cycle(step())
        lab.prune(drop=[1])
        lab.later()
        data, store = step(), Failing(lab.store, number, after=after)
        try:
            done = lab.cycle(data, store, keep=2)
        except errors.Unreachable:
            lab.contents[6] = data
        else:
            told = done.sending.done.warnings
            assert lab.generations()[-1] == 6 and bool(told) == (lab.generations() != [5, 6] or store.calls >= number)
            pruned += bool(told)
        lab.settle()
        lab.check()
        assert lab.needed() <= lab.held()
        if store.calls < number:
            break
    assert pruned > (3 if sweep else 0)


@pytest.mark.sweep(sample=5)
@pytest.mark.parametrize("at", range(1, 40, 3))
def test_a_cycle_that_comes_in_between_stays(at, monkeypatch):
    """Between two requests of a prune whose fence was lost another host commits a point: the prune plans again."""
    small(monkeypatch)
    lab, other = history(), Lab(MemoryStore())
    other.store, more = lab.store, os.urandom(9 * BLOCK)

    class Between(Failing):
        def _do(self, name, *args, **named):
            if self.calls + 1 == at:
                self.calls += 1
                lab.store.objects.pop("head.json.lease", None)
                other.cycle(more)
                lab.contents[8] = more
            return super()._do(name, *args, **named)

    try:
        lab.prune(keep=2, grace=0, store=Between(lab.store))
    except (Fenced, Changed):
        pass
    lab.settle()
    if 8 in lab.contents:
        assert lab.generations() in ([1, 2, 3, 4, 5, 6, 7, 8], [7, 8], [6, 7, 8])
    lab.later()
    lab.prune(keep=2)
    lab.later()
    lab.prune(collect=True)
    lab.later()
    lab.prune()
    lab.check()
    assert lab.held() == lab.needed()


class Unfenced(Failing):
    """As a store whose leases hold nobody up: etags alone decide."""

    def replace(self, name, data, etag, metadata=None, fence=None):
        return super().replace(name, data, etag, metadata)


@pytest.mark.sweep(sample=2)
@pytest.mark.parametrize("seed", range(120))
def test_two_who_prune_and_write_at_once_lose_nothing(seed, monkeypatch):
    """Their steps are interleaved at random, request by request, and no fence stands between them."""
    small(monkeypatch)
    chance, lab = random.Random(seed), history(6, seed)
    busy = []

    class Turns(Unfenced):
        def _do(self, name, *args, **more):
            if chance.random() < 0.12 and not busy:
                busy.append(True)
                attempt()
                busy.clear()
            return super()._do(name, *args, **more)

    def attempt():
        store = lab.store if busy else Turns(lab.store)
        identity = heads.load_identity(lab.store)
        lab.store.objects.pop("head.json.lease", None)
        try:
            if chance.random() < 0.4:
                made = Lab(lab.store)
                data = chance.randbytes(12 * BLOCK)
                lab.contents[made.cycle(data, store).generation] = data
            else:
                with holding(store, identity, 60) as fence:
                    pruning = prune.Pruning(store, identity, heads.load(lab.store, identity), fence)
                    if chance.random() < 0.3:
                        pruning.condemn(pruning.head, unnamed(store, identity, pruning.head, Monitor()))
                    elif pruning.head.count > 2:
                        pruning.keep(pruning.head.count - chance.randrange(1, 3))
                    pruning.sweep(chance.choice([0, HOUR]))
        except (Changed, Fenced, errors.Damaged):  # who lost, in the middle of what the other removed
            pass

    for _ in range(12):
        attempt()
        lab.later(chance.choice([1, 2 * HOUR]))
        assert lab.needed() <= lab.held()
    lab.settle()
    lab.check()
    lab.prune(collect=True)
    lab.later()
    lab.prune()
    newest = Replica.open(lab.store).head.generation
    assert {name for name in lab.held() if f"/{newest + 1:012}/" not in name} == lab.needed()
    lab.check()


def test_who_was_taken_over_from_prunes_nothing():
    lab = history()

    class Taken(Failing):
        def put_if_absent(self, name, *args, **more):
            done = super().put_if_absent(name, *args, **more)
            if name.startswith("condemned/"):
                take_over(lab.store)
            return done

    before = lab.held()
    with pytest.raises((Fenced, Changed)):
        lab.prune(keep=1, store=Taken(lab.store))
    assert len(lab.generations()) == 7 and before <= lab.held()
    lab.check()


def test_pruning_over_a_store_of_each_kind(store):
    """Real clocks, so without a grace."""
    lab, step = Lab(store), changing(7)
    for _ in range(5):
        lab.cycle(step())
    identity = heads.load_identity(store)
    for work in (lambda made: made.keep(2), lambda made: None):
        with holding(store, identity, 15) as fence:
            made = prune.Pruning(store, identity, heads.load(store, identity), fence)
            work(made)
            made.sweep(0)
    assert lab.generations() == [4, 5] and made.tally.condemned_bytes == 0
    assert not [entry for entry in store.list("points/000000000001/")]
    assert not [entry for entry in store.list("clock/")] and not [entry for entry in store.list("condemned/")]
    lab.check()
