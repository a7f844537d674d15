"""A log of ours in which any one byte is another: it is refused, or the disk becomes what it was to become."""

from __future__ import annotations

from pathlib import Path

import pytest
from hrlkit import BLOCK, replica_of, write_log

from secondsite.engine import errors
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.hrl import HrlReader, overlay
from secondsite.engine.hrl import format as fmt
from secondsite.engine.hrl.export import export_hrl
from secondsite.engine.images.memory import MemoryImage

PATTERNS = (0x01, 0x80, 0xFF, 0x5A)


def disks() -> list[bytes]:
    """A disk and what it becomes: a run of two blocks, and one of zeros."""
    before = bytes(range(256)) * (5 * BLOCK // 256)
    after = bytearray(before)
    after[100:200], after[BLOCK : BLOCK + 9], after[3 * BLOCK : 4 * BLOCK] = b"\xff" * 100, b"elsewhere", bytes(BLOCK)
    return [before, bytes(after)]


def outcome(data: bytes, disk: bytes) -> bytes | None:
    """The disk with the log in `data` applied, to the last byte; None where the log is refused."""
    files = MemoryFiles()
    with files.open("x.hrl", "create") as file:
        file.write(0, data)
    try:
        with overlay(MemoryImage(disk), [HrlReader("x.hrl", files)]) as image:
            return bytes(image.read(0, image.size))
    except errors.Error as error:
        assert "\n" not in str(error)
        return None


def test_any_other_byte(tmp_path: Path, sweep: bool) -> None:
    before, after = disks()
    export_hrl(replica_of(tmp_path, [before, after]), tmp_path / "x.hrl")
    data = (tmp_path / "x.hrl").read_bytes()
    assert outcome(data, before) == after
    accepted = []
    for at in range(len(data)):
        for pattern in PATTERNS if sweep else (PATTERNS[at % 4], PATTERNS[(at + 1) % 4]):
            spoiled = bytearray(data)
            spoiled[at] ^= pattern
            found = outcome(spoiled, before)
            assert found in (None, after), f"byte {at} ^ {pattern:#x}"
            if found is not None:
                accepted.append(at)
    # More than was asked for: no byte of a log of ours is without meaning.
    assert accepted == []


@pytest.mark.parametrize("at", [4096 + 32, 5000, 8191])
def test_unused_slots(tmp_path: Path, at: int) -> None:
    """They are under no checksum. In our log they are zero; of another program's nobody knows what they hold."""
    path = write_log(tmp_path / "x.hrl", [(0, b"abc")])
    data = bytearray(path.read_bytes())
    assert data[at] == 0
    data[at] = 1
    path.write_bytes(data)
    with HrlReader(str(path)) as reader, pytest.raises(errors.Damaged, match="unused part of a metadata block"):
        list(reader.entries())
    header = fmt.Header.unpack(bytes(data[:4096]), "x")._replace(creator=b"ct  ")
    path.write_bytes(header.pack() + data[4096:])
    with HrlReader(str(path)) as reader:
        assert [entry.length for entry in reader.entries()] == [3]
