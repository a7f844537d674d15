"""A disk with a dirty log, and what is to be seen of it: through the overlay, and after a replay into a copy."""

from __future__ import annotations

import shutil
import struct
from uuid import UUID

import pytest
from vhdxkit import FULL, MIB, Block, Disk, log_entry

from secondsite.engine import errors
from secondsite.engine.images.vhdx import VhdxImage, replay

LOG = UUID("00112233-4455-6677-8899-aabbccddeeff")
STALE = UUID("00112233-4455-6677-8899-aabbccddee00")
PAGE = 4096


def make_disk(tmp_path):
    """Four blocks of data that an empty table does not know: the log brings it."""
    made = Disk(40 * MIB, log=LOG)
    made.blocks = {n: Block(FULL, {0: b"block %d" % n}) for n in (0, 1, 5, 39)}
    made.path = made.write(tmp_path / "disk.vhdx", bat=False)
    made.end = made.path.stat().st_size
    return made


def table_page(disk, only=None):
    """The first page of the table with the entries of some blocks."""
    page = bytearray(PAGE)
    for at, entry in disk.table().items():
        number = (at - disk.bat_offset) // 8
        if only is None or number in only:
            struct.pack_into("<Q", page, at - disk.bat_offset, entry)
    return bytes(page)


def entry(disk, sequence, tail, writes, *, log=LOG, flushed=None, last=None, **wrong):
    flushed = disk.end if flushed is None else flushed
    return log_entry(log, sequence, tail, writes, flushed=flushed, last=last or disk.end, **wrong)


def in_order(start, *raws):
    """Entries one behind another in the ring."""
    placed = []
    for raw in raws:
        placed.append((start, raw))
        start += len(raw)
    return placed


def present(disk):
    """Which blocks the disk has, read through the overlay and after a replay into a copy."""
    digest = disk.path.read_bytes()
    with VhdxImage(disk.path) as image:
        assert image.facts().log == "dirty"
        before = image.read(0, image.size)
        assert not [finding for finding in image.check() if finding.damaged]
    assert disk.path.read_bytes() == digest
    copy = disk.path.with_name("copy.vhdx")
    shutil.copyfile(disk.path, copy)
    assert replay(copy) > 0
    assert replay(copy) == 0
    with VhdxImage(copy) as image:
        assert image.facts().log == "clean"
        assert image.facts().identifiers["data write guid"] == f"{{{disk.data_write}}}"
        assert image.facts().identifiers["file write guid"] != f"{{{disk.file_write}}}"
        assert image.read(0, image.size) == before
    found = []
    for number in range(disk.count):
        name = b"block %d" % number
        block = before[number * MIB : (number + 1) * MIB]
        if block.startswith(name + b"\0"):
            found.append(number)
            assert block == name.ljust(MIB, b"\0")
        else:
            assert block == bytes(MIB)
    return found


def refused(disk, match, error=errors.Damaged):
    before = disk.path.read_bytes()
    for action in (VhdxImage, replay):
        with pytest.raises(error, match=match) as caught:
            action(disk.path)
        assert caught.value.path == str(disk.path)
    assert disk.path.read_bytes() == before
