"""What is read back in runs: the same answer as block by block, for whatever lies, or does not lie, in the file."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest

from secondsite.engine import kernel
from secondsite.engine.images.base import Image, ShortImage
from secondsite.engine.images.raw import RawImage
from secondsite.engine.images.vhdx import batches
from secondsite.engine.images.vhdx.create import create
from secondsite.engine.images.vhdx.packing import FULL, PARTIAL
from secondsite.engine.images.vhdx.structures import MIB
from secondsite.engine.images.vhdx.table import OFFSET
from secondsite.engine.images.vhdx.writer import VhdxWriter

SEED = 11
# Seven blocks of 1 MiB and a short one, two of 4 MiB: the last block of the disk ends in the middle of a block.
DISK = 7 * MIB + 9 * 4096


def filled(path: Path, kind: str, block: int, dice: random.Random) -> VhdxWriter:
    """A disk with every sort of block: full, absent, given up, and present with zeros in it."""
    create(path, DISK, subformat=kind, block_size=block)
    image = VhdxWriter(RawImage(path, "rw"))
    for _ in range(12):
        offset = dice.randrange(DISK // 4096) * 4096
        length = min(dice.choice([4096, 65536, MIB, 2 * MIB]), DISK - offset)
        if dice.random() < 0.7:
            image.write(offset, dice.randbytes(length))
        else:
            image.zero(offset, length, punch=dice.random() < 0.5)
    return image


class Asked:
    """A batch of some blocks with the hashes of what the disk holds, or of something else."""

    def __init__(self, image: VhdxWriter, size: int, dice: random.Random, wrong: int) -> None:
        total = -(-DISK // size)
        self.numbers = sorted(dice.sample(range(total), dice.randrange(1, min(total, 150) + 1)))
        if dice.random() < 0.2:
            dice.shuffle(self.numbers)
        parts = [image.read(n * size, min(size, DISK - n * size)) for n in self.numbers]
        for at in dice.sample(range(len(parts)), min(wrong, len(parts))):
            # Data where zeros are, zeros where data is, or one byte that is another.
            parts[at] = bytearray(len(parts[at])) if dice.random() < 0.5 else parts[at]
            parts[at][dice.randrange(len(parts[at]))] ^= 1 if dice.random() < 0.7 else 0
        lengths = array("I", [len(part) if any(part) else 0 for part in parts])
        self.hashes = bytearray(16 * len(parts))
        payload = b"".join(bytes(part) for part in parts if any(part))
        kernel.scan.hash_blocks(payload, lengths, len(parts), SEED, self.hashes)
        self.arguments = array("Q", self.numbers), lengths, self.hashes, len(parts), size, DISK, SEED


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
@pytest.mark.parametrize("block", [MIB, 4 * MIB])
@pytest.mark.parametrize("wrong", [0, 1, 3])
def test_the_answer_is_that_of_block_by_block(tmp_path: Path, kind: str, block: int, wrong: int) -> None:
    dice = random.Random(f"{kind} {block} {wrong}")
    with filled(tmp_path / "disk.vhdx", kind, block, dice) as image:
        for _ in range(15):
            asked = Asked(image, dice.choice([4096, 65536, 65536, MIB]), dice, wrong)
            slow = Image.check_blocks(image, *asked.arguments)
            assert image.check_blocks(*asked.arguments) == slow, asked.numbers
            assert wrong or slow == -1


def test_it_goes_through_the_kernel_in_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests here would compare the slow way with itself."""
    calls: list[int] = []
    inner = RawImage.check_blocks

    def counted(file: RawImage, *arguments: object) -> int:
        calls.append(len(arguments[0]))  # type: ignore[arg-type]
        return inner(file, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RawImage, "check_blocks", counted)
    create(tmp_path / "disk.vhdx", 8 * MIB, block_size=MIB)
    with VhdxWriter(RawImage(tmp_path / "disk.vhdx", "rw")) as image:
        image.write(0, random.Random(1).randbytes(2 * MIB))
        image.write(6 * MIB, b"x")
        blocks, lengths = array("Q", range(128)), array("I", [65536] * 32 + [0] * 64 + [65536] + [0] * 31)
        hashes = bytearray(16 * 128)
        payload = image.read(0, 2 * MIB) + image.read(6 * MIB, 65536)
        kernel.scan.hash_blocks(payload, lengths, 128, SEED, hashes)
        assert image.check_blocks(blocks, lengths, hashes, 128, 65536, 8 * MIB, SEED) == -1
        assert calls == [48]  # three blocks that are in the file, and none of those that are not
        lengths[100] = 65536
        hashes[16 * 20] ^= 1
        assert image.check_blocks(blocks, lengths, hashes, 128, 65536, 8 * MIB, SEED) == 20


def test_data_in_a_block_that_is_not_there(tmp_path: Path) -> None:
    """The first that is wrong is named: one that reads back differently before one that is absent."""
    create(tmp_path / "disk.vhdx", 8 * MIB, block_size=MIB)
    with VhdxWriter(RawImage(tmp_path / "disk.vhdx", "rw")) as image:
        data = random.Random(1).randbytes(MIB)
        image.write(0, data)
        blocks, lengths = array("Q", [0, 1, 5]), array("I", [MIB] * 3)
        hashes = bytearray(48)
        kernel.scan.hash_blocks(3 * data, lengths, 3, SEED, hashes)
        assert image.check_blocks(blocks, lengths, hashes, 3, MIB, 8 * MIB, SEED) == 1
        image.write(77, b"other")
        assert image.check_blocks(blocks, lengths, hashes, 3, MIB, 8 * MIB, SEED) == 0
        image.write(0, 2 * data)
        assert image.check_blocks(blocks, lengths, hashes, 3, MIB, 8 * MIB, SEED) == 2
        assert image.check_blocks(blocks, lengths, hashes, 0, MIB, 8 * MIB, SEED) == -1


def test_blocks_outside_the_disk_are_refused(tmp_path: Path) -> None:
    create(tmp_path / "disk.vhdx", 8 * MIB, block_size=MIB)
    with VhdxWriter(RawImage(tmp_path / "disk.vhdx", "rw")) as image:
        for number in (8, 1 << 40):
            batch = array("Q", [0, number]), array("I", [0, 0]), bytes(32), 2, MIB
            for size in (8 * MIB, 9 * MIB, 8 * MIB - 4096):
                with pytest.raises((ValueError, ShortImage)):
                    image.check_blocks(*batch, size, SEED)
    with pytest.raises(ValueError, match="closed"):
        image.check_blocks(array("Q", [0]), array("I", [0]), bytes(16), 1, MIB, 8 * MIB, SEED)


def test_a_block_that_is_said_to_be_partial(tmp_path: Path) -> None:
    """Without a parent there is no bitmap, so all of it is read; writers other than ours have left such files."""
    create(tmp_path / "disk.vhdx", 8 * MIB, block_size=MIB)
    data = random.Random(1).randbytes(MIB)
    with VhdxWriter(RawImage(tmp_path / "disk.vhdx", "rw")) as image:
        image.write(3 * MIB, data)
        entry = image.table.get(3)
        assert entry & 7 == FULL
        image.table.put(3, PARTIAL, entry & OFFSET)
        hashes = bytearray(16)
        kernel.scan.hash_blocks(data, array("I", [MIB]), 1, SEED, hashes)
        batch = array("Q", [3]), array("I", [MIB]), hashes, 1, MIB, 8 * MIB, SEED
        assert image.check_blocks(*batch) == Image.check_blocks(image, *batch) == -1
        image.table.put(3, FULL, entry & OFFSET)


def test_a_file_that_was_cut_below(tmp_path: Path) -> None:
    create(tmp_path / "disk.vhdx", 8 * MIB, block_size=MIB)
    with VhdxWriter(RawImage(tmp_path / "disk.vhdx", "rw"), grow=MIB) as image:
        image.write(0, b"x" * MIB)
        size = image.file.size
        image.file.resize(size - MIB // 2)
        batch = array("Q", [0]), array("I", [MIB]), bytes(16), 1, MIB, 8 * MIB, SEED
        with pytest.raises(ShortImage):
            batches.check_batch(image, *batch[:5], SEED)
        with pytest.raises(ShortImage):
            Image.check_blocks(image, *batch)
        image.file.resize(size)
