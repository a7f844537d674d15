"""Parents that must be refused, and where they are looked for (formats.md section 8)."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest
import vhdxkit
from refusals import UNKNOWN, refused
from vhdxkit import FULL, KIB, MIB, PARTIAL, Block, Disk, patch

from secondsite.engine import errors
from secondsite.engine.images.vhdx import ParentError, VhdxImage


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
