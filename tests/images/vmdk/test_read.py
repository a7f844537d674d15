"""Reading VMDKs: samples, what QEMU makes, hand-made ones, chains of snapshots."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess

import pytest
from vmdkkit import GRAIN, cowd, descriptor, qemu, sparse, stream

from secondsite.engine import errors
from secondsite.engine.images.vmdk import open_vmdk

MIB = 1 << 20
SINGLE = ['RW 2048 SPARSE "a.vmdk"']


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
    if segments is not None:
        joined = b"".join(
            os.pread(fd, length, offset) if fd >= 0 else bytes(length)
            for fd, offset, length in zip(*segments, strict=True)
        )
        assert joined == whole
    chance = random.Random(1)
    for _ in range(20):
        at = chance.randrange(image.size)
        length = chance.randrange(1, min(image.size - at, 200_000) + 1)
        assert image.read(at, length) == whole[at : at + length]
    return whole


@pytest.mark.parametrize("name", ["monolithicSparse.vmdk", "streamOptimized.vmdk", "vmfs_thick.vmdk"])
def test_samples_whole(sample, name):
    if name.startswith("vmfs"):
        sample("vmfs_thick-flat")
    path, entry = sample(name)
    with open_vmdk(path) as image:
        assert image.size == entry["virtual_size"] and digest(image) == entry["guest_sha256"]
        check_views(image)
        assert (image.segments(0, 512) is None) == name.startswith("stream")
        facts = image.facts()
    assert (facts.format, facts.subformat) == ("vmdk", {"vmfs_thick.vmdk": "vmfs"}.get(name, name[:-5]))


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("name", ["monolithicSparse.vmdk", "streamOptimized.vmdk"])
def test_samples_as_qemu_reads_them(sample, name):
    path, _ = sample(name)
    with open_vmdk(path) as image:
        assert image.read(0, image.size) == qemu(path)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("monolithicFlat.vmdk", "monolithicFlat-flat.vmdk"),
        ("twoGbMaxExtentFlat.vmdk", "twoGbMaxExtentFlat-f001.vmdk"),
        ("vmfs_thick-000001.vmdk", "vmfs_thick-000001-delta.vmdk"),
    ],
)
def test_samples_whose_extents_are_missing(sample, name, missing):
    path, _ = sample(name)
    with pytest.raises(errors.Unreachable, match=missing):
        open_vmdk(path)


def test_flat_samples_with_the_extents_they_lack(sample):
    source, entry = sample("monolithicSparse.vmdk")
    with open_vmdk(source) as image:
        content = image.read(0, image.size)
    for name, extent in (("monolithicFlat", "-flat"), ("twoGbMaxExtentFlat", "-f001")):
        path, _ = sample(name + ".vmdk")
        path.with_name(f"{name}{extent}.vmdk").write_bytes(content)
        with open_vmdk(path) as image:
            assert digest(image) == entry["guest_sha256"]
            assert image.facts().subformat == name


def test_a_snapshot_sample_with_a_delta(sample, tmp_path):
    sample("vmfs_thick-flat")
    sample("vmfs_thick.vmdk")
    path, entry = sample("vmfs_thick-000001.vmdk")
    (tmp_path / "vmfs_thick-000001-delta.vmdk").write_bytes(cowd({3: b"s" * 512}, entry["virtual_size"] // 512))
    with open_vmdk(path) as image, open_vmdk(tmp_path / "vmfs_thick.vmdk") as base:
        want = base.read(0, base.size)
        want[3 * 512 : 4 * 512] = b"s" * 512
        assert check_views(image) == want
        assert image.facts().parents[0].identifier == "0172e8a4"


def test_the_fuzzers_sample_is_refused(sample):
    path, _ = sample("afl9")
    with pytest.raises(errors.Damaged, match="afl9"):
        open_vmdk(path)


SUBFORMATS = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"]


def make(folder, name, subformat, content, *options):
    raw, path = folder / "content", folder / name
    raw.write_bytes(content)
    extra = [part for option in options for part in ("-o", option)]
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", *extra, raw, path]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_what_qemu_makes(tmp_path, subformat):
    chance = random.Random(subformat)
    content = bytearray(40 * MIB + 65536)
    for at in (0, 70_000, 5 * MIB, 33 * MIB, 40 * MIB):
        piece = chance.randbytes(chance.randrange(1, 65536))
        content[at : at + len(piece)] = piece
    path = make(tmp_path, "a.vmdk", subformat, content)
    with open_vmdk(path) as image:
        assert check_views(image) == content
        facts = image.facts()
        assert facts.subformat == subformat and not facts.parents
        if "Flat" not in subformat:
            assert 5 * 65536 <= facts.allocated_bytes < MIB


@pytest.mark.needs("qemu-img")
def test_zeroed_grains_and_a_chain_of_qemus(tmp_path):
    base = make(tmp_path, "base.vmdk", "monolithicSparse", b"b" * 4 * MIB)
    for name, below, writes in (
        ("one.vmdk", "base.vmdk", ["write -P 0x31 1M 64k", "write -z 2M 128k", "write -P 0x31 3000000 700"]),
        ("two.vmdk", "one.vmdk", ["write -P 0x32 1M 4k", "write -P 0x32 2M 1k"]),
    ):
        options = "zeroed_grain=on,compat6=off"
        create = ["qemu-img", "create", "-f", "vmdk", "-b", below, "-F", "vmdk", "-o", options, name]
        subprocess.run(create, check=True, capture_output=True, cwd=tmp_path)
        command = [part for write in writes for part in ("-c", write)]
        subprocess.run(["qemu-io", *command, name], check=True, capture_output=True, cwd=tmp_path)
    with open_vmdk(tmp_path / "two.vmdk") as image:
        whole = check_views(image)
        assert whole == qemu(tmp_path / "two.vmdk")
        assert len(image.facts().parents) == 2
    assert whole[2 * MIB + 1024 : 2 * MIB + 131072] == bytes(131072 - 1024)
    subprocess.run(["qemu-io", "-c", "write -P 9 0 512", base], check=True, capture_output=True)
    with pytest.raises(errors.Refused, match="content identifier"):
        open_vmdk(tmp_path / "two.vmdk")


def test_descriptors_as_people_write_them(tmp_path):
    (tmp_path / "däta.bin").write_bytes(b"1" * 1024 + b"2" * 2048)
    (tmp_path / "s.vmdk").write_bytes(sparse({0: b"s" * GRAIN}, 128))
    body = (
        'Created by hand\r\n# Disk DescriptorFile\r\nVersion = 3\r\nCID = "1234ABCD"\r\nencoding = "UTF-8"\r\n\r\n'
        'createType=custom\r\nRW 2 FLAT "däta.bin" 2\r\nrdonly 100 sparse "s.vmdk"\r\n  RW 3 ZERO\r\n'
        'rw 1 ZERO\r\nRW 2 FLAT "DÄTA.BIN"\r\n ddb.uuid = "ab cd"\r\nnonsense\r\n'
        'changeTrackPath="x-ctk.vmdk"\r\n'
    )
    path = tmp_path / "a.vmdk"
    for raw in (body.encode(), body.replace("UTF-8", "windows-1252").encode("cp1252")):
        path.write_bytes(raw)
        with open_vmdk(path) as image:
            assert check_views(image) == b"2" * 1024 + b"s" * 51200 + bytes(2048) + b"1" * 1024
            facts = image.facts()
        assert facts.identifiers == {"content_id": "1234abcd", "uuid": "ab cd"}
        assert "tracked" in facts.notes[0]


@pytest.mark.parametrize("line", ['NOACCESS 1 FLAT "a.bin" 0', "noaccess 1 ZERO"])
def test_an_extent_that_is_not_to_be_accessed_is_refused(tmp_path, line):
    (tmp_path / "a.bin").write_bytes(b"1" * 512)
    (tmp_path / "a.vmdk").write_text(f'# Disk DescriptorFile\nCID=1\ncreateType="custom"\nRW 1 ZERO\n{line}\n')
    with pytest.raises(errors.Refused, match=r"a\.vmdk: line 5: an extent of 1 sectors .*NOACCESS"):
        open_vmdk(tmp_path / "a.vmdk")


@pytest.mark.parametrize("at_end", [True, False])
def test_a_stream_by_hand(tmp_path, at_end):
    """Random access through the footer's directory; the last grain is short."""
    chance = random.Random(1)
    capacity = 128 * 300 + 8
    grains = {n: chance.randbytes(GRAIN // 2) * 2 for n in (0, 1, 7, 299)}
    grains[300] = b"end" * 1000 + bytes(1096)
    path = tmp_path / "a.vmdk"
    path.write_bytes(stream(grains, capacity, text=descriptor(SINGLE, kind="streamOptimized"), at_end=at_end))
    want = bytearray(capacity * 512)
    for n, data in grains.items():
        want[n * GRAIN : n * GRAIN + len(data)] = data
    with open_vmdk(path) as image:
        assert check_views(image) == want


def test_tables_that_only_the_redundant_directory_finds(tmp_path):
    path = tmp_path / "a.vmdk"
    text = descriptor(['RW 131072 SPARSE "a.vmdk"'])

    def lose_table(parts):
        parts["directory"][0] = 0x7FFFFFFF

    def lose_directory(parts):
        parts["header"]["directory"] = 0x7FFFFFFF

    for change in (lose_table, lose_directory):
        path.write_bytes(sparse({1: b"x" * GRAIN}, 131072, text=text, change=change))
        with open_vmdk(path) as image:
            assert image.read(GRAIN, GRAIN) == b"x" * GRAIN
    with pytest.raises(errors.Damaged, match="grain table 0"):

        def lose_both(parts):
            lose_table(parts)
            parts["spare"][0] = 0x7FFFFFFF

        path.write_bytes(sparse({1: b"x" * GRAIN}, 131072, text=text, change=lose_both))
        with open_vmdk(path) as image:
            image.read(GRAIN, 1)


@pytest.mark.needs("qemu-img")
def test_old_snapshots_of_esx_as_qemu_reads_them(tmp_path):
    chance = random.Random(3)
    (tmp_path / "d.vmdk").write_bytes(cowd({n: chance.randbytes(512) for n in (0, 1, 5, 4000)}, 4096))
    path = tmp_path / "a.vmdk"
    path.write_text(descriptor(['RW 4096 VMFSSPARSE "d.vmdk"'], kind="vmfsSparse"))
    with open_vmdk(path) as image:
        assert check_views(image) == qemu(path)


def test_a_child_over_flat_extents_of_its_parent(tmp_path):
    (tmp_path / "f.bin").write_bytes(b"p" * 3 * MIB)
    (tmp_path / "p.vmdk").write_text(descriptor(['RW 4096 FLAT "f.bin" 0', 'RW 2048 FLAT "f.bin" 4096']))
    (tmp_path / "s1.vmdk").write_bytes(sparse({2: b"c" * GRAIN, 5: 1}, 4096, flags=7, version=2))
    (tmp_path / "s2.vmdk").write_bytes(sparse({0: b"d" * GRAIN}, 8192))
    lines = ['RW 4096 SPARSE "s1.vmdk"', 'RW 8192 SPARSE "s2.vmdk"']
    (tmp_path / "c.vmdk").write_text(descriptor(lines, parent="00c0ffee", hint="C:\\vms\\P.VMDK"))
    want = bytearray(b"p" * 3 * MIB + bytes(3 * MIB))
    want[2 * GRAIN : 3 * GRAIN] = b"c" * GRAIN
    want[5 * GRAIN : 6 * GRAIN] = bytes(GRAIN)
    want[2 * MIB : 2 * MIB + GRAIN] = b"d" * GRAIN
    with open_vmdk(tmp_path / "c.vmdk") as image:
        assert check_views(image) == want


def test_a_compressed_parent_under_a_plain_child(tmp_path):
    text = descriptor(SINGLE, kind="streamOptimized")
    (tmp_path / "p.vmdk").write_bytes(stream({0: b"p" * GRAIN, 1: b"q" * GRAIN}, 2048, text=text))
    child = descriptor(SINGLE, parent="00c0ffee", hint="p.vmdk")
    (tmp_path / "c.vmdk").write_bytes(sparse({1: b"c" * GRAIN}, 2048, text=child))
    with open_vmdk(tmp_path / "c.vmdk") as image:
        assert image.segments(0, 512) is None
        whole = check_views(image)
    assert whole[: 2 * GRAIN] == b"p" * GRAIN + b"c" * GRAIN and not any(whole[2 * GRAIN :])


def test_a_renamed_sparse_file_is_still_its_own_extent(sample, tmp_path):
    path, entry = sample("monolithicSparse.vmdk")
    moved = tmp_path / "elsewhere" / "disk.vmdk"
    moved.parent.mkdir()
    shutil.move(path, moved)
    with open_vmdk(moved) as image:
        assert digest(image) == entry["guest_sha256"]
