"""What must be refused, and how: the negative list of formats.md section 8, one structure after another."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from uuid import UUID

import pytest
import vhdxkit
from vhdxkit import FULL, KIB, MIB, PARTIAL, UNMAPPED, Block, Disk, patch

from secondsite.engine import errors
from secondsite.engine.images.vhdx import ParentError, VhdxImage

UNKNOWN = UUID("11111111-2222-3333-4444-555555555555")


@pytest.fixture
def disk(tmp_path):
    made = Disk(40 * MIB, 2 * MIB)
    made.blocks = {n: Block(FULL, {0: b"block %d" % n}) for n in (0, 3, 7)}
    made.path = made.write(tmp_path / "disk.vhdx")
    return made


def refused(path, match, error=errors.Damaged, *, read=False, offset=None, **options):
    """Opening it, or with `read` only reading it, is refused with the file's name and this message."""
    with pytest.raises(error, match=match) as caught:
        image = VhdxImage(path, **options)
        with image:
            if not read:
                pytest.fail("it was opened")
            found = [finding for finding in image.check() if finding.damaged]
            assert found
            if offset is not None:
                assert found[0].offset == offset
            list(image.extents(0, image.size))
    assert str(path) in str(caught.value)
    if isinstance(caught.value, errors.Damaged):
        assert caught.value.offset is not None
        if offset is not None:
            assert caught.value.offset == offset


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


# -- parents ----------------------------------------------------------------------------------------------------


@pytest.fixture
def family(tmp_path):
    """A base and its child in a folder of their own."""
    folder = tmp_path / "vms"
    folder.mkdir()
    base = Disk(8 * MIB)
    base.blocks = {0: Block(FULL, {0: b"of the base"})}
    base.path = base.write(folder / "base.vhdx")
    child = Disk(8 * MIB, parent=base, parent_path=".\\base.vhdx", seed=2)
    child.blocks = {1: Block(PARTIAL, {0: b"child"}, [(0, 1)])}
    child.path = child.write(folder / "child.vhdx")
    return child


def test_a_missing_parent(family):
    family.parent.path.unlink()
    with pytest.raises(ParentError, match="was not found") as caught:
        VhdxImage(family.path)
    assert caught.value.expected == (family.parent.data_write,)
    assert f"{{{family.parent.data_write}}}" in str(caught.value)


def test_a_wrong_parent(family):
    """One that was changed: the error names what was expected and what was found."""
    expected, family.parent.data_write = family.parent.data_write, UNKNOWN
    family.parent.write(family.parent.path)
    with pytest.raises(ParentError) as caught:
        VhdxImage(family.path)
    assert caught.value.expected == (expected,)
    assert caught.value.found == UNKNOWN
    assert f"{{{expected}}}" in str(caught.value)
    assert f"{{{UNKNOWN}}}" in str(caught.value)
    assert caught.value.exit_code == errors.REFUSED


def test_the_second_linkage_counts_too(family):
    family.pairs = [
        ("parent_linkage", f"{{{UNKNOWN}}}"),
        ("parent_linkage2", f"{{{family.parent.data_write}}}".upper()),
        ("relative_path", "base.vhdx"),
    ]
    with VhdxImage(family.write(family.path)) as image:
        assert image.read(0, 11) == b"of the base"


@pytest.mark.parametrize(
    "pairs",
    [
        [("relative_path", ".\\BASE.VHDX")],
        [("relative_path", "base.vhdx")],
        [("relative_path", ".\\sub\\..\\base.vhdx")],
        [("relative_path", "..\\vms\\base.vhdx")],
        [("relative_path", "..\\old place\\base.vhdx")],
        [("absolute_win32_path", "C:\\VMs\\disks\\Base.vhdx")],
        [("absolute_win32_path", "\\\\?\\C:\\VMs\\base.vhdx"), ("relative_path", "gone.vhdx")],
        [("volume_path", "\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\base.vhdx")],
    ],
)
def test_names_that_lead_to_the_parent(family, pairs):
    family.pairs = [("parent_linkage", f"{{{family.parent.data_write}}}"), *pairs]
    with VhdxImage(family.write(family.path)) as image:
        assert image.read(0, 11) == b"of the base"
        assert image.facts().parents[0].path == str(family.parent.path.resolve())


@pytest.mark.parametrize(
    "name",
    [
        "..\\base.vhdx", "..\\..\\base.vhdx", "/elsewhere/base.vhdx", "..\\other\\base.vhdx", "link.vhdx",
        "in\\base.vhdx",
    ],
)  # fmt: skip
def test_parents_elsewhere(family, tmp_path, name):
    """Outside of the child's folder nothing is opened, also through links; who allows it says where."""
    other = tmp_path / "other"
    other.mkdir()
    family.parent.path.rename(other / "base.vhdx")
    (tmp_path / "vms" / "link.vhdx").symlink_to(other / "base.vhdx")
    (tmp_path / "vms" / "in").symlink_to(other)
    family.pairs = [("parent_linkage", f"{{{family.parent.data_write}}}"), ("relative_path", name)]
    family.write(family.path)
    refused(family.path, "was not found", ParentError)
    with VhdxImage(family.path, allow_parent_path=[other]) as image:
        assert image.read(0, 11) == b"of the base"
    refused(family.path, "was not found", ParentError, allow_parent_path=[tmp_path / "third"])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("link", "is, or is behind, a link to"), ("fifo", "is a FIFO, not a file"), ("folder", "is a folder, not a file"),
     ("socket", "is a socket, not a file"), ("nothing", r"vms \(")],
)  # fmt: skip
def test_why_a_parent_is_none(family, tmp_path, kind, reason):
    base = family.parent.path
    elsewhere = base.rename(tmp_path / "elsewhere.vhdx")
    if kind == "link":
        base.symlink_to(elsewhere)
        reason += f" {elsewhere}, outside of it"
    elif kind == "fifo":
        os.mkfifo(base)
    elif kind == "folder":
        base.mkdir()
    elif kind == "socket":
        os.mknod(base, 0o600 | stat.S_IFSOCK)
    refused(family.path, f"was not found in .*{reason}.*--allow-parent-path", ParentError)


def test_a_name_of_a_file_that_is_no_disk(family):
    family.pairs = [("parent_linkage", f"{{{UNKNOWN}}}"), ("relative_path", "..\\..\\..\\..\\..\\etc\\passwd")]
    refused(family.write(family.path), "leads out of it", ParentError)
    (family.path.parent / "passwd").write_text("root")
    with pytest.raises(errors.Damaged, match="passwd"):
        VhdxImage(family.path)


def test_a_parent_of_another_size(family):
    family.size = 9 * MIB
    refused(family.write(family.path), "its disk has 9437184 bytes", ParentError)
    family.size, family.sector = 8 * MIB, 4096
    refused(family.write(family.path), "its logical sector has 4096 bytes", ParentError)


def test_rings(family):
    """A disk that is its own parent, and two that are each other's."""
    family.pairs = [("parent_linkage", f"{{{family.data_write}}}"), ("relative_path", "child.vhdx")]
    refused(family.write(family.path), "ring", ParentError)
    family.pairs = [("parent_linkage", f"{{{family.parent.data_write}}}"), ("relative_path", "base.vhdx")]
    family.write(family.path)
    family.parent.parent, family.parent.parent_path = family, "child.vhdx"
    family.parent.blocks = {}
    family.parent.write(family.parent.path)
    refused(family.path, "ring", ParentError)


@pytest.mark.parametrize("depth", [64, 65])
def test_long_chains(tmp_path, depth):
    disk = Disk(3 * MIB)
    disk.blocks = {1: Block(FULL, {0: b"deep"})}
    path = disk.write(tmp_path / "0.vhdx")
    for level in range(1, depth):
        disk = Disk(3 * MIB, parent=disk, parent_path=path.name, seed=level + 1)
        path = disk.write(tmp_path / f"{level}.vhdx")
    if depth > 64:
        refused(path, "more than 64", ParentError)
        return
    with VhdxImage(path) as image:
        assert image.read(MIB, 4) == b"deep"
        assert len(image.layers) == 64


LINKAGE = ("parent_linkage", f"{{{UNKNOWN}}}")


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "0 bytes"),
        (b"x" * 19, "19 bytes"),
        (vhdxkit.locator([LINKAGE], kind=UNKNOWN), "type"),
        (vhdxkit.locator([]), "no parent_linkage"),
        (vhdxkit.locator([("relative_path", "x")]), "no parent_linkage"),
        (vhdxkit.locator([("parent_linkage", f"{{{vhdxkit.NO_GUID}}}")]), "no parent_linkage"),
        (vhdxkit.locator([("parent_linkage", str(UNKNOWN))]), "in braces"),
        (vhdxkit.locator([("parent_linkage", "{12}")]), "in braces"),
        (vhdxkit.locator([LINKAGE, ("parent_linkage2", "?")]), "in braces"),
        (vhdxkit.locator([LINKAGE, LINKAGE]), "there twice"),
        (vhdxkit.locator([LINKAGE, ("", "x")]), "is empty"),
        (vhdxkit.locator([LINKAGE])[:40], "expected inside"),
        (vhdxkit.LOCATOR_TYPE.bytes_le + struct.pack("<HH", 0, 65535), "65535 pairs"),
        (vhdxkit.LOCATOR_TYPE.bytes_le + struct.pack("<HHIIHH", 0, 1, 0xFFFFFFFF, 0, 2, 0), "expected inside"),
        (vhdxkit.LOCATOR_TYPE.bytes_le + struct.pack("<HHIIHH", 0, 1, 20, 20, 3, 0), "even"),
        (vhdxkit.LOCATOR_TYPE.bytes_le + struct.pack("<HHIIHH2s", 0, 1, 32, 32, 2, 0, b"\0\xd8"), "not UTF-16"),
    ],
)
def test_locators_that_cannot_be(family, raw, match):
    items = [(g, f, raw if g == vhdxkit.LOCATOR else c) for g, f, c in family.items()]
    patch(family.path, family.metadata_offset, vhdxkit.metadata_region(items))
    refused(family.path, match)


@pytest.mark.parametrize("name", ["", ".", "..", "\\", "a\0b", "\x1b[2J", "base.vhdx\0", "x" * 5000, "C:"])
def test_names_that_name_nothing(family, name):
    family.pairs = [LINKAGE, ("relative_path", name)]
    with pytest.raises(errors.Refused) as caught:
        VhdxImage(family.write(family.path))
    assert "\x1b" not in str(caught.value)


def test_partial_blocks_need_their_bitmap(family):
    patch(family.path, family.bitmap_entry_at(0), bytes(8))
    refused(family.path, "has no sector bitmap", read=True, offset=family.entry_at(1))
    patch(family.path, family.bitmap_entry_at(0), struct.pack("<Q", (1 << 50) | FULL))
    refused(family.path, "bitmap of chunk 0 .* before the file's end", read=True)
    patch(family.path, family.bitmap_entry_at(0), struct.pack("<Q", family.places[1] | FULL))
    refused(family.path, "bitmap of chunk 0 .* another block", read=True)
    patch(family.path, family.entry_at(1), bytes(8))
    patch(family.path, family.bitmap_entry_at(0), struct.pack("<Q", PARTIAL))
    refused(family.path, "no state 7", read=True)


def test_a_damaged_parent_is_named(family):
    patch(family.parent.path, 64 * KIB, b"x")
    patch(family.parent.path, 128 * KIB, b"x")
    with pytest.raises(errors.Damaged) as caught:
        VhdxImage(family.path)
    assert caught.value.path == str(family.parent.path)


def test_nothing_stays_open(family):
    def files():
        return sorted(os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.exists())

    before = files()
    VhdxImage(family.path).close()
    family.pairs = [LINKAGE, ("relative_path", "base.vhdx")]
    family.write(family.path)
    with pytest.raises(ParentError):
        VhdxImage(family.path)
    assert files() == before
