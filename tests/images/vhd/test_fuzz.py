"""VHDs with bytes changed at random: they open and read, or one of our errors says why not."""

from __future__ import annotations

import random
from contextlib import suppress
from uuid import UUID

import pytest
from vhdkit import handmade

from secondsite.engine import errors
from secondsite.engine.files.local import LocalFiles
from secondsite.engine.images.vhd import create_dynamic, create_fixed, open_vhd

BLOCK = 4096
# Where the metadata of the small files below lies; a byte of guest data changes nothing.
HOT = 4096


def seal(raw):
    """Right checksums, so that the fields behind them are believed."""
    for at, length, field in ((0, 512, 64), (512, 1024, 36), (len(raw) - 512, 512, 64)):
        if at < 0 or raw[at : at + 8] not in (b"conectix", b"cxsparse"):
            continue
        raw[at + field : at + field + 4] = bytes(4)
        raw[at + field : at + field + 4] = (~sum(raw[at : at + length]) & 0xFFFFFFFF).to_bytes(4, "big")


def mutate(raw, chance):
    raw = bytearray(raw)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(min(HOT, len(raw))) if chance.random() < 0.7 else len(raw) - 1 - chance.randrange(512)
        value = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        raw[at : at + chance.choice((1, 1, 4))] = bytes([value]) * chance.choice((1, 1, 4))
    if chance.random() < 0.15:
        del raw[chance.randrange(len(raw)) :]
    if chance.random() < 0.8:
        seal(raw)
    return bytes(raw)


def read_some(image):
    """What a scan would do, of a disk that may have become very large."""
    for extent in image.extents(0, min(image.size, 1 << 40)):
        image.read(extent.start, min(extent.length, 1 << 16))
    image.facts()


@pytest.mark.parametrize("kind", ["fixed", "dynamic", "child"])
def test_changed_bytes(tmp_path, kind, sweep):
    path, chance = tmp_path / "a.vhd", random.Random(kind)
    if kind == "fixed":
        create_fixed(path, 1 << 20).close()
    elif kind == "dynamic":
        with create_dynamic(path, 10 * BLOCK, block_size=BLOCK) as image:
            image.write(0, b"x" * 3 * BLOCK)
            image.write(8 * BLOCK, b"y" * BLOCK)
    else:
        (tmp_path / "p.vhd").write_bytes(handmade(10 * BLOCK, {}, block_size=BLOCK, unique_id=UUID(int=1)))
        blocks = {n: (b"\xa5", b"z" * BLOCK) for n in (0, 3, 9)}
        path.write_bytes(
            handmade(10 * BLOCK, blocks, block_size=BLOCK, parent=UUID(int=1), names=((b"W2ru", ".\\p.vhd"),))
        )
    good = path.read_bytes()
    opened = 0
    for _ in range(20_000 if sweep else 400):
        path.write_bytes(mutate(good, chance))
        with suppress(errors.Error), open_vhd(path) as image:
            opened += 1
            read_some(image)
    assert opened > 20


def test_writers_meet_changed_bytes(tmp_path, sweep):
    """A file that opens for writing takes a write and still opens, with what was written."""
    path, chance = tmp_path / "a.vhd", random.Random(5)
    with create_dynamic(path, 10 * BLOCK, block_size=BLOCK) as image:
        image.write(0, b"x" * 3 * BLOCK)
    good, files = path.read_bytes(), LocalFiles()
    for _ in range(5_000 if sweep else 120):
        path.write_bytes(mutate(good, chance))
        try:
            image = open_vhd(path, "rw", files=files)
        except errors.Error:
            continue
        at = min(5 * BLOCK, max(image.size - 10, 0))
        data = b"0123456789"[: image.size - at]
        with image:
            before = image.read(0, at)
            image.write(at, data)
        with open_vhd(path) as again:
            assert again.read(0, at) == before
            assert again.read(at, len(data)) == data
