"""Which format a file has, names that lie, and guests that write what looks like a container."""

from __future__ import annotations

from pathlib import Path

import pytest
from formatkit import MIB, by_qemu, content, hold, replicate, sparse

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images import detect
from secondsite.engine.images.formats import FORMATS

MARKS = {"vhdx": b"vhdxfile", "vhd": b"conectix", "vmdk": b"KDMV\1\0\0\0"}
SUBFORMATS = [
    ("vhdx", "subformat=fixed"), ("vhdx", "subformat=dynamic"),
    ("vhd", "subformat=fixed"), ("vhd", "subformat=dynamic"),
    ("vmdk", "subformat=monolithicSparse"), ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"), ("vmdk", "subformat=streamOptimized"),
]  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return sparse(tmp_path / "disk.raw", content(2 * MIB))


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize(("format", "options"), SUBFORMATS)
def test_what_qemu_makes(raw: Path, format: str, options: str) -> None:
    path = by_qemu(raw, raw.with_suffix(f".{format}"), format, options)
    for name in (path.name, "no-suffix"):
        assert detect(path.rename(raw.with_name(name))) == format
        path = raw.with_name(name)
    info = engine.info(path, format=format)
    assert isinstance(info, engine.ImageInfo) and (info.format, info.virtual_bytes) == (format, 2 * MIB)


@pytest.mark.parametrize(
    ("format", "subformat"),
    [("raw", None), ("vhdx", "fixed"), ("vhdx", "dynamic"), ("vhd", "fixed"), ("vhd", "dynamic")],
)
def test_what_we_make(raw: Path, format: str, subformat: str | None) -> None:
    path = raw.with_name(f"made.{format}")
    engine.convert(raw, path, format=format, subformat=subformat)
    assert detect(path) == format
    assert detect(path.rename(raw.with_name("made"))) == format


def test_short_files_are_raw(tmp_path: Path) -> None:
    for size in (0, 1, 7, 511, 512, 1023):
        path = tmp_path / f"{size}.img"
        path.write_bytes(b"x" * size)
        assert detect(path) == "raw"
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    assert replicate(empty, tmp_path / "r").virtual_bytes == 0


@pytest.mark.parametrize("name", ["disk.vhdx", "disk.avhdx", "disk.VHD", "disk.vmdk"])
def test_a_raw_disk_with_the_name_of_a_container(raw: Path, tmp_path: Path, name: str) -> None:
    path = raw.rename(tmp_path / name)
    with pytest.raises(errors.Usage, match="--source-format") as caught:
        replicate(path, tmp_path / "r")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "r").exists()
    replicate(path, tmp_path / "r", source_format="raw")
    # And it is remembered.
    assert replicate(path, tmp_path / "r").kind == "unchanged"
    assert engine.verify(tmp_path / "r", source=path).ok


@pytest.mark.parametrize("suffix", ["raw", "img", "bin"])
@pytest.mark.parametrize("format", ["vhdx", "vhd"])
def test_a_container_with_the_name_of_a_raw_disk(raw: Path, tmp_path: Path, format: str, suffix: str) -> None:
    path = tmp_path / f"lies.{suffix}"
    engine.convert(raw, path, format=format)
    with pytest.raises(errors.Usage, match="--source-format"):
        replicate(path, tmp_path / "r")
    assert replicate(path, tmp_path / "r", source_format=format).virtual_bytes == 2 * MIB
    assert engine.verify(tmp_path / "r", source=raw).ok
    replicate(path, tmp_path / "as-raw", source_format="raw")
    assert (tmp_path / "as-raw/head.raw").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["disk.raw", "disk"])
@pytest.mark.parametrize("format", MARKS)
def test_a_guest_that_writes_a_mark(tmp_path: Path, format: str, name: str) -> None:
    """The first bytes of a raw disk are the guest's; what the replica remembers counts."""
    path, root, data = tmp_path / name, tmp_path / "r", content(MIB)
    path.write_bytes(data)
    replicate(path, root)
    points = {"1": bytes(data)}
    data[: len(MARKS[format])] = MARKS[format]
    path.write_bytes(data)
    assert replicate(path, root).kind == "delta"
    points["2"] = bytes(data)
    # A footer of a fixed VHD is at the end.
    data[-512:-504] = b"conectix"
    path.write_bytes(data)
    replicate(path, root)
    hold(root, points | {"3": bytes(data)})
    assert engine.verify(root, source=path).ok, "compared as what it is"
    out = tmp_path / "out.raw"
    engine.restore(root, out)
    assert out.read_bytes() == data
    with pytest.raises(errors.Usage, match="--format"):
        engine.restore(root, out, at="1", in_place=True)
    engine.restore(root, out, at="1", in_place=True, format="raw")
    assert out.read_bytes() == points["1"]


def test_verify_takes_the_format_of_another_file(tmp_path: Path) -> None:
    path, root, data = tmp_path / "disk.raw", tmp_path / "r", content(MIB)
    data[:8] = MARKS["vhdx"]
    path.write_bytes(data)
    replicate(path, root, source_format="raw")
    copy = tmp_path / "copy.raw"
    copy.write_bytes(data)
    with pytest.raises(errors.Usage, match="--source-format"):
        engine.verify(root, source=copy)
    assert engine.verify(root, source=copy, source_format="raw").ok


def test_a_source_that_changes_its_format_is_refused(raw: Path, tmp_path: Path) -> None:
    root, data = tmp_path / "r", raw.read_bytes()
    replicate(raw, root)
    made = tmp_path / "made"
    engine.convert(raw, made, format="vhdx")
    made.replace(raw)
    with pytest.raises(errors.Refused, match="format raw, not vhdx"):
        replicate(raw, root, source_format="vhdx")
    assert replicate(raw, root, source_format="vhdx", accept_source=True).kind == "unchanged"
    assert replicate(raw, root).kind == "unchanged"
    hold(root, {"1": data})


def test_a_fixed_vhd_is_told_by_its_footer(raw: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "fixed.vhd", raw.read_bytes()
    engine.convert(raw, path, format="vhd", subformat="fixed")
    assert path.read_bytes()[:-512] == data
    replicate(path, tmp_path / "r")
    hold(tmp_path / "r", {"1": data})
    # Virtual PC wrote footers of 511 bytes.
    path.write_bytes(path.read_bytes()[:-1])
    assert detect(path) == "vhd"


def test_an_unknown_format(raw: Path, tmp_path: Path) -> None:
    assert set(MARKS) < set(FORMATS)
    with pytest.raises(errors.Usage, match="qed"):
        replicate(raw, tmp_path / "r", source_format="qed")
    with pytest.raises(errors.Usage, match="--qmp"):
        replicate(raw, tmp_path / "r", source_format="qcow2")
    with pytest.raises(errors.Usage, match="qcow2"):
        replicate(raw, tmp_path / "r", head="qcow2")
    with pytest.raises(errors.Usage, match="vmdk"):
        engine.convert(raw, tmp_path / "x", format="vmdk")
    assert not (tmp_path / "r").exists() and not (tmp_path / "x").exists()
