"""Restore and verify: every way to an image file, what is refused, and the proof."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images.memory import MemoryImage

BLOCK = 4096


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A replica with an older, longer point and a newer one; and what they are."""
    source, replica = tmp_path / "disk.raw", tmp_path / "r"
    first = os.urandom(30 * BLOCK) + bytes(100 * BLOCK) + b"odd tail"
    second = bytes(BLOCK) + first[BLOCK : 20 * BLOCK] + b"new" * 1000
    for data in (first, second):
        source.write_bytes(data)
        engine.replicate(source, replica, block_size=BLOCK, history="undo")
    return replica, {"1": first, "2": second}


@pytest.mark.parametrize("at", ["1", "2"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_new_file(two: tuple[Path, dict[str, bytes]], at: str, workers: int) -> None:
    replica, contents = two
    output = replica.parent / "out.raw"
    done = engine.restore(replica, output, at=at, workers=workers)
    assert output.read_bytes() == contents[at]
    assert (done.point, done.virtual_bytes, done.output) == (at, len(contents[at]), str(output))
    assert [path.name for path in replica.parent.iterdir() if "partial" in path.name] == []


def test_zeros_take_no_room(two: tuple[Path, dict[str, bytes]]) -> None:
    replica, contents = two
    output = replica.parent / "out.raw"
    done = engine.restore(replica, output, at="1")
    assert done.bytes_written == 30 * BLOCK + 8
    assert output.stat().st_blocks * 512 < 60 * BLOCK < len(contents["1"])


def test_an_output_that_exists(two: tuple[Path, dict[str, bytes]]) -> None:
    replica, _ = two
    output = replica.parent / "out.raw"
    output.write_bytes(b"mine")
    with pytest.raises(errors.Refused, match=r"out\.raw: exists; --in-place"):
        engine.restore(replica, output)
    assert output.read_bytes() == b"mine"


def test_an_output_that_appears_meanwhile(two: tuple[Path, dict[str, bytes]]) -> None:
    replica, _ = two
    output = replica.parent / "out.raw"
    with pytest.raises(errors.Refused, match="appeared meanwhile"):
        engine.restore(replica, output, progress=lambda progress: output.write_bytes(b"mine") and None)
    assert output.read_bytes() == b"mine"
    assert sorted(path.name for path in replica.parent.iterdir()) == ["disk.raw", "out.raw", "r"]


def test_an_output_inside_the_replica(two: tuple[Path, dict[str, bytes]]) -> None:
    replica, _ = two
    (replica.parent / "link").symlink_to(replica / "points")
    for output in (
        replica / "out",
        replica / "points/x",
        replica.parent / "link" / "x",
        replica / "head.raw",
    ):
        for in_place in (False, True):
            with pytest.raises(errors.Refused, match="inside the replica"):
                engine.restore(replica, output, in_place=in_place)
    assert engine.verify(replica).ok


def test_a_folder_that_is_not_there(two: tuple[Path, dict[str, bytes]]) -> None:
    with pytest.raises(errors.Unreachable, match="none"):
        engine.restore(two[0], two[0].parent / "none/out")
    with pytest.raises(errors.Unreachable, match="no such replica"):
        engine.restore(two[0].parent / "nothing", two[0].parent / "out")


@pytest.mark.parametrize("at", ["1", "2"])
@pytest.mark.parametrize("before", ["same", "other", "shorter", "longer", "empty"])
def test_in_place(two: tuple[Path, dict[str, bytes]], at: str, before: str) -> None:
    """Only what differs is written; a second time nothing is."""
    replica, contents = two
    wanted = contents[at]
    other = bytearray(wanted)
    other[3 * BLOCK] ^= 1
    start = {
        "same": wanted,
        "other": bytes(other),
        "shorter": wanted[: 5 * BLOCK + 3],
        "longer": wanted + b"x" * 9999,
        "empty": b"",
    }
    output = replica.parent / "out.raw"
    output.write_bytes(start[before])
    done = engine.restore(replica, output, at=at, in_place=True)
    assert (output.read_bytes(), done.method) == (wanted, "in-place")
    if before in ("same", "other"):
        assert done.bytes_written == (BLOCK if before == "other" else 0)
    assert engine.restore(replica, output, at=at, in_place=True).bytes_written == 0


def test_in_place_needs_something_there(two: tuple[Path, dict[str, bytes]]) -> None:
    with pytest.raises(errors.Unreachable, match="No such file"):
        engine.restore(two[0], two[0].parent / "out.raw", in_place=True)


def test_cancelled(two: tuple[Path, dict[str, bytes]]) -> None:
    replica, _ = two
    with pytest.raises(errors.Cancelled):
        engine.restore(replica, replica.parent / "out.raw", cancel=lambda: True)
    assert sorted(path.name for path in replica.parent.iterdir()) == ["disk.raw", "r"]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A device that is larger than the image, and full of other bytes."""
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xee" * (1 << 20))
    losetup = shutil.which("losetup") or "losetup"
    command = [losetup, "--find", "--show", str(backing)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    yield Path(name)
    subprocess.run([losetup, "--detach", name], check=True)


@pytest.mark.needs("loop")
def test_to_a_device_and_from_one(two: tuple[Path, dict[str, bytes]], device: Path) -> None:
    """The image's odd tail, and its zeros, do not end where the device's sectors do."""
    replica, contents = two
    for at in ("1", "2"):
        engine.restore(replica, device, at=at, in_place=True)
        with device.open("rb") as file:
            assert file.read(len(contents[at])) == contents[at]
    done = engine.replicate(device, replica.parent / "of-a-device")
    assert done.virtual_bytes == 1 << 20
    assert engine.verify(replica.parent / "of-a-device", source=device).ok
    with pytest.raises(errors.Full, match="are needed"):
        big = replica.parent / "big"
        with big.open("wb") as file:
            file.truncate((1 << 20) + 512)
        engine.replicate(big, replica.parent / "of-big")
        engine.restore(replica.parent / "of-big", device, in_place=True)


def test_rot_is_never_restored(two: tuple[Path, dict[str, bytes]]) -> None:
    replica, contents = two
    with (replica / "head.raw").open("r+b") as head:
        head.seek(5 * BLOCK)
        head.write(b"rot")
    output = replica.parent / "out.raw"
    for at in ("1", "2"):
        with pytest.raises(errors.Damaged, match="is not what it was") as caught:
            engine.restore(replica, output, at=at)
        assert caught.value.offset == 5 * BLOCK and not output.exists()
    output.write_bytes(contents["2"])
    with pytest.raises(errors.Damaged, match="is not what it was"):
        output.write_bytes(bytes(len(contents["2"])))
        engine.restore(replica, output, at="2", in_place=True)


# -- verify ------------------------------------------------------------------------------------------------------


def test_verify(lab: Any) -> None:
    lab.cycle(b"x" * 9999)
    lab.cycle(b"y" * 9999)
    done = engine.verify("/r", files=lab.files)
    assert (done.ok, done.point, done.blocks, done.bad, done.damaged) == (True, "2", 3, [], {})
    assert engine.verify("/r", at="1", files=lab.files).ok
    with pytest.raises(errors.Refused, match="no point 3"):
        engine.verify("/r", at="3", files=lab.files)


@pytest.mark.parametrize("at", [None, "1"])
def test_verify_against_a_source(lab: Any, at: str | None) -> None:
    contents = {"1": b"x" * 50_000, None: b"y" * 40_001}
    lab.cycle(contents["1"])
    lab.cycle(contents[None])
    same = contents[at]

    def bad(data: bytes) -> list[Any]:
        image = MemoryImage(data, path="other")
        return engine.verify("/r", source=image, at=at, files=lab.files).bad

    assert bad(same) == []
    changed = bytearray(same)
    changed[2 * BLOCK + 1] ^= 1
    assert bad(bytes(changed)) == [(2 * BLOCK, BLOCK)]
    end = len(same) // BLOCK * BLOCK
    assert bad(same + b"z") == [(end, len(same) + 1 - end)]
    assert bad(same[: 3 * BLOCK + 1]) == [(3 * BLOCK, len(same) - 3 * BLOCK)]
    assert bad(b"") == [(0, len(same))]


@pytest.mark.parametrize("what", ["cut", "gone", "longer"])
def test_a_head_of_a_wrong_size(lab: Any, what: str) -> None:
    """Everything that needs the lost part is told of; a point with its own bytes there is not."""
    lab.cycle(b"a" * (8 * BLOCK))
    lab.cycle(b"a" * (4 * BLOCK) + b"b" * (4 * BLOCK))
    head = lab.files.open("/r/head.raw", "rw")
    if what == "gone":
        lab.files.unlink("/r/head.raw")
    else:
        head.resize(6 * BLOCK if what == "cut" else 9 * BLOCK)
    done = engine.verify("/r", files=lab.files)
    assert not done.ok
    assert (
        done.bad
        == {"cut": [(6 * BLOCK, 2 * BLOCK)], "gone": [(0, 8 * BLOCK)], "longer": [(8 * BLOCK, BLOCK)]}[what]
    )
    assert list(done.damaged) == {"cut": ["2"], "gone": ["1", "2"], "longer": []}[what]
    with pytest.raises(errors.Damaged, match=r"head\.raw.*--resync mends it"):
        lab.cycle(b"c" * (8 * BLOCK))
    assert lab.cycle(b"a" * (4 * BLOCK) + b"b" * (4 * BLOCK), resync=True).generation == 2
    lab.check()
