"""Restoring into an image that is there: it stays what it is, whatever it is, and what was refused is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from formatkit import MIB, by_qemu, change, child, content, qemu_img, read, replicate, same, sparse

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images import open_image
from secondsite.engine.images.vhd import create_dynamic, create_fixed
from secondsite.engine.images.vhd.geometry import chs_bytes

SIZE = 3 * MIB + 512


@pytest.fixture
def points(tmp_path: Path) -> list[bytes]:
    """What the two points of the replica tmp_path/r hold."""
    data, found = content(SIZE), []
    for _ in range(2):
        replicate(sparse(tmp_path / "vm.raw", data), tmp_path / "r")
        found.append(bytes(data))
        change(data, len(found))
    return found


@pytest.mark.parametrize("size", [512, 69632, SIZE, 600_064, 528482304, 1 << 30, 10**9, (1 << 36) + 512, 200 << 30])
@pytest.mark.needs("qemu-img")
def test_the_sizes_that_qemu_makes(tmp_path: Path, size: int) -> None:
    qemu_img("create", "-q", "-f", "vpc", tmp_path / "a.vhd", str(size))
    with open_image(tmp_path / "a.vhd") as image:
        assert image.size == chs_bytes(size)


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_a_vhd_that_qemu_rounded_up(tmp_path: Path, points: list[bytes], subformat: str) -> None:
    out, made = tmp_path / "out.vhd", chs_bytes(SIZE)
    qemu_img("create", "-q", "-f", "vpc", "-o", f"subformat={subformat}", out, str(SIZE))
    with open_image(out, "rw") as image:
        assert image.size == made > SIZE
        image.write(SIZE - 1, b"old" * 100)
    for at, data in zip("12", points, strict=True):
        done = engine.restore(tmp_path / "r", out, at=at, in_place=True)
        assert (done.virtual_bytes, done.output_bytes) == (SIZE, made)
        assert done.warnings == [
            f"{out}: its disk has {made} bytes, {made - SIZE} more than what was written to it; they are zeros"
        ]
        assert read(out) == data + bytes(made - SIZE)
    (tmp_path / "want.raw").write_bytes(points[1] + bytes(made - SIZE))
    same(out, tmp_path / "want.raw", "vhd")


def test_a_dynamic_vhd_that_is_larger_for_another_reason(tmp_path: Path, points: list[bytes]) -> None:
    out = tmp_path / "out.vhd"
    for size in (chs_bytes(SIZE) + 512, 4 * MIB):
        create_dynamic(out, size, overwrite=True).close()
        before = out.read_bytes()
        with pytest.raises(errors.Refused, match=rf"out\.vhd: .* grow, not shrink: its disk has {size} bytes, {SIZE}"):
            engine.restore(tmp_path / "r", out, in_place=True)
        assert out.read_bytes() == before
    create_dynamic(out, MIB, overwrite=True).close()
    assert engine.restore(tmp_path / "r", out, in_place=True).output_bytes == SIZE
    assert read(out) == points[1]


@pytest.mark.parametrize("before", [MIB, 4 * MIB, 9 * MIB + 512])
def test_a_fixed_vhd_keeps_whole_mib(tmp_path: Path, points: list[bytes], before: int) -> None:
    out = tmp_path / "out.vhd"
    with create_fixed(out, before, rounding="exact") as image:
        image.write(0, b"old" * (before // 3))
    done = engine.restore(tmp_path / "r", out, in_place=True)
    assert done.output_bytes == 4 * MIB and len(done.warnings) == 1
    assert read(out) == points[1] + bytes(4 * MIB - SIZE)


@pytest.mark.parametrize(
    ("name", "format", "chosen"),
    [("a.vhd", "vhd", "raw"), ("a.vhd", "vhd", "vhdx"), ("a.vhdx", "vhdx", "raw"), ("disk", "vhd", "raw"),
     ("a.raw", "raw", "vhd"), ("disk", "raw", "vhdx"), ("a.vmdk", "vmdk", "raw")],
)  # fmt: skip
def test_another_format_is_refused(tmp_path: Path, points: list[bytes], name: str, format: str, chosen: str) -> None:
    out = tmp_path / name
    if format == "vmdk":
        out.write_text('# Disk DescriptorFile\nCID=1\ncreateType="custom"\nRW 1 ZERO\n')
    else:
        engine.convert(tmp_path / "vm.raw", out, format=format)
    before = out.read_bytes()
    with pytest.raises(errors.Usage, match=rf"{name}: is a {format.upper()} image and stays one .*--format {chosen}"):
        engine.restore(tmp_path / "r", out, at="1", in_place=True, format=chosen)
    assert out.read_bytes() == before
    if format != "vmdk":
        engine.restore(tmp_path / "r", out, at="1", in_place=True, format=format)
        assert read(out, format) == points[0]


def test_options_of_new_files_and_of_existing_ones(tmp_path: Path, points: list[bytes]) -> None:
    out = tmp_path / "out.vhdx"
    engine.restore(tmp_path / "r", out, format="vhdx")
    for options in ({"in_place": True, "subformat": "fixed"}, {"allow_parent_path": [tmp_path]}):
        with pytest.raises(errors.Usage, match="--in-place"):
            engine.restore(tmp_path / "r", out, at="1", **options)
        assert read(out) == points[1]


def test_a_child_whose_parent_lies_elsewhere(tmp_path: Path, points: list[bytes]) -> None:
    there, out = tmp_path / "parents", tmp_path / "out.avhdx"
    there.mkdir()
    engine.restore(tmp_path / "r", there / "base.vhdx", at="1", format="vhdx")
    child(there / "made.avhdx", there / "base.vhdx", (70_000, b"x" * 5000)).rename(out)
    parent = (there / "base.vhdx").read_bytes()
    with pytest.raises(errors.Refused, match=r"base\.vhdx"):
        engine.restore(tmp_path / "r", out, in_place=True)
    for at, data in zip("12", points, strict=True):
        done = engine.restore(tmp_path / "r", out, at=at, in_place=True, allow_parent_path=[there])
        assert done.method == "in-place" and done.bytes_written < MIB
        with open_image(out, allow_parent_path=[there]) as image:
            assert image.read(0, image.size) == data
    assert (there / "base.vhdx").read_bytes() == parent


@pytest.mark.needs("qemu-img")
def test_a_vhd_of_the_exact_size_stays_exact(tmp_path: Path, points: list[bytes]) -> None:
    out = by_qemu(tmp_path / "vm.raw", tmp_path / "out.vhd", "vhd", "subformat=fixed")
    done = engine.restore(tmp_path / "r", out, at="1", in_place=True)
    assert done.output_bytes == SIZE and done.warnings == [] and read(out) == points[0]
