"""VMDKs with bytes changed at random: they open and read, or one of our errors says why not."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from vmdkkit import GRAIN, cowd, descriptor, sparse, stream

from secondsite.engine import errors
from secondsite.engine.images.vmdk import open_vmdk

TEXT = ['RW 2048 SPARSE "a.vmdk"']


def files(kind):
    """The file that is opened, and those beside it."""
    grains = {0: b"x" * GRAIN, 3: bytes(range(256)) * 256}
    if kind == "sparse":
        return sparse(grains, 2048, text=descriptor(TEXT), entries=8), {}
    if kind == "stream":
        return stream(grains, 2048, text=descriptor(TEXT, kind="streamOptimized")), {}
    if kind == "child":
        base = {"p.vmdk": sparse(grains, 2048, text=descriptor(TEXT))}
        return sparse({1: b"c" * GRAIN}, 2048, text=descriptor(TEXT, parent="00c0ffee", hint="p.vmdk")), base
    lines = ['RW 4 FLAT "f.bin" 1', 'RW 100 VMFSSPARSE "c.vmdk"', 'RW 5 ZERO', 'RW 128 SPARSE "s.vmdk"']
    beside = {"f.bin": b"f" * 4096, "c.vmdk": cowd({3: b"c" * 512}, 100), "s.vmdk": sparse({0: b"s" * GRAIN}, 128)}
    return descriptor(lines).encode(), beside


def mutate(raw, chance):
    raw = bytearray(raw)
    hot = min(len(raw), 512 if chance.random() < 0.5 else 16384)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(hot) if chance.random() < 0.8 else chance.randrange(len(raw))
        value = chance.choice((0, 1, 0x20, 0x39, 0x7F, 0xFF, chance.randrange(256)))
        raw[at : at + chance.choice((0, 1, 1, 4))] = bytes([value]) * chance.choice((1, 1, 4))
    if chance.random() < 0.1:
        del raw[chance.randrange(len(raw)) :]
    return bytes(raw)


@pytest.mark.parametrize("kind", ["sparse", "stream", "child", "text"])
def test_changed_bytes(tmp_path, kind, sweep):
    chance = random.Random(kind)
    good, beside = files(kind)
    for name, raw in beside.items():
        (tmp_path / name).write_bytes(raw)
    path = tmp_path / "a.vmdk"
    opened = 0
    for _ in range(20_000 if sweep else 400):
        if beside and chance.random() < 0.5:
            name = chance.choice(sorted(beside))
            (tmp_path / name).write_bytes(mutate(beside[name], chance))
            path.write_bytes(good)
        else:
            path.write_bytes(mutate(good, chance))
        with suppress(errors.Error), open_vmdk(path) as image:
            opened += 1
            for extent in image.extents(0, min(image.size, 1 << 36)):
                image.read(extent.start, min(extent.length, 1 << 16))
            image.facts()
        for name, raw in beside.items():
            (tmp_path / name).write_bytes(raw)
    assert opened > 20
