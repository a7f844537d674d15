"""The worked example of MS-HRL section 3: a log of Windows, 58 writes, 332,288 bytes. Its data was not published."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

import pytest

from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.hrl import HrlReader
from secondsite.engine.hrl import format as fmt

HERE = Path(__file__).parent
HEADER = fmt.Header(
    unique_id=UUID("572fc7ff-1f03-49ab-b3c5-30a665b8e20c"),
    previous_id=UUID("a8ae4b46-f7ad-4402-87aa-5b33e9f89c77"),
    data_write_guid=UUID("b9be5c57-f8be-5503-98bb-6c44faf9ac87"),
    created=539842380,
    modified=539842384,
    original_size=0,
    current_size=332288,
    end=332288,
    entries=58,
    creator=b"ct  ",
    creator_version=0xA0000,
)


def rows() -> list[tuple[int, ...]]:
    """(length, offset, time, checksum) of entries 1 to 58."""
    return [tuple(map(int, line.split())) for line in (HERE / "example.txt").read_text().splitlines()]


def metadata(distance: int, count: int, checksum: int) -> bytes:
    return struct.pack("<QII16x", distance, count, checksum)


def example(*, descending: bool = False) -> bytes:
    """The file as the specification prints it, with zeros for data; only the header's checksum is ours."""
    slots = [struct.pack("<QIIIBIB6x", row[1], row[3], row[0], row[2], 1, 0, 0) for row in rows()]
    if descending:
        slots = [bytes(32)] * (127 - len(slots)) + slots[::-1]
    first = metadata(0, 0, 4294967295).ljust(4096, b"\0")
    second = (metadata(324096, 58, 4294966991) + b"".join(slots)).ljust(4096, b"\0")
    return HEADER.pack() + first + bytes(320000) + second


@pytest.mark.parametrize("descending", [False, True])
def test_reading(tmp_path: Path, descending: bool) -> None:
    path = tmp_path / "example.hrl"
    path.write_bytes(example(descending=descending))
    with HrlReader(str(path)) as reader:
        assert reader.header == HEADER
        assert fmt.moment(reader.header.created).isoformat() == "2017-02-08T04:13:00+00:00"
        entries = list(reader.entries())
    assert [(entry.length, entry.offset, entry.time) for entry in entries] == [row[:3] for row in rows()]
    assert entries[0].location == 8192 and entries[-1].location + entries[-1].length == 328192
    assert reader.unproved_bytes == 320000


def test_packing() -> None:
    """Our checksums are those that Windows wrote, for DataChecksum 0: none was kept."""
    for length, offset, time, checksum in rows():
        packed = fmt.pack_entry(fmt.Entry(offset, length, time, 0, 0))
        assert int.from_bytes(packed[8:12], "little") == checksum
    assert fmt.pack_metadata(0, b"", 0)[:32] == metadata(0, 0, 4294967295)
    assert fmt.pack_metadata(324096, b"", 58)[:32] == metadata(324096, 58, 4294966991)


def test_the_printed_checksum_of_the_header(tmp_path: Path) -> None:
    """It does not hold for the fields that are printed with it, and the text says that such a log is corrupt."""
    printed = 4294959739
    data = bytearray(example())
    assert printed - int.from_bytes(data[40:44], "little") == 692
    data[40:44] = printed.to_bytes(4, "little")
    path = tmp_path / "example.hrl"
    path.write_bytes(data)
    with pytest.raises(errors.Damaged, match="at byte 40: the header's checksum is 4294959739"):
        HrlReader(str(path))


def test_the_fixture_opens_through_the_seam(tmp_path: Path) -> None:
    path = tmp_path / "example.hrl"
    path.write_bytes(example())
    with HrlReader(str(path), LocalFiles()) as reader:
        assert len(list(reader.entries())) == 58
