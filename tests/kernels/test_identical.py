"""The two kernels side by side: the same bits, the same state left behind, and each decodes the other's."""

from __future__ import annotations

import os
import random
import tempfile
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondsite.engine.portable import released

LENGTHS = st.lists(st.sampled_from([0, 0, 100, 4096, 9000]), max_size=30)


@st.composite
def scans(draw):
    """What a scan of some blocks needs; the batch comes partly full and may fill up at any of them."""
    block_size = draw(st.sampled_from([4096, 32768, 1 << 19]))
    blocks = draw(st.integers(1, min(150, (1 << 22) // block_size)))
    tail = draw(st.sampled_from([block_size, 1, 512, 4095]))
    dice = random.Random(draw(st.integers(0, 1 << 30)))
    content = bytearray(block_size * (blocks - 1) + tail)
    for at in range(0, len(content), block_size):
        if dice.random() < 0.6:
            end = min(at + block_size, len(content))
            content[at:end] = dice.randbytes(end - at)
    first = draw(st.integers(0, blocks - 1))
    places = draw(st.integers(1, 200))
    room = block_size * draw(st.integers(1, 100)) + draw(st.sampled_from([0, 1, 511]))
    count = draw(st.integers(0, places))
    used = draw(st.integers(0, room)) if count else 0
    previous = draw(st.sampled_from([None, bytes(16 * blocks), b"\x01" * 16 * blocks]))
    return bytes(content), first, block_size, blocks - first, previous, places, room, count, used


@settings(max_examples=120, deadline=None)
@given(scans(), st.integers(0, (1 << 64) - 1), st.data())
def test_scans_leave_the_same_batch(native, portable, scan, seed, data):
    content, first, block_size, n_blocks, previous, places, room, count, used = scan
    start = first * block_size
    cut = data.draw(st.integers(start, len(content)))
    results = []
    with tempfile.TemporaryFile() as file:
        os.pwrite(file.fileno(), content, 0)
        for kernel in (native, portable):
            for segments in (True, False):
                arrays = array("Q", bytes(8 * places)), array("I", bytes(4 * places)), bytearray(16 * places)
                payload = bytearray(room)
                common = first, block_size, len(content), n_blocks, seed, previous
                common = *common, *arrays, payload, count, used
                if segments:
                    ranges = array("q", [start, cut]), array("q", [cut - start, len(content) - cut])
                    call = kernel.scan.scan_segments(array("i", [file.fileno()] * 2), *ranges, *common)
                else:
                    call = kernel.scan.scan_buffer(memoryview(content)[start:], *common)
                # Past `used` the payload is only scratch.
                results.append((segments, call, *arrays, bytes(payload[: call[2]])))
    assert results[0] == results[2]
    assert results[1] == results[3]


@pytest.mark.parametrize(("codec", "level"), [(0, 0), (1, 1), (2, 1), (2, -5)])
@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 20_000), st.integers(0, 99))
def test_each_kernel_reads_the_others_frames(native, portable, codec, level, sizes, group, seed):
    dice = random.Random(seed)
    blocks = array("Q", [max(0, 2 * i - dice.randrange(3)) for i in range(len(sizes))])
    lengths, hashes = array("I", sizes), dice.randbytes(16 * len(sizes))
    payload = (dice.randbytes(sum(sizes) // 2 + 1) + bytes(sum(sizes)))[: sum(sizes)]
    made = []
    for kernel in (native, portable):
        encoder = kernel.codec.Encoder(codec, level, group)
        out = bytearray(encoder.bound(len(sizes), len(payload), 4096))
        table = array("Q", bytes(48 * (len(sizes) + 1)))
        size, n = encoder.encode(blocks, lengths, hashes, len(sizes), payload, seed, out, table)
        ends = [*table[2 : 3 * n : 3], size]
        made.append([bytes(out[ends[i] : ends[i + 1]]) for i in range(n)])
        assert encoder.bound(len(sizes), 7, 1) == portable.codec.Encoder(0, 0, 0).bound(len(sizes), 7, 1)
    for ours, theirs in zip(*made, strict=True):
        # All but the codec, the stored size and the checksum.
        assert ours[:5] + ours[6:12] + ours[16:48] == theirs[:5] + theirs[6:12] + theirs[16:48]
        if codec == 0 or ours[4] == 2:
            assert ours == theirs
            continue
        assert native.codec.check_frame(theirs)
        assert portable.codec.check_frame(ours)
        bodies = []
        for frame in (ours, theirs):
            skip = 64 + 24 * int.from_bytes(frame[8:12], "little")
            for kernel in (native, portable):
                raw = bytearray(int.from_bytes(frame[16:20], "little"))
                assert kernel.codec.Decoder().decode(frame[5], frame[skip:], raw)
                bodies.append(raw)
        assert bodies[0] == bodies[1] == bodies[2] == bodies[3]


def test_the_avx2_kernel_is_libxxhash(native):
    data = random.Random(1).randbytes(4 << 20)
    for length in [*range(1001), *random.Random(2).sample(range(len(data)), 30), len(data)]:
        block = memoryview(data)[length % 61 :][:length]
        for seed in (0, length * 0x9E3779B97F4A7C15 % (1 << 64)):
            assert native.scan.hash_block(block, seed) == native.scan.hash_block(block, seed, library=True)


def test_both_offer_the_same_names(native, portable):
    for part in ("scan", "codec", "crc", "files", "bitmap"):
        ours, theirs = getattr(native, part), getattr(portable, part)
        names = {name for name in dir(ours) if not name.startswith("_")}
        assert names <= set(dir(theirs)), f"portable {part} lacks {names - set(dir(theirs))}"
        for name in names:
            if isinstance(getattr(ours, name), type):
                members = {member for member in dir(getattr(ours, name)) if not member.startswith("_")}
                assert members <= set(dir(getattr(theirs, name)))


def test_constants_are_the_same(native, portable):
    for part, names in [("codec", "NONE LZ4 ZSTD DATA ZEROS HEADER_BYTES"), ("files", "PUNCH ZERO")]:
        for name in names.split():
            assert getattr(getattr(native, part), name) == getattr(getattr(portable, part), name)


@pytest.mark.parametrize("name", ["native", "portable"])
def test_an_error_holds_no_buffer(request, name):
    """A caller must be able to close or grow its buffers while it handles the error."""
    scan = request.getfixturevalue(name).scan
    payload = bytearray(4096)
    arrays = array("Q", bytes(8)), array("I", bytes(4)), bytearray(16), payload, 0, 0
    with pytest.raises(EOFError) as caught:
        scan.scan_segments(array("i"), array("q"), array("q"), 0, 4096, 4096, 1, 0, None, *arrays)
    payload.append(0)
    assert caught.value.args
    assert released(len)(b"12") == 2


@pytest.mark.parametrize("name", ["native", "portable"])
def test_what_is_not_a_flat_writable_buffer_is_refused(request, name):
    scan = request.getfixturevalue(name).scan
    lengths, every_other = array("I", [4]), memoryview(bytes(8))[::2]
    good = bytearray(16)
    for payload, out in [(every_other, good), (b"1234", bytes(16)), (array("I", [1]), good)]:
        with pytest.raises((ValueError, BufferError)):
            scan.hash_blocks(payload, lengths, 1, 0, out)
    with pytest.raises(OverflowError):
        scan.hash_blocks(b"1234", lengths, -1, 0, bytearray(16))
    with pytest.raises(TypeError):
        scan.hash_blocks(1, lengths, 1, 0, bytearray(16))
