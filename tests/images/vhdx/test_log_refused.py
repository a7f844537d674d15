"""What a dirty log may not do (formats 1.4): write to the headers, to itself or to nowhere, or lie elsewhere."""

from __future__ import annotations

import struct

import pytest
import vhdxkit
from logkit import LOG, PAGE, entry, in_order, make_disk, present, refused, table_page
from vhdxkit import FULL, KIB, MIB, Disk, data, zeros

from secondsite.engine import errors
from secondsite.engine.images.vhdx import VhdxImage


@pytest.fixture
def disk(tmp_path):
    return make_disk(tmp_path)


@pytest.mark.parametrize("target", [0, 64 * KIB, 128 * KIB, 192 * KIB - PAGE])
@pytest.mark.parametrize("make", [lambda at: data(at, bytes(PAGE)), lambda at: zeros(at, PAGE)])
def test_a_write_to_the_headers(disk, make, target):
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 1, 0, [make(target)]))])
    refused(disk, "behind the headers")


@pytest.mark.parametrize(
    "write",
    [
        data(MIB, bytes(PAGE)), data(2 * MIB - PAGE, bytes(PAGE)), zeros(MIB - PAGE, 2 * PAGE),
        zeros(512 * KIB, 4 * MIB), zeros(2 * MIB - PAGE, 8 * PAGE),
    ],
)  # fmt: skip
def test_a_write_to_the_log_itself(disk, write):
    first = entry(disk, 1, 0, [])
    vhdxkit.put_log(disk.path, disk, in_order(0, first, entry(disk, 2, 0, [write])))
    refused(disk, "in the log itself")


@pytest.mark.parametrize(
    "write",
    [
        data(3 * MIB + 512, bytes(PAGE)), zeros(3 * MIB + 1, PAGE), zeros(3 * MIB, 100),
        zeros(3 * MIB, (1 << 64) - PAGE), data((1 << 64) - PAGE, bytes(PAGE)), zeros(1 << 60, 1 << 60),
    ],
)  # fmt: skip
def test_a_write_to_nowhere(disk, write):
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 1, 0, [write]))])
    refused(disk, "multiples of 4096|no VHDX has more")


def test_a_file_that_would_be_too_long(disk):
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 1, 0, [], last=1 << 60))])
    refused(disk, "would grow")


def test_a_file_that_was_cut(disk):
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 1, 0, [], flushed=disk.end + MIB))])
    refused(disk, "the file was cut")
    older = entry(disk, 1, 0, [], flushed=1 << 50)
    vhdxkit.put_log(disk.path, disk, in_order(0, older, entry(disk, 2, len(older), [])))
    assert present(disk) == []  # only the head's word counts


def test_a_bad_table_out_of_the_log(disk):
    """What the log leaves is checked like what was there before."""
    page = bytearray(table_page(disk))
    struct.pack_into("<Q", page, 8, disk.log_offset | FULL)
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 1, 0, [data(disk.bat_offset, bytes(page))]))])
    with VhdxImage(disk.path) as image, pytest.raises(errors.Damaged, match="in the space of the log"):
        image.read(0, 1)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"length": 0}, "a log of no length"),
        ({"length": 4096}, "multiples of"),
        ({"offset": MIB + 4096}, "multiples of"),
        ({"offset": 0}, "in the first"),
        ({"length": 1025 * MIB}, "at most"),
        ({"offset": 1 << 40}, "the file at"),
        ({"length": 512 * MIB}, "the file at"),
    ],
)
def test_a_log_in_the_wrong_place(disk, fields, match):
    with disk.path.open("r+b") as file:
        disk.write_headers(file, **fields)
    refused(disk, match)


def test_a_newer_log(disk):
    with disk.path.open("r+b") as file:
        disk.write_headers(file, log_version=1)
    refused(disk, "log of version 1", errors.NewerFormat)
    with disk.path.open("r+b") as file:
        disk.write_headers(file, log_version=1, log=vhdxkit.NO_GUID)
    VhdxImage(disk.path).close()  # a clean log may be of any version


def test_a_log_that_is_searched_for_ever_is_refused(tmp_path):
    """Every sector begins an entry of the ring's length, whose checksum fails only at its end."""
    disk = Disk(8 * MIB, log=LOG, log_length=64 * MIB)
    path = disk.write(tmp_path / "disk.vhdx")
    size, number = disk.log_length - PAGE, 5
    with path.open("r+b") as file:
        # Descriptors without data need no sectors of their own.
        count = (size - 64) // 32
        raw = struct.pack("<4sIIIQII16sQQ", b"loge", 1, size, 0, number, count, 0, LOG.bytes_le, 0, 0)
        for at in range(0, disk.log_length, PAGE):
            file.seek(disk.log_offset + at)
            file.write(raw)
    with pytest.raises(errors.Damaged, match="searching them has no end"):
        VhdxImage(path)
