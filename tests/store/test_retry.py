"""Calls that are made again (engine/store/retry.py): over a proxy with faults, before the emulator and an S3 server."""

from __future__ import annotations

import os
import random
import threading
import time
from urllib.parse import urlsplit

import pytest
from store.httpproxy import KINDS, Trouble, listed, proxied, seeded
from store.storekit import azure_store, s3_store

from secondsite.engine import errors
from secondsite.engine.store.base import Changed, Exists, Failed, new_holder
from secondsite.engine.store.gate import Gate
from secondsite.engine.store.memory import MemoryStore
from secondsite.engine.store.retry import Limits, Retrying

MIB = 1 << 20
QUICK = Limits(attempts=8, seconds=60, first=0.02, longest=0.1)
TIMEOUT = 1.0


@pytest.fixture
def ill(azurite):
    """Makes a store behind a proxy with these troubles: (store, proxy, what was told)."""
    open_ones = []

    def make(*troubles, limits=QUICK, **more):
        held = proxied(azurite.port, listed(*troubles))
        proxy = held.__enter__()
        open_ones.append(held)
        told = []
        store = Retrying(
            azure_store(azurite, timeout=TIMEOUT, port=proxy.port), limits=limits, told=told.append, **more
        )
        return store, proxy, told

    yield make
    for held in open_ones:
        held.__exit__(None, None, None)


pytestmark = pytest.mark.needs("azurite")


@pytest.mark.parametrize("kind", KINDS)
def test_a_put_gets_there_once_whatever_happens_to_it(ill, kind):
    """Also where it was acknowledged and the answer lost, or where it arrives a second time, late."""
    store, proxy, told = ill(Trouble(kind, 1.5 if kind == "stalled" else 0.2, ("PUT",)))
    etag = store.put_if_absent("a", b"some bytes")
    proxy.settle()
    # A PUT has no body in its answer that could break off.
    assert [retry.error.path for retry in told] == ([] if kind == "half" else ["azure://tests/a"])
    found = store.get("a")
    assert (found.data, found.etag) == (b"some bytes", etag)
    with pytest.raises(Exists):
        store.put_if_absent("a", b"some bytes")


@pytest.mark.parametrize("kind", KINDS)
def test_a_replacement_is_made_once_whatever_happens_to_it(ill, kind):
    store, proxy, _ = ill(None, Trouble(kind, 1.5 if kind == "stalled" else 0.2, ("PUT",)))
    first = store.put_if_absent("head", b"1")
    second = store.replace("head", b"2", first)
    third = store.replace("head", b"3", second)
    proxy.settle()
    assert (store.get("head").data, store.get("head").etag) == (b"3", third)
    with pytest.raises(Changed):
        store.replace("head", b"4", second)


@pytest.mark.parametrize("kind", ["busy", "refused", "lost", "stalled", "half"])
def test_a_read_gets_all_bytes_whatever_happens_to_it(ill, kind):
    store, proxy, told = ill(None, Trouble(kind, 1.5 if kind == "stalled" else 0, ("GET",)))
    data = os.urandom(100_000)
    store.put_if_absent("a", data)
    assert store.get("a", 1000, 90_000).data == data[1000:91_000]
    assert proxy.met == [kind] and len(told) == 1


def test_a_block_that_was_staged_is_not_sent_again(ill):
    """P14: bytes are counted. Of three blocks the second's answer is lost, and then that of the list."""
    store, proxy, told = ill(None, Trouble("lost"), None, None, Trouble("lost"))
    data = os.urandom(20 * MIB)
    store.put_if_absent("large", data)
    assert proxy.met == ["lost", "lost"] and len(told) == 2
    assert store.get("large").data == data
    # 8 MiB again, and a list of three names twice.
    assert len(data) + 8 * MIB <= proxy.bodies < len(data) + 8 * MIB + 2000


def test_a_segment_goes_in_one_request(ill):
    """Also where it is a view of memory that grows elsewhere, and where it is made again."""
    store, proxy, told = ill(Trouble("lost"))
    data = bytearray(os.urandom(9 * MIB))
    store.put_if_absent("segment", memoryview(data)[5:])
    assert proxy.requests == 3 and len(told) == 1  # twice, and a look at what is there
    assert store.get("segment").data == data[5:]


def test_the_store_is_left_alone_for_as_long_as_it_says(ill):
    store, _, told = ill(Trouble("busy", seconds=2))
    began = time.monotonic()
    store.put_if_absent("a", b"")
    assert time.monotonic() - began >= 2
    assert [(str(retry.error), retry.error.after, retry.limit) for retry in told] == [
        ("azure://tests/a: 503 ServerBusy", 2.0, 4)
    ]


def test_who_has_to_wait_longer_than_a_call_may_take_is_told_at_once(ill):
    store, _, told = ill(Trouble("busy", seconds=100))
    began = time.monotonic()
    with pytest.raises(Failed) as raised:
        store.put_if_absent("a", b"")
    assert time.monotonic() - began < 5 and not told
    assert "503 ServerBusy; given up after 1 attempts" in str(raised.value) and raised.value.retryable


def test_a_call_is_given_up_after_so_many_attempts(ill):
    store, proxy, told = ill(*[Trouble("refused")] * 9, limits=Limits(3, 60, 0.01, 0.01))
    with pytest.raises(Failed) as raised:
        store.get("a")
    assert "no answer: " in str(raised.value) and "given up after 3 attempts" in str(raised.value)
    assert [retry.attempt for retry in told] == [2, 3] and proxy.requests == 3


def test_nobody_there_is_given_up_too():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    store = Retrying(s3_store(f"http://127.0.0.1:{port}"), limits=Limits(2, 5, 0.01, 0.01))
    with pytest.raises(Failed) as raised:
        store.get("a")
    assert "given up after 2 attempts" in str(raised.value)


def test_who_waits_stops_where_he_is_asked_to(ill):
    asked = threading.Event()
    store, _, _ = ill(*[Trouble("busy", seconds=30)] * 9, cancel=asked.is_set)
    threading.Timer(0.5, asked.set).start()
    began = time.monotonic()
    with pytest.raises(errors.Cancelled):
        store.get("a")
    assert time.monotonic() - began < 5


def test_what_another_attempt_does_not_mend_is_made_once(ill):
    store, proxy, told = ill()
    store.put_if_absent("a", b"1")
    asked = proxy.requests
    with pytest.raises(Exists):
        store.put_if_absent("a", b"2")
    with pytest.raises(Changed):
        store.replace("a", b"2", '"0x0"')
    assert proxy.requests - asked == 2 and not told


@pytest.mark.parametrize("kind", ["busy", "refused", "lost", "late"])
def test_a_fence_is_held_whatever_happens_to_the_question(ill, kind):
    trouble = Trouble(kind, 0.2, ("PUT",))
    store, proxy, told = ill(None, trouble, trouble, trouble)
    etag = store.put_if_absent("head", b"1")
    held = store.fence("head", 15, holder=new_holder())
    held.renew()
    proxy.settle()
    store.replace("head", b"2", etag, fence=held)
    held.release()
    assert len(told) == 3 and store.get("head").data == b"2"


def test_a_fence_that_is_an_object_is_held_where_an_answer_was_lost():
    class Losing(MemoryStore):
        lose = True

        def replace(self, name, *args, **more):
            made = super().replace(name, *args, **more)
            if self.lose and name.endswith(".lease"):
                self.lose = False
                raise Failed("no answer", path=name)
            return made

    inner = Losing()
    store = Retrying(inner, limits=QUICK)
    store.put_if_absent("head", b"1")
    held = store.fence("head", 15)
    held.renew()
    assert not inner.lose
    held.renew()
    store.replace("head", b"2", store.get("head").etag, fence=held)


def test_a_list_goes_on_where_it_broke_off(ill):
    store, _, told = ill(*[None] * 3, Trouble("half", methods=("GET",)))
    for name in ("a", "b", "c"):
        store.put_if_absent(f"list/{name}", b"")
    assert [entry.name for entry in store.list("list/")] == ["list/a", "list/b", "list/c"]
    assert len(told) == 1


@pytest.mark.sweep(sample=3)
@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("kind", ["azure", "s3"])
def test_a_history_over_a_bad_link_is_that_over_a_good_one(request, kind, seed):
    """Seeded: 30 calls, of whose requests every fourth meets a trouble; S3 has no digest that shows a flipped bit."""
    kinds = tuple(each for each in KINDS if each != "flipped" or kind == "azure")
    chance, model = random.Random(seed), {}
    if kind == "azure":
        emulator = request.getfixturevalue("azurite")
        port = emulator.port
    else:
        port = urlsplit(request.getfixturevalue("moto")).port
    with proxied(port, seeded(seed, 0.25, kinds, stall=2.3)) as proxy:
        inner = (
            azure_store(emulator, timeout=2, port=proxy.port)
            if kind == "azure"
            else s3_store(f"http://127.0.0.1:{proxy.port}", timeout=2)
        )
        store = Retrying(inner, limits=Limits(20, 120, 0.01, 0.05))
        for turn in range(30):
            _step(store, model, chance, turn, proxy.settle)
        proxy.settle()
        print(f"seed {seed}: {proxy.requests} requests, met {proxy.met}")
        assert {entry.name: entry.size for entry in store.list()} == {n: len(d) for n, (d, _) in model.items()}
        for name, (data, etag) in model.items():
            found = store.get(name)
            assert (found.data, found.etag) == (data, etag)


def _step(store, model, chance, turn, settle):
    name = f"n{chance.randrange(6)}"
    data = b"%d " % turn + chance.randbytes(chance.choice([10, 1000, 50_000]))
    action = chance.choice(["put", "put", "replace", "replace", "get", "delete"])
    if action == "put":
        if name in model:
            with pytest.raises(Exists):
                store.put_if_absent(name, data)
        else:
            model[name] = (data, store.put_if_absent(name, data))
    elif action == "replace" and name in model:
        model[name] = (data, store.replace(name, data, model[name][1]))
    elif action == "get" and name in model:
        assert store.get(name, 3, 500).data == model[name][0][3:503]
    elif action == "delete":
        # Of a name that is used once, as names are: a late deletion would find a later object, and a late put makes it.
        store.put_if_absent(f"once{turn}", data)
        settle()
        store.delete(f"once{turn}")


def test_the_gate_lets_in_so_many_and_learns_how_many():
    now = [0.0]
    gate = Gate(4, 6, clock=lambda: now[0])
    inside, most, lock = [0], [0], threading.Lock()

    def work():
        for _ in range(20):
            with gate:
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                with lock:
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 4
    for _ in range(4 + 5 + 6 + 7):
        gate.well()
    assert gate.limit == 6
    now[0] = 1.0
    for _ in range(5):  # on their way together
        gate.busy(0.5, None)
    assert gate.limit == 3
    now[0] = 2.0
    gate.busy(1.5, None)
    assert gate.limit == 1
    gate.busy(2.0, None)
    assert gate.limit == 1
