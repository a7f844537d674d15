"""A container is adopted by its blocks where the file system shares them: the head is a raw disk, the container stays
as it is, and what lies at no whole block is copied.
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images import RawImage, open_image
from secondsite.engine.images.sharing import share
from secondsite.engine.units import KIB, MIB

SIZE = 40 * MIB + 512


@pytest.fixture(scope="module")
def folder(xfs: Path) -> Path:
    made = xfs / "sharing"
    made.mkdir()
    return made


def image(path: Path, **how: str) -> bytes:
    """Half of it holes, and with a last sector of its own."""
    chance = random.Random(str(path.name))
    plain = path.with_suffix(".plain")
    with plain.open("wb") as file:
        for at in (0, 9 * MIB, 33 * MIB):
            file.seek(at)
            file.write(chance.randbytes(5 * MIB + 64 * KIB))
        file.truncate(SIZE)
        file.seek(SIZE - 512)
        file.write(chance.randbytes(512))
    engine.convert(plain, path, **how)  # type: ignore[arg-type]
    return plain.read_bytes()


def free(folder: Path) -> int:
    os.sync()
    found = os.statvfs(folder)
    return found.f_bfree * found.f_bsize


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_a_vhdx_is_adopted_by_its_blocks(folder: Path, subformat: str) -> None:
    disk = folder / f"{subformat}.vhdx"
    data = image(disk, format="vhdx", subformat=subformat)
    before, room = disk.read_bytes(), free(folder)
    done = engine.adopt(disk, folder / f"r-{subformat}")
    head = folder / f"r-{subformat}/head.raw"
    assert (done.method, done.virtual_bytes) == ("clone", SIZE)
    assert head.read_bytes() == data and disk.read_bytes() == before
    assert room - free(folder) < 2 * MIB
    assert engine.verify(folder / f"r-{subformat}", source=disk).ok
    # What is written into the one is not in the other.
    with RawImage(head, "rw") as written:
        written.write(0, b"x" * MIB)
    assert disk.read_bytes() == before


def test_sectors_of_a_child_are_copied(folder: Path) -> None:
    parent, child = folder / "parent.vhdx", folder / "child.vhdx"
    data = bytearray(image(parent, format="vhdx"))
    engine.create_vhdx(child, parent=parent, subformat="differencing")
    with open_image(child, "rw", format="vhdx") as opened:
        for at, length in ((MIB + 512, 1024), (20 * MIB, 3 * MIB), (34 * MIB + 4096, 8192)):
            data[at : at + length] = (new := random.Random(at).randbytes(length))
            opened.write(at, new)
    done = engine.adopt(child, folder / "r-child")
    assert done.method == "clone" and (folder / "r-child/head.raw").read_bytes() == data


@pytest.mark.needs("qemu-img")
def test_what_lies_at_no_whole_block_is_copied_in_one_pass(folder: Path) -> None:
    """Blocks of a VHD of QEMU's begin behind a sector of bitmap; ours are moved to whole ones, and shared."""
    disk, other = folder / "disk.vhd", folder / "other.vhd"
    data = image(disk, format="vhd")
    plain = str(disk.with_suffix(".plain"))
    subprocess.run(["qemu-img", "convert", "-O", "vpc", "-o", "force_size=on", plain, str(other)], check=True)
    for each, method in ((disk, "clone"), (other, "copy")):
        root = folder / f"r-{each.name}"
        assert engine.adopt(each, root).method == method and engine.verify(root, source=each).ok
        assert (root / "head.raw").read_bytes()[:SIZE] == data
    with open_image(other) as opened, RawImage(folder / "half", "create") as target:
        assert not share(opened, target)


def test_where_nothing_can_be_shared_it_is_copied(folder: Path, tmp_path: Path) -> None:
    disk = folder / "elsewhere.vhdx"
    data = image(disk, format="vhdx")
    assert engine.adopt(disk, tmp_path / "r").method == "copy"
    assert (tmp_path / "r/head.raw").read_bytes() == data and engine.verify(tmp_path / "r").ok


def test_one_that_is_written_meanwhile_is_not_adopted(folder: Path) -> None:
    disk = folder / "written.vhdx"
    image(disk, format="vhdx")

    def writing(now: engine.Progress) -> None:
        with disk.open("r+b") as file:
            file.seek(5 * MIB)
            file.write(b"w")

    with pytest.raises(errors.SourceChanged, match="written while it was read"):
        engine.adopt(disk, folder / "r-written", progress=writing)
    assert engine.adopt(disk, folder / "r-written").method == "clone" and engine.verify(folder / "r-written").ok


def test_a_cancel_leaves_nothing(folder: Path) -> None:
    disk = folder / "cancelled.vhdx"
    image(disk, format="vhdx")
    with pytest.raises(errors.Cancelled):
        engine.adopt(disk, folder / "r-cancelled", cancel=lambda: True)
    assert not list((folder / "r-cancelled").glob("next-*"))


def test_a_tracked_vhdx_comes_back_by_what_changed(folder: Path) -> None:
    """The change map of its server tells where to look, as of a raw disk."""
    disk, forward, back = folder / "tracked.vhdx", folder / "fwd", folder / "back"
    data = bytearray(image(disk, format="vhdx"))
    with engine.track([disk], socket=str(folder / "s")) as tracking:
        engine.replicate(disk, forward)
        with engine.open_image(tracking.urls[0], "rw") as guest:
            guest.write(10 * MIB, b"never sent")
            guest.flush()
    data[10 * MIB : 10 * MIB + 10] = b"never sent"
    adopted = engine.adopt(disk, back, like=forward)
    assert (adopted.method, adopted.read_bytes, adopted.warnings) == ("clone", 64 * KIB, [])
    assert (back / "head.raw").read_bytes() == data and engine.verify(back, source=disk).ok
