"""`replicate --resync` into a store: whatever object is damaged, the newest point is the source again afterwards."""

from __future__ import annotations

import random
from itertools import count

import pytest
from store.logkit import BLOCK, Failing, Lab
from store.storekit import azure_store

from secondsite.engine import errors
from secondsite.engine.blockmap import PAGE_BLOCKS
from secondsite.engine.delta import format as fmt
from secondsite.engine.images import Extent
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.progress import Monitor
from secondsite.engine.remote.sending import sender
from secondsite.engine.store.folder import FolderStore
from secondsite.engine.store.log import segment
from secondsite.engine.store.log.reading import Replica, verify
from secondsite.engine.store.memory import MemoryStore
from secondsite.engine.store.sealed import SealedStore

HOLE, TAIL = 64 * BLOCK, PAGE_BLOCKS * BLOCK
HOW = ["flip", "truncate", "delete"]
KINDS = ["memory", "folder", "sealed", pytest.param("azure", marks=pytest.mark.needs("azurite"))]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Segments of eight blocks, each from one batch."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 10 * BLOCK)
    monkeypatch.setattr(sender, "SMALL_BATCH_BYTES", 8 * BLOCK)


class Ends(MemoryImage):
    """Zeros but for both ends, and says so: to look for them takes most of the time of these tests."""

    def extents(self, start, length):
        for low, high, zero in ((0, HOLE, False), (HOLE, TAIL, True), (TAIL, self.size, False)):
            first, end = max(low, start), min(high, start + length)
            if first < end:
                yield Extent(first, end - first, zero)


class Disks(Lab):
    def cycle(self, data, *given, **more):
        done = super().cycle(Ends(bytes(data)), *given, **more)
        self.contents[done.generation] = bytes(data)
        return done


def made(store):
    """Three points of a disk of two pages of the map; the newest one's map is in objects of the first and third."""
    lab, chance = Disks(store, codec=(fmt.NONE, 0)), random.Random(3)
    data = bytearray(chance.randbytes(24 * BLOCK)).ljust(PAGE_BLOCKS * BLOCK, b"\0") + chance.randbytes(8 * BLOCK + 9)
    for turn in range(3):
        data[turn * BLOCK : turn * BLOCK + 30] = chance.randbytes(30)
        lab.cycle(data)
    return lab, data


def store_of(kind, request, folder):
    if kind == "azure":
        return azure_store(request.getfixturevalue("azurite"))
    if kind == "folder":
        return FolderStore(str(folder / "log"))
    return SealedStore(MemoryStore(), b"k" * 32) if kind == "sealed" else MemoryStore()


def damage(store, name, how):
    """Records have two lines, of which one is enough: both are hit."""
    below = store.store if isinstance(store, SealedStore) else store
    found = below.get(name)
    below.delete(name)
    data = bytearray(found.data)
    if how == "truncate":
        del data[len(data) // 4 :]
    for at in (len(data) // 4, 3 * len(data) // 4):
        data[at] ^= how == "flip"
    if how != "delete":
        below.put_if_absent(name, data, found.metadata)


def kept(store):
    """What lies below, all of it."""
    below = store.store if isinstance(store, SealedStore) else store
    return [(entry.name, below.get(entry.name)) for entry in below.list()]


def put_back(store, held):
    below = store.store if isinstance(store, SealedStore) else store
    for entry in list(below.list()):
        below.delete(entry.name)
    for name, found in held:
        below.put_if_absent(name, found.data, found.metadata)


def objects(store):
    return sorted(entry.name for entry in store.list() if entry.name.startswith(("segments/", "maps/", "points/")))


def same(lab, generation, data):
    """Is the point this, of which all but both ends are zeros? Raises Damaged."""
    with Replica.open(lab.store).point(generation) as point:
        ends = [(0, HOLE), (TAIL, len(data) - TAIL)]
        zeros = all(extent.zero for extent in point.extents(HOLE, TAIL - HOLE))
        return (
            zeros
            and point.size == len(data)
            and all(point.read(start, length) == data[start : start + length] for start, length in ends)
        )


def check(lab, data):
    """The newest point is whole and the source; of the others each is what it was, or damaged."""
    newest = Replica.open(lab.store).head.generation
    with Replica.open(lab.store).point(newest) as point:
        verify(point, Monitor())
    assert same(lab, newest, data)
    for generation in lab.generations()[:-1]:
        try:
            assert same(lab, generation, lab.contents[generation])
        except errors.Damaged:
            pass


def damaged(lab):
    try:
        return not same(lab, 3, lab.contents[3])
    except errors.Damaged:
        return True


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_whatever_object_is_damaged_the_newest_point_is_the_source_again(kind, how, request, tmp_path, sweep):
    lab, whole = made(store_of(kind, request, tmp_path))
    store, held, names, hit = lab.store, kept(lab.store), objects(lab.store), 0
    for at, name in list(enumerate(names))[:: 1 if sweep else 3 if kind == "memory" else 6]:
        put_back(store, held)
        data = bytearray(whole)
        damage(store, name, how)
        if at % 2:
            lab.forget()
        lost = damaged(lab)
        done = lab.cycle(data, resync=True)
        told = done.sending.done
        assert (told.kind, done.generation) == ("resync", 4 if lost else 3), name
        assert bool(told.warnings) == lost and all(line.startswith("point 3 is damaged") for line in told.warnings)
        if name.startswith("segments/"):
            assert done.sent_bytes < 12 * BLOCK  # of 33 blocks those that were lost
        if lost and name.startswith("points/"):
            assert done.sending.tally.changed_bytes == 32 * BLOCK + 9  # all of it
        check(lab, data)
        again = lab.cycle(data, resync=True)
        assert (again.generation, again.sent_bytes, again.sending.done.warnings) == (done.generation, 0, [])
        data[BLOCK * 3 : BLOCK * 3 + 5] = b"after"
        assert lab.cycle(data).generation == done.generation + 1
        check(lab, data)
        hit += lost
    assert hit


@pytest.mark.needs("azurite")
def test_much_damage_on_the_emulator_and_another_source_at_once(azurite):
    lab, data = made(azure_store(azurite))
    names = [name for name in objects(lab.store) if name.startswith("segments/")]
    for name, how in zip(names, HOW * 2, strict=False):
        damage(lab.store, name, how)
    damage(lab.store, next(name for name in objects(lab.store) if name.startswith("maps/000000000003")), "flip")
    data[9 * BLOCK : 11 * BLOCK] = b"another".ljust(2 * BLOCK, b"\0")
    data[20 * BLOCK : 22 * BLOCK] = bytes(2 * BLOCK)
    done = lab.cycle(data[:-BLOCK], resync=True)
    assert done.generation == 4
    check(lab, data[:-BLOCK])


@pytest.mark.parametrize("after", [False, True])
def test_a_cut_at_every_call_loses_nothing_and_the_next_run_goes_on(after, sweep):
    """The n-th call of a resync fails, and all after it. P14: what has arrived is not sent again."""
    lab, data = made(MemoryStore())
    for name in objects(lab.store):
        if name.startswith("segments/000000000001"):
            damage(lab.store, name, "flip")
    held = kept(lab.store)
    for number in count(1, 1 if sweep else 4):
        put_back(lab.store, held)
        store = Failing(lab.store, number, after=after)
        try:
            lab.cycle(data, store, resync=True)
        except errors.Unreachable:
            pass
        assert lab.generations()[:3] == [1, 2, 3]
        lab.store.objects.pop("head.json.lease", None)
        arrived = sum(entry.size for entry in lab.store.list("segments/000000000004/"))
        whole = lab.generations() == [1, 2, 3, 4]
        lab.forget()
        done = lab.cycle(data, resync=True)
        assert done.generation == 4 and done.sent_bytes + arrived < 36 * BLOCK + 10 * BLOCK
        assert not whole or done.sent_bytes == 0
        check(lab, data)
        if store.calls < number:
            break
    assert number > 20


def test_what_arrived_is_proved_too():
    """A segment of a resync that was cut is damaged before the next one."""
    lab, data = made(MemoryStore())
    for name in objects(lab.store):
        if name.startswith("segments/000000000001"):
            damage(lab.store, name, "delete")
    failing = Failing(lab.store)
    failing.put_if_absent = _fails_at(lab.store, 3)
    with pytest.raises(errors.Unreachable):
        lab.cycle(data, failing, resync=True)
    lab.store.objects.pop("head.json.lease", None)
    arrived = [entry.name for entry in lab.store.list("segments/000000000004/")]
    assert len(arrived) > 1
    damage(lab.store, arrived[0], "flip")
    done = lab.cycle(data, resync=True)
    assert 0 < done.resumed_blocks < 8 * len(arrived)
    check(lab, data)


def _fails_at(store, number):
    asked = count(1)

    def put(name, *args):
        if next(asked) > number:
            raise errors.Unreachable("the link is cut", path=store.label)
        return store.put_if_absent(name, *args)

    return put


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["head.json", "replica.json"])
@pytest.mark.parametrize("kind", ["memory", "sealed"])
def test_what_no_resync_mends_is_refused_and_says_what_to_do(name, how, kind, request, tmp_path):
    lab, data = made(store_of(kind, request, tmp_path))
    damage(lab.store, name, how)
    held = objects(lab.store)
    with pytest.raises(errors.Damaged) as raised:
        lab.cycle(data, resync=True)
    assert f"/{name}: " in str(raised.value)
    assert "put a copy of this object back, or replicate to another place" in str(raised.value)
    assert objects(lab.store) == held


def test_a_resync_of_a_first_cycle_is_one():
    lab = Lab(MemoryStore())
    done = lab.cycle(b"x" * 3 * BLOCK, resync=True)
    assert (done.sending.done.kind, done.generation) == ("initial", 1)
