"""VMDKs that lie: nothing crashes, loops, takes all memory, or shows a file that is not the disk's."""

from __future__ import annotations

import resource
import struct
import zlib
from pathlib import Path

import pytest
from vmdkkit import GRAIN, descriptor, header, sparse, stream

from secondsite.engine import errors
from secondsite.engine.images.vmdk import open_vmdk

SINGLE = descriptor(['RW 2048 SPARSE "a.vmdk"'])
STREAM = descriptor(['RW 2048 SPARSE "a.vmdk"'], kind="streamOptimized")


def read_all(path):
    with open_vmdk(path) as image:
        for at in range(0, image.size, 1 << 20):
            image.read(at, min(1 << 20, image.size - at))


def refused(path, raw, error, match):
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode(errors="surrogateescape"))
    with pytest.raises(error, match=match) as caught:
        read_all(path)
    assert str(path.parent) in str(caught.value)


@pytest.mark.parametrize("name", ["/etc/shadow", "../out.bin", "link.bin", "..\\out.bin", "sub/../../out.bin"])
def test_extents_outside_the_folder(tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "out.bin").write_bytes(b"secret" * 1000)
    (inner / "link.bin").symlink_to(tmp_path / "out.bin")
    refused(inner / "a.vmdk", descriptor([f'RW 2 FLAT "{name}" 0']), errors.Refused, "outside")
    refused(
        inner / "b.vmdk", descriptor(['RW 2 ZERO'], parent="1", hint=name), errors.Refused, "outside"
    )


def test_an_allowed_folder(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "out.bin").write_bytes(b"x" * 1024)
    (inner / "a.vmdk").write_text(descriptor(['RW 2 FLAT "../out.bin" 0']))
    with open_vmdk(inner / "a.vmdk", allow=[str(tmp_path)]) as image:
        assert image.read(0, 1024) == b"x" * 1024


def test_devices_and_folders_are_no_extents(tmp_path):
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "a.vmdk", descriptor(['RW 2 FLAT "folder" 0']), errors.Usage, "directory")
    refused(tmp_path / "a.vmdk", descriptor(['RW 2 FLAT "" 0']), errors.Damaged, "without the name")


DESCRIPTORS = {
    "too many extents": (descriptor(["RW 1 ZERO"] * 5000), errors.Refused, "more than 4096"),
    "a million extents": (descriptor(["RW 1 ZERO"] * 1_000_000), errors.Refused, "descriptor of"),
    "too many sectors": (descriptor([f"RW {1 << 37} ZERO"] * 3), errors.Damaged, "sectors in all"),
    "a huge number": (descriptor([f"RW {10**19} ZERO"]), errors.Damaged, "sectors"),
    "a long number": (descriptor([f"RW {'9' * 100_000} ZERO"]), errors.Damaged, "without extents"),
    "no extents": (descriptor([]), errors.Damaged, "without extents"),
    "an unknown type": (descriptor(['RW 1 MAGIC "a"']), errors.Damaged, "MAGIC"),
    "sesparse": (descriptor(['RW 1 SESPARSE "a"']), errors.Refused, "SESPARSE"),
    "a raw device": (descriptor(['RW 1 VMFSRDM "a"']), errors.Refused, "raw device"),
    "encrypted": (descriptor(["RW 1 ZERO"]).replace("version=1", "version=2"), errors.Refused, "encrypted"),
    "encrypted 2": (descriptor(["RW 1 ZERO"], more='encryption.keySafe = "x"'), errors.Refused, "encrypted"),
    "newer": (descriptor(["RW 1 ZERO"]).replace("version=1", "version=7"), errors.NewerFormat, "7"),
    "no identifier": (descriptor(["RW 1 ZERO"], cid="xyz"), errors.Damaged, "cid"),
    "a missing parent": (descriptor(["RW 1 ZERO"], parent="1", hint="p.vmdk"), errors.Refused, r"p\.vmdk"),
    "a parent without a name": (descriptor(["RW 1 ZERO"], parent="1"), errors.Refused, "without a name"),
    "a long name": (descriptor([f'RW 1 FLAT "{"n" * 5000}" 0']), errors.Unreachable, "not there"),
    "a deep name": (descriptor([f'RW 1 FLAT "{"n/" * 5000}x" 0']), errors.Unreachable, "n/n"),
    "strange letters": ('RW 1 FLAT "\udcff\x01\x7f\u2028" 0\ncreateType=x\nCID=1', errors.Error, "a.vmdk"),
    "itself as parent": (descriptor(["RW 1 ZERO"], parent="00c0ffee", hint="a.vmdk"), errors.Refused, "comes back"),
    "no vmdk": ("hello", errors.Damaged, "KDMV"),
    "nothing": ("", errors.Damaged, "KDMV"),
    "a bare cowd": ("COWD" + "x" * 600, errors.Refused, "COWD"),
}


@pytest.mark.parametrize("what", DESCRIPTORS)
def test_descriptors(tmp_path, what):
    refused(tmp_path / "a.vmdk", *DESCRIPTORS[what])


def test_a_bare_sesparse(tmp_path):
    refused(tmp_path / "a.vmdk", struct.pack("<Q", 0xCAFEBABE) + bytes(600), errors.Refused, "SESPARSE")


def changed(**fields):
    return sparse({0: b"x" * GRAIN}, 2048, text=SINGLE, change=lambda parts: parts["header"].update(fields))


SPARSE = {
    "capacity": (changed(capacity=1 << 60), errors.Damaged, "capacity"),
    "capacity overflow": (changed(capacity=(1 << 64) - 1), errors.Damaged, "capacity"),
    "grain 0": (changed(grain=0), errors.Damaged, "grains of 0"),
    "grain 3": (changed(grain=3), errors.Damaged, "power of two"),
    "grain huge": (changed(grain=1 << 63), errors.Damaged, "power of two"),
    "entries 0": (changed(entries=0), errors.Damaged, "grain tables of 0"),
    "entries huge": (changed(entries=0xFFFFFFFF), errors.Damaged, "grain tables of 4294967295"),
    "directory": (changed(directory=1 << 50, flags=1), errors.Damaged, "grain directory"),
    "directory 0": (changed(directory=0, flags=1), errors.Damaged, "grain directory"),
    "version": (changed(version=4), errors.NewerFormat, "version 4"),
    "text mode": (changed(newlines=b"\n \n\n"), errors.Damaged, "as if it were text"),
    "descriptor": (changed(text_sectors=1 << 40), errors.Damaged, "descriptor of"),
    "one extent": (changed(text_at=0), errors.Refused, "one extent of a disk"),
    "compression": (changed(flags=0x30001, compress=9), errors.Refused, "method 9"),
    "grain past the end": (sparse({3: 1 << 30}, 2048, text=SINGLE), errors.Damaged, "grain 3"),
    "grain in the header": (sparse({3: 2}, 2048, text=SINGLE), errors.Damaged, "grain 3"),
    "grain of one": (sparse({3: 1}, 2048, text=SINGLE), errors.Damaged, "grain 3"),
    "cut": (sparse({0: b"x" * GRAIN}, 2048, text=SINGLE)[:-1], errors.Damaged, "grain 0"),
    "only a header": (header(2048), errors.Damaged, "grain directory"),
    "less than a header": (header(2048)[:100], errors.Damaged, "100 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPARSE)
def test_sparse_extents(tmp_path, what):
    refused(tmp_path / "a.vmdk", *SPARSE[what])


def bomb(_):
    return zlib.compress(bytes(64 << 20), 9)


GOOD = {0: b"x" * GRAIN}
STREAMS = {
    "bomb": (stream(GOOD, 2048, text=STREAM, pack=bomb), errors.Damaged, "more than the 65536"),
    "short": (stream(GOOD, 2048, text=STREAM, pack=lambda d: zlib.compress(d[:-1])), errors.Damaged, "65535 bytes"),
    "cut": (stream(GOOD, 2048, text=STREAM, pack=lambda d: zlib.compress(d)[:-2]), errors.Damaged, "inflates to"),
    "noise": (stream(GOOD, 2048, text=STREAM, pack=lambda d: b"noise" * 9), errors.Damaged, "does not inflate"),
    "empty": (stream(GOOD, 2048, text=STREAM, pack=lambda d: b""), errors.Damaged, "names 0 compressed"),
    "long": (stream(GOOD, 2048, text=STREAM, pack=lambda d: bytes(200_000)), errors.Damaged, "names 200000"),
    "another grain": (stream(GOOD, 2048, text=STREAM, lba=128), errors.Damaged, "marker names sector 128"),
    "no footer": (stream(GOOD, 2048, text=STREAM)[:-512], errors.Damaged, "footer"),
    "too short": (stream(GOOD, 2048, text=STREAM)[:1024], errors.Damaged, "footer"),
}  # fmt: skip


@pytest.mark.parametrize("what", STREAMS)
def test_streams(tmp_path, what):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "a.vmdk", *STREAMS[what])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB


def test_a_flat_file_that_is_too_short(tmp_path):
    (tmp_path / "f.bin").write_bytes(bytes(1000))
    refused(tmp_path / "a.vmdk", descriptor(['RW 2 FLAT "f.bin" 0']), errors.Damaged, "file of 1000")


def test_tables_that_point_at_each_other(tmp_path):
    """Every directory entry names the directory itself: reading ends, with an error or with the bytes there."""

    def loop(parts):
        parts["directory"] = [parts["header"]["directory"]] * len(parts["directory"])
        parts["header"]["flags"] = 1

    path = tmp_path / "a.vmdk"
    path.write_bytes(sparse(GOOD, 65536 * 40, text=SINGLE, change=loop))
    with pytest.raises(errors.Damaged):
        read_all(path)


def test_no_file_stays_open(tmp_path):
    fds = Path("/proc/self/fd")
    before = len(list(fds.iterdir()))
    for raw, error, _ in (*SPARSE.values(), *STREAMS.values()):
        (tmp_path / "a.vmdk").write_bytes(raw)
        with pytest.raises(error):
            read_all(tmp_path / "a.vmdk")
    assert len(list(fds.iterdir())) == before
