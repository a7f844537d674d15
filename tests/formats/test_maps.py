"""info, map and check of images: what QEMU says of the same file, and how deep in a chain data lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from formatkit import MIB, QEMU, by_qemu, child, content, qemu_img, qemu_map, sparse, write

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images.vhdx.create import create

SUBFORMATS = [
    ("raw", "", "file"), ("vhdx", "subformat=dynamic", "dynamic"), ("vhdx", "subformat=fixed", "fixed"),
    ("vhd", "subformat=dynamic", "dynamic"), ("vhd", "subformat=fixed", "fixed"),
    ("vmdk", "subformat=monolithicSparse", "monolithicSparse"), ("vmdk", "subformat=monolithicFlat", "monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse", "twoGbMaxExtentSparse"),
    ("vmdk", "subformat=streamOptimized", "streamOptimized"),
]  # fmt: skip
SIZE = 9 * MIB


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    data = content(SIZE, 4)
    data[2 * MIB : 6 * MIB] = bytes(4 * MIB)
    return sparse(tmp_path / "disk.raw", data)


def runs(path: Path) -> list[tuple[int, int, bool]]:
    found = [(extent.start, extent.length, extent.zero) for extent in engine.image_map(path)]
    assert all(extent.data != extent.zero for extent in engine.image_map(path))
    return found


def info(path: Path) -> engine.ImageInfo:
    found = engine.info(path)
    assert isinstance(found, engine.ImageInfo)
    return found


def covers(raw: Path, found: list[tuple[int, int, bool]]) -> None:
    """Runs in order, without gaps, joined; what they call zero is zero."""
    data, at = raw.read_bytes(), 0
    for number, (start, length, zero) in enumerate(found):
        assert start == at and length > 0
        assert not number or zero != found[number - 1][2]
        assert not zero or not data[start : start + length].strip(b"\0")
        at += length
    assert at == SIZE


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize(("format", "options", "subformat"), SUBFORMATS)
def test_what_qemu_says_too(raw: Path, tmp_path: Path, format: str, options: str, subformat: str) -> None:
    path = raw if format == "raw" else by_qemu(raw, tmp_path / f"disk.{format}", format, options)
    told: dict[str, Any] = json.loads(qemu_img("info", "--output=json", "-f", QEMU.get(format, format), path))
    found = info(path)
    assert (found.kind, found.format, found.subformat) == ("image", format, subformat)
    assert found.virtual_bytes == told["virtual-size"] == SIZE
    assert 0 < found.allocated_bytes <= 40 * MIB
    covers(raw, runs(path))
    assert not [finding for finding in engine.check_image(path) if finding.damaged]
    # QEMU's map of a VHDX has no zeros in it, and that of a compressed VMDK has its own idea of them.
    if format in ("raw", "vhd") and subformat != "fixed":
        assert runs(path) == qemu_map(path, format)
    elif subformat == "monolithicSparse":
        assert zeros(runs(path)) <= zeros(qemu_map(path, format))


def zeros(found: list[tuple[int, int, bool]]) -> int:
    return sum(length for _, length, zero in found if zero)


@pytest.mark.parametrize("format", ["raw", "vhdx", "vhd"])
def test_what_we_made(raw: Path, tmp_path: Path, format: str) -> None:
    path = tmp_path / f"made.{format}"
    engine.convert(raw, path, format=format)
    covers(raw, runs(path))
    assert zeros(runs(path)) >= 3 * MIB
    assert engine.check_image(path) == []
    assert info(path).log == ("clean" if format == "vhdx" else None)


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    """A VHDX and two checkpoints, newest first."""
    base = tmp_path / "base.vhdx"
    create(base, 8 * MIB, block_size=MIB)
    write(base, (0, b"0" * 4 * MIB))
    middle = child(tmp_path / "middle.avhdx", base, (MIB, b"1" * 2 * MIB))
    top = child(tmp_path / "top.avhdx", middle, (MIB + 4096, b"2" * 8192))
    return [top, middle, base]


def test_depth_in_a_chain(chain: list[Path]) -> None:
    found = [(e.start, e.length, e.zero, e.depth) for e in engine.image_map(chain[0])]
    second = MIB + 4096 + 8192
    assert found == [
        (0, MIB, False, 2), (MIB, 4096, False, 1), (MIB + 4096, 8192, False, 0), (second, 3 * MIB - second, False, 1),
        (3 * MIB, MIB, False, 2), (4 * MIB, 4 * MIB, True, 0),
    ]  # fmt: skip
    assert [e.depth for e in engine.image_map(chain[1])] == [1, 0, 1, 0]
    assert [e.depth for e in engine.image_map(chain[2])] == [0, 0]


def test_info_of_a_chain(chain: list[Path]) -> None:
    found = info(chain[0])
    assert found.subformat == "differencing"
    assert [path for path, _ in found.parents] == [str(path) for path in chain[1:]]
    assert [identifier for _, identifier in found.parents] == [
        info(path).identifiers["data write guid"] for path in chain[1:]
    ]
    assert engine.check_image(chain[0]) == []


def test_check_looks_at_parents(chain: list[Path]) -> None:
    """An entry of the base's block table that leads out of the file."""
    data = bytearray(chain[2].read_bytes())
    data[3 * MIB : 3 * MIB + 8] = (1 << 45 | 6).to_bytes(8, "little")
    chain[2].write_bytes(data)
    findings = [finding for finding in engine.check_image(chain[0]) if finding.damaged]
    assert [finding.path for finding in findings] == [str(chain[2])]
    with pytest.raises(errors.Damaged, match=r"base\.vhdx"):
        list(engine.image_map(chain[0]))


def test_check_finds_an_entry_of_a_vhd_that_leads_nowhere(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    engine.convert(raw, path, format="vhd")
    data = bytearray(path.read_bytes())
    data[1536:1540] = (0x7FFFFFF0).to_bytes(4, "big")
    path.write_bytes(data)
    try:
        damaged = [finding for finding in engine.check_image(path) if finding.damaged]
    except errors.Damaged as error:
        assert error.path == str(path)
    else:
        assert damaged and damaged[0].path == str(path)


def test_a_missing_parent_is_refused(chain: list[Path]) -> None:
    chain[1].unlink()
    for call in (engine.info, engine.check_image, lambda path: list(engine.image_map(path))):
        with pytest.raises(errors.Refused, match="middle"):
            call(chain[0])
