"""Every block size, sector size and state, alone and in chains, against the model of vhdxkit."""

from __future__ import annotations

import os
import random
import subprocess

import pytest
import vhdxkit
from vhdxkit import FULL, MIB, NOT_PRESENT, PARTIAL, UNDEFINED, UNMAPPED, ZERO, Block, Disk

from secondsite.engine import errors
from secondsite.engine.images.base import ShortImage
from secondsite.engine.images.vhdx import VhdxImage

BASE = [NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULL, FULL]
CHILD = [*BASE, PARTIAL, PARTIAL, PARTIAL]


def windows(disk, rng):
    """Ranges worth reading: around spots, runs and block edges, and some at random."""
    edges = {0, disk.size}
    layer = disk
    while layer:
        for number, made in layer.blocks.items():
            start = number * layer.block
            edges |= {start, start + layer.block}
            edges |= {start + at + n for at, data in made.spots.items() for n in (0, len(data))}
            edges |= {start + layer.sector * edge for run in made.present for edge in run}
        layer = layer.parent
    for edge in sorted(rng.sample(sorted(edges), min(len(edges), 60))):
        low, high = max(edge - 700, 0), min(edge + 700, disk.size)
        if low < high:
            yield low, high - low
    for _ in range(6):
        start = rng.randrange(disk.size)
        yield start, min(rng.randrange(1, 3 * MIB), disk.size - start)


def assert_same(image, disk, seed=0):
    assert image.size == disk.size
    if disk.size <= 40 * MIB:
        assert image.read(0, disk.size) == disk.read(0, disk.size)
    for start, length in windows(disk, random.Random(seed)):
        assert image.read(start, length) == disk.read(start, length), (start, length)
    check_extents(image, disk)
    assert [tuple(extent) for extent in image.changed_since_parent()] == disk.changed()


def check_extents(image, disk):
    at, before = 0, None
    for extent in image.extents(0, image.size):
        assert extent.start == at
        assert extent.length > 0
        assert extent.zero != before
        at, before = at + extent.length, extent.zero
        if extent.zero:
            length = min(extent.length, MIB)
            assert disk.read(extent.start, length) == bytes(length)
            assert disk.read(extent.start + extent.length - length, length) == bytes(length)
    assert at == image.size


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("block", [1 << n for n in range(9)])
def test_every_block_and_sector_size(tmp_path, block, sector):
    rng = random.Random(block * sector)
    disk = Disk(6 * block * MIB + 5 * sector, block * MIB, sector, shuffle=True, seed=block)
    disk.fill(rng, BASE)
    disk.blocks[1] = Block(FULL, {5: b"sure"})
    with VhdxImage(disk.write(tmp_path / "disk.vhdx")) as image:
        assert_same(image, disk)
        facts = image.facts()
        assert (facts.format, facts.subformat, facts.log) == ("vhdx", "dynamic", "clean")
        assert (facts.block_size, facts.logical_sector, facts.physical_sector) == (block * MIB, sector, 4096)
        assert facts.allocated_bytes == len(disk.places) * disk.block
        assert facts.identifiers["disk id"] == f"{{{disk.disk_id}}}"
        assert facts.identifiers["data write guid"] == f"{{{disk.data_write}}}"
        assert facts.identifiers["creator"] == "made by hand"
        assert not [finding for finding in image.check() if finding.damaged]


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("blocks", [(1, 1, 1), (1, 2, 32), (256, 2, 1), (2, 256, 8)])
def test_chains_of_three_with_other_block_sizes(tmp_path, blocks, sector):
    rng = random.Random(sector + blocks[1])
    size = 2 * max(blocks) * MIB + 30 * MIB + 3 * sector
    disk = None
    for level, block in enumerate(blocks):
        disk = Disk(
            size, block * MIB, sector, parent=disk, parent_path=f".\\{level - 1} base.vhdx", seed=level, shuffle=True
        )
        disk.fill(rng, CHILD if level else BASE)
        path = disk.write(tmp_path / f"{level} base.vhdx")
    before = path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns
    with VhdxImage(path) as image:
        assert_same(image, disk)
        assert [facts.identifier for facts in image.facts().parents] == [
            f"{{{disk.parent.data_write}}}", f"{{{disk.parent.parent.data_write}}}",
        ]  # fmt: skip
        assert image.facts().subformat == "differencing"
        assert not [finding for finding in image.check() if finding.damaged]
        assert len(image.stamps()) == 3
    assert (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns) == before


def test_every_second_sector_of_a_chunk(tmp_path):
    """More pieces than one step of the walk over extents takes: it goes on where it stopped."""
    base = Disk(36 * MIB)
    base.fill(random.Random(1), [FULL])
    base.write(tmp_path / "base.vhdx")
    child = Disk(36 * MIB, parent=base, parent_path="base.vhdx", seed=2)
    child.fill(random.Random(2), [PARTIAL])
    for made in child.blocks.values():
        made.present = [(n, n + 1) for n in range(1, 2048, 2)]
    with VhdxImage(child.write(tmp_path / "child.vhdx")) as image:
        assert image.read(0, image.size) == child.read(0, image.size)
        assert len(image.segments(0, image.size).fds) == 36 * 2048
        assert [tuple(extent) for extent in image.changed_since_parent()] == child.changed()
        assert sum(extent.length for extent in image.extents(0, image.size)) == image.size


def test_a_disk_of_many_chunks(tmp_path):
    """Blocks of 256 MiB and sectors of 512 bytes: sixteen entries, then one of a bitmap."""
    base = Disk(40 << 30, 256 * MIB)
    for number in (0, 15, 16, 17, 31, 32, 47, 159):
        base.blocks[number] = Block(FULL, {number: b"%d" % number})
    base.write(tmp_path / "base.vhdx")
    child = Disk(40 << 30, 256 * MIB, parent=base, parent_path="BASE.vhdx", seed=9)
    for number in (15, 16, 33, 159):
        child.blocks[number] = Block(PARTIAL, {512: b"x"}, [(1, 2)])
    with VhdxImage(child.write(tmp_path / "child.vhdx")) as image:
        for start, length in windows(child, random.Random(3)):
            assert image.read(start, length) == child.read(start, length)
        assert [tuple(extent) for extent in image.changed_since_parent()] == child.changed()


def test_a_fixed_disk(tmp_path):
    disk = Disk(9 * MIB, fixed=True)
    disk.fill(random.Random(4), [FULL])
    with VhdxImage(disk.write(tmp_path / "fixed.vhdx")) as image:
        assert image.facts().subformat == "fixed"
        assert_same(image, disk)


def test_anchors_are_not_followed(tmp_path):
    """Blocks of states 1 and 3 may keep an offset; what lies there is not theirs to show."""
    disk = Disk(8 * MIB)
    disk.blocks = {0: Block(FULL, {0: b"secret"}), 1: Block(UNMAPPED), 2: Block(UNDEFINED), 3: Block(ZERO)}
    path = disk.write(tmp_path / "disk.vhdx")
    for number in (1, 2, 3):
        entry = disk.places[0] | disk.blocks[number].state
        vhdxkit.patch(path, disk.entry_at(number), entry.to_bytes(8, "little"))
    with VhdxImage(path) as image:
        assert image.read(MIB, 3 * MIB) == bytes(3 * MIB)
        texts = [finding.text for finding in image.check() if not finding.damaged]
        assert any(text.startswith("2 blocks without data keep space") for text in texts)
        assert any(text.startswith("1 blocks of zeros have an offset") for text in texts)


def test_holes_of_the_file_are_zero_extents(tmp_path):
    disk = Disk(64 * MIB, 32 * MIB)
    disk.blocks[1] = Block(FULL, {8 * MIB: os.urandom(MIB)})
    path = disk.write(tmp_path / "disk.vhdx")
    with VhdxImage(path) as image:
        data = [extent for extent in image.extents(0, image.size) if not extent.zero]
        assert [(extent.start, extent.length) for extent in data] == [(40 * MIB, MIB)]


def test_parts_of_a_disk(tmp_path):
    disk = Disk(8 * MIB)
    disk.fill(random.Random(5), BASE)
    with VhdxImage(disk.write(tmp_path / "disk.vhdx")) as image:
        for start, length in [(0, 0), (5, 0), (8 * MIB, 0), (3 * MIB - 1, 2), (8 * MIB - 1, 1), (1, 8 * MIB - 2)]:
            assert image.read(start, length) == disk.read(start, length)
            covered = sum(extent.length for extent in image.extents(start, length))
            assert covered == sum(image.segments(start, length).lengths) == length
        for start, length in [(8 * MIB, 1), (0, 8 * MIB + 1), (1 << 62, 1 << 62)]:
            with pytest.raises(ShortImage):
                image.segments(start, length)
        for call in (
            lambda: image.write(0, b"x"), lambda: image.zero(0, 1), lambda: image.resize(1),
        ):  # fmt: skip
            with pytest.raises(errors.Refused):
                call()


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("options", ["subformat=dynamic,block_size=1M", "subformat=fixed", "block_size=256M"])
def test_what_qemu_writes(tmp_path, options):
    raw = tmp_path / "raw"
    rng = random.Random(6)
    with raw.open("wb") as file:
        file.truncate(300 * MIB + 512 * 5)
        for _ in range(40):
            file.seek(rng.randrange(300 * MIB))
            file.write(rng.randbytes(rng.choice([512, 5000, 300000])))
    size = raw.stat().st_size
    path = tmp_path / "disk.vhdx"
    command = ["qemu-img", "convert", "-q", "-f", "raw", "-O", "vhdx", "-o", options, str(raw), str(path)]
    subprocess.run(command, check=True)
    with VhdxImage(path) as image, raw.open("rb") as file:
        assert image.size == -(-size // 512) * 512
        for extent in image.extents(0, size):
            file.seek(extent.start)
            assert image.read(extent.start, extent.length) == file.read(extent.length)
        assert not [finding for finding in image.check() if finding.damaged]


@pytest.mark.needs("qemu-img")
def test_qemu_reads_the_made_up_files_alike(tmp_path):
    disk = Disk(20 * MIB, 2 * MIB, shuffle=True)
    disk.fill(random.Random(7), [NOT_PRESENT, ZERO, UNMAPPED, FULL])
    path = disk.write(tmp_path / "disk.vhdx")
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "vhdx", "-O", "raw", str(path), str(raw)], check=True)
    assert raw.read_bytes() == disk.read(0, disk.size)
