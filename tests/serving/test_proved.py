"""A point of which nothing is read that its block map does not bear out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.images import RawImage
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.proved import ProvedPoint
from secondsite.engine.units import KIB

BLOCK = 16 * KIB
SIZE = 9 * BLOCK + 777


def test_reads_begin_and_end_anywhere_and_a_rotten_block_is_read_by_none(tmp_path: Path) -> None:
    dice, path = random.Random(5), tmp_path / "replica"
    data = bytearray(dice.randbytes(SIZE))
    data[3 * BLOCK : 5 * BLOCK] = bytes(2 * BLOCK)
    (tmp_path / "disk").write_bytes(data)
    engine.replicate(tmp_path / "disk", path, block_size=BLOCK)
    with ProvedPoint(Replica.open(str(path), LocalFiles())) as point:
        for _ in range(200):
            start = dice.randrange(SIZE)
            length = dice.randrange(1, SIZE - start + 1)
            assert point.read(start, length) == data[start : start + length]
        (tmp_path / "disk").write_bytes(dice.randbytes(SIZE))
        engine.replicate(tmp_path / "disk", path)
        assert point.read(0, SIZE) == data
    for rotten in (9, 4):
        with RawImage(str(path / "head.raw"), "rw") as head:
            head.write(rotten * BLOCK + 700, b"rot")
        with ProvedPoint(Replica.open(str(path), LocalFiles())) as point:
            point.read((rotten - 1) * BLOCK, BLOCK)
            with pytest.raises(errors.Damaged, match=f"at byte {rotten * BLOCK}: "):
                point.read((rotten - 1) * BLOCK + 5, BLOCK)
