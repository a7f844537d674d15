"""What is missing of an encrypted replica is found without its key, and nothing that was meant to go is."""

from __future__ import annotations

import os
import random

import pytest
from store.logkit import BLOCK, Failing, Lab, changing
from store.prunekit import HOUR, PruneLab, cut, small, some

from secondsite.engine import errors
from secondsite.engine.delta import format as fmt
from secondsite.engine.progress import Monitor
from secondsite.engine.store import inventory
from secondsite.engine.store.base import Failed
from secondsite.engine.store.intact import Reading
from secondsite.engine.store.keyring import KEYS
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log import prune
from secondsite.engine.store.log.writing import holding
from secondsite.engine.store.memory import MemoryStore
from secondsite.engine.store.sealed import SealedStore

KEY = os.urandom(32)


@pytest.fixture
def below():
    made = MemoryStore()
    made.put_if_absent(KEYS, b"")
    return made


def missing(below):
    reading = Reading(below, Monitor())
    reading.run()
    reading.damaged.pop(KEYS, None)
    assert all("is missing" in problem for problem in reading.damaged.values()), reading.damaged
    return set(reading.damaged)


def needed(below):
    """All that a replica has but for fences and notes."""
    return {name for name in below.objects if not name.startswith("inventory/")} - {KEYS, "head.json.lease"}


@pytest.mark.parametrize("seed", range(3))
def test_each_object_is_missed(below, seed):
    lab, step = Lab(SealedStore(below, KEY)), changing(seed)
    for _ in range(4):
        lab.store = SealedStore(below, KEY)  # each cycle is a call of its own
        lab.cycle(step())
    assert missing(below) == set()
    for name in sorted(needed(below)):
        held = below.objects.pop(name)
        assert missing(below) == {name}
        below.objects[name] = held
    lost = set(random.Random(seed).sample(sorted(needed(below)), 5))
    for name in lost:
        below.delete(name)
    assert missing(below) == lost


def test_what_a_cycle_that_was_cut_had_sent_is_missed_too(below):
    """Where the next one uses it."""
    lab, data = Lab(SealedStore(below, KEY), codec=(fmt.NONE, 0)), os.urandom(2500 * BLOCK)
    with pytest.raises(Failed):
        lab.cycle(data, SealedStore(Cut(below, "maps/"), KEY))
    sent = {name for name in below.objects if name.startswith("segments/")}
    lab.forget()
    lab.store = SealedStore(below, KEY)
    assert lab.cycle(data).resumed_blocks == 2500 and len(sent) == 2
    assert {name for name in below.objects if name.startswith("segments/")} == sent
    for name in sent:
        held = below.objects.pop(name)
        assert missing(below) == {name}
        below.objects[name] = held


class Cut(Failing):
    """Nothing gets there that has a name of this kind, nor anything later."""

    def __init__(self, inner, kind):
        super().__init__(inner)
        self.kind = kind

    def put_if_absent(self, name, *args):
        if name.startswith(self.kind):
            self.at = 0
        return super().put_if_absent(name, *args)


@pytest.mark.sweep(sample=4)
@pytest.mark.parametrize("seed", range(60))
def test_what_is_noted_is_there_and_is_all_that_is_needed(seed, monkeypatch):
    """Whatever was sent, cut short, dropped and collected, in calls of their own."""
    small(monkeypatch)
    monkeypatch.setattr(inventory, "_MERGED", 4)
    lab, step, chance = PruneLab(), changing(seed), random.Random(seed)
    below = lab.store
    below.put_if_absent(KEYS, b"")
    for _ in range(14):
        lab.store = SealedStore(below, KEY)
        if chance.random() < 0.2:
            cut(lab, step(), SealedStore(Failing(below, chance.randrange(8, 25)), KEY))
        else:
            lab.cycle(step(), keep=chance.choice([None, None, 4]))
            lab.settle()
        if chance.random() < 0.4:
            lab.prune(drop=some(chance, lab.generations()), grace=0, collect=chance.random() < 0.5)
        lab.later(chance.choice([1, 500, 2 * HOUR]))
        notes = inventory.Notes(below)
        notes.read()
        assert lab.needed() - {"head.json", "replica.json"} <= notes.held.keys() <= below.objects.keys(), seed
        assert all(len(below.objects[name].data) == size for name, size in notes.held.items())
        assert missing(below) == set()
    lab.check()


def test_what_is_deleted_is_not_missed(below):
    store = SealedStore(below, KEY)
    store.put_if_absent("head.json", b"1")
    for number in range(20):
        store.put_if_absent(f"a/{number}", b"data")
    etag = store.replace("head.json", b"2", store.get("head.json").etag)
    assert missing(below) == {"replica.json"}
    store.put_if_absent("replica.json", b"")
    other = SealedStore(below, KEY)
    notes = sum(name.startswith("inventory/") for name in below.objects)
    other.forget([f"a/{number}" for number in range(10)])
    for number in range(10):
        other.delete(f"a/{number}")
    assert sum(name.startswith("inventory/") for name in below.objects) == notes + 1
    assert missing(below) == set()
    store.replace("head.json", b"3", etag)
    other.delete("a/15")
    assert missing(below) == set()
    below.delete("a/16")
    assert missing(below) == {"a/16"}


def test_what_is_pruned_is_not_missed(below):
    lab, step = Lab(SealedStore(below, KEY)), changing(4)
    for _ in range(6):
        lab.store = SealedStore(below, KEY)
        lab.cycle(step())
    notes = sum(name.startswith("inventory/") for name in below.objects)
    for keep in (3, None, 1):
        store = SealedStore(below, KEY)
        identity = heads.load_identity(store)
        with holding(store, identity, 60) as fence:
            made = prune.Pruning(store, identity, heads.load(store, identity), fence)
            if keep:
                made.keep(keep)
            assert missing(below) == set()
            made.sweep(0)
        assert missing(below) == set()
    assert sum(name.startswith("points/") for name in below.objects) == 1
    assert sum(name.startswith("inventory/") for name in below.objects) < notes + 12
    name = next(name for name in below.objects if name.startswith("maps/"))
    below.delete(name)
    assert missing(below) == {name}


def test_what_came_and_went_in_one_call_is_not_noted(below):
    store = SealedStore(below, KEY)
    store.put_if_absent("clock", b"")
    store.delete("clock")
    assert not any(name.startswith("inventory/") for name in below.objects)


@pytest.mark.parametrize("cut", range(0, 75, 5))
def test_notes_are_merged_and_a_cut_leaves_all_as_it_was(below, cut):
    store = SealedStore(below, KEY)
    etag = store.put_if_absent("head.json", b"0")
    store.put_if_absent("replica.json", b"")
    for number in range(70):
        store.put_if_absent(f"a/{number}", b"data")
        etag = store.replace("head.json", b"%d" % number, etag)
        if number % 7 == 6:
            store.delete(f"a/{number - 3}")
    failing = Failing(below)
    failing.at = None
    pruning = SealedStore(failing, KEY)
    failing.at = 1 + len([name for name in below.objects if name.startswith("inventory/")]) + 1 + cut
    try:
        pruning.forget(["a/0"])
        pruning.delete("a/0")
    except errors.Error:
        pass
    assert missing(below) <= {"a/0"} - set(below.objects)
    SealedStore(below, KEY).forget(["a/1"])
    SealedStore(below, KEY).delete("a/1")
    assert missing(below) == set()
    left = sum(name.startswith("inventory/") for name in below.objects)
    assert left < 65
    below.delete("a/30")
    assert missing(below) == {"a/30"}


def test_what_is_dropped_while_all_is_read_is_not_missed(below):
    store = SealedStore(below, KEY)
    etag = store.put_if_absent("head.json", b"0")
    for name in ("replica.json", "a", "b"):
        store.put_if_absent(name, b"")
    store.replace("head.json", b"1", etag)

    class Dropping(Failing):
        def get(self, name, *args):
            if name == "replica.json":
                SealedStore(below, KEY).delete("a")
            return super().get(name, *args)

    assert missing(Dropping(below)) == set()


def test_a_damaged_note_is_told(below):
    store = SealedStore(below, KEY)
    etag = store.put_if_absent("head.json", b"0")
    store.put_if_absent("replica.json", b"")
    store.replace("head.json", b"1", etag)
    name = next(name for name in below.objects if name.startswith("inventory/"))
    for bad in (b"", b"{}", os.urandom(500), inventory.record.pack({"held": [], "gone": 5, "replaces": []})):
        below.delete(name)
        below.put_if_absent(name, bad)
        reading = Reading(below, Monitor())
        reading.run()
        assert name in reading.damaged
        SealedStore(below, KEY).delete("other")  # who has the key goes on


def test_many_objects_are_noted_in_parts(below, monkeypatch):
    monkeypatch.setattr(inventory, "_NOTE_OBJECTS", 7)
    store = SealedStore(below, KEY)
    etag = store.put_if_absent("head.json", b"0")
    store.put_if_absent("replica.json", b"")
    for number in range(40):
        store.put_if_absent(f"a/{number}", b"")
    store.replace("head.json", b"1", etag)
    SealedStore(below, KEY).forget([f"a/{number}" for number in range(20)])
    for number in range(40):
        below.delete(f"a/{number}")
    assert missing(below) == {f"a/{number}" for number in range(20, 40)}
