"""The kernel measurements: reading, scanning, hashing, packing (`kernels.py` has the loops themselves)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from secondsite.engine import kernel
from secondsite.engine.units import KIB, MIB
from secondsite.orchestration.bench import kernels, process, rows
from secondsite.orchestration.bench.context import Bench
from secondsite.orchestration.bench.workload import extents

SAMPLE_BYTES = 512 * MIB
# Both sides of a codec row use two, whatever the machine has: `zstd -T2`, and lz4 which knows only one.
CODEC_THREADS = 2


def bare_loop(bench: Bench) -> tuple[Callable[[], float], str]:
    """The limit that scans are measured against: the source's data read by as many threads, into the best buffer."""
    size = kernels.best_read_size(bench.source, bench.threads)
    ranges = extents(bench.source)
    return lambda: kernels.read(bench.source, ranges, bench.threads, size), f"buffer {size // KIB} KiB"


def read(bench: Bench) -> None:
    """The bare loop itself, over the data and over the whole file."""
    loop, note = bare_loop(bench)
    size = kernels.best_read_size(bench.source, bench.threads)
    whole = [(0, bench.work.virtual_bytes)]
    taken = rows.alternate(
        bench.rounds,
        {"data": loop, "file": lambda: kernels.read(bench.source, whole, bench.threads, size)},
    )
    one = [kernels.read(bench.source, extents(bench.source), 1, size) for _ in range(bench.rounds)]
    bench.add(_kernel("read", "read the data", taken["data"], bench.work.data_bytes, note=note))
    bench.add(_kernel("read", "read the data, one thread", one, bench.work.data_bytes, note=note))
    bench.add(_kernel("read", "read the file, holes too", taken["file"], bench.work.virtual_bytes, note=note))


def _kernel(
    group: str, name: str, ours: list[float], size: int, peer: str = "", theirs: list[float] | None = None, *,
    figure: float | None = None, note: str = "",
) -> rows.Row:  # fmt: skip
    return rows.compare(group, name, ours, peer, theirs or [], kind="kernel", figure=figure, size=size, note=note)


def scan(bench: Bench) -> None:
    """Read, zero test and hash: with nothing changed, and with everything new."""
    loop, note = bare_loop(bench)
    known = kernels.block_hashes(bench.source, bench.threads)
    taken = rows.alternate(
        bench.rounds,
        {
            "same": lambda: kernels.scan(bench.source, bench.threads, known),
            "loop": loop,
            "new": lambda: kernels.scan(bench.source, bench.threads, None),
        },
    )
    size, peer = bench.work.data_bytes, "bare read loop"
    bench.add(_kernel("scan", "scan, nothing changed", taken["same"], size, peer, taken["loop"], note=note))
    bench.add(_kernel("scan", "scan, everything new", taken["new"], size, peer, taken["loop"], note=note))


def sample(bench: Bench) -> Path:
    """Blocks of the image that are not zeros, back to back, in a file that is made once."""
    path = bench.folder / "sample"
    if not path.exists():
        kernels.sample(bench.source, path, SAMPLE_BYTES)
    return path


def hash_(bench: Bench) -> None:
    """Hash what lies in memory, against commands that hash a file."""
    path = sample(bench)
    size = path.stat().st_size
    sides: dict[str, Callable[[], float]] = {"ours": lambda: kernels.hashing(size, bench.threads)}
    for name, command in {"xxhsum": ["xxhsum", "-H2"], "sha256sum": ["sha256sum"]}.items():
        if process.which(name):
            sides[" ".join(command)] = _seconds([*command, str(path)])
    _add_against_all(bench, "hash", "XXH3-128 of 64 KiB blocks", sides, size)


def _seconds(command: list[str]) -> Callable[[], float]:
    return lambda: process.run(command).seconds


def _add_against_all(
    bench: Bench, group: str, name: str, sides: dict[str, Callable[[], float]], size: int, figure: float | None = None
) -> None:
    """One row for each peer, or one without any."""
    taken = rows.alternate(bench.rounds, sides)
    for peer in list(taken)[1:] or [""]:
        theirs = taken[peer] if peer else None
        bench.add(_kernel(group, name, taken["ours"], size, peer, theirs, figure=figure))


def codec(bench: Bench) -> None:
    """Pack the same bytes as the lz4 and zstd commands, with reading and hashing in our time."""
    path = sample(bench)
    size, codecs = path.stat().st_size, kernel.codec
    taken = [kernels.encoding(path, CODEC_THREADS, codecs.NONE, 0)[0] for _ in range(bench.rounds)]
    bench.add(_kernel("codec", "encode, no codec", taken, size))
    for name, number, command in (
        ("lz4", codecs.LZ4, ["lz4", "-B4", "-1", "-c", str(path)]),
        ("zstd", codecs.ZSTD, ["zstd", "-q", "-1", "-B64K", f"-T{CODEC_THREADS}", "-c", str(path)]),
    ):
        sides: dict[str, Callable[[], float]] = {"ours": partial(_encode, path, number)}
        if process.which(name):
            sides[" ".join(command[:-2])] = _seconds(command)
        _add_against_all(bench, "codec", f"encode, {name}", sides, size, bench.figure(0.9))
        if process.which(name):
            _stored(bench, name, path, number, command)


def _encode(path: Path, number: int) -> float:
    return kernels.encoding(path, CODEC_THREADS, number, 1)[0]


def _stored(bench: Bench, name: str, path: Path, number: int, command: list[str]) -> None:
    """How small both make it."""
    _, ours = kernels.encoding(path, 1, number, 1)
    theirs = process.output_bytes(command)
    peer, note = " ".join(command[:-2]), f"of {path.stat().st_size} B"
    row = rows.compare(
        "codec", f"packed size, {name}", [ours], peer, [theirs],
        kind="kernel", unit="B", figure=bench.figure(0.95), note=note,
    )  # fmt: skip
    bench.add(row)
