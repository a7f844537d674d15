"""Sealed objects: who changes a bit, cuts, swaps, renames or puts an older one there is found out; nothing shows."""

from __future__ import annotations

import json
import os
import random

import pytest
from store.logkit import BLOCK, Failing, Lab, changing

from secondsite.engine import errors
from secondsite.engine.delta import format as fmt
from secondsite.engine.store import sealing
from secondsite.engine.store.log.reading import Replica
from secondsite.engine.store.memory import MemoryStore
from secondsite.engine.store.sealed import SealedStore, is_sealed
from secondsite.engine.store.sealing import CHUNK, DIGEST_BYTES, SEALED

SIZE = 2 * CHUNK + 1000


class Box:
    """A sealed store over one in memory, whose objects a test may change as the service could."""

    def __init__(self) -> None:
        self.below = MemoryStore()
        self.store = SealedStore(self.below, os.urandom(32))

    def stored(self, name: str) -> bytes:
        return self.below.get(name).data

    def put_below(self, name: str, stored: bytes, metadata=None, *, digest: bool = True) -> None:
        """With a digest that fits, which anybody can make."""
        if digest:
            stored = stored[:-DIGEST_BYTES] + sealing.digest(name, memoryview(stored)[:-DIGEST_BYTES])
        self.below.delete(name)
        self.below.put_if_absent(name, stored, metadata)

    def refused(self, name: str) -> None:
        """Whole, and each of its chunks where the size below says that there is one."""
        starts = [None, *range(0, max(self.store.stat(name).size, 1), CHUNK)]
        for start in starts:
            with pytest.raises(errors.Damaged) as raised:
                self.store.get(name) if start is None else self.store.get(name, start, CHUNK)
            assert str(raised.value).startswith(f"memory://store/{name}: ")


@pytest.fixture
def box():
    return Box()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_sizes_are_those_of_what_was_given(box, size):
    data = os.urandom(size)
    box.store.put_if_absent("a", data)
    assert len(box.stored("a")) == sealing.stored_size(size) and sealing.plain_size(sealing.stored_size(size)) == size
    assert box.store.stat("a").size == size == next(box.store.list()).size
    assert box.store.get("a").data == data
    for start in (0, 1, size // 2, CHUNK - 1, CHUNK, size - 1, size):
        for length in (0, 1, CHUNK, 2 * CHUNK + 7, None):
            if start >= 0:
                assert box.store.get("a", start, length).data == data[start:][:length]


def test_a_range_takes_its_chunks_alone_in_one_question(box):
    box.store.put_if_absent("a", os.urandom(10 * CHUNK))
    asked = []
    below, box.below.get = box.below.get, lambda *how: asked.append(how) or below(*how)
    box.store.get("a", 3 * CHUNK + 5, CHUNK)
    assert asked == [("a", sealing.offset(3), 2 * SEALED)]


def test_who_lost_the_metadata_asks_for_the_salt(box):
    data = os.urandom(SIZE)
    box.store.put_if_absent("a", data, {"epoch": "7"})
    box.put_below("a", box.stored("a"))
    assert box.store.get("a", CHUNK + 5, 10).data == data[CHUNK + 5 : CHUNK + 15]
    found = box.store.get("a")
    assert found.data == data and found.metadata == {}


@pytest.mark.parametrize("honest", [False, True])
def test_any_flipped_bit_is_found(box, honest, sweep):
    """Also where the digest at the end was made to fit."""
    data, chance = os.urandom(SIZE), random.Random(5)
    box.store.put_if_absent("a", data)
    stored, seal = box.stored("a"), box.below.get("a").metadata
    some = set(chance.sample(range(len(stored)), 3000 if sweep else 60))
    some |= set(range(sealing.HEADER_BYTES + 4)) | set(range(len(stored) - 40, len(stored)))
    some -= set(range(len(stored) - DIGEST_BYTES, len(stored))) if not honest else set()
    for at in some:
        flipped = bytearray(stored)
        flipped[at] ^= 1 << chance.randrange(8)
        box.put_below("a", bytes(flipped), seal, digest=not honest)
        with pytest.raises((errors.Damaged, errors.NewerFormat)) as raised:
            box.store.get("a")
        assert "memory://store/a: " in str(raised.value)
        hit = (at - sealing.HEADER_BYTES) // SEALED
        for chunk in range(3):
            if at >= sealing.HEADER_BYTES and hit == chunk and at < len(stored) - DIGEST_BYTES:
                with pytest.raises(errors.Damaged):
                    box.store.get("a", chunk * CHUNK, 10)
            else:
                assert box.store.get("a", chunk * CHUNK, 10).data == data[chunk * CHUNK :][:10]


def test_what_was_cut_or_made_longer_is_found(box, sweep):
    box.store.put_if_absent("a", os.urandom(SIZE))
    stored, seal = box.stored("a"), box.below.get("a").metadata
    body, tail = stored[:-DIGEST_BYTES], bytes(DIGEST_BYTES)
    borders = [sealing.offset(chunk) for chunk in range(4)]
    cuts = {0, 1, 43, 44, 60, *(border + by for border in borders for by in (-1, 0, 1, 16)), len(body) - 1}
    if sweep:
        cuts |= set(range(0, len(body), 501))
    for cut in cuts:
        if cut < len(body):
            box.put_below("a", body[:cut] + tail, seal)
            box.refused("a")
            box.put_below("a", stored[:cut], seal, digest=False)
            box.refused("a")
    for more in (b"x", bytes(16), body[-1016:], body[sealing.offset(0) : sealing.offset(1)]):
        box.put_below("a", body + more + tail, seal)
        box.refused("a")


def test_chunks_are_where_they_were(box):
    box.store.put_if_absent("a", os.urandom(3 * CHUNK))
    stored, seal = box.stored("a"), box.below.get("a").metadata
    one, two = sealing.offset(0), sealing.offset(1)
    swapped = stored[:one] + stored[two : two + SEALED] + stored[one:two] + stored[two + SEALED :]
    box.put_below("a", swapped, seal)
    with pytest.raises(errors.Damaged):
        box.store.get("a")
    with pytest.raises(errors.Damaged):
        box.store.get("a", 0, 5)


def test_objects_are_not_swapped_nor_renamed(box):
    for name in ("a", "b"):
        box.store.put_if_absent(name, os.urandom(SIZE))
    held = {name: box.below.get(name) for name in ("a", "b")}
    box.put_below("a", held["b"].data, held["b"].metadata)
    box.put_below("b", held["a"].data, held["a"].metadata)
    box.put_below("c", held["a"].data, held["a"].metadata)
    for name in "abc":
        box.refused(name)


def test_an_older_one_does_not_mix_with_a_newer(box):
    etag = box.store.put_if_absent("a", os.urandom(SIZE))
    old = box.below.get("a")
    box.store.replace("a", os.urandom(SIZE), etag)
    new, cut = box.below.get("a"), sealing.offset(1)
    for first, second, seal in ((old, new, new), (new, old, new), (old, new, old)):
        box.put_below("a", first.data[:cut] + second.data[cut:], seal.metadata)
        with pytest.raises(errors.Damaged):
            box.store.get("a")
    assert old.metadata != new.metadata


def test_another_replicas_object_does_not_open(box):
    box.store.put_if_absent("a", b"mine")
    with pytest.raises(errors.Damaged):
        SealedStore(box.below, os.urandom(32)).get("a")
    box.below.put_if_absent("b", b"in the clear", {})
    box.refused("b")


def test_metadata_are_sealed_and_bound(box):
    box.store.put_if_absent("a", b"data", {"epoch": "17"})
    box.store.put_if_absent("b", b"data", {"epoch": "18"})
    assert box.store.get("a").metadata == box.store.get("a", 1, 2).metadata == {"epoch": "17"}
    seals = {name: box.below.get(name).metadata for name in "ab"}
    box.put_below("a", box.stored("a"), seals["b"])
    with pytest.raises(errors.Damaged):
        box.store.get("a")
    flipped = seals["b"]["seal"][:-1] + ("0" if seals["b"]["seal"][-1] != "0" else "1")
    box.put_below("b", box.stored("b"), {"seal": flipped})
    with pytest.raises(errors.Damaged):
        box.store.get("b", 0, 3)


def test_what_is_not_for_others_is_neither_written_nor_listed(box):
    box.below.put_if_absent("key.json", b"keys")
    box.store.put_if_absent("a", b"1")
    assert [entry.name for entry in box.store.list()] == ["a"]
    for name in ("key.json", "head.json.lease"):
        with pytest.raises(errors.Usage):
            box.store.put_if_absent(name, b"")


def test_the_store_sees_nothing_of_the_disk(box):
    """Neither contents, nor times, epochs or paths; and a disk that is sealed twice looks like two."""
    lab, data = Lab(box.store, codec=(fmt.NONE, 0)), b"the text that nobody is to read" * 4000
    lab.source = "/var/lib/machines/secret-name"
    lab.cycle(data)
    again = Box()
    Lab(again.store, codec=(fmt.NONE, 0)).cycle(data)
    assert lab.restored(1) == data
    seen = {name: held for name, held in box.below.objects.items() if is_sealed(name)}
    noted = b"".join(held.data for name, held in box.below.objects.items() if name.startswith("inventory/"))
    assert set(json.loads(noted.splitlines()[0])["held"]) < set(seen)
    for said in (b"nobody is to read", b"secret-name", b"epoch", b"2SITEDLT", b"2SITESEG", b"points", b"replica_id"):
        assert not any(said in held.data + repr(held.metadata).encode() for held in seen.values())
    assert all(held.data[:12] == b"2SITEENC\x01\0\0\0" and list(held.metadata) == ["seal"] for held in seen.values())
    assert not _pieces(box) & _pieces(again)


def _pieces(box: Box) -> set[bytes]:
    """Every sixteen bytes behind the version that are the cipher's work."""
    sealed = [held.data for name, held in box.below.objects.items() if is_sealed(name)]
    return {data[at : at + 16] for data in sealed for at in range(12, len(data) - 15, 16)}


@pytest.mark.sweep(sample=8)
@pytest.mark.parametrize("seed", range(120))
def test_a_replica_with_one_bad_byte_never_restores_wrongly(seed):
    chance = random.Random(seed)
    box = Box()
    lab, step = Lab(box.store), changing(seed)
    for _ in range(3):
        lab.cycle(step())
    name = chance.choice([name for name in sorted(box.below.objects) if is_sealed(name)])
    bad = bytearray(box.stored(name))
    bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
    box.put_below(name, bytes(bad), box.below.get(name).metadata, digest=bool(seed % 2))
    told = False
    try:
        generations = lab.generations()
    except (errors.Damaged, errors.NewerFormat) as error:
        assert name in str(error)
        return
    for generation in generations:
        try:
            assert lab.restored(generation) == lab.contents[generation]
        except errors.Damaged as error:
            told = True
            assert name in str(error) or "missing" in str(error), (seed, name, str(error))
    print(seed, name, told)


def test_a_sealed_cycle_asks_once_more_than_another():
    asked = []
    for sealed in (False, True):
        below = Failing(MemoryStore())
        lab, data = Lab(SealedStore(below, os.urandom(32)) if sealed else below), bytearray(os.urandom(40 * BLOCK))
        lab.cycle(data)
        data[0] ^= 1
        lab.cycle(data)
        with Replica.open(lab.store).point(2) as point:
            assert point.read(0, 9) == data[:9]
        asked.append(below.asked)
    asked[0]["put_if_absent"] += 2  # of each cycle what it put is noted
    assert asked[0] == asked[1]
