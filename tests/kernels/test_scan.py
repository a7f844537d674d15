"""The span scan against a plain model, hashes against the xxhash package, and what both refuse."""

from __future__ import annotations

import os
import random
import tempfile
from array import array
from contextlib import contextmanager
from itertools import pairwise

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

KIB, MIB = 1 << 10, 1 << 20
KINDS = st.sampled_from(["zero", "random", "first byte", "last byte", "repeat"])


def content(kind, size, seed):
    if kind == "random":
        return random.Random(seed).randbytes(size)
    if kind == "repeat":
        return b"\xa5" * size
    data = bytearray(size)
    if kind != "zero":
        data[0 if kind == "first byte" else -1] = 1
    return bytes(data)


@st.composite
def images(draw, most=4 * MIB):
    """(block size, bytes): blocks of all sorts, with a tail of any size."""
    block_size = draw(st.sampled_from([4 * KIB, 16 * KIB, 64 * KIB, 512 * KIB, 4 * MIB]))
    kinds = draw(st.lists(KINDS, min_size=1, max_size=max(min(100, most // block_size), 1)))
    sectors = st.integers(1, 8).map(lambda n: 512 * n)
    tail = draw(st.one_of(st.just(block_size), sectors, st.integers(1, 4096)))
    seed = draw(st.integers(0, 99))
    sizes = [block_size] * (len(kinds) - 1) + [tail]
    parts = [content(kind, size, seed + i) for i, (kind, size) in enumerate(zip(kinds, sizes, strict=True))]
    return block_size, b"".join(parts)


@st.composite
def old_maps(draw, block_size, data):
    """None, or the map of an image in which some blocks were other than now."""
    if draw(st.booleans()):
        return None
    entries = [hash_of(block) for block in blocks_of(block_size, data)]
    for at in draw(st.lists(st.integers(0, len(entries) - 1), max_size=5)):
        entries[at] = draw(st.sampled_from([bytes(16), b"\x01" * 16]))
    return b"".join(entries)


def blocks_of(block_size, data):
    return [data[at : at + block_size] for at in range(0, len(data), block_size)]


def hash_of(block, seed=7):
    return xxhash.xxh3_128_digest(block, seed) if any(block) else bytes(16)


def expected(block_size, data, previous):
    """What differs: (number, length, hash, bytes) of each block."""
    previous = previous or bytes(16 * (len(data) // block_size + 1))
    found = []
    for i, block in enumerate(blocks_of(block_size, data)):
        digest = hash_of(block)
        if digest != previous[16 * i : 16 * i + 16]:
            kept = block if any(block) else b""
            found.append((i, len(kept), digest, kept))
    return found


class Batch:
    """The four arrays; `take` empties them."""

    def __init__(self, places, room):
        self.blocks, self.lengths = array("Q", bytes(8 * places)), array("I", bytes(4 * places))
        self.hashes, self.payload = bytearray(16 * places), bytearray(room)
        self.count = self.used = 0

    @property
    def arguments(self):
        return self.blocks, self.lengths, self.hashes, self.payload, self.count, self.used

    def take(self):
        at, found = 0, []
        for i in range(self.count):
            end = at + self.lengths[i]
            digest = bytes(self.hashes[16 * i : 16 * i + 16])
            found.append((self.blocks[i], self.lengths[i], digest, bytes(self.payload[at:end])))
            at = end
        assert at == self.used
        self.count = self.used = 0
        return found


def drive(scan, blocks, batch):
    """Call `scan(first, n, arguments)` until all blocks are done, emptying the batch where it is full."""
    first, found = 0, []
    while first < blocks:
        was_empty = batch.count == 0
        done, batch.count, batch.used = scan(first, blocks - first, batch.arguments)
        assert done or not was_empty, "an empty batch must take a block"
        first += done
        if first < blocks:
            found += batch.take()
    return found + batch.take()


@contextmanager
def file_of(data, hole=0):
    with tempfile.TemporaryFile() as file:
        os.pwrite(file.fileno(), data, hole)
        yield file.fileno()


def segments(fd, data, cuts, start, hole):
    """The image's bytes from `start` as ranges of a file that holds them from `hole` on, or of zeros."""
    edges = sorted({start, len(data), *(cut for cut in cuts if start < cut < len(data))})
    fds, offsets, lengths = array("i"), array("q"), array("q")
    for at, end in pairwise(edges):
        zero = not any(data[at:end])
        fds.append(-1 if zero else fd)
        offsets.append(-5 if zero else hole + at)
        lengths.append(end - at)
        fds.append(fd)  # an empty segment is none
        offsets.append(0)
        lengths.append(0)
    return fds, offsets, lengths


@settings(max_examples=150, deadline=None)
@given(images(), st.data())
def test_scan_of_segments_finds_what_changed(kernel, image, data):
    block_size, content = image
    previous = data.draw(old_maps(block_size, content))
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=6))
    places, room = data.draw(st.sampled_from([(1, 1), (2, 5), (100, 3), (200, 100)]))
    hole = data.draw(st.sampled_from([0, 512, 4097]))
    blocks = -(-len(content) // block_size)
    with file_of(content, hole) as fd:

        def scan(first, n, batch):
            ranges = segments(fd, content, cuts, first * block_size, hole)
            before = previous and previous[16 * first :]
            return kernel.scan.scan_segments(*ranges, first, block_size, len(content), n, 7, before, *batch)

        found = drive(scan, blocks, Batch(places, min(room * block_size, 8 * MIB) + 100))
    assert found == expected(block_size, content, previous)


@settings(max_examples=150, deadline=None)
@given(images(), st.data())
def test_scan_of_a_buffer_finds_what_changed(kernel, image, data):
    block_size, content = image
    previous = data.draw(old_maps(block_size, content))
    places, room = data.draw(st.sampled_from([(1, 1), (7, 3), (200, 100)]))

    def scan(first, n, batch):
        rest = memoryview(content)[first * block_size :]
        before = previous and previous[16 * first :]
        return kernel.scan.scan_buffer(rest, first, block_size, len(content), n, 7, before, *batch)

    batch = Batch(places, min(room * block_size, 8 * MIB))
    found = drive(scan, -(-len(content) // block_size), batch)
    assert found == expected(block_size, content, previous)


@settings(max_examples=40, deadline=None)
@given(images(most=MIB), st.data())
def test_check_file_names_the_first_bad_block(kernel, image, data):
    block_size, content = image
    entries = expected(block_size, content, b"\x01" * 16 * (len(content) // block_size + 1))
    if data.draw(st.booleans()):
        entries = data.draw(st.permutations(entries))
    blocks, lengths = array("Q", [e[0] for e in entries]), array("I", [e[1] for e in entries])
    damaged = data.draw(st.lists(st.integers(0, len(content) - 1), max_size=2))
    now = bytearray(content)
    for at in damaged:
        now[at] ^= 0x10
    before, after = blocks_of(block_size, content), blocks_of(block_size, now)
    bad = {i for i, number in enumerate(blocks) if before[number] != after[number]}
    with file_of(now) as fd:
        hashes = b"".join(e[2] for e in entries)
        arguments = blocks, lengths, hashes, len(entries), block_size, len(content), 7
        assert kernel.scan.check_file(fd, *arguments) == min(bad, default=-1)
        os.ftruncate(fd, len(content) - 1)
        if not bad:
            with pytest.raises(EOFError):
                kernel.scan.check_file(fd, *arguments)


@pytest.mark.parametrize("seed", [0, 1, (1 << 64) - 1])
def test_hash_is_that_of_the_xxhash_package(kernel, seed):
    data = random.Random(seed).randbytes(MIB + 1000)
    lengths = [*range(1001), 4096, 65535, 65536, 65537, *random.Random(1).sample(range(MIB), 20)]
    for length in lengths:
        block = memoryview(data)[length % 64 :][:length]
        wanted = xxhash.xxh3_128_digest(block, seed)
        assert kernel.scan.hash_block(block, seed) == wanted
        assert kernel.scan.hash_block(block, seed, library=True) == wanted


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=20), st.integers(0, (1 << 64) - 1))
def test_hash_blocks_lie_back_to_back(kernel, sizes, seed):
    payload = random.Random(seed).randbytes(sum(sizes))
    out = bytearray(16 * len(sizes))
    kernel.scan.hash_blocks(payload, array("I", sizes), len(sizes), seed, out)
    at, wanted = 0, b""
    for size in sizes:
        wanted += xxhash.xxh3_128_digest(payload[at : at + size], seed) if size else bytes(16)
        at += size
    assert out == wanted


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 300), st.integers(0, 299), st.integers(0, 17))
def test_is_zero(kernel, size, where, skip):
    data = bytearray(size + skip)
    assert kernel.scan.is_zero(memoryview(data)[skip:])
    if where < size:
        data[skip + where] = 1
        assert not kernel.scan.is_zero(memoryview(data)[skip:])


def good_scan(kernel, **changed):
    """scan_buffer or scan_segments of two zero blocks and 100 bytes, with some arguments changed."""
    values = {
        "fds": array("i", [-1]), "offsets": array("q", [0]), "seg_lengths": array("q", [8292]),
        "first_block": 0, "block_size": 4096, "image_size": 8292, "n_blocks": 3, "seed": 1,
        "previous": bytes(48), "blocks": array("Q", bytes(32)), "lengths": array("I", bytes(16)),
        "hashes": bytearray(64), "payload": bytearray(16384), "count": 0, "used": 0,
    }  # fmt: skip
    assert not changed.keys() - values.keys() - {"data"}
    data = changed.pop("data", bytes(8292))
    values.update(changed)
    by_segments = kernel.scan.scan_segments(*values.values())
    buffers = [value for name, value in values.items() if name not in ("fds", "offsets", "seg_lengths")]
    assert by_segments == kernel.scan.scan_buffer(data, *buffers)
    return by_segments


def test_good_scans(kernel):
    assert good_scan(kernel) == (3, 0, 0)
    empty = {"blocks": array("Q"), "lengths": array("I"), "hashes": bytearray()}
    assert good_scan(kernel, n_blocks=0, **empty) == (0, 0, 0)
    assert good_scan(kernel, first_block=3, n_blocks=0, previous=b"", data=b"") == (0, 0, 0)
    assert good_scan(kernel, previous=None, count=4) == (0, 4, 0)  # full as it came


@pytest.mark.parametrize(
    "changed",
    [
        {"previous": bytes(47)},
        {"previous": b""},
        {"n_blocks": 4},
        {"n_blocks": 1 << 60},
        {"first_block": 4, "n_blocks": 0},
        {"first_block": (1 << 64) - 1},
        {"block_size": 0},
        {"image_size": 1 << 63},
        {"payload": bytearray(4095)},
        {"blocks": array("Q")},
        {"lengths": array("I", bytes(12))},
        {"hashes": bytearray(63)},
        {"count": 5},
        {"count": 1, "used": 16385},
        {"used": 1},
    ],
)
def test_scans_that_cannot_be_are_refused(kernel, changed):
    with pytest.raises(ValueError):
        good_scan(kernel, **changed)
    # The same through the other entry, whose own arguments are good.
    with pytest.raises(ValueError):
        good_scan(kernel, **changed, data=bytes(1 << 16))


@pytest.mark.parametrize(
    "changed",
    [
        {"offsets": array("q")},
        {"seg_lengths": array("q")},
        {"fds": array("i", [-1, -1])},
        {"seg_lengths": array("q", [-1])},
        {"fds": array("i", [0]), "offsets": array("q", [-1])},
        {"fds": array("i", [0]), "offsets": array("q", [(1 << 63) - 8000])},
    ],
)
def test_bad_segments_are_refused(kernel, changed):
    with pytest.raises(ValueError):
        good_scan(kernel, **changed)


def test_what_a_file_does_not_hold_is_an_error(kernel):
    with pytest.raises(EOFError, match="block 0"):
        good_scan(kernel, seg_lengths=array("q", [8291]))
    with pytest.raises(EOFError):
        good_scan(kernel, fds=array("i"), offsets=array("q"), seg_lengths=array("q"))
    with file_of(bytes(8291)) as fd, pytest.raises(EOFError):
        good_scan(kernel, fds=array("i", [fd]))
    with pytest.raises(OSError, match="Bad file descriptor"):
        good_scan(kernel, fds=array("i", [1 << 20]))
    with pytest.raises(ValueError, match="does not cover"):
        good_scan(kernel, data=bytes(8291))


def test_hashes_that_cannot_be_are_refused(kernel):
    for payload, lengths, count, out in [(b"123", [4], 1, 16), (b"1234", [4], 2, 32), (b"1234", [4], 1, 15)]:
        with pytest.raises(ValueError):
            kernel.scan.hash_blocks(payload, array("I", lengths), count, 0, bytearray(out))
    for blocks, count, block_size, size in [([], 1, 512, 512), ([1], 1, 512, 512), ([0], 1, 0, 512)]:
        with pytest.raises(ValueError):
            lengths = array("I", [0] * len(blocks))
            kernel.scan.check_file(0, array("Q", blocks), lengths, bytes(16), count, block_size, size, 0)
    with pytest.raises(ValueError):
        kernel.scan.check_file(0, array("Q", [0]), array("I", [0]), bytes(15), 1, 512, 512, 0)
    with pytest.raises(ValueError):  # block * size wraps to 0
        kernel.scan.check_file(0, array("Q", [1 << 55]), array("I", [0]), bytes(16), 1, 512, 512, 0)
    assert kernel.scan.check_file(-1, array("Q"), array("I"), b"", 0, 512, 512, 0) == -1
