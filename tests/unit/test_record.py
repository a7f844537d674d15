"""Records: one bad byte anywhere loses nothing, and no two make one up."""

from __future__ import annotations

import itertools

import pytest

from secondsite.engine import errors
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.replica import record

# J and * are one bit away from a line feed.
FIELDS = {"name": "Zürich J* \n", "count": 7, "nothing": None}


def test_pack_and_unpack() -> None:
    data = record.pack(FIELDS)
    first, second, rest = data.split(b"\n")
    assert first == second and rest == b"" and data.isascii()
    assert record.unpack(data, "x") == ({"format": 1, **FIELDS}, None)


def test_any_one_bad_bit_is_told_and_does_no_harm() -> None:
    data = record.pack(FIELDS)
    for at, bit in itertools.product(range(len(data)), range(8)):
        bad = bytearray(data)
        bad[at] ^= 1 << bit
        fields, complaint = record.unpack(bytes(bad), "x")
        assert fields == {"format": 1, **FIELDS}, at
        assert complaint is not None and complaint.startswith("x: at byte"), at


def test_every_cut() -> None:
    """With the first line whole it reads; before that it is damaged. It never reads as something else."""
    data = record.pack(FIELDS)
    half = len(data) // 2
    for size in range(len(data)):
        try:
            fields, complaint = record.unpack(data[:size], "x")
        except errors.Damaged:
            assert size < half
        else:
            assert fields == {"format": 1, **FIELDS}
            assert complaint is not None or size == len(data) - 1


def test_a_newer_format() -> None:
    with pytest.raises(errors.NewerFormat, match="x: format 2"):
        record.unpack(record.pack({"format": 2}), "x")


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"[]\n[]\n", b"null\nnull\n", b"1\n", b"\xff\xfe\n", b'{"format":1}\n']
)
def test_what_is_no_record(data: bytes) -> None:
    with pytest.raises(errors.Damaged, match="no record"):
        record.unpack(data, "x")


def test_write_and_read() -> None:
    files = MemoryFiles()
    record.write(files, "/r/x.json", FIELDS)
    assert record.read(files, "/r/x.json")[0]["count"] == 7
    assert files.listdir("/r") == ["x.json"]


@pytest.mark.parametrize(
    ("value", "kind"), [("1", int), (True, int), (1.0, int), (None, str), (7, str), (-1, int), (1 << 63, int)]
)
def test_a_field_of_the_wrong_kind(value: object, kind: type) -> None:
    with pytest.raises(errors.Damaged, match="'n'"):
        record.field({"n": value}, "n", kind, "x")


def test_a_missing_field() -> None:
    with pytest.raises(errors.Damaged, match="'n' should be int"):
        record.field({}, "n", int, "x")
    assert record.field({"n": (1 << 63) - 1}, "n", int, "x") == (1 << 63) - 1
