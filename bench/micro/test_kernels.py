"""Micro benchmarks of the kernels, one call each, over both of them.

    .venv/bin/python -m pytest bench/micro                            measure: 64 MiB a call
    .venv/bin/python -m pytest bench/micro --benchmark-disable        run each once, tiny, as the tests do
    SECONDSITE_BENCH_MIB=256 SECONDSITE_BENCH_BLOCK=4096 SECONDSITE_BENCH_KERNEL=native ...

`extra_info` carries the bytes of a call and, from the fastest round, GB/s. Files lie in the page cache: the
kernels are measured, not the disk.
"""

from __future__ import annotations

import importlib
import os
import random
import tempfile
from array import array
from types import SimpleNamespace

import pytest

MIB = 1 << 20
BLOCK = int(os.environ.get("SECONDSITE_BENCH_BLOCK", 64 << 10))
SEED = 0x5EC0


@pytest.fixture(scope="module")
def size(request):
    """The bytes of one call."""
    wanted = os.environ.get("SECONDSITE_BENCH_MIB")
    if wanted is None and request.config.getoption("benchmark_disable", default=False):
        return 4 * BLOCK
    return max(int(wanted or 64) * MIB // BLOCK, 1) * BLOCK


@pytest.fixture(scope="module", params=["native", "portable"])
def kernel(request):
    if os.environ.get("SECONDSITE_BENCH_KERNEL", request.param) != request.param:
        pytest.skip("another kernel was asked for")
    prefix = "secondsite.engine._" if request.param == "native" else "secondsite.engine.portable."
    try:
        parts = {
            part: importlib.import_module(prefix + part) for part in ("scan", "codec", "files", "bitmap")
        }
    except ImportError as error:
        pytest.skip(f"the {request.param} kernels are not here: {error}")
    return SimpleNamespace(**parts)


@pytest.fixture(scope="module")
def content(size):
    """Half random, half repeating, as disk images compress: LZ4 and zstd have something to do and to win."""
    dice = random.Random(SEED)
    half = b"".join(dice.randbytes(64) + b"\0 a line of some log \n" * 3 for _ in range(MIB // 127 + 1))
    return bytearray((half * (size // len(half) + 1))[:size])


@pytest.fixture
def file(size, content):
    """An fd of the content, in the page cache."""
    with tempfile.TemporaryFile() as file:
        os.pwrite(file.fileno(), content, 0)
        yield file.fileno()


@pytest.fixture
def batch(kernel, size, content):
    """Every block of the content with its length and hash."""
    count = size // BLOCK
    made = SimpleNamespace(count=count, blocks=array("Q", range(count)), lengths=array("I", [BLOCK]) * count)
    made.hashes = bytearray(16 * count)
    kernel.scan.hash_blocks(content, made.lengths, count, SEED, made.hashes)
    return made


@pytest.fixture
def rate(benchmark, size):
    """Benchmark a call over `size` bytes; returns what the call returned."""

    def run(call, *arguments):
        result = benchmark(call, *arguments)
        benchmark.extra_info["bytes"] = size
        if benchmark.stats is not None:
            benchmark.extra_info["GB/s"] = round(size / benchmark.stats.stats.min / 1e9, 2)
        return result

    return run


def scan(kernel, fd, size, previous):
    """A whole scan into a batch that has room for all of it."""
    count = size // BLOCK
    arrays = (
        array("Q", bytes(8 * count)),
        array("I", bytes(4 * count)),
        bytearray(16 * count),
        bytearray(size),
    )
    ranges = array("i", [fd]), array("q", [0]), array("q", [size])

    def call():
        return kernel.scan.scan_segments(*ranges, 0, BLOCK, size, count, SEED, previous, *arrays, 0, 0)

    return call


def test_scan_of_data(rate, kernel, file, size):
    assert rate(scan(kernel, file, size, None)) == (size // BLOCK, size // BLOCK, size)


def test_scan_unchanged(rate, kernel, file, size, batch):
    assert rate(scan(kernel, file, size, batch.hashes)) == (size // BLOCK, 0, 0)


def test_scan_of_zeros(rate, kernel, size):
    with tempfile.TemporaryFile() as file:
        os.pwrite(file.fileno(), bytes(size), 0)  # written, not a hole: what a full disk of zeros costs
        assert rate(scan(kernel, file.fileno(), size, None)) == (size // BLOCK, 0, 0)


def test_check_file(rate, kernel, file, size, batch):
    arguments = batch.blocks, batch.lengths, batch.hashes, batch.count, BLOCK, size, SEED
    assert rate(kernel.scan.check_file, file, *arguments) == -1


def test_hash_blocks(rate, kernel, content, batch):
    out = bytearray(16 * batch.count)
    rate(kernel.scan.hash_blocks, content, batch.lengths, batch.count, SEED, out)
    assert out == batch.hashes


def test_hash_one_large_buffer(rate, kernel, content):
    assert len(rate(kernel.scan.hash_block, content, SEED)) == 16


def test_differing_entries(benchmark, kernel, batch):
    out = array("Q", bytes(8 * batch.count))
    assert benchmark(kernel.entries.differing_entries, batch.hashes, bytes(batch.hashes), 0, out) == 0


CODECS = pytest.mark.parametrize(
    ("codec", "level"), [(0, 0), (1, 1), (2, 1), (2, -5)], ids=["none", "lz4", "zstd 1", "zstd -5"]
)


@CODECS
def test_encode(rate, benchmark, kernel, content, batch, size, codec, level):
    encoder = kernel.codec.Encoder(codec, level, 16 * BLOCK)
    out = bytearray(encoder.bound(batch.count, size, BLOCK))
    frames = array("Q", bytes(48 * (batch.count + 1)))
    arguments = batch.blocks, batch.lengths, batch.hashes, batch.count, content, 1, out, frames
    made, n = rate(encoder.encode, *arguments)
    assert n == -(-batch.count // 16)
    benchmark.extra_info["ratio"] = round(size / made, 2)


@CODECS
def test_decode(rate, kernel, content, size, codec, level):
    """One group of blocks, over and over, up to `size` bytes."""
    group = min(16 * BLOCK, size)
    encoder = kernel.codec.Encoder(codec, level, group)
    out, frames = bytearray(encoder.bound(1, group, BLOCK)), array("Q", bytes(96))
    made, _ = encoder.encode(array("Q", [0]), array("I", [group]), bytes(16), 1, content, 1, out, frames)
    stored, raw, decoder = memoryview(out)[64 + 24 : made], bytearray(group), kernel.codec.Decoder()
    assert out[5] == codec

    def decode():
        return all(decoder.decode(codec, stored, raw) for _ in range(size // group))

    assert rate(decode)
    assert raw == content[:group]


def test_check_frame(rate, kernel, content, size, batch):
    encoder = kernel.codec.Encoder(0, 0, size)
    out, frames = (
        bytearray(encoder.bound(batch.count, size, BLOCK)),
        array("Q", bytes(48 * (batch.count + 1))),
    )
    arguments = batch.blocks, batch.lengths, batch.hashes, batch.count, content, 1, out, frames
    made, n = encoder.encode(*arguments)
    assert n == 1
    assert rate(kernel.codec.check_frame, memoryview(out)[:made])


def test_read_blocks(rate, kernel, file, size, batch):
    payload = bytearray(size)
    assert (
        rate(kernel.files.read_blocks, file, batch.blocks, batch.lengths, batch.count, BLOCK, payload) == size
    )


@pytest.mark.parametrize("sort", ["data", "zeros", "every other"])
def test_write_blocks(rate, kernel, file, size, batch, content, sort):
    """`every other` block is one of zeros: no two neighbours share a call of the system."""
    lengths = array("I", batch.lengths)
    for i in range(batch.count):
        if sort == "zeros" or (sort == "every other" and i % 2):
            lengths[i] = 0
    rate(kernel.files.write_blocks, file, batch.blocks, lengths, batch.count, BLOCK, size, content, True)
    assert os.fstat(file).st_size == size


@pytest.mark.parametrize("step", [2, 1000, 100_000])
def test_bitmap_next_range(benchmark, kernel, size, step):
    """All runs of a bitmap with a bit at every `step`, from 1000 bits to a million."""
    bits = min(max(size // 64, 1000), MIB)
    bitmap = kernel.bitmap.Bitmap(bits)
    named = array("Q", range(0, bits, step))
    bitmap.set_many(named, len(named))

    def walk():
        at = runs = 0
        while (piece := bitmap.next_range(at, 256)) is not None:
            at, runs = piece[1], runs + 1
        return runs

    assert benchmark(walk) == len(named)


def test_bitmap_set_and_count(benchmark, kernel, size):
    bitmap = kernel.bitmap.Bitmap(8 * size)

    def fill():
        bitmap.set(3, 8 * size - 3)
        return bitmap.count()

    assert benchmark(fill) == 8 * size - 6
