"""Power is lost at the n-th write of a dynamic or fixed VHD: it opens, and what was flushed is there."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from secondsite.engine import errors
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.failing import Crash, Faults
from secondsite.engine.images.vhd import create_dynamic, create_fixed, open_vhd
from secondsite.engine.images.vhd.structures import SECTOR

PATH = "d/a.vhd"
BLOCK = 8192
START = 5 * BLOCK - SECTOR


class Model:
    """What a disk may hold after a crash: for each sector, what was flushed and all that was written since."""

    def __init__(self, size):
        self.now = bytearray(size)
        self.sizes = {size}
        self.allowed = {}

    def put(self, at, data):
        first, last = at // SECTOR, -(-(at + len(data)) // SECTOR)
        for sector in range(first, last):
            self.allowed.setdefault(sector, set()).add(self.sector(sector))
        self.now[at : at + len(data)] = data
        for sector in range(first, last):
            self.allowed[sector].add(self.sector(sector))

    def sector(self, number):
        return bytes(self.now[number * SECTOR : (number + 1) * SECTOR])

    def grow(self, size):
        self.sizes.add(size)
        self.now.extend(bytes(size - len(self.now)))

    def flushed(self):
        self.allowed.clear()
        self.sizes = {len(self.now)}

    def check(self, image):
        assert image.size in self.sizes
        data = bytes(image.read(0, image.size))
        for number in range(image.size // SECTOR):
            got = data[number * SECTOR : (number + 1) * SECTOR]
            want = self.sector(number)
            choices = {want, *self.allowed.get(number, ())}
            # A write that fails may end inside a sector: byte by byte, old or new.
            torn = got not in choices
            assert not torn or all(b in options for b, *options in zip(got, *choices, strict=True)), number


def scenario(files, model, chance, create, grow):
    """Two openings with writes, zeros, growth and flushes; the guest writes footers wherever it can."""
    forged = fake_footer()
    create(files).close()
    for _ in range(2):
        image = open_vhd(PATH, "rw", files=files)
        for _ in range(14):
            kind = chance.choices(("write", "zero", "flush", "grow"), (8, 2, 3, grow))[0]
            at = chance.randrange(len(model.now) // SECTOR) * SECTOR
            length = min(chance.choice((SECTOR, 2048, 9000)), len(model.now) - at)
            if kind == "write":
                data = (forged * 20)[:length] if chance.random() < 0.5 else chance.randbytes(length)
                model.put(at, data)
                image.write(at, data)
            elif kind == "zero":
                model.put(at, bytes(length))
                image.zero(at, length)
            elif kind == "flush":
                image.flush()
                model.flushed()
            else:
                size = len(model.now) + chance.choice((1, 8, 200 * 16)) * SECTOR
                model.grow(size)
                image.resize(size)
        image.flush()
        model.flushed()
        image.close()


def fake_footer():
    files = MemoryFiles()
    create_fixed("d/x", 64 * SECTOR, rounding="exact", files=files).close()
    raw = files.open("d/x", "r")
    return bytes(raw.read(raw.size - SECTOR, SECTOR))


def dynamic(files):
    return create_dynamic(PATH, START, block_size=BLOCK, files=files)


def fixed(files):
    return create_fixed(PATH, START, rounding="exact", files=files)


def run(create, seed, at, grow, crash=True, sticky=False):
    """One run with the fault at the n-th effect; how many effects there were."""
    files, faults = MemoryFiles(), Faults(at, crash=crash, sticky=sticky)
    model = Model(START)
    with suppress(Crash, errors.Unreachable):
        scenario(FailingFiles(files, faults), model, random.Random(seed), create, grow)
    if crash:
        files.power_loss(random.Random(f"{seed} {at}"))
    if not files.exists(PATH):  # it was never made whole
        return faults.count
    with open_vhd(PATH, files=files) as image:
        model.check(image)
        before = bytes(image.read(0, image.size))
    with suppress(ValueError), open_vhd(PATH, "rw", files=files) as image:
        # Space that the crash left half written is used again, and reads as zeros where nothing is written.
        for block in range(image.size // BLOCK):
            image.write(block * BLOCK + SECTOR, b"new")
    after = bytearray(before)
    for block in range(len(before) // BLOCK):
        after[block * BLOCK + SECTOR : block * BLOCK + SECTOR + 3] = b"new"
    with open_vhd(PATH, files=files) as image:
        assert image.read(0, image.size) == after
        assert not image.facts().notes
    return faults.count


@pytest.mark.parametrize("create", [dynamic, fixed])
def test_power_is_lost_at_each_write(create, sweep, monkeypatch):
    from secondsite.engine.images.vhd import dynamic as module

    monkeypatch.setattr(module, "_ROOM_BYTES", 3 * BLOCK)
    for seed in range(40 if sweep else 3):
        grow = 1 if create is dynamic else 0
        total = run(create, seed, 0, grow)
        assert total > 30
        for at in range(1, total + 1):
            run(create, seed, at, grow)


def test_a_write_fails_and_the_disk_goes_on(sweep, monkeypatch):
    """Without a crash: after one failed call the file is still whole."""
    from secondsite.engine.images.vhd import dynamic as module

    monkeypatch.setattr(module, "_ROOM_BYTES", 3 * BLOCK)
    for seed in range(40 if sweep else 3):
        total = run(dynamic, seed, 0, 1)
        for at in range(1, total + 1):
            run(dynamic, seed, at, 1, crash=False)


def test_a_growing_fixed_disk_always_has_a_footer(sweep):
    for at in range(1, 12):
        files, faults = MemoryFiles(), Faults(at, crash=True)
        fixed(files).close()
        with suppress(Crash):
            image = open_vhd(PATH, "rw", files=FailingFiles(files, faults))
            image.write(0, b"kept")
            image.flush()
            image.resize(2 * START + SECTOR)
            image.flush()
            image.resize(START - SECTOR)
            image.close()
        files.power_loss(random.Random(at))
        with open_vhd(PATH, files=files) as image:
            assert image.size in (START, 2 * START + SECTOR, START - SECTOR)
            if faults.count > 3:
                assert image.read(0, 4) == b"kept"
