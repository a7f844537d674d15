"""Frames: what is encoded decodes again, damage is seen, and nothing is read or written past an array."""

from __future__ import annotations

import random
import struct
from array import array
from itertools import pairwise

import lz4.block
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

# The layout once more, so that a change of it in one kernel, or in both, is seen here.
HEADER = struct.Struct("<4sBBHIIIIQQQ16s")
CODECS = [(0, 0), (1, 1), (1, 8), (2, 1), (2, -5), (2, 3)]
HUGE = (1 << 64) - 1


@st.composite
def batches(draw):
    """(numbers, lengths, hashes, payload): blocks of data and of zeros, mostly ascending."""
    gaps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 1000]), max_size=40))
    numbers = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    if draw(st.integers(0, 3)) == 0:
        numbers = draw(st.permutations(numbers))
    length = st.sampled_from([0, 0, 512, 4096, 4096, 20_000])
    lengths = draw(st.lists(length, min_size=len(numbers), max_size=len(numbers)))
    dice = random.Random(draw(st.integers(0, 1 << 30)))
    hashes = dice.randbytes(16 * len(numbers))
    payload = b""
    for size in lengths:
        repeats = dice.choice([1, 16])
        payload += (dice.randbytes(size // repeats + 1) * repeats)[:size]
    return array("Q", numbers), array("I", lengths), hashes, payload


def encode(kernel, codec, level, group, batch, tag=3):
    """The frames of a batch, one bytes object each, and the rows of the table."""
    numbers, lengths, hashes, payload = batch
    encoder = kernel.codec.Encoder(codec, level, group)
    out = bytearray(encoder.bound(len(numbers), len(payload), 4096))
    table = array("Q", bytes(24 * (2 * len(numbers) + 2)))
    made, n = encoder.encode(numbers, lengths, hashes, len(numbers), payload, tag, out, table)
    rows = [tuple(table[3 * i : 3 * i + 3]) for i in range(n)]
    edges = [*(row[2] for row in rows), made]
    return [bytes(out[start:end]) for start, end in pairwise(edges)], rows


def decode(kernel, frame):
    """A frame's blocks as (number, hash or None for zeros), and its payload; checks the header too."""
    magic, kind, codec, flags, count, stored, raw, reserved, tag, first, last, _ = HEADER.unpack(frame[:64])
    assert (magic, stored) == (b"SFRM", len(frame) - 64)
    body = frame[64:]
    if kind == kernel.codec.ZEROS:
        assert (flags, reserved) == (0, 0)
        runs = struct.unpack(f"<{2 * count}Q", body)
        blocks = [number for at, n in zip(runs[::2], runs[1::2], strict=True) for number in range(at, at + n)]
        assert (codec, raw, first, last) == (0, 0, blocks[0], blocks[-1])
        return [(number, None) for number in blocks], b""
    assert (kind, flags) == (kernel.codec.DATA, 1)
    held = frame[:20] + bytes(4) + frame[24:48] + bytes(16) + body[: 24 * count]
    assert reserved == int.from_bytes(xxhash.xxh3_128_digest(held, tag)[:4], "little")
    numbers = struct.unpack(f"<{count}Q", body[: 8 * count])
    hashes = [body[8 * count + 16 * i :][:16] for i in range(count)]
    assert (first, last) == (numbers[0], numbers[-1])
    data = bytearray(raw)
    assert kernel.codec.Decoder().decode(codec, body[24 * count :], data)
    return list(zip(numbers, hashes, strict=True)), bytes(data)


@pytest.mark.parametrize(("codec", "level"), CODECS)
@settings(max_examples=40, deadline=None)
@given(batches(), st.sampled_from([0, 4096, 50_000, (1 << 32) - 1]), st.integers(0, HUGE))
def test_what_is_encoded_decodes(kernel, codec, level, batch, group, tag):
    numbers, lengths, hashes, payload = batch
    frames, rows = encode(kernel, codec, level, group, batch, tag)
    blocks, data = [], b""
    for frame, row in zip(frames, rows, strict=True):
        assert kernel.codec.check_frame(frame)
        assert HEADER.unpack(frame[:64])[8:11] == (tag, *row[:2])
        found, raw = decode(kernel, frame)
        assert [number for number, _ in found] == sorted({number for number, _ in found})
        assert len(raw) <= max(group, 20_000)
        blocks += found
        data += raw
    wanted = [
        (number, hashes[16 * i : 16 * i + 16] if lengths[i] else None) for i, number in enumerate(numbers)
    ]
    assert blocks == wanted
    assert data == payload


def sample(kernel, codec):
    lengths = array("I", [0, 512, 100]) if codec else array("I", [0, 0, 40])
    batch = array("Q", [5, 6, 7]), lengths, b"h" * 48, b"abcdefgh" * 100
    return encode(kernel, codec, 1, 4096, batch)[0]


@pytest.mark.parametrize("codec", [0, 1, 2])
def test_every_flipped_bit_is_seen(kernel, codec):
    for frame in sample(kernel, codec):
        damaged = bytearray(frame)
        assert kernel.codec.check_frame(damaged)
        for bit in range(8 * len(frame)):
            damaged[bit // 8] ^= 1 << bit % 8
            assert not kernel.codec.check_frame(damaged), f"bit {bit}"
            damaged[bit // 8] ^= 1 << bit % 8
        for end in (0, 63, 64, len(frame) - 1):
            assert not kernel.codec.check_frame(frame[:end])
        assert not kernel.codec.check_frame(frame + b"\0")


def test_the_checksum_is_as_specified(kernel):
    (frame, _) = sample(kernel, 2)
    inner = xxhash.xxh3_128_digest(frame[64:], 3)
    assert frame[48:64] == xxhash.xxh3_128_digest(frame[:48] + inner, 3)


def test_data_that_does_not_shrink_is_stored(kernel):
    batch = array("Q", [0]), array("I", [4096]), bytes(16), random.Random(1).randbytes(4096)
    for codec in (1, 2):
        (frame,), _ = encode(kernel, codec, 1, 4096, batch)
        assert HEADER.unpack(frame[:64])[2] == 0
        assert frame[64 + 24 :] == batch[3]


def test_the_last_block_number_of_all_starts_no_run(kernel):
    batch = array("Q", [HUGE, 0, 1]), array("I", [0, 0, 0]), bytes(48), b""
    frames, rows = encode(kernel, 0, 0, 4096, batch)
    assert [row[:2] for row in rows] == [(HUGE, HUGE), (0, 1)]
    assert [len(frame) for frame in frames] == [80, 80]


def test_levels_out_of_range_are_clamped(kernel):
    batch = array("Q", [0]), array("I", [4096]), bytes(16), bytes(range(256)) * 16
    for codec, level in [(2, 1000), (2, -(1 << 31)), (1, (1 << 31) - 1), (1, -1), (1, 0)]:
        (frame,), _ = encode(kernel, codec, level, 4096, batch)
        assert decode(kernel, frame)[1] == batch[3]


def test_an_encoder_says_what_it_is(kernel):
    encoder = kernel.codec.Encoder(2, -5, 1000)
    assert (encoder.codec, encoder.level, encoder.group_bytes) == (2, -5, 1000)
    with pytest.raises(AttributeError):
        encoder.codec = 1
    for codec in (-1, 3):
        with pytest.raises(ValueError):
            kernel.codec.Encoder(codec, 1, 1000)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([0, 1, 2, 3, -1]), st.binary(min_size=1, max_size=200), st.integers(0, 300))
def test_garbage_never_decodes_past_the_end(kernel, codec, stored, size):
    room = bytearray(b"\xa5" * (size + 64))
    good = kernel.codec.Decoder().decode(codec, stored, memoryview(room)[:size])
    assert room[size:] == b"\xa5" * 64
    assert not good or codec in (0, 1, 2)


ZIP = {
    0: bytes,
    1: lambda raw: lz4.block.compress(raw, store_size=False),
    2: zstandard.ZstdCompressor().compress,
}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=200), st.data())
def test_damage_never_decodes_past_the_end(kernel, codec, seed, data):
    """What it decodes to, if anything, is the library's business: a frame's checksum is looked at first."""
    stored = bytearray(ZIP[codec](seed * 9))
    for bit in data.draw(st.lists(st.integers(0, 8 * len(stored) - 1), min_size=1, max_size=3)):
        stored[bit // 8] ^= 1 << bit % 8
    room = bytearray(b"\xa5" * (9 * len(seed) + 64))
    kernel.codec.Decoder().decode(codec, stored, memoryview(room)[: 9 * len(seed)])
    assert room[9 * len(seed) :] == b"\xa5" * 64


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([0, 1, 2]), st.binary(min_size=1, max_size=50), st.data())
def test_only_the_exact_size_decodes(kernel, codec, seed, data):
    raw = seed * 20
    stored = ZIP[codec](raw)
    decoder = kernel.codec.Decoder()
    for size, wanted in [(len(raw), True), (len(raw) - 1, False), (len(raw) + 1, False), (0, False)]:
        target = bytearray(size)
        assert decoder.decode(codec, stored, target) is wanted
        assert not wanted or target == raw
    cut = data.draw(st.integers(0, len(stored) - 1))
    assert not decoder.decode(codec, stored[:cut], bytearray(len(raw)))
    assert not decoder.decode(codec, stored + b"\0", bytearray(len(raw)))
    assert decoder.decode(codec, b"", bytearray())


def test_zstd_takes_one_frame_of_a_known_size(kernel):
    decode = kernel.codec.Decoder().decode
    half, whole = (zstandard.ZstdCompressor().compress(bytes(size)) for size in (500, 1000))
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    assert decode(2, whole, bytearray(1000))
    for stored in (half + half, whole + skippable, skippable + whole, unsized, bomb, b"\xfd\x2f\xb5\x28"):
        assert not decode(2, stored, bytearray(1000))


GOOD = [
    array("Q", [1, 2]), array("I", [4, 4]), bytes(32), 2, b"12345678", 0,
    bytearray(8 + 48 + 64 * 6 + 4096), array("Q", bytes(8 * 18)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("at", "bad"),
    [
        (0, array("Q", [1])), (0, array("Q")), (0, array("I", [1, 2])),
        (1, array("I", [4])), (1, array("I")), (1, array("I", [4, 5])), (1, array("Q", [4, 4])),
        (1, array("I", [0xFFFFFFFF, 0xFFFFFFFF])), (2, bytes(31)), (3, 3), (3, 1 << 61),
        (4, b"1234567"), (4, b""), (6, bytearray(8 + 48 + 64 * 6 + 4095)), (6, bytearray()),
        (7, array("Q", bytes(8 * 17))), (7, array("Q")),
    ],
)  # fmt: skip
def test_short_arrays_are_refused(kernel, at, bad):
    encoder = kernel.codec.Encoder(0, 0, 4096)
    assert encoder.encode(*GOOD)[1] == 1
    with pytest.raises(ValueError):
        encoder.encode(*GOOD[:at], bad, *GOOD[at + 1 :])


def test_an_empty_batch_makes_no_frame(kernel):
    encoder = kernel.codec.Encoder(2, 1, 4096)
    out, table = bytearray(encoder.bound(0, 0, 4096)), array("Q", bytes(48))
    assert encoder.encode(array("Q"), array("I"), b"", 0, b"", 0, out, table) == (0, 0)
