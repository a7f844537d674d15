"""One log: what a reader takes and what it refuses. Everything in a file is hostile."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hrlkit import some_writes, write_log

from secondsite.engine import errors
from secondsite.engine.hrl import HrlReader
from secondsite.engine.hrl import format as fmt
from secondsite.engine.hrl.writer import ENTRY_BYTES


def read(path: Path) -> list[tuple[int, bytes]]:
    """All writes of a log, with their data."""
    data = path.read_bytes()
    with HrlReader(str(path)) as reader:
        return [(entry.offset, data[entry.location : entry.location + entry.length]) for entry in reader.entries()]


@pytest.mark.parametrize("count", [0, 1, 126, 127, 128, 300])
def test_what_was_written_is_read(tmp_path: Path, count: int) -> None:
    writes = some_writes(random.Random(count), 1 << 20, count)
    path = write_log(tmp_path / "x.hrl", writes)
    assert read(path) == writes
    with HrlReader(str(path)) as reader:
        header = reader.header
        assert (list(reader.entries()) and reader.unproved_bytes == 0) or not count
    assert (header.entries, header.end, header.current_size) == (count, path.stat().st_size, path.stat().st_size)
    assert (header.unique_id.int, header.previous_id.int, header.created, header.modified) == (2, 1, 1000, 1002)


def test_large_writes_are_split(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(2 * ENTRY_BYTES + 5)
    found = read(write_log(tmp_path / "x.hrl", [(77, data)]))
    assert [(at, len(part)) for at, part in found] == [
        (77, ENTRY_BYTES), (77 + ENTRY_BYTES, ENTRY_BYTES), (77 + 2 * ENTRY_BYTES, 5)
    ]  # fmt: skip
    assert b"".join(part for _, part in found) == data


def test_room_behind_the_end_is_no_harm(tmp_path: Path) -> None:
    path = write_log(tmp_path / "x.hrl", [(0, b"abc")])
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert read(path) == [(0, b"abc")]


def reheaded(data: bytes, **fields: object) -> bytes:
    """The log with other fields in its header, and a checksum that holds."""
    header = fmt.Header.unpack(data[:4096], "x")._replace(**fields)  # type: ignore[arg-type]
    return header.pack() + data[4096:]


HEADERS = {
    "end_0": ({"end": 0}, errors.Refused, "was not closed"),
    "error": ({"error": -2147024784}, errors.Refused, "met error 0x80070070"),
    "past the file": ({"end": 1 << 40}, errors.Damaged, "the log ends at 1099511627776, the file at"),
    "end too early": ({"end": 8191}, errors.Damaged, "before its first metadata block"),
    "odd blocks": ({"metadata_size": 4097}, errors.Damaged, "multiple of 512"),
    "no blocks": ({"metadata_size": 0}, errors.Damaged, "multiple of 512"),
    "huge blocks": ({"metadata_size": 1 << 31}, errors.Damaged, "multiple of 512"),
    "other blocks": ({"metadata_size": 8192}, errors.Damaged, "checksum"),
    "nameless": ({"unique_id": fmt.NIL}, errors.Damaged, "no identifier"),
    "fewer": ({"entries": 1}, errors.Damaged, "1 entries were expected, there are 3"),
    "more": ({"entries": 1 << 60}, errors.Damaged, "there are 3"),
    "another end": ({"end": 12288}, errors.Damaged, "checksum"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(tmp_path: Path, name: str) -> None:
    fields, kind, says = HEADERS[name]
    path = write_log(tmp_path / "x.hrl", [(0, b"a" * 5000), (9, b"b" * 5000), (5, b"c" * 5000)])
    path.write_bytes(reheaded(path.read_bytes(), **fields))
    with pytest.raises(kind, match=says) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def patched(data: bytes, at: int, form: str, value: int, checksum: int, start: int, length: int) -> bytes:
    """A field at `at`, with the checksum at `checksum` over `length` bytes from `start` made to hold."""
    made = bytearray(data)
    struct.pack_into(form, made, at, value)
    made[checksum : checksum + 4] = bytes(4)
    struct.pack_into("<I", made, checksum, ~sum(made[start : start + length]) & 0xFFFFFFFF)
    return bytes(made)


def in_header(at: int, form: str, value: int) -> Callable[[bytes], bytes]:
    return lambda data: patched(data, at, form, value, 40, 0, 4096)


def in_metadata(at: int, form: str, value: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        start = len(data) - 4096
        return patched(data, start + at, form, value, start + 12, start, 32)

    return change


def in_entry(number: int, at: int, form: str, value: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        start = len(data) - 4096 + 32 * (number + 1)
        return patched(data, start + at, form, value, start + 8, start, 32)

    return change


FIELDS = {
    "cookie": (in_header(0, "<B", 0), errors.Damaged, "expected the header of a log"),
    "version 1": (in_header(8, "<I", 0x10000), errors.Refused, "never leaves its host"),
    "version 3": (in_header(8, "<I", 0x30000), errors.NewerFormat, "log version 0x00030000"),
    "type": (in_header(104, "<I", 1), errors.Refused, "type 1"),
    "back too little": (in_metadata(0, "<Q", 4095), errors.Damaged, "cannot lie 4095 bytes back"),
    "back into the header": (in_metadata(0, "<Q", 19097), errors.Damaged, "cannot lie"),
    "back before the file": (in_metadata(0, "<Q", 1 << 63), errors.Damaged, "cannot lie"),
    "no back": (in_metadata(0, "<Q", 0), errors.Damaged, "of data does not hold"),
    "too many": (in_metadata(8, "<I", 128), errors.Damaged, "has room for 127"),
    "one more": (in_metadata(8, "<I", 4), errors.Damaged, "checksum"),
    "one less": (in_metadata(8, "<I", 2), errors.Damaged, "belong to no entry"),
    "offset": (in_entry(1, 0, "<Q", 1 << 63), errors.Damaged, "no write to a disk"),
    "offset wraps": (in_entry(1, 0, "<Q", (1 << 64) - 1), errors.Damaged, "no write to a disk"),
    "length": (in_entry(1, 12, "<I", 0xFFFFFFFF), errors.Damaged, "do not fit before"),
    "no length": (in_entry(1, 12, "<I", 0), errors.Damaged, "no write to a disk"),
    "shorter": (in_entry(2, 12, "<I", 4999), errors.Damaged, "checksum of 4999 bytes of data"),
    "operation": (in_entry(0, 20, "<B", 2), errors.Damaged, "operation 2, expected 1"),
    "data checksum": (in_entry(0, 21, "<I", 5), errors.Damaged, "of data does not hold"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields(tmp_path: Path, name: str) -> None:
    change, kind, says = FIELDS[name]
    path = write_log(tmp_path / "x.hrl", [(0, b"a" * 5000), (9, b"b" * 5000), (5, b"c" * 5000)])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(kind, match=says):
        read(path)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for data in (b"", b"msctlog ", bytes(4096), b"vhdxfile" * 600):
        (tmp_path / "x.hrl").write_bytes(data)
        with pytest.raises(errors.Damaged, match="expected the header of a log"):
            HrlReader(str(tmp_path / "x.hrl"))
    with pytest.raises(errors.Unreachable):
        HrlReader(str(tmp_path / "y.hrl"))
    with pytest.raises(errors.Usage):
        HrlReader(str(tmp_path))


def test_truncated_anywhere(tmp_path: Path, sweep: bool) -> None:
    data = write_log(tmp_path / "x.hrl", some_writes(random.Random(5), 1 << 16, 140)).read_bytes()
    for length in range(0, len(data), 1 if sweep else 997):
        (tmp_path / "x.hrl").write_bytes(data[:length])
        with pytest.raises(errors.Damaged):
            read(tmp_path / "x.hrl")


def test_flipped_bits(tmp_path: Path, sweep: bool) -> None:
    """Every bit that means anything is under a checksum: a log is refused, or it says the same."""
    path, chance = tmp_path / "x.hrl", random.Random(6)
    writes = some_writes(chance, 1 << 12, 5)
    data = write_log(path, writes).read_bytes()
    places = list(range(8 * len(data)))
    refused = 0
    for bit in places if sweep else [*chance.sample(places, 300), *range(8 * 44, 8 * 62)]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert read(path) == writes
        except errors.Error:
            refused += 1
    assert refused > 100


def test_spoiled_with_checksums_that_hold(tmp_path: Path, sweep: bool) -> None:
    """Random fields with right checksums: no crash, no endless walk, one line."""
    path, chance = tmp_path / "x.hrl", random.Random(7)
    original = write_log(path, some_writes(chance, 1 << 14, 130)).read_bytes()
    for _ in range(20000 if sweep else 300):
        data = original
        for _ in range(chance.randint(1, 3)):
            value = chance.choice([0, 1, 127, 4095, 4096, len(data), chance.getrandbits(32), (1 << 63) + 1])
            makers = [
                in_header(chance.choice([12, 24, 32, 44, 56, 92, 96]), "<I", value & 0xFFFFFFFF),
                in_metadata(0, "<Q", value), in_metadata(8, "<I", value & 0xFFFFFFFF),
                in_entry(chance.randrange(3), chance.choice([0, 12, 21]), "<I", value & 0xFFFFFFFF),
            ]  # fmt: skip
            data = chance.choice(makers)(data)
        path.write_bytes(data)
        try:
            read(path)
        except errors.Error as error:
            assert "\n" not in str(error)
