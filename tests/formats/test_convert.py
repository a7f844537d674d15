"""Any image to any format that is written: the same disk, sparse, whole or not there."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from formatkit import MIB, by_qemu, child, content, put, read, replicate, same, sparse

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images.vhdx.create import create
from secondsite.engine.images.vhdx.writer import open_writer
from secondsite.engine.progress import Progress

SOURCES = [
    ("raw", ""), ("vhdx", "subformat=dynamic"), ("vhdx", "subformat=fixed"), ("vhd", "subformat=dynamic"),
    ("vhd", "subformat=fixed"), ("vmdk", "subformat=monolithicSparse"), ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"), ("vmdk", "subformat=streamOptimized"),
]  # fmt: skip
TARGETS = [("raw", None), ("vhdx", "dynamic"), ("vhdx", "fixed"), ("vhd", "dynamic"), ("vhd", "fixed")]
SIZE = 4 * MIB


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    data = content(SIZE, 3)
    data[MIB : 3 * MIB] = bytes(2 * MIB)
    return sparse(tmp_path / "disk.raw", data)


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".") or path.suffix == ".tmp"]


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize(("format", "options"), SOURCES)
def test_every_pair(raw: Path, tmp_path: Path, format: str, options: str) -> None:
    source = raw if format == "raw" else by_qemu(raw, tmp_path / f"source.{format}", format, options)
    for (target, subformat), workers in zip(TARGETS, itertools.cycle((1, 2))):
        out = tmp_path / f"out-{subformat}.{target}"
        done = engine.convert(source, out, format=target, subformat=subformat, workers=workers)
        assert (done.format, done.virtual_bytes) == (target, SIZE)
        assert 0 < done.written_bytes <= 2 * MIB
        same(out, raw, target)
        assert read(out) == raw.read_bytes()
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("target", ["raw", "vhdx", "vhd"])
def test_zeros_take_no_room(tmp_path: Path, target: str) -> None:
    """Also zeros that the source has stored."""
    source, out = tmp_path / "full.raw", tmp_path / f"out.{target}"
    source.write_bytes(b"x" * 65536 + bytes(64 * MIB) + b"y" * 65536)
    assert engine.convert(source, out, format=target).written_bytes == 2 * 65536
    assert out.stat().st_blocks * 512 < 12 * MIB


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("target", ["raw", "vhdx", "vhd"])
def test_a_chain_becomes_one_file(raw: Path, tmp_path: Path, target: str) -> None:
    base = tmp_path / "base.vhdx"
    engine.convert(raw, base, format="vhdx")
    middle = child(tmp_path / "middle.avhdx", base, (MIB, b"m" * 1000))
    top = child(tmp_path / "top.avhdx", middle, (5000, b"t" * 70_000))
    data = bytearray(raw.read_bytes())
    data[MIB : MIB + 1000], data[5000:75_000] = b"m" * 1000, b"t" * 70_000
    out = tmp_path / f"out.{target}"
    engine.convert(top, out, format=target)
    assert read(out) == data
    same(out, sparse(tmp_path / "model.raw", data), target)


def test_a_parent_in_another_folder(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "parents").mkdir()
    (tmp_path / "children").mkdir()
    base, top = tmp_path / "parents/base.vhdx", tmp_path / "children/top.avhdx"
    create(base, MIB)
    create(top, subformat="differencing", parent=base)
    with open_writer(top, allow_parent_path=[tmp_path]) as image:
        put(image, (0, b"t"))
    with pytest.raises(errors.Refused, match=r"leads out of it .*--allow-parent-path"):
        engine.convert(top, tmp_path / "x", format="raw")
    engine.convert(top, tmp_path / "x", format="raw", allow_parent_path=[str(tmp_path / "parents")])
    assert read(tmp_path / "x")[:2] == b"t\0"
    replicate(top, tmp_path / "r", allow_parent_path=[str(tmp_path / "parents")])
    assert engine.verify(tmp_path / "r", source=top, allow_parent_path=[str(tmp_path / "parents")]).ok


def test_an_output_that_exists(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.vhdx"
    out.write_bytes(b"precious")
    with pytest.raises(errors.Refused, match="exists"):
        engine.convert(raw, out, format="vhdx")
    with pytest.raises(errors.Refused, match="exists"):
        engine.convert(raw, raw, format="raw")
    assert out.read_bytes() == b"precious"


def meddle(raw: Path, what: str, out: Path) -> None:
    if what == "write":
        with raw.open("r+b") as file:
            file.write(b"meddled")
    elif what == "cut":
        os.truncate(raw, MIB)
    else:
        out.write_bytes(b"precious")


@pytest.mark.parametrize(
    ("what", "error"),
    [("write", errors.SourceChanged), ("cut", errors.SourceChanged), ("appear", errors.Refused)],
)
@pytest.mark.parametrize("target", ["raw", "vhdx", "vhd"])
def test_what_happens_meanwhile(raw: Path, tmp_path: Path, target: str, what: str, error: type[Exception]) -> None:
    """Nothing half-made stays, and nothing that appeared is replaced."""
    out, done = tmp_path / "out", []  # type: Path, list[bool]

    def hear(now: Progress) -> None:
        if not done:
            done.append(True)
            meddle(raw, what, out)

    with pytest.raises(error):
        engine.convert(raw, out, format=target, progress=hear)
    assert out.exists() == (what == "appear")
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("target", ["raw", "vhdx", "vhd"])
def test_errors_leave_nothing(raw: Path, tmp_path: Path, target: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(errors.Cancelled):
        engine.convert(raw, out, format=target, cancel=lambda: True)
    with pytest.raises(errors.Unreachable):
        engine.convert(raw, tmp_path / "no/where", format=target)
    with pytest.raises(errors.Unreachable):
        engine.convert(tmp_path / "missing", out, format=target)
    if target != "raw":
        odd = tmp_path / "odd.raw"
        odd.write_bytes(b"x" * 700)
        with pytest.raises(errors.Usage):
            engine.convert(odd, out, format=target)
    assert not out.exists()
    assert left_over(tmp_path) == []


def test_a_subformat_that_makes_no_sense(raw: Path, tmp_path: Path) -> None:
    for target, subformat in (("raw", "fixed"), ("vhd", "differencing"), ("vhdx", "thick")):
        with pytest.raises(errors.Usage):
            engine.convert(raw, tmp_path / "out", format=target, subformat=subformat)
    assert not (tmp_path / "out").exists() and left_over(tmp_path) == []


@pytest.mark.parametrize("target", ["vhdx", "vhd"])
def test_a_size_that_the_format_has_not_is_told_of_the_output(tmp_path: Path, target: str) -> None:
    """Not of the hidden file that would have become it."""
    source, out = tmp_path / "odd.raw", tmp_path / f"out.{target}"
    source.write_bytes(b"x" * 1000)
    replicate(source, tmp_path / "replica")
    with pytest.raises(errors.Usage, match="512") as converted:
        engine.convert(source, out, format=target)
    with pytest.raises(errors.Usage, match="512") as restored:
        engine.restore(tmp_path / "replica", out, format=target)
    assert converted.value.path == restored.value.path == str(out)
    assert left_over(tmp_path) == []
