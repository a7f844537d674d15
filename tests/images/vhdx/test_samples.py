"""Files that other programs wrote: their contents, what their layers changed, and that reading leaves them alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from secondsite.engine.images.vhdx import VhdxImage, replay

MIB = 1 << 20
STEP = 32 * MIB
SMALL = (
    "discutils/btrfs.vhdx.gz",
    "qemu-iotests/iotest-dynamic-1G.vhdx.bz2",
    "qemu-iotests/test-disk2vhd.vhdx.bz2",
    "fattools-synthetic/base-512-1M.vhdx.gz",
    "fattools-synthetic/child-512-1M.vhdx.gz",
    "fattools-synthetic/grand-512-1M.vhdx.gz",
)
# Ten gibibytes each, of which SHA-256 takes many seconds: by default they are compared with what qemu reads.
LARGE = ("discutils/lvm2.vhdx.gz", "discutils/swap.vhdx.gz", "discutils/xfs5.vhdx.gz")
DIRTY = "qemu-iotests/iotest-dirtylog-10G-4M.vhdx.bz2"
CHAIN = SMALL[3:]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def guest_digest(image: VhdxImage) -> str:
    """Of the whole disk, by its extents: zeros are not read, only summed."""
    total, zeros, buffer = hashlib.sha256(), bytes(STEP), bytearray(STEP)
    for extent in image.extents(0, image.size):
        for at in range(extent.start, extent.start + extent.length, STEP):
            size = min(STEP, extent.start + extent.length - at)
            if extent.zero:
                total.update(memoryview(zeros)[:size])
            else:
                with memoryview(buffer)[:size] as part:
                    image.read_into(at, part)
                    total.update(part)
    return total.hexdigest()


def check_sample(unpack: Callable[[str], Path], entry: dict) -> None:
    path = unpack(entry["path"])
    with VhdxImage(path) as image:
        assert image.size == entry["virtual_size"]
        assert guest_digest(image) == entry["guest_sha256"]
        assert not [finding for finding in image.check() if finding.damaged]
    assert digest(path) == entry["decompressed_sha256"]


def test_the_lists_above_are_whole(manifest):
    assert set(manifest) == {*SMALL, *LARGE, DIRTY}


@pytest.mark.parametrize("name", SMALL)
def test_contents(unpack, manifest, name):
    if name in CHAIN:
        for other in CHAIN:
            unpack(other)
    check_sample(unpack, manifest[name])


@pytest.mark.parametrize("name", [*LARGE, DIRTY])
@pytest.mark.sweep(sample=0)
def test_contents_of_large_disks(unpack, manifest, name):
    check_sample(unpack, manifest[name])


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("name", [*LARGE, DIRTY])
def test_large_disks_as_qemu_reads_them(unpack, manifest, tmp_path, name):
    path, raw = unpack(name), tmp_path / "raw"
    with VhdxImage(path) as image:
        if name == DIRTY:
            # qemu does not read a dirty log, so it gets a copy into which the log was replayed.
            copy = tmp_path / "copy.vhdx"
            copy.write_bytes(path.read_bytes())
            assert replay(copy) == 1
            path = copy
        subprocess.run(["qemu-img", "convert", "-f", "vhdx", "-O", "raw", str(path), str(raw)], check=True)
        with raw.open("rb") as file:
            for extent in image.extents(0, image.size):
                step = extent.length if extent.zero else STEP
                for at in range(extent.start, extent.start + extent.length, step):
                    size = min(step, extent.start + extent.length - at)
                    if extent.zero:
                        assert not any_data(file.fileno(), at, size)
                    else:
                        file.seek(at)
                        assert image.read(at, size) == file.read(size)
    raw.unlink()


def any_data(fd: int, start: int, length: int) -> bool:
    """Whether a range of a file that qemu wrote, sparse, holds anything but zeros."""
    at = start
    while at < start + length:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return False
        if at >= start + length:
            return False
        piece = os.pread(fd, min(MIB, start + length - at), at)
        if piece.count(0) != len(piece):
            return True
        at += len(piece)
    return False


@pytest.mark.parametrize("name", CHAIN[1:])
def test_what_a_layer_changed(unpack, samples, name):
    for other in CHAIN:
        unpack(other)
    expected = json.loads((samples / name.replace(".vhdx.gz", ".changed.json")).read_text())
    with VhdxImage(unpack(name)) as image:
        found = [[extent.start, extent.length] for extent in image.changed_since_parent()]
    assert found == expected["ranges_defined_in_this_layer"]


def test_the_dirty_log_is_seen(unpack):
    with VhdxImage(unpack(DIRTY)) as image:
        facts = image.facts()
        assert facts.log == "dirty"
        assert any("1 entry" in note for note in facts.notes), facts.notes
        # Seven entries have a right checksum, one belongs to the log that the header names.
        assert len(image.top.replay.entries) == 1
        assert image.read(0, 18 * MIB) == b"\xa5" * (18 * MIB)
        assert image.read(18 * MIB, MIB) == bytes(MIB)
