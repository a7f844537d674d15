"""Points of a replica in a store that go (engine/store/log/prune.py): what stays, what goes when, and what it costs."""

from __future__ import annotations

import os
import random
from itertools import count

import pytest
from store.logkit import BLOCK, Failing, changing
from store.prunekit import HOUR, PruneLab, cut, small, some, spread

from secondsite.engine import errors
from secondsite.engine.delta import format as fmt
from secondsite.engine.store.log import condemned, pages, segment
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log.reading import Replica
from secondsite.engine.store.memory import MemoryStore

MIB = 1 << 20


@pytest.mark.sweep(sample=4)
@pytest.mark.parametrize("seed", range(200))
def test_every_point_that_stays_comes_back(seed, monkeypatch):
    """Random histories, with attempts that were cut, prunes of any kind and time going by. In the end, after all that
    is dead was collected, exactly what is named lies there.
    """
    small(monkeypatch)
    chance, lab, step = random.Random(seed), PruneLab(workers=1 + seed % 2), changing(seed)
    for _ in range(14):
        turn = chance.random()
        if turn < 0.15:
            cut(lab, step(), Failing(lab.store, chance.randrange(6, 25), after=chance.random() < 0.5))
        else:
            lab.cycle(step(), keep=chance.choice([None, None, None, 3, 6]))
            lab.settle()
        if turn > 0.6 and lab.generations():
            lab.prune(drop=some(chance, lab.generations()), grace=chance.choice([0, HOUR]))
        lab.later(chance.choice([1, 500, 2 * HOUR]))
    lab.check()
    assert lab.needed() <= lab.held()
    lab.prune(collect=True)
    lab.later()
    lab.prune()
    lab.check()
    newest = Replica.open(lab.store).head.generation
    spooled = {name for name in lab.held() if f"/{newest + 1:012}/" in name}
    assert lab.held() - spooled == lab.needed()


@pytest.mark.sweep(sample=4)
@pytest.mark.parametrize("seed", range(60))
def test_without_a_cut_nothing_dead_is_overlooked(seed, monkeypatch):
    """What pruning itself finds is all there is: no collection of everything is needed."""
    small(monkeypatch)
    chance, lab, step = random.Random(seed), PruneLab(), changing(seed)
    for _ in range(12):
        lab.cycle(step(), keep=chance.choice([None, None, 4]))
        if chance.random() < 0.4:
            lab.prune(drop=some(chance, lab.generations()))
        lab.later(700)
    lab.settle()
    lab.prune(keep=chance.choice([1, 2, 3]))
    for _ in range(4):  # lists of lists that were put together go one after the other
        lab.later()
        lab.prune()
    assert lab.held() - of_zeros(lab) == lab.needed()
    lab.check()


def of_zeros(lab):
    """Segments of points that stay, which hold runs of zeros alone: they served a cycle that might have been cut, and
    no map has places for zeros.
    """
    kept = {f"segments/{generation:012}" for generation in lab.generations()}
    found = {name for name in lab.held() if name.rpartition("/")[0] in kept}
    tables = {name: segment.table(lab.store, name, len(lab.store.objects[name].data)) for name in found}
    return {name for name in found if not any(len(frame.blocks) for frame, _, _ in tables[name].frames)}


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("seed", range(60))
def test_a_segment_whose_blocks_are_in_several_pages_stays_as_long_as_one_is_named(seed, monkeypatch):
    small(monkeypatch)
    chance, lab, step = random.Random(seed), PruneLab(codec=(fmt.NONE, 0)), spread(seed)
    for _ in range(7):
        lab.cycle(step())
    for _ in range(3):
        lab.prune(drop=some(chance, lab.generations()), grace=0)
        lab.later()
        lab.prune()
        assert lab.held() == lab.needed()
    number = chance.choice(lab.generations())
    assert lab.restored(number) == lab.contents[number]


def test_objects_stay_for_the_grace_and_then_go():
    lab, data = PruneLab(), bytearray(os.urandom(40 * BLOCK))
    for number in range(5):
        data[number * BLOCK : number * BLOCK + 9] = b"otherwise"
        lab.cycle(data)
    before = lab.held()
    done = lab.prune(keep=2)
    assert (done.points, done.freed_bytes) == (3, 0) and done.condemned_bytes > 0
    assert before <= lab.held() and lab.generations() == [4, 5]
    lab.later(HOUR - 60)
    assert lab.prune().freed_bytes == 0 and before <= lab.held()
    lab.later(70)
    after = lab.prune()
    assert after.freed_bytes == done.condemned_bytes and after.condemned_bytes == 0
    assert lab.held() == lab.needed()
    lab.check()


def test_a_later_cycle_removes_what_is_due():
    lab, step = PruneLab(), changing(3)
    for _ in range(6):
        lab.cycle(step())
    lab.prune(keep=1)
    lab.later(60)
    lab.cycle(step())
    lab.later()
    lab.cycle(step())
    lab.settle()
    assert lab.held() == lab.needed()


def test_cycles_that_keep_so_many_points_hold_no_more_than_they_need():
    """A cycle each four minutes for four hours: condemned are an hour's objects, in a few lists."""
    lab, data = PruneLab(), bytearray(os.urandom(20 * BLOCK))
    for number in range(60):
        data[number % 20 * BLOCK : number % 20 * BLOCK + 4] = number.to_bytes(4, "little")
        lab.cycle(data, keep=3)
        lab.later(240)
    lab.settle()
    assert lab.generations() == [58, 59, 60]
    head = Replica.open(lab.store).head
    assert len(head.condemned) <= 9
    dead = lab.held() - lab.needed()
    assert len(dead) < 30 * 5, len(dead)
    lab.check()


def test_the_newest_point_stays_and_names_are_checked():
    lab, step = PruneLab(), changing(1)
    for _ in range(3):
        lab.cycle(step())
    before = lab.held()
    for drop in ([3], [1, 3], [9]):
        with pytest.raises(errors.Refused):
            lab.prune(drop=drop)
        assert lab.generations() == [1, 2, 3] and lab.held() == before
    assert lab.prune(keep=7).points == 0 and lab.prune(drop=[1, 1]).points == 1


def test_dropping_costs_what_was_dropped(monkeypatch):
    """One of 60 points in the middle, and the oldest, take as many requests as of 20."""
    monkeypatch.setattr(pages, "PAGE_POINTS", 64)
    monkeypatch.setattr(heads, "INLINE", 10)
    monkeypatch.setattr(heads, "_KEPT", 4)
    asked = {}
    for many in (20, 60):
        lab, data = PruneLab(), bytearray(os.urandom(64 * BLOCK))
        for number in range(many):
            at = number * 7 % 64 * BLOCK
            data[at : at + 4] = number.to_bytes(4, "little")
            lab.cycle(data)
        for called, drop in (("middle", [many // 2]), ("oldest", [1])):
            store = Failing(lab.store)
            lab.prune(drop=drop, store=store)
            asked[called, many] = store.calls
    print(asked)
    for called in ("middle", "oldest"):
        assert asked[called, 60] <= asked[called, 20] + 4 and asked[called, 60] < 40


def test_a_point_that_is_damaged_goes_and_what_it_named_alone_is_collected(monkeypatch):
    small(monkeypatch)
    lab, step = PruneLab(), changing(5)
    for _ in range(6):
        lab.cycle(step())
    lab.store.objects.pop(next(name for name in lab.held() if name.startswith("points/000000000003/")))
    with pytest.raises(errors.Damaged):
        lab.prune(collect=True)
    done = lab.prune(drop=[3])
    assert done.points == 1 and "manifest of point 3 is missing; what only it names stays" in done.warnings[0]
    lab.later()
    lab.prune()
    lab.check()
    lab.prune(collect=True)
    lab.later()
    lab.prune()
    assert lab.held() == lab.needed()
    lab.check()


@pytest.mark.parametrize("what", ["maps", "segments", "points"])
def test_what_is_damaged_beside_a_point_that_goes_costs_no_other_point(what, monkeypatch, sweep):
    """Of each object of a kind: gone, then each other point is dropped, and the rest is what it was."""
    small(monkeypatch)
    first = 0 if sweep else random.randrange(3)
    print(f"from object {first} on")
    for number in count(first, 1 if sweep else 3):
        lab, step = PruneLab(), changing(6)
        for _ in range(6):
            lab.cycle(step())
        names = sorted(name for name in lab.held() if name.startswith(what))
        if number >= len(names):
            break
        lab.store.objects.pop(names[number])
        whole = [generation for generation in lab.generations() if comes_back(lab, generation)]
        lab.prune(drop=[2, 4])
        lab.later()
        lab.prune()
        for generation in {*whole} - {2, 4}:
            assert lab.restored(generation) == lab.contents[generation]
        if number > 12:
            break
    assert number > 3


def comes_back(lab, generation):
    try:
        return lab.restored(generation) == lab.contents[generation]
    except errors.Damaged:
        return False


def test_a_damaged_page_of_the_catalogue_goes_with_its_points(monkeypatch):
    small(monkeypatch)
    lab, step = PruneLab(), changing(8)
    for _ in range(20):
        lab.cycle(step())
    page = Replica.open(lab.store).head.pages[0]
    lab.store.objects.pop(page.name)
    lab.contents = {number: data for number, data in lab.contents.items() if number > page.last}
    with pytest.raises(errors.Damaged):
        lab.prune(keep=Replica.open(lab.store).head.count - 1)
    done = lab.prune(keep=len(lab.contents) - 2)
    assert done.points == page.count + 2 and f"points {page.points} is damaged" in done.warnings[-1]
    lab.prune(collect=True)
    lab.later()
    lab.prune()
    assert lab.held() == lab.needed()
    lab.check()


def test_a_list_of_condemned_objects_that_is_damaged_leaves_them_to_a_collection():
    lab, step = PruneLab(), changing(9)
    for _ in range(5):
        lab.cycle(step())
    lab.prune(keep=1)
    lab.store.objects.pop(Replica.open(lab.store).head.condemned[0].name)
    lab.later()
    done = lab.prune()
    assert "the list of condemned objects is missing; what it names stays until" in done.warnings[0]
    assert not Replica.open(lab.store).head.condemned and lab.held() > lab.needed()
    lab.prune(collect=True)
    lab.later()
    lab.prune()
    assert lab.held() == lab.needed()


def test_a_list_that_names_other_things_removes_nothing():
    lab, step = PruneLab(), changing(9)
    for _ in range(3):
        lab.cycle(step())
    head = Replica.open(lab.store).head
    for name in ("head.json", "segments/../head.json", "replica.json", "other/000000000001/aaaaaa"):
        try:
            one = condemned._save(lab.store, head.replica_id, {name: 5}, 0)
        except ValueError:
            continue
        with pytest.raises(errors.Damaged):
            condemned.load(lab.store, head.replica_id, one)


@pytest.mark.parametrize("each", [2, 4, 60])
def test_a_cycle_a_second_writes_little_anew_and_begins_few_lists(each, sweep):
    """As `--watch 1 --keep N` does. All in one list made each of 600 cycles put what all before it had condemned."""
    store, lists, cycles = MemoryStore(), (), 600 if sweep or each < 60 else 240
    for second in range(cycles):
        names = {f"segments/{second + 1:012}/{number:06x}": 9 for number in range(each)}
        lists = condemned.more(store, "00" * 16, lists, names, second)
    assert len(lists) <= cycles / 40
    held = [entry.size for entry in store.list(condemned.FOLDER)]
    assert len(held) == cycles and sum(held) / cycles <= 2000 + 100 * 40 * each
    assert sum(one.count for one in lists) == each * cycles + cycles - len(lists)


def test_thousands_of_objects_make_several_lists(monkeypatch):
    monkeypatch.setattr(condemned, "LIST_OBJECTS", 10)
    lab, step = PruneLab(), changing(2)
    for _ in range(30):
        lab.cycle(step())
    lab.prune(keep=1)
    assert len(Replica.open(lab.store).head.condemned) > 5
    lab.later()
    lab.prune()
    assert lab.held() == lab.needed()
    lab.check()
