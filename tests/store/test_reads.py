"""Reads of a point in a store at random and in order: what is fetched, how often, and what damage costs."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from store.logkit import BLOCK, Failing, Lab

from secondsite.engine import errors
from secondsite.engine.store.base import Failed
from secondsite.engine.store.log.ahead import Streams
from secondsite.engine.store.log.kept import Kept
from secondsite.engine.store.log.reading import Replica
from secondsite.engine.store.memory import MemoryStore

MIB = 1 << 20


class Slow(Failing):
    """Each range of a segment takes a while; `most` of them were on their way at once."""

    def __init__(self, inner, seconds):
        super().__init__(inner)
        self.seconds, self.now, self.most, self.ranges = seconds, 0, 0, []
        self._lock = threading.Lock()

    def get(self, name, start=0, length=None):
        if not name.startswith("segments/"):
            return super().get(name, start, length)
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.ranges.append((name, start, length))
        time.sleep(self.seconds)
        with self._lock:
            self.now -= 1
        return super().get(name, start, length)


@pytest.fixture
def lab():
    made = Lab(MemoryStore(), block_size=65536)
    made.cycle(random.Random(1).randbytes(40 * MIB + 77))
    return made


def test_readers_do_not_wait_for_each_other(lab):
    store, data = Slow(lab.store, 0.05), lab.contents[1]
    places = [place * 5 * MIB for place in range(8)]
    with Replica.open(store).point(1) as point, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda at: bytes(point.read(at, 100)), places))
    assert read == [data[at : at + 100] for at in places]
    assert store.most >= 4 and len(store.ranges) == 8


def test_what_many_want_at_once_is_fetched_once(lab):
    store, data = Slow(lab.store, 0.05), lab.contents[1]
    with Replica.open(store).point(1) as point, ThreadPoolExecutor(8) as pool:
        for read in pool.map(lambda turn: bytes(point.read(9 * MIB + turn, 100)), range(8)):
            assert read in data
    assert len(store.ranges) == 1


def test_who_reads_in_order_finds_it_there_already(lab):
    """Few large questions instead of one for each read, each byte once, and several on their way."""
    store, data, step = Slow(lab.store, 0.01), lab.contents[1], 256 << 10
    with Replica.open(store).point(1) as point:
        read = b"".join(bytes(point.read(at, min(step, len(data) - at))) for at in range(0, len(data), step))
    assert read == data
    assert sum(length for _, _, length in store.ranges) < 1.05 * len(data)
    assert len(store.ranges) < len(data) / step / 4 and store.most >= 2


def test_who_jumps_about_brings_only_what_he_reads(lab):
    store, chance, data = Slow(lab.store, 0), random.Random(5), lab.contents[1]
    with Replica.open(store).point(1) as point:
        for _ in range(20):
            at = chance.randrange(8) * 5 * MIB
            assert point.read(at, 500) == data[at : at + 500]
    assert sum(length for _, _, length in store.ranges) <= 8 * 300_000


def test_memory_is_bounded(lab):
    with Replica.open(lab.store).point(1) as point:
        point._frames._kept.most = MIB
        for at in range(0, point.size - MIB, MIB):
            point.read(at, MIB)
            assert point._frames._kept.weight <= MIB


def test_a_damaged_frame_costs_its_blocks(lab):
    entry = max(lab.store.list("segments/"), key=lambda entry: entry.size)
    held = lab.store.objects[entry.name]
    at = entry.size // 2
    flipped = held.data[:at] + bytes([held.data[at] ^ 1]) + held.data[at + 1 :]
    lab.store.delete(entry.name)
    lab.store.put_if_absent(entry.name, flipped)
    data, bad = lab.contents[1], []
    with Replica.open(lab.store).point(1) as point:
        for start in range(0, len(data), 65536):
            try:
                assert point.read(start, min(65536, len(data) - start)) == data[start : start + 65536]
            except errors.Damaged as error:
                assert entry.name in str(error)
                bad.append(start)
        assert 1 <= len(bad) <= 4 and bad[-1] - bad[0] == (len(bad) - 1) * 65536
        with pytest.raises(errors.Damaged):
            point.read(bad[0] - 65536, 131072)


def test_what_failed_is_asked_for_again(lab):
    store = Failing(lab.store)
    with Replica.open(store).point(1) as point:
        store.at = store.calls + 1
        for _ in range(2):
            with pytest.raises(Failed):
                point.read(MIB, 10)
        store.at = None
        assert point.read(MIB, 10) == lab.contents[1][MIB : MIB + 10]


def test_extents_are_those_of_the_map():
    chance, lab = random.Random(3), Lab(MemoryStore())
    data = bytearray(chance.randbytes(10_000 * BLOCK + 5))
    for _ in range(40):
        at, count = chance.randrange(10_000), chance.choice([1, 3, 700])
        data[at * BLOCK : (at + count) * BLOCK] = bytes(len(data[at * BLOCK : (at + count) * BLOCK]))
    data[4096 * BLOCK : 8192 * BLOCK] = bytes(4096 * BLOCK)
    lab.cycle(data)
    with Replica.open(lab.store).point(1) as point:
        for turn in range(30):
            start = chance.randrange(len(data)) if turn else 0
            length = min(chance.randrange(9**6), len(data) - start) if turn else len(data)
            found = list(point.extents(start, length))
            assert [e.start for e in found] == [start, *(e.start + e.length for e in found)][: len(found)]
            assert sum(e.length for e in found) == length
            for e, following in zip(found, [*found[1:], None], strict=True):
                assert following is None or e.zero != following.zero
                for at in range(e.start // BLOCK, -(-(e.start + e.length) // BLOCK)):
                    assert e.zero == (not any(data[at * BLOCK : (at + 1) * BLOCK]))


def test_a_stream_is_known_by_its_second_step_and_its_window_grows_to_a_bound():
    streams, asked = Streams(), []
    for at in range(0, 200 * MIB, MIB):
        asked += list(streams.read(at, at + MIB)[:: MIB // 2])
        assert not streams.read(7 << 40, (7 << 40) + 1)  # somebody else, who stays where he is
    assert asked[0] <= 4 * MIB and asked == sorted(set(asked))
    assert asked[-1] - 200 * MIB <= 16 * MIB


def test_kept_values_are_brought_by_one_and_dropped_by_age():
    kept: Kept[int, str] = Kept(10)
    for key in range(4):
        found, missing = kept.claim([key])
        assert missing == [key] and kept.claim([key])[1] == []
        kept.put(key, str(key), 4)
        assert found[key].result(0) == str(key)
    assert kept.weight == 8 and kept.claim([2, 3])[1] == []
    found, missing = kept.claim([0])
    kept.fail(missing, OSError("no"))
    with pytest.raises(OSError):
        found[0].result(0)
    assert kept.claim([0])[1] == [0]
    waiting = kept.claim([0])[0][0]
    kept.end(OSError("over"))
    with pytest.raises(OSError):
        waiting.result(0)


def test_a_point_that_is_closed_leaves_nobody_waiting(lab):
    store = Slow(lab.store, 0.2)
    point = Replica.open(store).point(1)
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(point.read, 3 * MIB, 12 * MIB)
        time.sleep(0.05)
        point.close()
        try:
            assert waits.result(5) == lab.contents[1][3 * MIB : 15 * MIB]
        except errors.Unreachable as error:
            assert "closed" in str(error)
