"""A replica in a store (engine/store/log): histories, what is read, what is sent, what is said."""

from __future__ import annotations

import os
import random
import time

import pytest
from store.logkit import BLOCK, Failing, Lab, changing

from secondsite.engine import errors
from secondsite.engine.batch import Batch
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.writer import FrameBuffer
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.store.log import segment
from secondsite.engine.store.log.reading import Replica
from secondsite.engine.store.memory import MemoryStore

MIB = 1 << 20


@pytest.mark.sweep(sample=4)
@pytest.mark.parametrize("seed", range(40))
def test_every_point_of_a_history_comes_back(seed):
    codec = random.Random(seed).choice([(fmt.NONE, 0), (fmt.LZ4, 1), (fmt.ZSTD, 1)])
    lab, step = Lab(MemoryStore(), codec=codec, workers=1 + seed % 2), changing(seed)
    for turn in range(8):
        if turn % 3 == 2:
            lab.forget()
        lab.cycle(step())
    assert lab.generations() == list(range(1, len(lab.contents) + 1)) and len(lab.contents) > 5
    lab.check()


def test_a_history_in_a_store_of_each_kind(store):
    lab, step = Lab(store), changing(7)
    for _ in range(3):
        lab.cycle(step())
    lab.forget()
    lab.cycle(step())
    lab.check()


@pytest.mark.parametrize("data", [b"", b"x", bytes(3 * BLOCK + 1), b"a" * BLOCK, b"b" * (BLOCK + 1)])
def test_small_and_empty_disks(data):
    lab = Lab(MemoryStore())
    lab.cycle(data)
    lab.cycle(data + b"more")
    lab.cycle(b"")
    lab.cycle(data)
    lab.check()


def test_nothing_changed_makes_no_point_and_sends_nothing():
    lab, data = Lab(MemoryStore()), os.urandom(20 * BLOCK)
    lab.cycle(data)
    before = dict(lab.store.objects)
    done = lab.cycle(data)
    assert done.sending.done.kind == "unchanged" and done.sent_bytes == 0 and lab.generations() == [1]
    kept = {name: held for name, held in lab.store.objects.items() if not name.endswith(".lease")}
    assert kept == {name: held for name, held in before.items() if not name.endswith(".lease")}


def test_a_read_of_any_range_is_right():
    lab, step, chance = Lab(MemoryStore()), changing(3), random.Random(3)
    for _ in range(5):
        lab.cycle(step())
    for generation in lab.generations():
        data = lab.contents[generation]
        with Replica.open(lab.store).point(generation) as point:
            assert point.size == len(data)
            for _ in range(40):
                at = chance.randrange(len(data) + 1)
                length = chance.randrange(len(data) - at + 1)
                assert point.read(at, length) == data[at : at + length]
            extents = list(point.extents(0, point.size))
            assert sum(extent.length for extent in extents) == point.size
            assert all(not any(data[e.start : e.start + e.length]) for e in extents if e.zero)


def test_a_read_of_one_block_takes_one_page_and_one_frame():
    """Of a disk of 64 MiB in 4 KiB blocks with four pages; opening takes replica, head, manifest and group."""
    data = os.urandom(16 * MIB)
    lab = Lab(MemoryStore())
    lab.cycle(data * 4)
    store = Failing(lab.store)
    with Replica.open(store).point(1) as point:
        assert store.asked == {"get": 4}
        assert point.read(40 * MIB + 5, 100) == data[8 * MIB + 5 : 8 * MIB + 105]
        assert store.asked == {"get": 6}
        point.read(40 * MIB + BLOCK, 100)  # its neighbour is there already
        assert store.asked == {"get": 6}


def test_a_small_cycle_takes_few_requests(tmp_path):
    """With what the host remembers of the cycle before: 16 blocks of 64 KiB, all over a sparse disk of 1 TiB."""
    image = Tebibyte()
    lab = Lab(MemoryStore(), str(tmp_path), block_size=65536)
    lab.cycle(image)
    for at in image.places[:16]:
        image.held[at] = os.urandom(65536)
    store, began = Failing(lab.store), time.process_time()
    done = lab.cycle(image, store)
    spent = time.process_time() - began
    assert done.sending.tally.changed_bytes == MIB and Replica.open(lab.store).head.recent[-1].virtual_bytes == 1 << 40
    print(store.asked, store.sent, spent)  # and the fence is released
    assert store.calls + 1 <= 12 and store.sent < 1.3 * MIB and spent < 2


class Tebibyte(MemoryImage):
    """Sixteen places of 64 KiB, in four neighbourhoods, hold something; all else is a hole."""

    size = 1 << 40

    def __init__(self):
        super().__init__()
        self.places = sorted((quarter << 38) + number * 10 * MIB for quarter in range(4) for number in range(4))
        self.held = {at: os.urandom(65536) for at in self.places}

    def extents(self, start, length):
        from secondsite.engine.images.base import Extent

        end = start + length
        for at in [at for at in self.places if start <= at < end]:
            if at > start:
                yield Extent(start, at - start, True)
            yield Extent(at, 65536, False)
            start = at + 65536
        if start < end:
            yield Extent(start, end - start, True)

    def read_into(self, offset, buffer):
        at = offset // 65536 * 65536
        memoryview(buffer)[:] = self.held[at][offset - at : offset - at + len(buffer)]


def test_points_share_what_did_not_change():
    lab, data = Lab(MemoryStore()), bytearray(os.urandom(4 * MIB))
    first = lab.cycle(data)
    data[MIB : MIB + 10] = b"0123456789"
    second = lab.cycle(data)
    assert first.sent_bytes > 4 * MIB and second.sent_bytes < 2 * BLOCK
    lab.check()


def test_memory_of_a_segment_is_used_again_when_nobody_looks_at_it_any_more(monkeypatch):
    """Whoever keeps a segment's bytes keeps them as they were; who lets go of them lets them be written over."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 10 * BLOCK)
    monkeypatch.setattr(segment, "_SPARE_BYTES", 100)
    for keep, memories in ((True, 7), (False, 1)):
        kept, made = [], []

        def send(name, data, keep=keep, kept=kept, made=made):
            made.append(bytes(data))
            kept.extend([data] * keep)

        packer = segment.Packer("segments", fmt.Header(bytes(16), BLOCK, 0, 1, 0, 100 * BLOCK, 1), set(), send)
        buffer, batch = FrameBuffer(fmt.NONE, 0), Batch(BLOCK, 8 * BLOCK)
        for number in range(7):
            for at in range(8):
                batch.blocks[at], batch.lengths[at] = 8 * number + at, BLOCK
            batch.payload[:] = os.urandom(8 * BLOCK)
            batch.count, batch.used = 8, 8 * BLOCK
            batch.hashes[: 16 * 8] = batch.rehash(1)
            buffer.encode(batch, packer.header.tag)
            packer.add(buffer)
        packer.finish()
        assert len(packer._memories) == memories and len(set(made)) == 7
        assert [bytes(data) for data in kept] == made[: len(kept)]


def test_a_newer_format_is_said():
    from secondsite.engine.replica import record

    lab = Lab(MemoryStore())
    lab.cycle(b"a" * BLOCK)
    fields, _ = record.unpack(lab.store.get("head.json").data, "head.json")
    line = record.pack(fields).replace(b'"format": 1', b'"format": 2')
    import json

    said = {**json.loads(line.splitlines()[0])}
    said.pop("checksum")
    text = json.dumps({**said, "checksum": record._checksum(said)}) + "\n"
    lab.store.delete("head.json")
    lab.store.put_if_absent("head.json", (text * 2).encode())
    with pytest.raises(errors.NewerFormat) as raised:
        Replica.open(lab.store)
    assert str(raised.value) == "memory://store/head.json: format 2; this program knows 1"


def test_nothing_there_is_said():
    with pytest.raises(errors.Refused) as raised:
        Replica.open(MemoryStore())
    assert str(raised.value) == "memory://store: holds no replica"
    lab = Lab(MemoryStore())
    lab.cycle(b"a" * BLOCK)
    with pytest.raises(errors.Refused):
        Replica.open(lab.store).point(2)
