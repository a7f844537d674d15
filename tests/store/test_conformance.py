"""What every store promises (engine/store/base.py): memory, Azure Blob on its emulator, S3 on a server of its own."""

from __future__ import annotations

import os
import threading
import time

import pytest

from secondsite.engine import errors
from secondsite.engine.store.base import Absent, Changed, Exists, Fenced, Held, check_name, new_holder
from secondsite.engine.store.memory import MemoryStore

MIB = 1 << 20


def test_an_object_comes_back_whole_and_by_range(store):
    data = os.urandom(100_000)
    etag = store.put_if_absent("a/one", data, {"id": "77"})
    found = store.get("a/one")
    assert (found.data, found.size, found.etag, found.metadata["id"]) == (data, len(data), etag, "77")
    part = store.get("a/one", 70_000, 10_000)
    assert (part.data, part.size, part.etag) == (data[70_000:80_000], len(data), etag)
    assert store.get("a/one", 99_999).data == data[-1:]


def test_a_range_gives_what_there_is_of_it(store):
    store.put_if_absent("short", b"0123456789")
    assert store.get("short", 8, 100).data == b"89"
    assert store.get("short", 10, 5).data == b""
    assert store.get("short", 500).data == b""
    assert store.get("short", 3, 0).data == b""
    assert store.get("short", 500).size == 10


def test_an_object_may_be_empty(store):
    etag = store.put_if_absent("empty", b"")
    found = store.get("empty")
    assert (found.data, found.size, found.etag) == (b"", 0, etag)
    entry = store.stat("empty")
    assert entry is not None and (entry.size, entry.etag) == (0, etag)


def test_an_object_of_many_blocks_comes_back(store):
    """Azure takes it in blocks of 8 MiB where it is larger than 16."""
    data = os.urandom(17 * MIB + 5)
    store.put_if_absent("large", memoryview(data))
    assert store.get("large").data == data
    assert store.get("large", 4 * MIB - 1, 3).data == data[4 * MIB - 1 : 4 * MIB + 2]
    with pytest.raises(Exists):
        store.put_if_absent("large", os.urandom(5 * MIB))
    assert store.get("large").data == data


def test_what_is_there_is_not_made_again(store):
    store.put_if_absent("once", b"first")
    with pytest.raises(Exists) as raised:
        store.put_if_absent("once", b"second")
    assert store.path("once") in str(raised.value)
    assert store.get("once").data == b"first"


def test_of_several_makers_one_succeeds(stores):
    made, refused = _race(stores, lambda store, mine: store.put_if_absent("raced", mine), Exists)
    assert (len(made), refused) == (1, 3)
    assert stores().get("raced").data == made[0]


def test_an_object_is_replaced_where_its_etag_still_holds(store):
    first = store.put_if_absent("head", b"1", {"epoch": "1"})
    second = store.replace("head", b"2", first, {"epoch": "2"})
    assert first != second
    with pytest.raises(Changed):
        store.replace("head", b"3", first)
    found = store.get("head")
    assert (found.data, found.etag, found.metadata["epoch"]) == (b"2", second, "2")


def test_what_is_gone_is_not_replaced(store):
    etag = store.put_if_absent("head", b"1")
    store.delete("head")
    with pytest.raises(Changed):
        store.replace("head", b"2", etag)
    assert store.stat("head") is None


def test_of_several_replacers_one_succeeds(stores):
    etag = stores().put_if_absent("head", b"before")
    made, refused = _race(stores, lambda store, mine: store.replace("head", mine, etag), Changed)
    assert (len(made), refused) == (1, 3)
    assert stores().get("head").data == made[0]


def _race(stores, write, refusal):
    """(the bytes of those who succeeded, how many were refused) of four at once."""
    made, refused, start = [], [], threading.Barrier(4)

    def run(number):
        mine = b"%d" % number * 1000
        with stores() as store:
            start.wait()
            try:
                write(store, mine)
                made.append(mine)
            except refusal:
                refused.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made, len(refused)


def test_what_is_not_there_is_absent(store):
    with pytest.raises(Absent) as raised:
        store.get("nothing/here")
    assert store.path("nothing/here") in str(raised.value)
    assert store.stat("nothing/here") is None
    with pytest.raises(Absent):
        store.get("nothing/here", 5, 5)


def test_a_folder_lists_what_lies_below_it_in_order(store):
    names = ["b/2", "a", "b/1", "b/10", "bc/1", "b/c/d"]
    for name in names:
        store.put_if_absent(name, name.encode())
    assert [entry.name for entry in store.list("b/")] == ["b/1", "b/10", "b/2", "b/c/d"]
    assert sorted(entry.name for entry in store.list()) == sorted(names)
    found = next(iter(store.list("bc/")))
    entry = store.stat("bc/1")
    assert entry is not None and (found.size, found.etag) == (4, entry.etag)
    assert list(store.list("d/")) == []


def test_a_long_list_is_whole(store, sweep):
    """Services answer a thousand at a time or so."""
    count = 5100 if sweep and not isinstance(store, MemoryStore) else 30
    for number in range(count):
        store.put_if_absent(f"many/{number:05}", b"")
    assert [entry.name for entry in store.list("many/")] == [f"many/{number:05}" for number in range(count)]


def test_modified_is_the_stores_time(store):
    store.put_if_absent("now", b"")
    entry = store.stat("now")
    assert entry is not None and abs(entry.modified - time.time()) < 60


def test_what_is_deleted_is_gone_and_may_be_made_again(store):
    assert store.removes()
    store.put_if_absent("a", b"1")
    store.delete("a")
    store.delete("a")
    assert store.stat("a") is None and list(store.list()) == []
    store.put_if_absent("a", b"2")
    assert store.get("a").data == b"2"


def test_a_fence_has_one_holder(stores):
    one, two = stores(), stores()
    etag = one.put_if_absent("head", b"1")
    held = one.fence("head", 15)
    with pytest.raises(Held) as raised:
        two.fence("head", 15)
    assert raised.value.retryable and one.path("head") in str(raised.value)
    etag = one.replace("head", b"2", etag, fence=held)
    held.renew()
    one.replace("head", b"3", etag, fence=held)
    held.release()
    held.release()
    two.fence("head", 15).release()


def test_a_fence_that_was_taken_does_not_write_any_more(stores):
    one, two = stores(), stores()
    etag = one.put_if_absent("head", b"1")
    old = one.fence("head", 15)
    new = two.fence("head", 15, take=True)
    with pytest.raises((Fenced, Changed)):
        one.replace("head", b"old", etag, fence=old)
    with pytest.raises(Fenced):
        old.renew()
    old.release()  # what is another's by now stays his
    with pytest.raises(Held):
        one.fence("head", 15)
    two.replace("head", b"new", etag, fence=new)
    assert one.get("head").data == b"new"
    new.release()


def test_the_same_holder_gets_a_fence_again(stores):
    """Whose answer was lost, does not know that he holds it."""
    one, two = stores(), stores()
    etag, who = one.put_if_absent("head", b"1"), new_holder()
    one.fence("head", 15, holder=who)
    held = one.fence("head", 15, holder=who)
    with pytest.raises(Held):
        two.fence("head", 15)
    one.replace("head", b"2", etag, fence=held)
    held.release()


def test_a_fence_is_of_something(store):
    with pytest.raises(Absent):
        store.fence("nothing", 15)
    store.put_if_absent("head", b"1")
    for seconds in (0, 14, 61):
        with pytest.raises(errors.Usage):
            store.fence("head", seconds)


@pytest.mark.parametrize("kept", [False, True])
def test_a_fence_runs_out_unless_it_is_renewed(kept):
    clock = [1000.0]
    store = MemoryStore(clock=lambda: clock[0])
    _runs_out(lambda: store, kept, lambda seconds: clock.__setitem__(0, clock[0] + seconds))


@pytest.mark.sweep(sample=0)
@pytest.mark.parametrize("kept", [False, True])
def test_a_fence_runs_out_by_the_stores_own_clock(stores, kept):
    """Two times 20 s a store: 15 seconds are the shortest fence that Azure has."""
    _runs_out(stores, kept, time.sleep)


def _runs_out(stores, kept, sleep):
    one, two = stores(), stores()
    one.put_if_absent("head", b"1")
    held = one.fence("head", 15)
    for _ in range(2):
        sleep(9)
        if kept:
            held.renew()
    if kept:
        with pytest.raises(Held):
            two.fence("head", 15)
    else:
        two.fence("head", 15)
        with pytest.raises(Fenced):
            held.renew()


STRANGE = ["", "/", "a//b", "../a", "a/..", "a/.", "a b", "ä", "a/\n", "a?b", "a%2fb", "x" * 600]


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_that_a_url_would_read_otherwise_is_none(name):
    with pytest.raises(errors.Usage):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "points/000000000001-ab.json", "a_b/c-d.e"])
def test_other_names_are(name):
    assert check_name(name) == name
