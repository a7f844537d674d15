"""What engine/images/base.py promises, sentence by sentence, of every image."""

from __future__ import annotations

import subprocess
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from secondsite.engine import errors, kernel
from secondsite.engine.images import Image, RawImage, ShortImage
from secondsite.engine.images.failing import FailingImage
from secondsite.engine.images.raw import RawImage as Raw

Make = Callable[[bytes], Image]
BLOCK = 4096


def test_size_is_in_bytes(make_any: Make, content: bytes) -> None:
    image = make_any(content)
    assert image.size == len(content)
    assert image.size % BLOCK


def test_read_fills_its_whole_buffer(make_any: Make, content: bytes) -> None:
    image = make_any(content)
    for offset, length in (
        (0, 1),
        (0, len(content)),
        (1, 4095),
        (19_000, 30_000),
        (len(content) - 1, 1),
        (77, 0),
    ):
        buffer = bytearray(b"\xaa" * length)
        image.read_into(offset, buffer)
        assert buffer == content[offset : offset + length]
        assert image.read(offset, length) == buffer
    view = memoryview(bytearray(100))[10:20]
    image.read_into(5, view)
    assert bytes(view) == content[5:15]


def test_parts_are_read_as_if_one_by_one(make_any: Make, content: bytes) -> None:
    image = make_any(content)
    asked = [(at * 4096, 4096 * (1 + at % 3)) for at in range(0, 60, 4)] + [(1, 77), (5000, 0), (len(content) - 1, 1)]
    parts = [(offset, memoryview(bytearray(b"\xaa" * length))) for offset, length in asked]
    image.read_parts(parts)
    for offset, view in parts:
        assert bytes(view) == content[offset : offset + view.nbytes], offset
    with pytest.raises(ShortImage):
        image.read_parts([(0, memoryview(bytearray(4096))), (len(content) - 1, memoryview(bytearray(2)))])
    assert image.read(0, 5) == content[:5], "an image stays usable"


def test_a_read_past_the_end_is_short(make_any: Make, content: bytes) -> None:
    image = make_any(content)
    for offset, length in ((len(content), 1), (len(content) - 1, 2), (0, len(content) + 1), (1 << 40, 1)):
        with pytest.raises(ShortImage, match=r"\w"):
            image.read_into(offset, bytearray(length))
        with pytest.raises(ShortImage):
            list(image.extents(offset, length))


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (1, None), (5000, 400_000), (100_000, 100_001), (9, 9)]
)
def test_extents_cover_the_range_in_order(
    make_any: Make, content: bytes, start: int, stop: int | None
) -> None:
    image = make_any(content)
    end = len(content) if stop is None else stop
    at = start
    for extent in image.extents(start, end - start):
        assert extent.start == at and extent.length > 0
        if extent.zero:
            assert not any(content[at : at + extent.length])
        at += extent.length
    assert at == end


def test_segments_hold_the_same_bytes(make_any: Make, content: bytes) -> None:
    """Where an image is made of file ranges, they are its bytes."""
    image = make_any(content)
    buffer = bytearray(len(content) - 300)
    found = image.segments(100, len(buffer))
    if found is None:
        assert not isinstance(image, RawImage)
        return
    n = -(-len(content) // BLOCK)
    blocks, lengths = array("Q", bytes(8 * n)), array("I", bytes(4 * n))
    hashes, payload = bytearray(16 * n), bytearray(n * BLOCK)
    whole = image.segments(0, len(content))
    assert whole is not None
    done, count, used = kernel.scan.scan_segments(
        *whole, 0, BLOCK, len(content), n, 7, None, blocks, lengths, hashes, payload, 0, 0
    )
    assert done == n
    kept = b"".join(content[b * BLOCK : (b + 1) * BLOCK] for b in blocks[:count])
    assert bytes(payload[:used]) == kept


def test_write_then_read(make_writable: Make, content: bytes) -> None:
    image = make_writable(content)
    image.write(1000, b"one")
    image.write(30_001, memoryview(b"two"))
    image.write(len(content) - 3, bytearray(b"end"))
    wanted = bytearray(content)
    wanted[1000:1003], wanted[30_001:30_004], wanted[-3:] = b"one", b"two", b"end"
    image.flush()
    assert image.read(0, image.size) == wanted


def test_a_write_may_extend_a_file_but_never_a_device(make_writable: Make, content: bytes) -> None:
    image = make_writable(content)
    if isinstance(image, Raw) and image.device:
        with pytest.raises(errors.Full, match=image.path):
            image.write(len(content), b"more")
        with pytest.raises(errors.Full, match="are needed"):
            image.resize(len(content) + 512)
        return
    image.write(len(content) + 10, b"more")
    assert image.size == len(content) + 14
    assert image.read(len(content), 14) == bytes(10) + b"more"


@pytest.mark.parametrize("punch", [True, False])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 4096), (100, 10_000), (8192, 0), (19_999, 2), (700_000, 5000)]
)
def test_zero_reads_as_zeros(
    make_writable: Make, content: bytes, punch: bool, offset: int, length: int
) -> None:
    image = make_writable(content)
    image.zero(offset, length, punch=punch)
    assert image.size == len(content)
    assert image.read(0, image.size) == content[:offset] + bytes(length) + content[offset + length :]


def test_zero_past_the_end_is_refused(make_writable: Make, content: bytes) -> None:
    image = make_writable(content)
    with pytest.raises(ValueError, match="zeros to"):
        image.zero(len(content) - 10, 11)
    assert image.read(0, image.size) == content


def test_resize_cuts_or_grows_by_zeros(make_writable: Make, content: bytes) -> None:
    image = make_writable(content)
    if isinstance(image, Raw) and image.device:
        image.resize(1000)  # a larger device than the image is fine; what is past the end is nobody's
        assert image.read(0, len(content)) == content
        return
    image.resize(1000)
    assert image.read(0, image.size) == content[:1000]
    image.resize(3000)
    assert image.read(0, image.size) == content[:1000] + bytes(2000)


def test_close_twice_does_nothing(make_any: Make, content: bytes) -> None:
    image = make_any(content)
    with image:
        pass
    image.close()


def test_batches(make_writable: Make, content: bytes) -> None:
    """Blocks in one call: data, zeros and the cut tail block; read back, and checked against their hashes."""
    image = make_writable(content)
    tail = len(content) // BLOCK
    blocks = array("Q", (0, 1, 2, 7, tail))
    lengths = array("I", (BLOCK, 0, BLOCK, 0, len(content) - tail * BLOCK))
    payload = bytes(range(1, 256)) * 60
    used = sum(lengths)
    image.write_blocks(blocks, lengths, 5, BLOCK, len(content), bytearray(payload[:used]))
    wanted = bytearray(content)
    wanted[0:BLOCK], wanted[BLOCK : 2 * BLOCK] = payload[:BLOCK], bytes(BLOCK)
    wanted[2 * BLOCK : 3 * BLOCK], wanted[7 * BLOCK : 8 * BLOCK] = payload[BLOCK : 2 * BLOCK], bytes(BLOCK)
    wanted[tail * BLOCK :] = payload[2 * BLOCK : used]
    assert image.read(0, image.size) == wanted
    back = bytearray(used)
    assert image.read_blocks(blocks, lengths, 5, BLOCK, back) == used
    assert back == payload[:used]
    hashes = bytearray(16 * 5)
    kernel.scan.hash_blocks(back, lengths, 5, 99, hashes)
    check = (blocks, lengths, hashes, 5, BLOCK, len(content), 99)
    assert image.check_blocks(*check) == -1
    image.write(7 * BLOCK + 5, b"x")
    assert image.check_blocks(*check) == 3
    image.write(2 * BLOCK, b"x")
    assert image.check_blocks(*check) == 2


def test_from_several_threads(make_any: Make, content: bytes) -> None:
    image = make_any(content)
    wrong: list[int] = []

    def read(start: int) -> None:
        for at in range(start, len(content) - 5000, 37_111):
            if image.read(at, 5000) != content[at : at + 5000]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(n * 1000,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_point_is_read_only(make_point: Make, content: bytes) -> None:
    image = make_point(content)
    for call in (lambda: image.write(0, b"x"), lambda: image.zero(0, 1), lambda: image.resize(1)):
        with pytest.raises(errors.Refused, match="read-only"):
            call()
    image.flush()
    assert image.read(0, image.size) == content


def test_errors_of_the_machine_name_the_path(tmp_path: Path) -> None:
    for mode in ("r", "rw"):
        with pytest.raises(errors.Unreachable, match=str(tmp_path / "none")):
            RawImage(tmp_path / "none", mode)
    path = tmp_path / "disk"
    path.write_bytes(b"data")
    with RawImage(path) as image:
        with pytest.raises(errors.Unreachable, match=f"{path}: cannot write"):
            image.write(0, b"x")
        with pytest.raises(errors.Unreachable, match=f"{path}: cannot zero"):
            image.zero(0, 1)
        with pytest.raises(errors.Unreachable, match=f"{path}: cannot make it"):
            image.resize(0)


def test_what_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(errors.Usage, match="is a directory"):
        RawImage(tmp_path)
    with pytest.raises(errors.Usage, match="neither a file nor a block device"):
        RawImage("/dev/zero")


def test_a_failing_image_without_faults_counts(make_failing: Make, content: bytes) -> None:
    image = make_failing(content)
    assert isinstance(image, FailingImage)
    image.write(0, b"x")
    image.flush()
    assert [kind for kind, _ in image.faults.log] == ["write", "flush"]


def test_hints_change_no_byte(make_any: Make, content: bytes) -> None:
    image = make_any(content)
    image.start_writeback(0, image.size)
    image.release_cache()
    assert image.read(0, image.size) == content


@pytest.mark.needs("fincore", "root", "loop", "xfs")
def test_what_is_durable_leaves_memory_when_asked(xfs_dir: Path) -> None:
    path = xfs_dir / "leaves-memory.raw"  # on a disk: a file of a tmpfs is nowhere else
    with RawImage(path, "create") as image:
        image.write(0, bytes(range(1, 256)) * 4112)
        image.flush()
        before = cached(path)
        image.release_cache()
        assert before > 1_000_000 and cached(path) == 0
        assert image.read(0, image.size) == bytes(range(1, 256)) * 4112


def cached(path: Path) -> int:
    """How many bytes of a file the page cache holds."""
    found = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", path], capture_output=True)
    return int(found.stdout)
