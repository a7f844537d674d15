"""What must be refused, and how: the negative list of formats.md section 8, one structure after another; parents are in
test_parents.py.
"""

from __future__ import annotations

import os
import struct
from uuid import UUID

import pytest
import vhdxkit
from refusals import UNKNOWN, refused
from vhdxkit import FULL, KIB, MIB, PARTIAL, UNMAPPED, Block, Disk, patch

from secondsite.engine import errors
from secondsite.engine.images.vhdx import VhdxImage


@pytest.fixture
def disk(tmp_path):
    made = Disk(40 * MIB, 2 * MIB)
    made.blocks = {n: Block(FULL, {0: b"block %d" % n}) for n in (0, 3, 7)}
    made.path = made.write(tmp_path / "disk.vhdx")
    return made


def rewrite(disk, **changed):
    for name, value in changed.items():
        setattr(disk, name, value)
    return disk.write(disk.path)


# -- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 7, 8, 64 * KIB, 70 * KIB, 128 * KIB + 4096, 200 * KIB, MIB, 2 * MIB + 100])
def test_a_file_that_is_cut(disk, size):
    os.truncate(disk.path, size)
    refused(disk.path, "the file ends|the file at")


def test_another_signature(disk):
    patch(disk.path, 0, b"conectix")
    refused(disk.path, "not a VHDX file", offset=0)


def test_what_is_not_a_file(tmp_path):
    for make, error in ((os.mkfifo, errors.Usage), (os.mkdir, errors.Usage), (lambda path: None, errors.Unreachable)):
        path = tmp_path / "strange"
        make(path)
        with pytest.raises(error):
            VhdxImage(path)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    with pytest.raises(errors.Usage):
        VhdxImage("a\0b")


# -- headers ----------------------------------------------------------------------------------------------------


def test_both_headers_bad(disk):
    patch(disk.path, 64 * KIB + 100, b"x")
    patch(disk.path, 128 * KIB, b"x")
    refused(disk.path, "neither", offset=64 * KIB)


@pytest.mark.parametrize(("slot", "current"), [(0, 8), (1, 7)])
def test_one_header_bad(disk, slot, current):
    patch(disk.path, (64 + 64 * slot) * KIB + 100, b"x")
    with VhdxImage(disk.path) as image:
        assert image.top.header.sequence == current
        assert image.read(0, 7) == b"block 0"
        assert [f.text for f in image.check()] == [f"header {slot + 1} has a wrong signature or checksum"]
        assert image.facts().notes


def test_equal_numbers_and_different_headers(disk):
    raw = disk.path.read_bytes()[128 * KIB : 132 * KIB]
    patch(disk.path, 64 * KIB, raw)
    with VhdxImage(disk.path) as image:  # identical ones are well known
        assert image.read(0, 7) == b"block 0"
    patch(disk.path, 64 * KIB + 40, b"x")
    vhdxkit.reseal(disk.path, 64 * KIB, 4096)
    refused(disk.path, "both have sequence number 8")


def test_a_newer_version(disk):
    with disk.path.open("r+b") as file:
        disk.write_headers(file, version=2)
    refused(disk.path, "version 2", errors.NewerFormat)
    with disk.path.open("r+b") as file:
        disk.write_headers(file, version=0)
    refused(disk.path, "version 0")


# -- regions ----------------------------------------------------------------------------------------------------


def test_region_table_1_bad(disk):
    patch(disk.path, 192 * KIB + 50000, b"x")
    with VhdxImage(disk.path) as image:
        assert image.read(0, 7) == b"block 0"
        assert any("region table 1" in finding.text for finding in image.check())
    patch(disk.path, 256 * KIB, b"x")
    refused(disk.path, "neither", offset=192 * KIB)


def test_region_table_2_bad(disk):
    patch(disk.path, 256 * KIB + 50000, b"x")
    with VhdxImage(disk.path) as image:
        assert [finding.text for finding in image.check()] == ["region table 2 is not a copy of table 1"]


@pytest.mark.parametrize(
    ("regions", "match"),
    [
        ([(vhdxkit.METADATA, 2 * MIB, MIB, 1)], "no entry for the block allocation table"),
        ([(vhdxkit.BAT, 3 * MIB, MIB, 1)], "no entry for the metadata"),
        ([(vhdxkit.BAT, 3 * MIB, MIB, 1)] * 2, "listed twice"),
        ([(vhdxkit.BAT, 3 * MIB, MIB, 1), (vhdxkit.METADATA, 3 * MIB, MIB, 1)], "overlaps"),
        ([(vhdxkit.BAT, 3 * MIB, MIB, 1), (vhdxkit.METADATA, 2 * MIB, 2 * MIB, 1)], "overlaps"),
        ([(vhdxkit.BAT, MIB, MIB, 1), (vhdxkit.METADATA, 2 * MIB, MIB, 1)], "overlaps the log|overlaps the block"),
        ([(vhdxkit.BAT, 3 * MIB, MIB, 1), (vhdxkit.METADATA, 0, MIB, 1)], "multiples"),
        ([(vhdxkit.BAT, 3 * MIB + 4096, MIB, 1), (vhdxkit.METADATA, 2 * MIB, MIB, 1)], "multiples"),
        ([(vhdxkit.BAT, 3 * MIB, 4096, 1), (vhdxkit.METADATA, 2 * MIB, MIB, 1)], "multiples"),
        ([(vhdxkit.BAT, 3 * MIB, 0, 1), (vhdxkit.METADATA, 2 * MIB, MIB, 1)], "multiples"),
        ([(vhdxkit.BAT, 1 << 40, MIB, 1), (vhdxkit.METADATA, 2 * MIB, MIB, 1)], "the file at"),
        ([(vhdxkit.BAT, (1 << 64) - MIB, MIB, 1), (vhdxkit.METADATA, 2 * MIB, MIB, 1)], "the file at"),
    ],
)
def test_regions_that_cannot_be(disk, regions, match):
    table = vhdxkit.region_table(regions)
    patch(disk.path, 192 * KIB, table)
    refused(disk.path, match)


def test_more_regions_than_a_table_holds(disk):
    patch(disk.path, 192 * KIB + 8, struct.pack("<I", 2048))
    vhdxkit.reseal(disk.path, 192 * KIB, 64 * KIB)
    refused(disk.path, "2048 entries")


def test_unknown_regions(disk):
    end = disk.path.stat().st_size
    path = rewrite(disk, extra_regions=[(UNKNOWN, end, MIB, 0)])
    with VhdxImage(path) as image:
        assert image.read(0, 7) == b"block 0"
    refused(rewrite(disk, extra_regions=[(UNKNOWN, end, MIB, 1)]), "does not know", errors.NewerFormat)


def test_a_block_in_an_unknown_region(disk):
    """Its space is somebody's, whoever that is."""
    end = disk.path.stat().st_size
    path = rewrite(disk, extra_regions=[(UNKNOWN, end, MIB, 0)])
    patch(path, disk.entry_at(9), struct.pack("<Q", end | FULL))
    os.truncate(path, end + 10 * MIB)
    refused(path, f"in the space of the region {UNKNOWN}", read=True)


def test_qemu_requires_nothing(disk):
    table = vhdxkit.region_table([(guid, at, size, 0) for guid, at, size, _ in disk.regions()])
    patch(disk.path, 192 * KIB, table)
    VhdxImage(disk.path).close()


# -- metadata ---------------------------------------------------------------------------------------------------


def with_items(disk, change):
    """The file with other metadata items."""
    items = change(disk.items())
    patch(disk.path, disk.metadata_offset, vhdxkit.metadata_region(items))
    return disk.path


def replaced(guid, content, flags=None):
    def change(items):
        return [(g, f if flags is None else flags, content) if g == guid else (g, f, c) for g, f, c in items]

    return change


@pytest.mark.parametrize(
    ("guid", "content", "match"),
    [
        (vhdxkit.FILE_PARAMETERS, struct.pack("<II", 3 * MIB, 0), "a power of two"),
        (vhdxkit.FILE_PARAMETERS, struct.pack("<II", 512 * KIB, 0), "a power of two"),
        (vhdxkit.FILE_PARAMETERS, struct.pack("<II", 512 * MIB, 0), "a power of two"),
        (vhdxkit.FILE_PARAMETERS, struct.pack("<II", 0, 0), "a power of two"),
        (vhdxkit.FILE_PARAMETERS, struct.pack("<II", 1 << 31, 0), "a power of two"),
        (vhdxkit.FILE_PARAMETERS, struct.pack("<I", MIB), "4 bytes for the file parameters, 8"),
        (vhdxkit.FILE_PARAMETERS, struct.pack("<II", 2 * MIB, 2), "no parent locator"),
        (vhdxkit.DISK_SIZE, struct.pack("<Q", 0), "virtual disk size"),
        (vhdxkit.DISK_SIZE, struct.pack("<Q", 1000), "virtual disk size"),
        (vhdxkit.DISK_SIZE, struct.pack("<Q", (64 << 40) + 512), "virtual disk size"),
        (vhdxkit.DISK_SIZE, struct.pack("<Q", (1 << 64) - 512), "virtual disk size"),
        (vhdxkit.DISK_SIZE, struct.pack("<Q", 64 << 40), "block allocation table, .* are needed"),
        (vhdxkit.LOGICAL, struct.pack("<I", 0), "512 or 4096"),
        (vhdxkit.LOGICAL, struct.pack("<I", 1024), "512 or 4096"),
        (vhdxkit.PHYSICAL, struct.pack("<I", 0), "512 or 4096"),
        (vhdxkit.DISK_ID, b"12345678", "virtual disk id"),
        (vhdxkit.DISK_ID, b"", "virtual disk id"),
    ],
)
def test_values_that_cannot_be(disk, guid, content, match):
    refused(with_items(disk, replaced(guid, content)), match)


@pytest.mark.parametrize(
    "guid", [vhdxkit.FILE_PARAMETERS, vhdxkit.DISK_SIZE, vhdxkit.LOGICAL, vhdxkit.PHYSICAL, vhdxkit.DISK_ID]
)
def test_items_that_are_missing(disk, guid):
    refused(with_items(disk, lambda items: [item for item in items if item[0] != guid]), "metadata table: no ")


def test_items_of_the_user(disk):
    """They may be unknown, unless they are required; and are never taken for the system's."""
    path = with_items(disk, lambda items: [*items, (UNKNOWN, 1, b"mine"), (vhdxkit.DISK_SIZE, 1, bytes(8))])
    VhdxImage(path).close()
    with_items(disk, lambda items: [*items, (UNKNOWN, 5, b"mine")])
    refused(path, "does not know", errors.NewerFormat)
    with_items(disk, lambda items: [*items, *[(UUID(int=n), 1, b"") for n in range(1025)]])
    refused(path, "more than 1024 user items")


def test_items_twice_unknown_and_unfinished(disk):
    refused(with_items(disk, lambda items: [*items, items[0]]), "listed twice")
    refused(with_items(disk, lambda items: [*items, (UNKNOWN, 4, b"x")]), "does not know", errors.NewerFormat)
    marker = UUID("71CC85F0-1B69-4E28-9558-C3BF83AE75D3")
    refused(with_items(disk, lambda items: [*items, (marker, 4, b"")]), "never finished")
    refused(with_items(disk, lambda items: [*items, (marker, 0, b"")]), "never finished")
    VhdxImage(with_items(disk, lambda items: [*items, (UNKNOWN, 2, b"x"), (UUID(int=1), 0, b"")])).close()


def test_a_parent_locator_without_a_parent(disk):
    pairs = [("parent_linkage", f"{{{UNKNOWN}}}")]
    refused(with_items(disk, lambda items: [*items, (vhdxkit.LOCATOR, 4, vhdxkit.locator(pairs))]), "and no parent")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        (16, 0, "from 65536"), (16, 65535, "from 65536"), (16, MIB - 3, "from 65536"), (16, 0xFFFFFFFF, "from 65536"),
        (20, MIB + 1, "at most"), (20, 0xFFFFFFFF, "at most"), (16, 64 * KIB + 4, "overlaps"),
    ],
)  # fmt: skip
def test_items_in_the_wrong_place(disk, field, value, match):
    patch(disk.path, disk.metadata_offset + 32 + field, struct.pack("<I", value))
    refused(disk.path, match)


def test_a_metadata_table_that_is_none(disk):
    patch(disk.path, disk.metadata_offset + 10, struct.pack("<H", 2048))
    refused(disk.path, "2048 entries", offset=disk.metadata_offset + 10)
    patch(disk.path, disk.metadata_offset, b"metadato")
    refused(disk.path, "signature", offset=disk.metadata_offset)


# -- block allocation table -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ((100 * MIB) | FULL, "before the file's end"),
        ((1 << 64) - MIB | FULL, "before the file's end"),
        ((1 << 63) | FULL, "before the file's end"),
        (FULL, "expected from 1048576 on"),
        (MIB | FULL, "in the space of the log"),
        (2 * MIB | FULL, "in the space of the metadata"),
        (3 * MIB | FULL, "in the space of the block allocation table"),
        (4 * MIB | FULL, "another block"),
        (5 * MIB | FULL, "another block"),
        (8 | FULL, "bits 3 to 19"),
        ((20 * MIB) | 0x80000, "bits 3 to 19"),
        (4, "no state 4"),
        (5, "no state 5"),
        ((20 * MIB) | PARTIAL, "only a differencing"),
    ],
)
def test_entries_that_cannot_be(disk, entry, match):
    patch(disk.path, disk.entry_at(5), struct.pack("<Q", entry))
    at = None if "another" in match else disk.entry_at(5)
    refused(disk.path, match, read=True, offset=at)


def test_a_bad_entry_is_found_before_anything_near_it_is_read(disk):
    patch(disk.path, disk.entry_at(19), struct.pack("<Q", (1 << 50) | FULL))
    with VhdxImage(disk.path) as image:
        for _ in range(2):  # and again
            with pytest.raises(errors.Damaged, match="block 19"):
                image.read(0, 512)


def test_blocks_must_be_whole(disk):
    """Of the last block of a disk only what the disk has of it must be in the file."""
    size = disk.path.stat().st_size
    os.truncate(disk.path, size - 1)
    refused(disk.path, "block 7 .* before the file's end", read=True)
    rewrite(disk, size=14 * MIB + 1024)
    os.truncate(disk.path, size - 2 * MIB + 1024)
    with VhdxImage(disk.path) as image:
        assert image.read(0, image.size) == disk.read(0, disk.size)
    os.truncate(disk.path, size - 2 * MIB + 1023)
    refused(disk.path, "block 7 .* before the file's end", read=True)


def test_two_blocks_of_windows_far_apart_at_one_place(tmp_path):
    """Found by who reads the whole disk, and by `check`; the first window alone is in order."""
    disk = Disk(256 << 30, MIB, bat_offset=4 * MIB)
    disk.blocks = {5: Block(FULL, {0: b"five"})}
    path = disk.write(tmp_path / "disk.vhdx")
    patch(path, disk.entry_at(260000), struct.pack("<Q", disk.places[5] | FULL))
    with VhdxImage(path) as image:
        assert image.read(5 * MIB, 4) == b"five"
        with pytest.raises(errors.Damaged, match=r"block 260000 .* another block"):
            image.read(260000 * MIB, 4)
        assert image.read(5 * MIB, 4) == b"five"
    refused(path, "block 260000", read=True, offset=disk.entry_at(260000))


def test_a_bitmap_in_a_disk_without_parent(tmp_path):
    disk = Disk(9 << 30, 256 * MIB)
    disk.blocks = {0: Block(FULL)}
    path = disk.write(tmp_path / "disk.vhdx")
    patch(path, disk.bitmap_entry_at(0), struct.pack("<Q", (8 << 40) | FULL))
    refused(path, "only a differencing disk has sector bitmaps", read=True)
    patch(path, disk.bitmap_entry_at(0), struct.pack("<Q", UNMAPPED))
    refused(path, "no state 3", read=True)


def test_entries_behind_the_last_are_noise(disk):
    patch(disk.path, disk.entry_at(20), b"\xff" * 800)
    with VhdxImage(disk.path) as image:
        assert image.read(0, image.size) == disk.read(0, disk.size)
        assert image.check() == []
