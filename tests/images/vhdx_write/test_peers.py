"""Other programs beside the writer: they read what it wrote, and it changes what they wrote.

qemu-img knows dynamic and fixed files with sectors of 512 bytes; libvhdi also parents and sectors of 4096.
"""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import libvhdi
import pytest

from secondsite.engine import errors
from secondsite.engine.images.raw import RawImage
from secondsite.engine.images.vhdx import VhdxImage
from secondsite.engine.images.vhdx.create import create
from secondsite.engine.images.vhdx.layer import Layer
from secondsite.engine.images.vhdx.structures import MIB
from secondsite.engine.images.vhdx.writer import VhdxWriter

SHAPES = [
    ("dynamic", 1, 9 * MIB + 512),
    ("dynamic", 32, 40 * MIB),
    ("dynamic", 256, 33 * MIB),
    ("fixed", 2, 13 * MIB + 1024),
]


def qemu_img(*arguments: str | Path) -> str:
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def change(path: Path, model: bytearray, seed: int, parent: VhdxImage | None = None) -> None:
    """Some writes and zeros of any shape, in the file and in the model."""
    dice = random.Random(seed)
    with VhdxWriter(RawImage(path, "rw"), parent) as image:
        for _ in range(40):
            offset = dice.randrange(len(model))
            length = min(dice.choice([1, 512, 4000, 70_000, 3 * MIB]), len(model) - offset)
            data = bytes(length) if dice.random() < 0.3 else dice.randbytes(length)
            if data.strip(b"\0"):
                image.write(offset, data)
            else:
                image.zero(offset, length, punch=dice.random() < 0.5)
            model[offset : offset + length] = data
            if dice.random() < 0.2:
                image.flush()
        check_reads(image, model)


def check_reads(image: VhdxWriter | VhdxImage, model: bytearray) -> None:
    """Reads, extents and segments of an open image are those of the bytes."""
    assert image.read(0, image.size) == model
    at = 0
    for extent in image.extents(0, image.size):
        assert extent.start == at and extent.length > 0
        assert not extent.zero or model.count(0, at, at + extent.length) == extent.length
        at += extent.length
    assert at == len(model)
    segments = image.segments(0, image.size)
    assert segments is not None and sum(segments.lengths) == len(model)


def our_reader(path: Path, model: bytearray) -> None:
    with VhdxImage(path) as image:
        assert [finding for finding in image.check() if finding.damaged] == []
        check_reads(image, model)


def vhdiinfo(path: Path) -> dict[str, str]:
    """What the program of libvhdi tells of a file, which is little and no content, but it is a package of Debian's."""
    done = subprocess.run(["vhdiinfo", path], check=True, capture_output=True, text=True, timeout=60)
    pairs = [line.split(":", 1) for line in done.stdout.splitlines() if line.startswith("\t")]
    return {name.strip(): value.strip() for name, value in pairs}


def told(path: Path, kind: str, size: int, sector: int = 512) -> None:
    """That is what we wrote: libvhdi calls the DataWriteGuid the identifier, as parent locators do."""
    found = vhdiinfo(path)
    assert (found["Format"], found["Format version"], found["Disk type"]) == ("VHDX (version 2)", "1", kind)
    assert found["Media size"].endswith(f"({size} bytes)") and found["Bytes per sector"] == f"{sector} bytes"
    layer = Layer.open(path)
    assert found["Identifier"] == str(layer.header.data_write)
    if layer.locator is not None:
        assert found["Parent identifier"] == str(layer.locator.linkages[0])
    layer.close()


@pytest.mark.needs("vhdiinfo")
@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize(("subformat", "block", "size"), SHAPES)
def test_libvhdi_tells_what_we_wrote(tmp_path: Path, subformat: str, block: int, size: int, sector: int) -> None:
    path, child, size = tmp_path / "disk.vhdx", tmp_path / "child.avhdx", size // 4096 * 4096
    model = bytearray(size)
    create(path, size, subformat=subformat, block_size=block * MIB, logical_sector=sector)
    told(path, subformat.title(), size, sector)
    change(path, model, 1)
    told(path, subformat.title(), size, sector)
    create(child, subformat="differencing", parent=path)
    told(child, "Differential", size, sector)
    assert vhdiinfo(child)["Parent identifier"] == vhdiinfo(path)["Identifier"]
    assert vhdiinfo(child)["Parent filename"] == str(path)


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize(("subformat", "block", "size"), SHAPES)
def test_qemu_img_reads_what_we_wrote(tmp_path: Path, subformat: str, block: int, size: int) -> None:
    path, raw, model = tmp_path / "disk.vhdx", tmp_path / "disk.raw", bytearray(size)
    create(path, size, subformat=subformat, block_size=block * MIB)
    qemu_img("check", "-f", "vhdx", path)
    our_reader(path, model)
    for seed in range(2):
        change(path, model, seed)
        qemu_img("check", "-f", "vhdx", path)
        raw.write_bytes(model)
        qemu_img("compare", "-f", "vhdx", "-F", "raw", path, raw)
        our_reader(path, model)
        assert path.stat().st_size % MIB == 0


@pytest.mark.needs("qemu-img", "qemu-io")
@pytest.mark.parametrize(
    "options", ["block_size=1M", "", "subformat=fixed", "subformat=fixed,block_state_zero=off", "block_size=256M"]
)
def test_we_change_what_qemu_wrote(tmp_path: Path, options: str) -> None:
    path, raw, size = tmp_path / "disk.vhdx", tmp_path / "disk.raw", 30 * MIB
    qemu_img("create", "-q", "-f", "vhdx", *(["-o", options] if options else []), path, str(size))
    model = bytearray(size)
    for pattern, offset, length in [(0x11, 0, 3 * MIB), (0x22, 9 * MIB + 4096, 70_144), (0x33, size - MIB, MIB)]:
        command = ["qemu-io", "-f", "vhdx", "-c", f"write -q -P {pattern} {offset} {length}", path]
        subprocess.run(command, check=True, timeout=60)
        model[offset : offset + length] = bytes([pattern]) * length
    our_reader(path, model)
    for seed in range(2):
        change(path, model, seed)
        raw.write_bytes(model)
        qemu_img("check", "-f", "vhdx", path)
        qemu_img("compare", "-f", "vhdx", "-F", "raw", path, raw)
        our_reader(path, model)
    # And qemu goes on where we left off.
    command = ["qemu-io", "-f", "vhdx", "-c", "write -q -P 68 17M 5M", path]
    subprocess.run(command, check=True, timeout=60)
    model[17 * MIB : 22 * MIB] = bytes([68]) * 5 * MIB
    our_reader(path, model)


@pytest.mark.needs("qemu-img", "libvhdi")
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_others_read_a_disk_that_was_resized(tmp_path: Path, subformat: str) -> None:
    path, raw, model = tmp_path / "disk.vhdx", tmp_path / "disk.raw", bytearray(5 * MIB + 512)
    create(path, len(model), subformat=subformat, block_size=2 * MIB)
    for seed, size in enumerate([20 * MIB, 20 * MIB + 512, 3 * MIB, 33 * MIB]):
        change(path, model, seed)
        with VhdxWriter(RawImage(path, "rw")) as image:
            image.resize(size)
            del model[size:]
            model.extend(bytes(size - len(model)))
            check_reads(image, model)
        raw.write_bytes(model)
        qemu_img("check", "-f", "vhdx", path)
        qemu_img("compare", "-f", "vhdx", "-F", "raw", path, raw)
        assert json.loads(qemu_img("info", "--output=json", "-f", "vhdx", path))["virtual-size"] == size
        our_reader(path, model)
        assert libvhdi.read(path) == model


@pytest.mark.needs("qemu-img")
def test_a_table_that_outgrows_its_region_moves(tmp_path: Path) -> None:
    path, data = tmp_path / "disk.vhdx", random.Random(1).randbytes(MIB)
    # 131,072 entries fill the first MiB of a table.
    create(path, 100 << 30, block_size=MIB)
    spots = [0, (100 << 30) - MIB]
    with VhdxWriter(RawImage(path, "rw")) as image:
        for size in (300 << 30, 1 << 40):
            for spot in spots:
                image.write(spot, data)
            image.resize(size)
            spots.append(size - MIB)
    with VhdxWriter(RawImage(path, "rw")) as image:
        image.write(spots[-1], data)
    qemu_img("check", "-f", "vhdx", path)
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(1 << 40)
        for spot in spots:
            file.seek(spot)
            file.write(data)
    with VhdxImage(path) as image:
        assert image.size == 1 << 40
        assert [finding for finding in image.check() if finding.damaged] == []
        for spot in spots:
            assert image.read(spot, MIB) == data
        assert sum(extent.length for extent in image.extents(0, image.size) if not extent.zero) == len(spots) * MIB


@pytest.mark.needs("libvhdi")
@pytest.mark.parametrize("sector", [512, 4096])
def test_a_chain_of_three(tmp_path: Path, sector: int) -> None:
    names = ["base disk.vhdx", "child.avhdx", "grand.avhdx"]
    (tmp_path / "sub").mkdir()
    paths = [tmp_path / names[0], tmp_path / names[1], tmp_path / "sub" / names[2]]
    model = bytearray(13 * MIB + 8192)
    create(paths[0], len(model), block_size=2 * MIB, logical_sector=sector)
    change(paths[0], model, 1)
    for depth in (1, 2):
        create(paths[depth], subformat="differencing", block_size=[1, 4][depth - 1] * MIB, parent=paths[depth - 1])
        for seed in range(2):
            with VhdxImage(paths[depth - 1]) as above:
                change(paths[depth], model, 10 * depth + seed, above)
    assert libvhdi.read(*reversed(paths)) == model
    with VhdxImage(paths[2], allow_parent_path=[tmp_path]) as image:
        check_reads(image, model)
        assert [finding for finding in image.check() if finding.damaged] == []


def test_a_parent_that_was_written_is_no_parent_any_more(tmp_path: Path) -> None:
    base, child = tmp_path / "base.vhdx", tmp_path / "child.vhdx"
    create(base, 4 * MIB, block_size=MIB)
    create(child, subformat="differencing", parent=base)
    with VhdxWriter(RawImage(base, "rw")):
        pass  # opened for writing, and not written: its children stay
    VhdxImage(child).close()
    with VhdxWriter(RawImage(base, "rw")) as image:
        image.write(0, b"x")
    with pytest.raises(errors.Refused):
        VhdxImage(child)
