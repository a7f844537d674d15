"""Reading VHDs: samples of other makers, hand-made ones, parents, and what must be refused."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import replace
from uuid import UUID

import libvhdi
import pytest
from vhdkit import footer_of, handmade, qemu

from secondsite.engine import errors
from secondsite.engine.images.vhd import create_dynamic, create_fixed, open_vhd
from secondsite.engine.images.vhd.geometry import disk_bytes, geometry_of
from secondsite.engine.images.vhd.structures import Geometry

MIB = 1 << 20
BLOCK = 2 * MIB
PARENT, CHILD = UUID(int=0xAAAA), UUID(int=0xBBBB)


def digest(image):
    found = hashlib.sha256()
    for at in range(0, image.size, MIB):
        found.update(image.read(at, min(MIB, image.size - at)))
    return found.hexdigest()


def check_views(image):
    """Segments, extents and reads tell the same story."""
    whole = bytes(image.read(0, image.size))
    at = 0
    for extent in image.extents(0, image.size):
        assert extent.start == at and extent.length > 0
        at += extent.length
        assert not extent.zero or not any(whole[extent.start : at])
    assert at == image.size
    segments = image.segments(0, image.size)
    joined = b"".join(
        os.pread(fd, length, offset) if fd >= 0 else bytes(length)
        for fd, offset, length in zip(*segments, strict=True)
    )
    assert joined == whole
    return whole


def test_a_dynamic_sample_whole(sample):
    path, entry = sample("d2v-zerofilled")
    with open_vhd(path) as image:
        assert image.size == entry["virtual_size"] and digest(image) == entry["guest_sha256"]
        facts = image.facts()
    assert (facts.format, facts.subformat, facts.identifiers["creator"]) == ("vhd", "dynamic", "d2v")


def test_virtual_pc_shows_the_geometry(sample):
    path, entry = sample("virtualpc-dynamic")
    with open_vhd(path) as image:
        assert image.size == 136363130880  # as QEMU has it; CurrentSize is that of the manifest
        assert image.footer.current_size == entry["virtual_size"]
        assert [extent.zero for extent in image.extents(0, image.size)] == [True]
        assert "geometry" in image.facts().notes[0]


def test_a_child_whose_parent_is_not_there(sample):
    path, _ = sample("fat-differential")
    with pytest.raises(errors.Refused, match=r"fat-parent\.vhd.*is not there"):
        open_vhd(path)


def test_a_sample_child_over_an_empty_parent(sample):
    """QEMU reads this child as a disk of its own, without a word; its bitmap says otherwise."""
    path, entry = sample("fat-differential")
    wanted = UUID(bytes=path.read_bytes()[512 + 40 : 512 + 56])
    (path.parent / "FAT-Parent.VHD").write_bytes(handmade(entry["virtual_size"], {}, unique_id=wanted))
    with open_vhd(path) as image:
        assert digest(image) == entry["guest_sha256"]
        facts = image.facts()
        assert facts.subformat == "differencing" and facts.parents[0].identifier == str(wanted)
        check_views(image)


def chain(folder, seed=1, size=3 * BLOCK - 1024, group=1):
    """A parent with data everywhere, a child with some sectors of its own, `group` by group; the right content."""
    chance = random.Random(seed)
    base = {n: (b"\xff" * 512, chance.randbytes(BLOCK)) for n in range(3)}
    want = bytearray(b"".join(data for _, data in base.values())[:size])
    blocks = {}
    for block in (0, 2):
        bitmap, data = bytearray(512), bytearray(chance.randbytes(BLOCK))
        chosen = {0, 7, 8, 100, *chance.sample(range(4096), 300)}
        for sector in {each // group * group + n for each in chosen for n in range(group)}:
            bitmap[sector // 8] |= 0x80 >> sector % 8
            at = block * BLOCK + sector * 512
            if at < size:
                want[at : at + 512] = data[sector * 512 : sector * 512 + 512]
        blocks[block] = (bytes(bitmap), bytes(data))
    (folder / "base.vhd").write_bytes(handmade(size, base, unique_id=PARENT))
    names = ((b"W2ku", "C:\\machines\\base.vhd"), (b"W2ru", ".\\base.vhd"))
    child = handmade(size, blocks, parent=PARENT, unique_id=CHILD, names=names)
    (folder / "child.vhd").write_bytes(child)
    return bytes(want)


def test_a_child_takes_from_its_parent_what_its_bitmap_leaves(tmp_path):
    want = chain(tmp_path)
    with open_vhd(tmp_path / "child.vhd") as image:
        assert check_views(image) == want
        for at, length in ((0, 1), (511, 2), (BLOCK - 1, 2), (3 * BLOCK - 1025, 1), (4097, 100_000)):
            assert image.read(at, length) == want[at : at + length]


@pytest.mark.needs("libvhdi")
def test_libvhdi_reads_the_same_chain(tmp_path):
    """In groups of eight, as Windows sets them: inside a byte of the bitmap libvhdi loses runs of clear bits."""
    want = chain(tmp_path, group=8)
    assert libvhdi.read(tmp_path / "child.vhd", tmp_path / "base.vhd") == want


@pytest.mark.needs("qemu-img")
def test_qemu_reads_a_child_wrongly(tmp_path):
    """The reason why nothing here may ask QEMU for a differencing VHD."""
    want = chain(tmp_path)
    assert qemu(tmp_path / "child.vhd")[: len(want)] != want


def test_a_longer_chain_and_a_fixed_base(tmp_path):
    with create_fixed(tmp_path / "a.vhd", 4 * MIB, unique_id=UUID(int=1)) as base:
        base.write(0, b"a" * 4 * MIB)
    for n, (name, sector, below) in enumerate((("b", 3, "a"), ("c", 5, "b"), ("d", 3, "c")), 2):
        bits = bytearray(512)
        bits[0] = 0x80 >> sector
        blocks = {0: (bytes(bits), name.encode() * BLOCK)}
        raw = handmade(
            4 * MIB, blocks, parent=UUID(int=n - 1), unique_id=UUID(int=n), names=((b"W2ru", f".\\{below}.vhd"),)
        )
        (tmp_path / f"{name}.vhd").write_bytes(raw)
    with open_vhd(tmp_path / "d.vhd") as image:
        content = check_views(image)
        assert len(image.facts().parents) == 3
    sectors = b"".join(content[n * 512 : n * 512 + 1] for n in range(8))
    assert sectors == b"aaadacaa" and content[4096:] == b"a" * (4 * MIB - 4096)


def test_parents_are_looked_for_in_the_own_folder_only(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    chain(inner)
    (inner / "base.vhd").rename(tmp_path / "up.vhd")
    outside = handmade(BLOCK, {}, parent=PARENT, names=((b"W2ru", "..\\up.vhd"),))
    (inner / "out.vhd").write_bytes(outside)
    with pytest.raises(errors.Refused, match=r"up\.vhd.*outside"):
        open_vhd(inner / "out.vhd")
    open_vhd(inner / "out.vhd", allow=[str(tmp_path)]).close()
    (inner / "base.vhd").symlink_to(tmp_path / "up.vhd")
    with pytest.raises(errors.Refused, match=r"a link to '.*/up\.vhd', outside .*--allow-parent-path"):
        open_vhd(inner / "child.vhd")
    (inner / "base.vhd").unlink()
    with pytest.raises(errors.Refused, match=r"base\.vhd' is not there .*--allow-parent-path"):
        open_vhd(inner / "child.vhd")
    (tmp_path / "up.vhd").rename(tmp_path / "base.vhd")
    open_vhd(inner / "child.vhd", allow=[str(tmp_path)]).close()
    os.mkfifo(inner / "base.vhd")
    with pytest.raises(errors.Usage, match=r"base\.vhd: is neither a file nor"):
        open_vhd(inner / "child.vhd")
    (inner / "etc.vhd").write_bytes(handmade(BLOCK, {}, parent=PARENT, names=((b"W2ku", "/etc/passwd"),)))
    with pytest.raises(errors.Refused, match="/etc/passwd"):
        open_vhd(inner / "etc.vhd")


def test_another_disk_under_the_parents_name(tmp_path):
    chain(tmp_path)
    (tmp_path / "base.vhd").write_bytes(handmade(BLOCK, {}, unique_id=UUID(int=0xCCCC)))
    with pytest.raises(errors.Refused) as caught:
        open_vhd(tmp_path / "child.vhd")
    assert str(PARENT) in str(caught.value) and str(UUID(int=0xCCCC)) in str(caught.value)


def test_rings_and_endless_chains(tmp_path):
    for name, own, other, below in (("x", 1, 2, "y"), ("y", 2, 1, "x")):
        raw = handmade(
            BLOCK, {}, parent=UUID(int=other), unique_id=UUID(int=own), names=((b"W2ru", f".\\{below}.vhd"),)
        )
        (tmp_path / f"{name}.vhd").write_bytes(raw)
    with pytest.raises(errors.Refused, match="comes back"):
        open_vhd(tmp_path / "x.vhd")
    for n in range(80):
        raw = handmade(
            BLOCK, {}, parent=UUID(int=n + 101), unique_id=UUID(int=n + 100), names=((b"W2ru", f"n{n + 1}.vhd"),)
        )
        (tmp_path / f"n{n}.vhd").write_bytes(raw)
    with pytest.raises(errors.Refused, match="more than 64"):
        open_vhd(tmp_path / "n0.vhd")


def test_a_bad_footer_with_a_good_copy(tmp_path):
    path = tmp_path / "a.vhd"
    raw = handmade(BLOCK, {0: (b"\xff" * 512, b"x" * BLOCK)})
    for cut in (raw[:-512], raw[:-100], raw[:-512] + bytes(512), raw[:-1] + b"\x01", raw[:-512] + b"y" * 512):
        path.write_bytes(cut)
        with open_vhd(path) as image:
            assert image.read(0, BLOCK) == b"x" * BLOCK
            assert "copy" in image.facts().notes[0]
    path.write_bytes(bytes(512) + raw[512:-512] + bytes(512))
    with pytest.raises(errors.Damaged, match="conectix"):
        open_vhd(path)


def test_a_footer_of_511_bytes(tmp_path):
    path = tmp_path / "old.vhd"
    create_fixed(path, MIB).close()
    with path.open("r+b") as file:
        file.write(b"old")
        file.truncate(MIB + 511)
    with open_vhd(path) as image:
        assert image.size == MIB and image.read(0, 4) == b"old\0"


def test_a_guest_cannot_turn_its_fixed_disk_into_another(tmp_path):
    with create_fixed(tmp_path / "a.vhd", MIB) as image:
        image.write(0, handmade(BLOCK, {}))
        image.flush()
    with open_vhd(tmp_path / "a.vhd") as image:
        assert image.size == MIB and image.facts().subformat == "fixed"


def test_fixed_holes_are_extents(tmp_path):
    with create_fixed(tmp_path / "a.vhd", 8 * MIB) as image:
        image.write(MIB, b"x" * 4096)
        image.flush()
    with open_vhd(tmp_path / "a.vhd") as image:
        states = [extent.zero for extent in image.extents(0, image.size)]
        check_views(image)
    assert states in ([True, False, True], [False])  # the second where a file system knows no holes


@pytest.mark.parametrize(
    ("creator", "geometry", "by_geometry"),
    [
        (b"vpc ", (1000, 16, 63), True),
        (b"qemu", (1000, 16, 63), True),
        (b"vpc ", (65535, 16, 255), False),
        (b"vpc ", (0, 16, 63), False),
        (b"vpc ", (60000, 16, 63), False),
        (b"win ", (1000, 16, 63), False),
        (b"qem2", (1000, 16, 63), False),
        (b"d2v ", (1000, 16, 63), False),
        (b"wa\0\0", (1000, 16, 63), False),
        (b"tap\0", (1000, 16, 63), False),
    ],
)
def test_which_of_the_two_sizes_counts(creator, geometry, by_geometry):
    footer = replace(footer_of(handmade(512 * MIB, {})), creator=creator, geometry=Geometry(*geometry))
    assert disk_bytes(footer) == (1000 * 16 * 63 * 512 if by_geometry else 512 * MIB)


def test_geometry_never_promises_more_than_there_is():
    for size in (512, MIB, 69 * MIB, 528 * MIB, 10 << 30, 127 << 30, 2040 << 30):
        geometry = geometry_of(size)
        assert geometry.bytes <= size
        assert geometry.heads <= 16 and geometry.sectors <= 255 and geometry.cylinders <= 65535
        if MIB < size < 127 << 30:
            assert geometry.bytes > size * 0.98


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("options", [["subformat=fixed"], ["subformat=dynamic", "force_size=on"], ["force_size=off"]])
def test_what_qemu_makes(tmp_path, options):
    import subprocess

    raw, path = tmp_path / "a.raw", tmp_path / "a.vhd"
    content = random.Random(1).randbytes(3 * MIB) + bytes(5 * MIB) + b"end" * 1000
    raw.write_bytes(content.ljust(9 * MIB, b"\0"))
    command = ["qemu-img", "convert", "-O", "vpc", *(x for option in options for x in ("-o", option)), raw, path]
    subprocess.run(command, check=True)
    with open_vhd(path) as image:
        assert check_views(image) == qemu(path)
        assert image.read(0, len(content)) == content


BAD = {
    "an entry in the header": dict(table={0: 1}),
    "an entry in the table": dict(table={0: 3}),
    "an entry past the end": dict(table={0: 100_000}),
    "blocks that overlap": dict(table={1: 5}),
    "a table too short": dict(entries=1),
    "a block size that is no power of two": dict(block_size=3 * 512),
    "a huge table": dict(entries=0x7FFFFFFF),
}


@pytest.mark.parametrize("what", BAD)
def test_damage_is_named(tmp_path, what):
    path = tmp_path / "bad.vhd"
    how = dict(BAD[what])
    entries = how.pop("entries", None)
    block = how.get("block_size", BLOCK)
    blocks = {} if block != BLOCK else {0: (b"\xff" * 512, b"x")}
    raw = bytearray(handmade(2 * BLOCK, blocks, **how))
    if entries is not None:
        raw[512 + 28 : 512 + 32] = entries.to_bytes(4, "big")
        raw[512 + 36 : 512 + 40] = bytes(4)
        raw[512 + 36 : 512 + 40] = (~sum(raw[512:1536]) & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(raw)
    with pytest.raises((errors.Damaged, errors.Refused), match=r"bad\.vhd: ") as caught:
        open_vhd(path)
    if isinstance(caught.value, errors.Damaged) and entries is None:
        assert caught.value.offset is not None


def test_versions_types_and_checksums(tmp_path):
    path = tmp_path / "bad.vhd"
    with create_fixed(path, MIB):
        pass
    good = path.read_bytes()

    def changed(at, value, fix=True):
        raw = bytearray(good)
        raw[MIB + at : MIB + at + len(value)] = value
        if fix:
            raw[MIB + 64 : MIB + 68] = bytes(4)
            raw[MIB + 64 : MIB + 68] = (~sum(raw[MIB:]) & 0xFFFFFFFF).to_bytes(4, "big")
        path.write_bytes(raw)

    changed(12, b"\0\2\0\0")
    with pytest.raises(errors.NewerFormat):
        open_vhd(path)
    changed(60, b"\0\0\0\6")
    with pytest.raises(errors.Damaged, match="disk type 6"):
        open_vhd(path)
    changed(24, b"\1\2\3\4", fix=False)
    with pytest.raises(errors.Damaged, match="checksum"):
        open_vhd(path)
    changed(48, (2 * MIB).to_bytes(8, "big"))
    with pytest.raises(errors.Damaged, match="fixed disk of 2097152"):
        open_vhd(path)
    for size in (0, 1, 511):
        path.write_bytes(bytes(size))
        with pytest.raises(errors.Damaged):
            open_vhd(path)


def test_a_reader_refuses_to_write(tmp_path):
    create_dynamic(tmp_path / "a.vhd", MIB).close()
    with open_vhd(tmp_path / "a.vhd") as image:
        for call in (lambda: image.write(0, b"x"), lambda: image.zero(0, 1), lambda: image.resize(2 * MIB)):
            with pytest.raises(errors.Refused):
                call()
        with pytest.raises(errors.Damaged):
            image.read(MIB, 1)
    chain(tmp_path)
    with pytest.raises(errors.Refused, match="differencing"):
        open_vhd(tmp_path / "child.vhd", "rw")
