"""Dirty logs (formats 1.4): which entries count, what they write, and how that gets into the file.

Every case that opens is read twice: through the overlay, and from a copy into which the log was replayed.
"""

from __future__ import annotations

import os
import random
import struct
from uuid import UUID

import pytest
import vhdxkit
from logkit import LOG, PAGE, STALE, entry, in_order, make_disk, present, refused, table_page
from vhdxkit import FULL, KIB, MIB, PARTIAL, ZERO, Block, Disk, data, log_entry, zeros

from secondsite.engine import errors
from secondsite.engine.images.vhdx import VhdxImage, replay


@pytest.fixture
def disk(tmp_path):
    return make_disk(tmp_path)


# -- what is replayed -------------------------------------------------------------------------------------------


def test_one_entry(disk):
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 1, 0, [data(disk.bat_offset, table_page(disk))]))])
    assert present(disk) == [0, 1, 5, 39]


def test_an_entry_that_writes_nothing(disk):
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 1, 0, []))])
    assert present(disk) == []


@pytest.mark.parametrize("start", [0, 4096 * 9, MIB - 4096, MIB - 8192, MIB - 12288])
def test_three_entries_wherever_they_begin(disk, start):
    """Also round the end of the ring: between two entries, inside one, and inside its descriptors' sector."""
    raws = [entry(disk, n, start, [data(disk.bat_offset, table_page(disk, s))]) for n, s in
            [(5, {0}), (6, {0, 1}), (7, {0, 1, 5})]]  # fmt: skip
    vhdxkit.put_log(disk.path, disk, in_order(start, *raws))
    assert present(disk) == [0, 1, 5]


def test_only_from_the_tail_on(disk):
    """What lies before the last entry's tail was applied long ago, and may have been overwritten since."""
    first = entry(disk, 1, 0, [data(disk.bat_offset, b"\xff" * PAGE)])
    second = entry(disk, 2, len(first), [data(disk.bat_offset, table_page(disk, {1}))])
    third = entry(disk, 3, len(first), [zeros(disk.bat_offset + PAGE, PAGE)])
    vhdxkit.put_log(disk.path, disk, in_order(0, first, second, third))
    assert present(disk) == [1]
    with VhdxImage(disk.path) as image:
        assert len(image.top.replay.entries) == 2


def test_later_entries_win(disk):
    page = table_page(disk)
    raws = [
        entry(disk, 1, 0, [data(disk.bat_offset, page), zeros(disk.bat_offset, 8 * PAGE)]),
        entry(disk, 2, 0, [data(disk.bat_offset + PAGE, b"\7" * PAGE), data(disk.bat_offset, table_page(disk, {39}))]),
        entry(disk, 3, 0, [zeros(disk.bat_offset + PAGE, PAGE)]),
    ]
    vhdxkit.put_log(disk.path, disk, in_order(0, *raws))
    assert present(disk) == [39]


def test_zeros_over_a_table_that_is_there(disk):
    vhdxkit.patch(disk.path, disk.bat_offset, table_page(disk))
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 1, 0, [zeros(disk.bat_offset, 64 * KIB)]))])
    assert present(disk) == []


def test_many_descriptors(disk):
    """126 in the first sector, 128 in each further one."""
    for count in (126, 127, 126 + 128, 126 + 129):
        writes = [zeros(disk.bat_offset + PAGE * (n + 1), PAGE) for n in range(count - 1)]
        writes.insert(count // 2, data(disk.bat_offset, table_page(disk, {count % 2})))
        vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 9, 0, writes))])
        assert present(disk) == [count % 2]


def test_page_borders_come_from_the_descriptor(disk):
    """Its first eight bytes and its last four; a page full of data has all of them right."""
    page = bytearray(random.Random(1).randbytes(PAGE))
    at = disk.places[0]  # against all custom a page of payload
    vhdxkit.put_log(
        disk.path, disk, [(0, entry(disk, 1, 0, [data(disk.bat_offset, table_page(disk)), data(at, page)]))]
    )
    with VhdxImage(disk.path) as image:
        assert image.read(0, 2 * PAGE) == page + bytes(PAGE)
        assert image.read(4090, 10) == page[4090:] + bytes(4)
        assert image.read(100, 10) == page[100:110]


def test_metadata_and_regions_are_read_as_the_log_leaves_them(disk, tmp_path):
    """The log moves the table elsewhere, and makes the disk larger."""
    moved = disk.end
    regions = [(guid, moved if guid == vhdxkit.BAT else at, n, r) for guid, at, n, r in disk.regions()]
    table = vhdxkit.region_table(regions)
    items = [(g, f, struct.pack("<Q", 41 * MIB) if g == vhdxkit.DISK_SIZE else c) for g, f, c in disk.items()]
    metadata = vhdxkit.metadata_region(items)
    writes = [data(at + n, table[n : n + PAGE]) for at in (192 * KIB, 256 * KIB) for n in range(0, 64 * KIB, PAGE)]
    writes += [data(disk.metadata_offset + 64 * KIB, metadata[64 * KIB : 68 * KIB])]
    writes += [data(moved, table_page(disk))]
    raw = entry(disk, 1, 0, writes, last=disk.end + MIB)
    vhdxkit.put_log(disk.path, disk, [(0, raw)])
    with VhdxImage(disk.path) as image:
        assert image.size == 41 * MIB
        assert image.read(0, 7) == b"block 0"
        assert image.top.container.size == disk.end + MIB
    replay(disk.path)
    assert disk.path.stat().st_size == disk.end + MIB
    with VhdxImage(disk.path) as image:
        assert image.size == 41 * MIB
        assert image.read(39 * MIB, 8) == b"block 39"


@pytest.mark.parametrize("how", ["last", "data", "zeros"])
def test_the_log_makes_the_file_longer(disk, how):
    """A block behind the end of the file, where nothing was written: zeros, or what the log puts there."""
    end = disk.end
    page = bytearray(table_page(disk))
    struct.pack_into("<Q", page, disk.entry_at(2) - disk.bat_offset, end | FULL)
    writes = [data(disk.bat_offset, bytes(page))]
    if how == "data":
        writes += [data(end + 16 * PAGE, b"\5" * PAGE), zeros(end + MIB - PAGE, PAGE)]
    if how == "zeros":
        writes += [zeros(end, MIB)]
    raw = entry(disk, 1, 0, writes, last=end + MIB if how == "last" else end)
    vhdxkit.put_log(disk.path, disk, [(0, raw)])
    block = bytearray(MIB)
    if how == "data":
        block[16 * PAGE : 17 * PAGE] = b"\5" * PAGE
    for _ in range(2):
        with VhdxImage(disk.path) as image:
            assert image.read(2 * MIB, MIB) == block
            assert image.read(MIB, 7) == b"block 1"
        replay(disk.path)
    assert disk.path.stat().st_size == end + MIB


def test_bitmaps_come_through_the_log(tmp_path):
    base = Disk(8 * MIB)
    base.blocks = {0: Block(FULL, {0: b"\1" * MIB})}
    base.write(tmp_path / "base.vhdx")
    child = Disk(8 * MIB, parent=base, parent_path="base.vhdx", log=LOG, seed=5)
    child.blocks = {0: Block(PARTIAL, {0: b"\2" * MIB}, [(0, 1)]), 1: Block(ZERO)}
    path = child.write(tmp_path / "child.vhdx")
    bitmap = bytes([0b10]) + bytes(PAGE - 1)
    end = path.stat().st_size
    raw = log_entry(LOG, 1, 0, [data(child.bitmap_places[0], bitmap)], flushed=end, last=end)
    vhdxkit.put_log(path, child, [(0, raw)])
    for _ in range(2):
        with VhdxImage(path) as image:
            assert image.read(0, 2048) == b"\1" * 512 + b"\2" * 512 + b"\1" * 1024
            assert [tuple(e) for e in image.changed_since_parent()] == [(512, 512, False), (MIB, MIB, True)]
        replay(path)


# -- which sequence counts --------------------------------------------------------------------------------------


def test_entries_of_another_log_do_not_count(disk):
    stale = entry(disk, 90, 0, [data(disk.bat_offset, table_page(disk, {39}))], log=STALE)
    fresh = entry(disk, 3, len(stale), [data(disk.bat_offset, table_page(disk, {5}))])
    after = entry(disk, 4, 0, [data(disk.bat_offset, table_page(disk, {0}))], log=STALE)
    vhdxkit.put_log(disk.path, disk, in_order(0, stale, fresh, after))
    assert present(disk) == [5]


def test_the_sequence_with_the_highest_head_counts(disk):
    old = [entry(disk, n, 40 * PAGE, [data(disk.bat_offset, table_page(disk, {0}))]) for n in (1, 2, 3, 4)]
    new = [entry(disk, n, 8 * PAGE, [data(disk.bat_offset, table_page(disk, {1}))]) for n in (10, 11)]
    vhdxkit.put_log(disk.path, disk, in_order(40 * PAGE, *old) + in_order(8 * PAGE, *new))
    assert present(disk) == [1]


def test_a_sequence_whose_tail_is_gone_does_not_count(disk):
    """Its last entry needs entries that were overwritten; the older sequence, which is complete, counts."""
    torn = [entry(disk, n, 100 * PAGE, [data(disk.bat_offset, table_page(disk, {39}))]) for n in (20, 21)]
    whole = [entry(disk, n, 40 * PAGE, [data(disk.bat_offset, table_page(disk, {5}))]) for n in (1, 2)]
    vhdxkit.put_log(disk.path, disk, in_order(0, *torn) + in_order(40 * PAGE, *whole))
    assert present(disk) == [5]


def test_numbers_with_a_gap_are_two_sequences(disk):
    first = entry(disk, 1, 0, [data(disk.bat_offset, table_page(disk, {0}))])
    second = entry(disk, 3, len(first), [data(disk.bat_offset, table_page(disk, {1}))])
    vhdxkit.put_log(disk.path, disk, in_order(0, first, second))
    assert present(disk) == [1]
    vhdxkit.put_log(disk.path, disk, in_order(0, first, entry(disk, 3, 0, [])))
    assert present(disk) == [0]  # the head's tail is not in its own sequence


@pytest.mark.parametrize(
    "wrong",
    [
        {"broken": True},
        {"signature": b"logf"},
        {"length": 3 * PAGE},
        {"length": PAGE},
        {"length": PAGE + 512},
        {"length": MIB},
        {"length": 0},
        {"length": 1 << 31},
        {"count": 2},
        {"count": 0},
        {"count": 1 << 31},
        {"count": (1 << 32) - 1},
    ],
    ids=str,
)
def test_a_torn_last_entry_ends_the_sequence(disk, wrong):
    first = entry(disk, 1, 0, [data(disk.bat_offset, table_page(disk, {0}))])
    second = entry(disk, 2, 0, [data(disk.bat_offset, table_page(disk, {1}))], **wrong)
    vhdxkit.put_log(disk.path, disk, in_order(0, first, second))
    assert present(disk) == [0]
    vhdxkit.put_log(disk.path, disk, [(0, bytes(len(first)))])
    refused(disk, "no complete sequence")


@pytest.mark.parametrize(
    "wrong",
    [{"sequence": 9}, {"signature": b"dezc"}, {"high": 1}, {"low": 9}, {"mark": b"dada"}],
    ids=str,
)
def test_a_descriptor_or_sector_of_another_entry_ends_the_sequence(disk, wrong):
    """The checksum is right: only the descriptor, or the number in the data sector, is not."""
    first = entry(disk, 1, 0, [data(disk.bat_offset, table_page(disk, {0}))])
    second = entry(disk, 2, 0, [data(disk.bat_offset, table_page(disk, {1}), **wrong)])
    vhdxkit.put_log(disk.path, disk, in_order(0, first, second))
    assert present(disk) == [0]


@pytest.mark.parametrize("tail", [PAGE, 512, MIB, MIB - PAGE, (1 << 32) - PAGE])
def test_a_tail_that_names_no_entry_of_the_sequence(disk, tail):
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 1, tail, [data(disk.bat_offset, table_page(disk))]))])
    refused(disk, "no complete sequence")


def test_sequence_number_0_is_none(disk):
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 0, 0, []))])
    refused(disk, "no complete sequence")


def test_large_sequence_numbers(disk):
    top = (1 << 64) - 2
    first = entry(disk, top, 0, [data(disk.bat_offset, table_page(disk, {0}))])
    second = entry(disk, top + 1, 0, [data(disk.bat_offset, table_page(disk, {1}))])
    vhdxkit.put_log(disk.path, disk, in_order(0, first, second))
    assert present(disk) == [1]


def test_an_empty_log_that_the_header_names(disk):
    refused(disk, "no complete sequence")


# -- replay into the file -----------------------------------------------------------------------------------------


def test_a_replay_that_is_cut_short_can_be_repeated(disk, monkeypatch):
    """Power fails after each of its writes in turn; then it runs again, to the same end."""
    page = table_page(disk)
    raws = [entry(disk, 1, 0, [data(disk.bat_offset, page), zeros(disk.bat_offset + PAGE, 4 * PAGE)]),
            entry(disk, 2, 0, [data(disk.end, b"\3" * PAGE)], last=disk.end + MIB)]  # fmt: skip
    vhdxkit.put_log(disk.path, disk, in_order(0, *raws))
    with VhdxImage(disk.path) as image:
        expected = image.read(0, image.size)
    original, real = disk.path.read_bytes(), os.pwrite
    for calls in range(8):
        disk.path.write_bytes(original)
        left = [calls]

        def failing(fd, raw, at, left=left):
            if os.readlink(f"/proc/self/fd/{fd}") == str(disk.path):
                if left[0] == 0:
                    raise OSError(5, "power")
                left[0] -= 1
            return real(fd, raw, at)

        monkeypatch.setattr(os, "pwrite", failing)
        try:
            replay(disk.path)
            done = True
        except errors.Unreachable:
            done = False
        monkeypatch.setattr(os, "pwrite", real)
        with VhdxImage(disk.path) as image:
            assert image.read(0, image.size) == expected
        replay(disk.path)
        with VhdxImage(disk.path) as image:
            assert image.facts().log == "clean"
            assert image.read(0, image.size) == expected
        if done:
            return
    pytest.fail("a replay of two pages never came to its end")


def test_replay_writes_both_headers_in_the_right_order(disk):
    vhdxkit.put_log(disk.path, disk, [(0, entry(disk, 1, 0, []))])
    new = UUID(int=77)
    assert replay(disk.path, new_guid=lambda: new) == 1
    raw = disk.path.read_bytes()
    fields = {"file_write": new, "data_write": disk.data_write}
    # Slot 1 had number 8, so slot 0 was written first.
    assert raw[64 * KIB : 68 * KIB] == vhdxkit.header(9, **fields)
    assert raw[128 * KIB : 132 * KIB] == vhdxkit.header(10, **fields)


def test_replay_of_a_clean_file_writes_nothing(disk):
    with disk.path.open("r+b") as file:
        disk.write_headers(file, log=vhdxkit.NO_GUID)
    before = disk.path.read_bytes()
    assert replay(disk.path) == 0
    assert disk.path.read_bytes() == before
