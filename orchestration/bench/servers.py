"""NBD servers: ours, with its change map, against qemu-nbd and nbdkit; and points behind many undo deltas.

All servers have the same file, and each load goes to all of them in turn.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from secondsite import engine
from secondsite.engine.units import GIB, KIB, MIB
from secondsite.orchestration.bench import process, rows
from secondsite.orchestration.bench.context import Bench, remove

# Name, fio's rw, block size and depth of each load.
Load = tuple[str, str, int, int]
LOADS: tuple[Load, ...] = (
    ("4 KiB random read", "randread", 4 * KIB, 16),
    ("4 KiB random write", "randwrite", 4 * KIB, 16),
    ("1 MiB sequential read", "read", MIB, 4),
    ("1 MiB sequential write", "write", MIB, 4),
)
LOAD_SECONDS, LOAD_BYTES = 4, 16 * MIB
# The least ratio to the better of the peers: alone, and with a cycle a second.
FIGURE, CYCLING_FIGURE, COPY_FIGURE = 0.9, 0.75, 1.2
# An older point's sequential read against the newest one's, and when its first byte must be there.
DELTAS, POINT_FIGURE, FIRST_BYTE_SECONDS = 100, 0.5, 1.0
_FIRST_CYCLE_SECONDS = 2.5


def servers(bench: Bench) -> None:
    """Random and sequential loads of fio, and nbdcopy, on each server."""
    if not _loads():
        bench.skipped["servers"] = "fio with its engine nbd is not installed"
        return
    size = min(bench.work.virtual_bytes // MIB * MIB, GIB)
    image = bench.folder / "served.raw"
    try:
        fill(image, size, seed=7)
        with ExitStack() as stack:
            sides = {
                name: stack.enter_context(serving(partial(start, image)))
                for name, start in _SERVERS.items()
                if process.which(name if name != "ours" else "fio") is not None
            }
            _compare(bench, sides, size)
            _while_cycling(bench, sides, image, size)
    finally:
        for path in (image, bench.folder / "served-replica", *bench.folder.glob(".served.raw.secondsite-*")):
            remove(path)


def _compare(bench: Bench, sides: dict[str, str], size: int) -> None:
    for load in LOADS:
        taken = _in_turn(bench, sides, load, size)
        _against_best(bench, load[0], taken, FIGURE)
    if process.which("nbdcopy") is not None:
        taken = rows.alternate(bench.rounds, {side: partial(_copy, url) for side, url in sides.items()})
        for peer in (side for side in sides if side != "ours"):
            figure = bench.figure(COPY_FIGURE) if peer == "qemu-nbd" else None
            bench.add(rows.compare("servers", "nbdcopy", taken["ours"], peer, taken[peer], figure=figure, size=size))


def _while_cycling(bench: Bench, sides: dict[str, str], image: Path, size: int) -> None:
    """The loads again, ours while the image is replicated every second, the peers without anything beside them."""
    replica = bench.folder / "served-replica"
    bench.ours("replicate", image, replica)
    command = [*process.secondsite(), "replicate", str(image), str(replica), "--watch", "1", "--keep", "3"]

    def cycling(load: Load) -> float:
        with process.running(command):
            time.sleep(_FIRST_CYCLE_SECONDS if bench.judged else 0.2)
            return _fio(bench, sides["ours"], load, size)

    for load in LOADS:
        each: dict[str, Callable[[], float]] = {
            side: partial(cycling, load) if side == "ours" else partial(_fio, bench, url, load, size)
            for side, url in sides.items()
        }
        taken = rows.alternate(bench.rounds, each)
        _against_best(bench, f"{load[0]}, a cycle a second", taken, CYCLING_FIGURE)


def _in_turn(bench: Bench, sides: dict[str, str], load: Load, size: int) -> dict[str, list[float]]:
    return rows.alternate(bench.rounds, {side: partial(_fio, bench, url, load, size) for side, url in sides.items()})


def _against_best(bench: Bench, name: str, taken: dict[str, list[float]], figure: float) -> None:
    """Every peer in a row; the figure counts for the one that took the least time."""
    found = [rows.compare("servers", name, taken["ours"], side, taken[side]) for side in taken if side != "ours"]
    best = min((row.theirs for row in found if row.theirs), default=None)
    for row in found:
        judged = bench.figure(figure) if row.theirs == best else None
        bench.add(rows.compare("servers", name, taken["ours"], row.peer, taken[row.peer], figure=judged, size=GIB))
    if not found:
        bench.add(rows.compare("servers", name, taken["ours"], size=GIB))


# -- the servers ---------------------------------------------------------------------------------------------------


def ours(image: Path, socket: str) -> list[str]:
    return [*process.secondsite(), "track", str(image), "--socket", socket]


def _qemu_nbd(image: Path, socket: str) -> list[str]:
    return ["qemu-nbd", "-t", "-f", "raw", "-e", "16", "-k", socket, str(image)]


def _nbdkit(image: Path, socket: str) -> list[str]:
    return ["nbdkit", "-f", "-U", socket, "file", str(image)]


_SERVERS = {"ours": ours, "qemu-nbd": _qemu_nbd, "nbdkit": _nbdkit}


@contextmanager
def serving(command: Callable[[str], list[str]], env: Mapping[str, str] | None = None) -> Iterator[str]:
    """The URL of a server whose socket is there; `command` makes its command line of the socket's path, which is short
    wherever the image lies: it may have 107 bytes.
    """
    with TemporaryDirectory(prefix="served-") as folder:
        socket = Path(folder, "nbd.sock")
        with process.running(command(str(socket)), env=env) as server:
            process.listening(server, socket)
            yield f"nbd+unix:///?socket={socket}"


# -- loads ----------------------------------------------------------------------------------------------------------


def _loads() -> bool:
    if process.which("fio") is None:
        return False
    return "nbd" in process.run(["fio", "--enghelp"], keep_output=True).output.split()


def _fio(bench: Bench, url: str, load: Load, size: int) -> float:
    """Seconds for a GiB of this load."""
    _, kind, block, depth = load
    length = ["--time_based", f"--runtime={LOAD_SECONDS}"] if bench.judged else [f"--io_size={LOAD_BYTES}"]
    command = [
        "fio", "--name=load", "--ioengine=nbd", f"--uri={url}", f"--rw={kind}", f"--bs={block}",
        f"--iodepth={depth}", f"--size={size}", "--output-format=json", *length,
    ]  # fmt: skip
    text = process.run(command, keep_output=True).output
    job = json.loads(text[text.index("{") :])["jobs"][0]
    return GIB / float(job["write" if "write" in kind else "read"]["bw_bytes"])


def _copy(url: str) -> float:
    return process.run(["nbdcopy", url, "null:"]).seconds


def fill(path: Path, size: int, *, seed: int) -> None:
    """A file of random bytes, which repeat after 8 MiB but for a number in each block."""
    base = bytearray(random.Random(seed).randbytes(8 * MIB))
    with path.open("wb") as file:
        for at in range(0, size, len(base)):
            for block in range(0, len(base), 64 * KIB):
                base[block : block + 8] = (at + block).to_bytes(8, "little")
            file.write(memoryview(base)[: size - at])


# -- points -----------------------------------------------------------------------------------------------------------


def points(bench: Bench) -> None:
    """The oldest point of a replica with many undo deltas, served, against the newest."""
    if process.which("nbdcopy") is None:
        bench.skipped["points"] = "nbdcopy is not installed"
        return
    size, deltas = min(bench.work.virtual_bytes // MIB * MIB, GIB), DELTAS if bench.judged else 5
    image, root = bench.folder / "points.raw", bench.folder / "points-replica"
    try:
        _history(image, root, size, deltas)
        first: list[float] = []
        sides: dict[str, Callable[[], float]] = {
            at: partial(_read_point, root, at, first if at == "1" else [])
            for at in ("latest", "1")
        }
        taken = rows.alternate(bench.rounds, sides)
        name = f"point behind {deltas} undo deltas"
        figure = bench.figure(POINT_FIGURE)
        bench.add(
            rows.compare("points", f"{name}, read", taken["1"], "newest", taken["latest"], figure=figure, size=size)
        )
        slowest = max(first)
        bench.add(rows.at_most("points", f"{name}, first byte", slowest, FIRST_BYTE_SECONDS, "s", judged=bench.judged))
    finally:
        for path in (image, root):
            remove(path)


def _history(image: Path, root: Path, size: int, deltas: int) -> None:
    """A replica with so many undo deltas, each of an eightieth of the image in random blocks of 64 KiB."""
    fill(image, size, seed=8)
    engine.replicate(image, root, history="undo", tracker="scan")
    chosen, count = random.Random(9), max(size // (64 * KIB) // 80, 1)
    with image.open("r+b") as file:
        for _ in range(deltas):
            for place in chosen.sample(range(size // (64 * KIB)), count):
                file.seek(place * 64 * KIB)
                file.write(chosen.randbytes(64 * KIB))
            file.flush()
            engine.replicate(image, root, history="undo", tracker="scan")


def _read_point(root: Path, at: str, first: list[float]) -> float:
    """Seconds of nbdcopy; `first` gets those from the start of the command to the first bytes."""
    began = time.monotonic()
    with serving(lambda socket: [*process.secondsite(), "serve", str(root), "--at", at, "--socket", socket]) as url:
        with engine.open_image(url) as served:
            served.read_into(0, bytearray(4 * KIB))
        first.append(time.monotonic() - began)
        return _copy(url)
