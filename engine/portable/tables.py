"""Walks over the allocation tables of VHD and VMDK. The portable `_tables`."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secondsite.engine.portable import MAX_OFFSET, released, unsigned, view

if TYPE_CHECKING:
    from typing_extensions import Buffer

Longs = npt.NDArray[np.int64]
Pieces = tuple["array[int]", "array[int]", "array[int]"]

_SECTOR = 512
_NONE = 0xFFFFFFFF
_MAX_UNIT = 1 << 31


def _flat(code: str, values: npt.NDArray[Any]) -> array[int]:
    made = array(code)
    made.frombytes(values.astype(code).tobytes())
    return made


def _finish(fds: Longs, offsets: Longs, lengths: Longs) -> Pieces:
    """Pieces that touch made one, as the native kernel makes them."""
    some = lengths > 0
    fds, lengths = fds[some], lengths[some]
    offsets = np.where(fds < 0, 0, offsets[some])
    if len(fds):
        joined = (fds[1:] == fds[:-1]) & ((fds[1:] < 0) | (offsets[:-1] + lengths[:-1] == offsets[1:]))
        starts = np.concatenate(([0], np.flatnonzero(~joined) + 1))
        fds, offsets, lengths = fds[starts], offsets[starts], np.add.reduceat(lengths, starts)
    return _flat("i", fds), _flat("q", offsets), _flat("q", lengths)


def _check_range(entries: int, unit: int, start: int, length: int) -> None:
    unsigned(unit, start, length)
    if unit == 0 or unit > _MAX_UNIT or entries > _NONE:
        raise ValueError(f"a table of {entries} entries of {unit} bytes each")
    if start > entries * unit or length > entries * unit - start:
        raise ValueError(f"{length} bytes at {start} of a table for {entries * unit}")


def _cut(unit: int, start: int, length: int) -> tuple[Longs, Longs, Longs]:
    """A range cut at the borders of its units: the unit of each part, where in it the part begins and ends."""
    first, past = start // unit, -(-(start + length) // unit)
    units = np.arange(first, past if length else first, dtype=np.int64)
    begins, ends = np.zeros_like(units), np.full_like(units, unit)
    if len(units):
        begins[0], ends[-1] = start - first * unit, start + length - (past - 1) * unit
    return units, begins, ends


def _raw(table: Buffer, dtype: str) -> npt.NDArray[np.uint32]:
    """The entries as they lie there: a walk over a small range must not copy a large table."""
    raw = view(table, np.uint8)
    return np.frombuffer(raw[: len(raw) // 4 * 4].data, dtype)


def _entries(table: Buffer, dtype: str) -> Longs:
    return _raw(table, dtype).astype(np.int64)


@released
def vhd_map(
    table: Buffer,
    bitmaps: Buffer | None,
    fd: int,
    block_size: int,
    head: int,
    start: int,
    length: int,
    hole: int,
) -> Pieces:
    """Blocks of a VHD: `table` is the BAT, `head` the bytes of a block's bitmap before its data.

    `bitmaps`, for a differencing file, holds `head` bytes for each block from the one that `start` lies in; a
    clear bit is a hole. Without it a block that is present is present whole.
    """
    bat = _raw(table, ">u4")
    _check_range(len(bat), block_size, start, length)
    if head > _MAX_UNIT:
        raise ValueError(f"bitmaps of {head} bytes")
    unsigned(head)
    blocks, begins, ends = _cut(block_size, start, length)
    unit = block_size
    if bitmaps is not None and length:
        if head * 8 * _SECTOR < block_size or block_size % _SECTOR:
            raise ValueError("the bitmap of a block is too short, or a block is not of whole sectors")
        bits = view(bitmaps, np.uint8)
        if len(bits) < len(blocks) * head:
            raise ValueError("fewer bitmaps than blocks")
        set_bits = np.unpackbits(bits[: len(blocks) * head].reshape(-1, head), axis=1).astype(bool)
        unit = _SECTOR
        first = int(blocks[0])
        sectors, begins, ends = _cut(unit, start, length)
        blocks = sectors // (block_size // unit)
        within = sectors % (block_size // unit)
        entries = bat[blocks].astype(np.int64)
        present = (entries != _NONE) & set_bits[blocks - first, within]
        begins, ends = begins + within * unit, ends + within * unit
    else:
        entries = bat[blocks].astype(np.int64)
        present = entries != _NONE
    offsets = entries * _SECTOR + head + begins
    return _finish(np.where(present, fd, hole), offsets, ends - begins)


@released
def vhd_check(table: Buffer, block_size: int, head: int, size: int, file_size: int, reserved: Buffer) -> int:
    """Is each block inside the file, and clear of the reserved ranges? The first entry that is not, or -1.

    `reserved` holds pairs (start, end) in bytes. Of the block in which the disk (of `size` bytes) ends only the
    part inside the disk must be there.
    """
    bat = _entries(table, ">u4")
    _check_range(len(bat), block_size, 0, 0)
    unsigned(head, size, file_size)
    if head > _MAX_UNIT:
        raise ValueError(f"bitmaps of {head} bytes")
    need = np.clip(size - np.arange(len(bat), dtype=np.int64) * block_size, 0, block_size)
    start, stop = bat * _SECTOR, bat * _SECTOR + head + need
    wrong = stop > file_size
    pairs = view(reserved, np.int64)
    for low, high in pairs[: len(pairs) // 2 * 2].reshape(-1, 2).tolist():
        wrong |= (start < high) & (stop > low)
    bad = np.flatnonzero(wrong & (bat != _NONE))
    return int(bad[0]) if len(bad) else -1


@released
def vhd_survey(table: Buffer, stride: int) -> tuple[int, int, int]:
    """(blocks present, the highest entry or 0, an entry that overlaps the one before it or -1)."""
    bat = _entries(table, ">u4")
    unsigned(stride)
    found = np.sort(bat[bat != _NONE])
    close = np.flatnonzero(np.diff(found) < stride)
    clash = int(found[close[0] + 1]) if len(close) else -1
    return len(found), int(found[-1]) if len(found) else 0, clash


@released
def grain_map(
    tables: Buffer,
    fd: int,
    grain: int,
    start: int,
    length: int,
    hole: int,
    zeros: bool,
    packed: int,
    first_sector: int,
    file_size: int,
) -> tuple[array[int], array[int], array[int], int]:
    """Grains of a VMDK sparse extent: `tables` is its grain tables one after another.

    An entry is the sector of a grain; 0 is a hole, and where `zeros` is set 1 is zeros. With `packed` >= 0
    grains are compressed: no file range holds their bytes, and a piece's offset is `packed` plus its place in
    the range of the tables. Gives (fds, offsets, lengths, bad): `bad` is the index of the first entry in the
    range that does not lie between `first_sector` and the end of the file, with which the walk ended, or -1.
    """
    table = _raw(tables, "<u4")
    _check_range(len(table), grain, start, length)
    unsigned(first_sector, file_size)
    if packed > MAX_OFFSET - start - length:
        raise ValueError("a range past the end of all offsets")
    grains, begins, ends = _cut(grain, start, length)
    entry = table[grains].astype(np.int64)
    empty, zero = entry == 0, (entry == 1) & bool(zeros)
    need = ends if packed < 0 else np.full_like(ends, _SECTOR)
    wrong = ~empty & ~zero & ((entry < first_sector) | (entry * _SECTOR + need > file_size))
    bad = -1
    if wrong.any():
        at = int(wrong.argmax())
        bad = int(grains[at])
        grains, begins, ends, entry = grains[:at], begins[:at], ends[:at], entry[:at]
        empty, zero = empty[:at], zero[:at]
    offsets = entry * _SECTOR + begins if packed < 0 else packed + grains * grain + begins
    fds = np.where(empty, hole, np.where(zero, -1, fd))
    return *_finish(fds, offsets, ends - begins), bad


@released
def grain_count(tables: Buffer, zeros: bool) -> int:
    """How many entries of grain tables name a grain."""
    table = _entries(tables, "<u4")
    return int(np.count_nonzero(table > (1 if zeros else 0)))


def _total(fds: Buffer, offsets: Buffer, lengths: Buffer) -> int:
    sizes = view(lengths, np.int64)
    if not len(view(fds, np.int32)) == len(view(offsets, np.int64)) == len(sizes):
        raise ValueError("the lists of pieces differ in length")
    if len(sizes) and (int(sizes.min()) < 0 or sum(sizes.tolist()) > MAX_OFFSET):
        raise ValueError("a piece has too many bytes, or fewer than none")
    return int(sizes.sum())


@released
def overlay(
    fds: Buffer,
    offsets: Buffer,
    lengths: Buffer,
    below_fds: Buffer,
    below_offsets: Buffer,
    below_lengths: Buffer,
    hole: int,
) -> Pieces:
    """Pieces of a layer with its holes filled from those of the layer below, which cover the same range."""
    if _total(fds, offsets, lengths) != _total(below_fds, below_offsets, below_lengths):
        raise ValueError("the two layers cover ranges of different length")
    top_ends, low_ends = np.cumsum(view(lengths, np.int64)), np.cumsum(view(below_lengths, np.int64))
    edges = np.unique(np.concatenate(([0], top_ends, low_ends)))
    at, sizes = edges[:-1], np.diff(edges)
    top, low = np.searchsorted(top_ends, at, "right"), np.searchsorted(low_ends, at, "right")
    top_starts, low_starts = top_ends - view(lengths, np.int64), low_ends - view(below_lengths, np.int64)
    names, low_names = view(fds, np.int32).astype(np.int64), view(below_fds, np.int32).astype(np.int64)
    through = names[top] == hole
    upper = view(offsets, np.int64)[top] + at - top_starts[top]
    lower = view(below_offsets, np.int64)[low] + at - low_starts[low]
    return _finish(np.where(through, low_names[low], names[top]), np.where(through, lower, upper), sizes)


@released
def zero_runs(fds: Buffer, lengths: Buffer) -> array[int]:
    """Lengths of runs by turns: zeros (fd below 0), data, zeros, data; the first may be 0."""
    data, sizes = view(fds, np.int32) >= 0, view(lengths, np.int64)
    if len(data) != len(sizes):
        raise ValueError("the lists of pieces differ in length")
    data, sizes = np.concatenate(([False], data)), np.concatenate(([0], sizes))
    starts = np.concatenate(([0], np.flatnonzero(np.diff(data)) + 1))
    return _flat("q", np.add.reduceat(sizes, starts))
