"""The points of a replica in a store (engine/store/log/catalogue.py): a small head, and pages of older points."""

from __future__ import annotations

import datetime
import json
import os
import random
from dataclasses import replace

import pytest
from store.logkit import BLOCK, Failing, Lab, changing

from secondsite.engine import errors
from secondsite.engine.replica import point as points
from secondsite.engine.replica import record
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import format_time
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log import pages
from secondsite.engine.store.log.catalogue import Catalogue
from secondsite.engine.store.log.reading import Replica
from secondsite.engine.store.log.rows import Row
from secondsite.engine.store.memory import MemoryStore

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Rows:
    """A head of a store that grows by points which have no manifest; `all` is what it must hold."""

    def __init__(self) -> None:
        self.store, self.identity = MemoryStore(), Identity.new(BLOCK, format_time(START), "name:disk", "log")
        heads.create(self.store, self.identity)
        self.head, self.all = heads.load(self.store, self.identity), list[Row]()

    def add(self, number: int, minutes: float) -> None:
        time = format_time(START + datetime.timedelta(minutes=minutes))
        row = Row(number, time, 10 * BLOCK, BLOCK, "delta", os.urandom(16).hex())
        self.head = self.head.with_point(self.store, row, self.identity)
        self.all.append(row)

    def put(self) -> heads.Head:
        """Put the head there, and read it again."""
        self.store.objects.pop("head.json")
        self.store.put_if_absent("head.json", self.head.pack())
        return heads.load(self.store, self.identity)


def small(monkeypatch):
    monkeypatch.setattr(heads, "INLINE", 8)
    monkeypatch.setattr(heads, "_KEPT", 2)
    monkeypatch.setattr(pages, "PAGE_POINTS", 20)


def test_a_long_history_has_a_small_head_and_few_pages():
    made = Rows()
    for number in range(1, 2501):
        made.add(number, number)
        assert number % 10 or len(made.head.pack()) < 60_000
    head = made.put()
    assert head.count == 2500 and list(Catalogue(made.store, head).rows()) == made.all
    assert len(head.pages) <= 3 and all(len(held.data) < 240_000 for held in made.store.objects.values())


@pytest.mark.sweep(sample=4)
@pytest.mark.parametrize("seed", range(30))
def test_each_name_means_the_same_as_in_a_list_of_all(seed, monkeypatch):
    """Generations leave gaps, and times go back now and then."""
    small(monkeypatch)
    chance, made, number, minutes = random.Random(seed), Rows(), 0, 0.0
    for _ in range(chance.randrange(1, 150)):
        number += chance.choice([1, 1, 1, 2, 9])
        minutes += chance.choice([1, 1, 5, -7])
        made.add(number, minutes)
    catalogue = Catalogue(made.store, made.put())
    low, high = int(min(0, minutes)) - 100, int(max(0, minutes)) + 100
    times = [format_time(START + datetime.timedelta(minutes=chance.randrange(low, high))) for _ in range(60)]
    for at in ["latest", *map(str, range(number + 3)), *times]:
        found = answer(lambda at=at: catalogue.choose(at))
        assert found == answer(lambda at=at: points.choose(made.all, at, "memory"))


def answer(choose):
    try:
        return choose()
    except errors.Refused as error:
        return type(error), str(error).split("; ")[0].removeprefix("memory://store: ").removeprefix("memory: ")


@pytest.mark.sweep(sample=0)
@pytest.mark.parametrize("count", [1_000_000])
def test_a_million_points(count):
    a_long_history(count)


def test_twenty_thousand_points():
    a_long_history(20_000)


def a_long_history(count):
    """The pages are made as they are when a history grew; what is listed comes in order, a point takes one page."""
    made = Rows()
    time = "2026-01-01T00:00:00.000000Z"
    every = [Row(number, time, 0, 0, "delta", f"{number:032x}") for number in range(1, count + 1)]
    old, recent = every[:-64], every[-64:]
    older = tuple(
        pages.save(made.store, made.head.replica_id, tuple(old[at : at + pages.PAGE_POINTS]))
        for at in range(0, len(old), pages.PAGE_POINTS)
    )
    made.head = replace(made.head, pages=older, recent=tuple(recent))
    head = made.put()
    assert head.count == count and len(head.pack()) < 56_000 + 260 * len(older) < record.MAX_BYTES / 3
    store = Failing(made.store)
    assert Catalogue(store, head).choose(str(count // 3)) == every[count // 3 - 1] and store.asked == {"get": 1}
    assert [row.generation for row in Catalogue(store, head).rows()] == list(range(1, count + 1))
    assert store.asked == {"get": 1 + len(older)}
    if count == heads.MAX_POINTS:
        with pytest.raises(errors.Refused) as raised:
            made.add(count + 1, 0)
        assert str(raised.value) == "a replica in a store has at most 1000000 points; prune some first"


def test_what_opening_a_point_costs(monkeypatch):
    """`latest` takes replica, head, manifest and group, and an old point a page more."""
    small(monkeypatch)
    lab, step = Lab(MemoryStore()), changing(1)
    for _ in range(40):
        lab.cycle(step())
    assert lab.generations() == sorted(lab.contents)
    for at, gets in (("latest", 4), ("3", 5), (str(max(lab.contents)), 4)):
        store = Failing(lab.store)
        Replica.open(store).choose(at).close()
        assert store.asked == {"get": gets}
    lab.check()


@pytest.mark.sweep(sample=3)
@pytest.mark.parametrize("how", ["gone", "flipped", "cut", "another"])
@pytest.mark.parametrize("which", [0, -1])
def test_a_page_that_is_damaged_costs_its_points_only(how, which, monkeypatch):
    small(monkeypatch)
    lab, step = Lab(MemoryStore()), changing(2)
    for _ in range(50):
        lab.cycle(step())
    head = Replica.open(lab.store).head
    page, other = head.pages[which], head.pages[1]
    spoil(lab.store, page.name, how, other.name)
    told = []
    found = [row.generation for row in Replica.open(lab.store).catalogue.rows(lambda *told_: told.append(told_))]
    lost = {number for number in lab.contents if page.first <= number <= page.last}
    assert set(found) == set(lab.contents) - lost and len(lost) == page.count
    assert [one for one, _ in told] == [page] and page.name in str(told[0][1])
    with pytest.raises(errors.Damaged) as raised:
        Replica.open(lab.store).choose(str(page.first))
    assert page.name in str(raised.value) and "\n" not in str(raised.value)
    for _ in range(12):  # and cycles go on, over the next spill
        lab.cycle(step())
    assert page in Replica.open(lab.store).head.pages
    kept = [row.generation for row in Replica.open(lab.store).catalogue.rows(lambda page, error: None)]
    assert set(kept) == set(lab.contents) - lost
    assert all(lab.restored(number) == lab.contents[number] for number in kept[::3])


def spoil(store, name, how, other):
    """One half of a record is enough; a flip in each spoils it."""
    held = store.objects.pop(name).data
    if how == "another":
        store.put_if_absent(name, store.objects[other].data)
    elif how == "cut":
        store.put_if_absent(name, held[: len(held) // 3])
    elif how == "flipped":
        wrong = bytearray(held)
        wrong[len(held) // 4] ^= 1
        wrong[3 * len(held) // 4] ^= 1
        store.put_if_absent(name, bytes(wrong))


def test_one_bad_byte_in_a_page_costs_nothing(monkeypatch):
    small(monkeypatch)
    made = Rows()
    for number in range(1, 30):
        made.add(number, number)
    head, chance = made.put(), random.Random(5)
    for page in head.pages:
        data = bytearray(made.store.objects.pop(page.name).data)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        made.store.put_if_absent(page.name, bytes(data))
    assert list(Catalogue(made.store, head).rows()) == made.all


def mutated(fields, how):
    page = fields["pages"][0]
    if how == "order":
        fields["pages"].reverse()
    elif how == "overlap":
        page[1] = fields["pages"][1][0]
    elif how == "count":
        page[2] = 10**6
    elif how == "behind":
        fields["pages"][-1][1] = fields["points"][0][0]
    elif how == "empty":
        fields["points"] = []
    elif how == "digest":
        page[5] = "../../replica.json"
    elif how == "kind":
        page[0] = str(page[0])
    elif how == "many":
        fields["points"] = [[n, *fields["points"][0][1:]] for n in range(1000, 1300)]
    elif how == "pages":
        fields["pages"] = [[n, n, 1, *page[3:]] for n in range(1, 3000)]


@pytest.mark.parametrize(
    "how", ["order", "overlap", "count", "behind", "empty", "digest", "kind", "many", "pages"]
)
def test_a_head_that_makes_no_sense_is_damage(how, monkeypatch):
    """Its checksum holds: somebody wrote it so."""
    small(monkeypatch)
    made = Rows()
    for number in range(1, 60):
        made.add(number, number)
    made.put()
    fields, _ = record.unpack(made.store.get("head.json").data, "head.json")
    fields = json.loads(json.dumps(fields))
    mutated(fields, how)
    made.store.delete("head.json")
    made.store.put_if_absent("head.json", record.pack(fields))
    with pytest.raises(errors.Damaged) as raised:
        heads.load(made.store, made.identity)
    assert str(raised.value).startswith("memory://store/head.json: ")


def test_a_page_that_counts_other_points_than_the_head_is_damage(monkeypatch):
    small(monkeypatch)
    made = Rows()
    for number in range(1, 60):
        made.add(number, number)
    page = made.head.pages[0]
    for wrong in ({"first": page.first + 1}, {"count": page.count - 1}, {"last": page.last + 1}):
        with pytest.raises(errors.Damaged):
            pages.load(made.store, made.head.replica_id, replace(page, **wrong))
    with pytest.raises(errors.Damaged):
        pages.load(made.store, "00" * 16, page)
    kept = made.all[3 : page.count]
    assert pages.load(made.store, made.head.replica_id, pages.within(page, tuple(kept))) == tuple(kept)


def test_a_record_of_any_length_is_not_read(monkeypatch):
    made = Rows()
    for name in ("head.json", "replica.json"):
        held = made.store.objects.pop(name).data
        made.store.put_if_absent(name, held + bytes(record.MAX_BYTES))
        with pytest.raises(errors.Damaged) as raised:
            Replica.open(made.store)
        assert "a record has at most 1048576 bytes" in str(raised.value)
        made.store.delete(name)
        made.store.put_if_absent(name, held)
