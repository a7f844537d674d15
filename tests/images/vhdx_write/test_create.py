"""New files: what they say of themselves, what is refused, and a crash at any moment of the making."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from secondsite.engine import errors
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.failing import Crash, Faults
from secondsite.engine.images.vhdx import VhdxImage
from secondsite.engine.images.vhdx.create import create
from secondsite.engine.images.vhdx.structures import MIB, TIB
from secondsite.engine.images.vhdx.writer import VhdxWriter


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize(("subformat", "block"), [("dynamic", 32 * MIB), ("fixed", 2 * MIB)])
def test_facts_of_a_new_file(tmp_path: Path, subformat: str, block: int, sector: int) -> None:
    path, size = tmp_path / "disk.vhdx", 9 * MIB + 3 * 4096
    create(path, size, subformat=subformat, logical_sector=sector, physical_sector=sector)
    with VhdxImage(path) as image:
        facts = image.facts()
        assert image.check() == []
    assert (facts.subformat, facts.virtual_bytes, facts.block_size) == (subformat, size, block)
    assert (facts.logical_sector, facts.physical_sector, facts.log) == (sector, sector, "clean")
    assert facts.identifiers["creator"] == "secondsite"
    assert facts.allocated_bytes == (10 * MIB if subformat == "fixed" else 0)
    assert path.stat().st_size == 4 * MIB + facts.allocated_bytes


def test_a_child_is_like_its_parent(tmp_path: Path) -> None:
    base, child = tmp_path / "base.vhdx", tmp_path / "sub" / "child.vhdx"
    child.parent.mkdir()
    create(base, 9 * MIB, logical_sector=4096)
    create(child, subformat="differencing", parent=base)
    with VhdxImage(child, allow_parent_path=[tmp_path]) as image, VhdxImage(base) as above:
        facts, parent = image.facts(), above.facts()
        assert image.check() == []
    assert (facts.subformat, facts.virtual_bytes, facts.logical_sector) == ("differencing", 9 * MIB, 4096)
    assert facts.block_size == 2 * MIB
    assert facts.identifiers["disk id"] == parent.identifiers["disk id"]
    assert facts.identifiers["data write guid"] != parent.identifiers["data write guid"]
    assert [one.path for one in facts.parents] == [str(base)]


def test_the_largest_disk(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    create(path, 64 * TIB)
    with VhdxImage(path) as image:
        assert image.size == 64 * TIB
        assert image.read(64 * TIB - MIB, MIB) == bytes(MIB)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 513},
        {"size": 512, "logical_sector": 4096},
        {"size": 65 * TIB},
        {"size": None},
        {"block_size": MIB // 2},
        {"block_size": 3 * MIB},
        {"block_size": 512 * MIB},
        {"logical_sector": 1024},
        {"physical_sector": 0},
        {"subformat": "thin"},
        {"subformat": "differencing"},
        {"parent": "base.vhdx"},
    ],
)
def test_sizes_that_the_format_does_not_know(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "disk.vhdx"
    with pytest.raises(errors.Usage):
        create(path, **{"size": MIB, **wrong})
    assert not path.exists()


def test_what_exists_stays(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    path.write_bytes(b"precious")
    with pytest.raises(errors.Refused):
        create(path, MIB)
    assert path.read_bytes() == b"precious"


def test_a_child_of_another_size_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "base.vhdx", 4 * MIB)
    with pytest.raises(errors.Usage):
        create(tmp_path / "child.vhdx", 8 * MIB, subformat="differencing", parent=tmp_path / "base.vhdx")


@pytest.mark.parametrize("subformat", ["dynamic", "fixed", "differencing"])
def test_a_crash_leaves_a_valid_file_or_none(subformat: str) -> None:
    for at in range(1, 40):
        inner = MemoryFiles()
        inner.mkdir("/d")
        how: dict[str, Any] = {"size": 4 * MIB, "subformat": subformat}
        if subformat == "differencing":
            create("/d/base", 4 * MIB, files=inner)
            how |= {"parent": "/d/base", "size": None}
        faults = Faults(at, crash=True)
        done = False
        with suppress(Crash):
            create("/d/disk", files=FailingFiles(inner, faults), **how)
            done = True
        inner.power_loss(random.Random(at))
        if done:
            assert faults.count < at
        if done or inner.exists("/d/disk"):
            try:
                image = VhdxWriter(inner.open("/d/disk", "rw"))
            except errors.Damaged as error:
                assert not done
                assert any(word in str(error) for word in ("header", "not a VHDX", "type identifier")), error
            else:
                assert image.size == 4 * MIB
                image.close()
        if done:
            return
    raise AssertionError("it never ends")
