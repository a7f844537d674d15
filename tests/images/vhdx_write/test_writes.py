"""Any sequence of writes, zeros, batches and openings, beside a bytearray; and what only some of them reach."""

from __future__ import annotations

import random
import tempfile
import threading
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vhdx_rig import CHILD, DISK, Stage

from secondsite.engine import errors
from secondsite.engine.images.base import ShortImage
from secondsite.engine.images.failing import FailingImage, Faults
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.images.raw import RawImage
from secondsite.engine.images.vhdx import VhdxImage
from secondsite.engine.images.vhdx.create import create
from secondsite.engine.images.vhdx.journal import NO_LOG
from secondsite.engine.images.vhdx.opening import load
from secondsite.engine.images.vhdx.structures import MIB
from secondsite.engine.images.vhdx.writer import VhdxWriter, open_writer

QUICK = settings(max_examples=25, deadline=None)
SIZE = 5 * MIB + 9 * 4096

OPERATION = st.tuples(
    st.sampled_from(["write", "zero", "keep", "flush", "batch", "open"]),
    st.integers(0, SIZE - 1),
    st.sampled_from([1, 511, 512, 4096, 70_000, MIB, 2 * MIB + 1]),
    st.integers(0, 1 << 30),
)


def batch(image: VhdxWriter, model: bytearray, block_size: int, start: int, dice: random.Random) -> None:
    """Some blocks from the one at `start`, with gaps, data and zeros, as a delta has them."""
    blocks, lengths, payload = array("Q"), array("I"), bytearray()
    number, run = start // block_size, dice.random() < 0.5
    for _ in range(dice.randrange(1, 40)):
        offset = number * block_size
        if offset >= len(model):
            break
        length = min(block_size, len(model) - offset)
        data = bytes(length) if (run if dice.random() < 0.9 else not run) else dice.randbytes(length)
        blocks.append(number)
        lengths.append(length if any(data[:64]) else 0)
        payload += data if lengths[-1] else b""
        model[offset : offset + length] = data
        number += 1 if dice.random() < 0.9 else dice.randrange(2, 20)
    image.write_blocks(blocks, lengths, len(blocks), block_size, len(model), payload, punch=dice.random() < 0.7)


@pytest.mark.parametrize("kind", ["dynamic", "fixed", "differencing"])
@pytest.mark.parametrize("block", [1, 4])
@QUICK
@given(st.lists(OPERATION, max_size=12))
def test_the_disk_is_the_bytes(kind: str, block: int, steps: list[tuple[str, int, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, base, model = Path(folder, "disk.vhdx"), Path(folder, "base.vhdx"), bytearray(SIZE)
        if kind == "differencing":
            create(base, SIZE, block_size=2 * MIB)
            model = bytearray(random.Random(1).randbytes(SIZE))
            model[MIB : 3 * MIB] = bytes(2 * MIB)
            with open_writer(base) as parent:
                parent.write(0, model)
                parent.zero(2 * MIB, 2 * MIB)
                model[2 * MIB : 4 * MIB] = bytes(2 * MIB)
            create(path, subformat=kind, block_size=block * MIB, parent=base)
        else:
            create(path, SIZE, subformat=kind, block_size=block * MIB)
        image = open_writer(path)
        try:
            for what, offset, length, seed in steps:
                dice, length = random.Random(seed), min(length, SIZE - offset)
                if what == "open":
                    image.close()
                    image = open_writer(path)
                elif what == "flush":
                    image.flush()
                elif what == "batch":
                    batch(image, model, dice.choice([4096, 65536, MIB, 4 * MIB]), offset, dice)
                elif what == "write":
                    data = dice.randbytes(length)
                    image.write(offset, data)
                    model[offset : offset + length] = data
                else:
                    image.zero(offset, length, punch=what == "zero")
                    model[offset : offset + length] = bytes(length)
            assert image.read(0, SIZE) == model
        finally:
            image.close()
        with VhdxImage(path) as reader:
            assert reader.read(0, SIZE) == model
            assert [finding for finding in reader.check() if finding.damaged] == []


def test_more_changes_than_a_log_entry_holds(tmp_path: Path) -> None:
    """Blocks far apart: each write changes another page of the table, and the log of 1 MiB fills up by itself."""
    path, dice = tmp_path / "disk.vhdx", random.Random(1)
    create(path, 1 << 40, block_size=MIB)
    spots = {dice.randrange(1 << 20) * MIB: dice.randbytes(512) for _ in range(600)}
    blocks = array("Q", sorted(spot // 4096 + 1 for spot in spots))
    with open_writer(path) as image:
        for spot, data in spots.items():
            image.write(spot, data)
        image.write_blocks(
            blocks, array("I", [4096]) * len(blocks), len(blocks), 4096, 1 << 40, bytearray(b"x" * 4096 * len(blocks))
        )
        image.zero(0, 1 << 35)
    with VhdxImage(path) as reader:
        for spot, data in spots.items():
            gone = spot < 1 << 35
            assert reader.read(spot, 512) == (bytes(512) if gone else data)
            assert reader.read(spot + 4096, 4096) == (bytes(4096) if gone else b"x" * 4096)
        assert [finding for finding in reader.check() if finding.damaged] == []


def test_bitmaps_fill_the_log_too(tmp_path: Path) -> None:
    base, path, dice = tmp_path / "base.vhdx", tmp_path / "child.vhdx", random.Random(1)
    create(base, 1 << 38)
    create(path, subformat="differencing", block_size=256 * MIB, parent=base)
    spots = {dice.randrange(1 << 26) * 4096: dice.randbytes(4096) for _ in range(400)}
    with open_writer(path) as image:
        for spot, data in spots.items():
            image.write(spot, data)
        for spot, data in spots.items():
            assert image.read(spot, 4096) == data
    with VhdxImage(path) as reader:
        for spot, data in spots.items():
            assert reader.read(spot, 4096) == data
        changed = sum(extent.length for extent in reader.changed_since_parent())
        assert changed == 4096 * len(spots)


def test_space_that_was_given_up_is_used_again(tmp_path: Path) -> None:
    path, data = tmp_path / "disk.vhdx", random.Random(1).randbytes(MIB)
    create(path, 64 * MIB, block_size=MIB)
    with open_writer(path) as image:
        for turn in range(60):
            image.write(turn * MIB, data)
            image.flush()
            image.zero(turn * MIB, MIB)
            image.flush()
    assert path.stat().st_size <= 6 * MIB
    with VhdxImage(path) as reader:
        assert reader.read(0, 64 * MIB) == bytes(64 * MIB)


def test_threads(tmp_path: Path) -> None:
    path, model = tmp_path / "disk.vhdx", bytearray(32 * MIB)
    create(path, len(model), block_size=MIB)
    failed: list[BaseException] = []
    with open_writer(path) as image:

        def work(number: int) -> None:
            dice = random.Random(number)
            try:
                for _ in range(80):
                    # Each has a share of every block, so that they meet in blocks but never in bytes.
                    offset = dice.randrange(32) * MIB + number * 256 * 1024
                    data = dice.choice([bytes, dice.randbytes])(dice.randrange(1, 256 * 1024))
                    (image.write(offset, data) if any(data[:9]) else image.zero(offset, len(data)))
                    model[offset : offset + len(data)] = data
                    assert image.read(offset, len(data)) == data
                    if dice.random() < 0.1:
                        image.flush()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert image.read(0, len(model)) == model
    with VhdxImage(path) as reader:
        assert reader.read(0, len(model)) == model


def test_reading_alone_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    create(path, 8 * MIB)
    before = path.read_bytes()
    with open_writer(path) as image:
        assert image.read(0, 512) == bytes(512)
        image.flush()
    assert path.read_bytes() == before


def test_what_lies_outside_the_disk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    create(path, MIB)
    with open_writer(path) as image:
        with pytest.raises(ShortImage):
            image.read(MIB - 1, 2)
        for call in (lambda: image.write(MIB, b"x"), lambda: image.zero(1, MIB)):
            with pytest.raises(ValueError):
                call()
        with pytest.raises(ValueError):
            image.write_blocks(array("Q", [256]), array("I", [4096]), 1, 4096, MIB, bytearray(4096))
        with pytest.raises(errors.Usage):
            image.resize(MIB + 1)
    with pytest.raises(ValueError):
        image.write(0, b"x")


def test_a_child_keeps_its_size_and_needs_its_parent(tmp_path: Path) -> None:
    base, path = tmp_path / "base.vhdx", tmp_path / "child.vhdx"
    create(base, 4 * MIB)
    create(path, subformat="differencing", parent=base)
    with VhdxWriter(RawImage(path, "rw")) as image:
        with pytest.raises(errors.Refused):
            image.resize(8 * MIB)
        image.write(MIB, b"x" * 512)  # whole sectors hide what they replace
        assert image.read(MIB, 512) == b"x" * 512
        for call in (lambda: image.read(0, 1), lambda: image.write(0, b"x")):
            with pytest.raises(errors.Refused):
                call()


def test_after_a_flush_that_failed_nothing_is_promised_any_more() -> None:
    place = Stage("dynamic")
    image = place.open(FailingImage(place.files.open(CHILD, "rw"), Faults(6, kinds=frozenset({"flush"}))))
    image.write(0, b"x" * 512)
    image.flush()
    image.write(0, b"y" * 512)
    with pytest.raises(errors.Unreachable):
        image.flush()
    for call in (image.flush, lambda: image.write(0, b"z"), lambda: image.zero(0, 1)):
        with pytest.raises(errors.Unreachable, match="open it again"):
            call()
    image.close()
    with place.open() as image:
        assert image.read(0, 1) in (b"x", b"y")
        assert image.read(512, DISK - 512) == bytes(DISK - 512)


def test_a_table_with_two_blocks_in_one_place_is_not_written() -> None:
    place = Stage("fixed")
    file = place.files.names[CHILD]
    file.write(3 * MIB + 8, bytes(file.read(3 * MIB, 8)))
    with pytest.raises(errors.Damaged, match="in the space of another block"):
        place.open()


def test_a_file_cut_inside_its_last_block_is_made_whole() -> None:
    place = Stage("fixed")
    file = place.files.names[CHILD]
    file.resize(file.size - MIB + 5 * 4096)  # the disk ends before
    with place.open() as image:
        image.write(DISK - 512, b"z" * 512)
    with VhdxWriter(MemoryImage(file.read(0, file.size))) as image:
        assert image.read(DISK - 512, 512) == b"z" * 512
        image.resize(4 * MIB)
        assert image.read(DISK, 4 * MIB - DISK) == bytes(4 * MIB - DISK)


def test_a_file_without_room_for_a_log_gets_some() -> None:
    place = Stage("dynamic")
    file = place.files.open(CHILD, "rw")
    headers = load(file).headers
    headers.log_offset = headers.log_length = 0
    headers.update(NO_LOG)
    with place.open() as image:
        image.write(0, b"x" * 512)
        image.flush()
        assert image.headers.log_length == MIB
    with place.open() as image:
        assert image.read(0, DISK) == (b"x" * 512).ljust(DISK, b"\0")
