"""The whole commands: initial copy, unchanged cycle, delta, verify, restore, and an image of 8 TiB."""

from __future__ import annotations

import random
import statistics
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.units import MIB, TIB
from secondsite.orchestration.bench import peers, process, rows, workload
from secondsite.orchestration.bench.context import SPARSE_EXTRA_BYTES, Bench, digest, remove
from secondsite.orchestration.bench.stages import bare_loop

# The share of the image's blocks that a delta changes.
CHANGED = 0.01
SPARSE_BYTES = 8 * TIB
SPARSE_DATA = 64 * MIB
SPARSE_SECONDS = 10.0
# The least ratio to each peer; what is not listed is shown without one.
INITIAL_FIGURES = {peers.CP: 1.0, peers.RSYNC_COPY: 3.0}
UNCHANGED_FIGURES = {peers.RSYNC: 12.0}
DELTA_FIGURES = {peers.RSYNC: 10.0}
READ_FIGURE = 0.8


class Ours:
    """One of our commands, run several times: the seconds of each run, as a side of `alternate`."""

    def __init__(self, bench: Bench, *arguments: str | Path, after: Callable[[], None] | None = None) -> None:
        self.bench, self.arguments, self.after = bench, arguments, after
        self.runs: list[process.Ran] = []

    def __call__(self) -> float:
        done = self.bench.ours(*self.arguments)
        self.runs.append(done)
        if self.after is not None:
            self.after()
        return done.seconds

    @property
    def peak(self) -> int:
        """The most memory that any of the runs took."""
        return max(run.peak for run in self.runs)

    @property
    def engine_seconds(self) -> list[float]:
        """What the command says of itself: without the start of the process."""
        return [float(run.json["seconds"]) for run in self.runs]


def initial(bench: Bench) -> None:
    """The first copy, of which nothing stays but the last replica."""
    target = bench.folder / "copy"

    def clean() -> None:
        remove(target)
        bench.settle()

    def copy(peer: peers.Peer) -> float:
        peer.prepare(bench.source, target)
        seconds = peer.run(bench.source, target)
        clean()
        return seconds

    ours = Ours(bench, "replicate", bench.source, target, after=clean)
    sides: dict[str, Callable[[], float]] = {"ours": ours}
    usable = _usable(bench, peers.installed(peers.COPIES), copy)
    sides.update({peer.name: partial(copy, peer) for peer in usable})
    taken = rows.alternate(bench.rounds, sides)
    for peer in usable:
        figure = bench.figure(INITIAL_FIGURES[peer]) if peer in INITIAL_FIGURES else None
        _add(bench, "initial", "initial copy", taken, peer, figure, bench.work.data_bytes)
    bench.peak("initial", "peak memory, initial copy", ours.peak)
    bench.ensure_replica()
    bench.prove("initial copy", bench.head, bench.source)


def _usable(bench: Bench, candidates: list[peers.Peer], trial: Callable[[peers.Peer], float]) -> list[peers.Peer]:
    """Those that work here, each tried once (which also warms it up)."""
    working = []
    for peer in candidates:
        try:
            trial(peer)
        except errors.Unreachable as error:
            bench.skipped[peer.name] = str(error)
            continue
        working.append(peer)
    return working


def _add(
    bench: Bench, group: str, name: str, taken: dict[str, list[float]], peer: peers.Peer, figure: float | None,
    size: int,
) -> None:  # fmt: skip
    note = "peer does not sync" if not peer.durable else ""
    bench.add(
        rows.compare(group, name, taken["ours"], peer.name, taken[peer.name], figure=figure, size=size, note=note)
    )


def unchanged(bench: Bench) -> None:
    """A cycle in which nothing changed: the engine against the bare loop, the command against other commands."""
    bench.ensure_replica()
    updates = bench.ensure_updates()
    bench.settle()
    loop, note = bare_loop(bench)
    ours = Ours(bench, "replicate", bench.source, bench.replica)
    sides: dict[str, Callable[[], float]] = {"ours": ours, "loop": loop}
    sides.update({peer.name: partial(peer.run, bench.source, bench.updated[peer]) for peer in updates})
    ours()
    ours.runs.clear()
    taken = rows.alternate(bench.rounds, sides)
    size = bench.work.data_bytes
    for name, figures, kind in (
        ("unchanged, full scan", ours.engine_seconds, "engine"),
        ("unchanged, whole command", taken["ours"], "command"),
    ):
        figure = bench.figure(READ_FIGURE) if kind == "engine" else None
        bench.add(
            rows.compare("unchanged", name, figures, "bare read loop", taken["loop"], kind=kind, figure=figure,
                         size=size, note=note)
        )  # fmt: skip
    for peer in updates:
        figure = bench.figure(UNCHANGED_FIGURES[peer]) if peer in UNCHANGED_FIGURES else None
        _add(bench, "unchanged", "unchanged, whole command", taken, peer, figure, size)
    bench.peak("unchanged", "peak memory, unchanged", ours.peak)


def delta(bench: Bench) -> None:
    """One in a hundred blocks changed at random, anew in each round; everybody follows the same source."""
    bench.ensure_replica()
    updates = bench.ensure_updates()
    ours = Ours(bench, "replicate", bench.source, bench.replica)
    taken: dict[str, list[float]] = {}
    blocks = 0
    for turn in range(bench.rounds):
        bench.changes += 1
        blocks = workload.change(bench.source, CHANGED, bench.changes)
        bench.settle()
        sides: list[tuple[str, Callable[[], float]]] = [("ours", ours)]
        sides += [(peer.name, partial(peer.run, bench.source, bench.updated[peer])) for peer in updates]
        for name, side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
            taken.setdefault(name, []).append(side())
            bench.settle()
    for peer in updates:
        figure = bench.figure(DELTA_FIGURES[peer]) if peer in DELTA_FIGURES else None
        _add(bench, "delta", "1 % changed", taken, peer, figure, blocks * workload.BLOCK)
    if not updates:
        bench.add(rows.compare("delta", "1 % changed", taken["ours"], size=blocks * workload.BLOCK))
    bench.peak("delta", "peak memory, 1 % changed", ours.peak)
    bench.prove("deltas", bench.head, bench.source)


def verify(bench: Bench) -> None:
    """From the replica alone, and against the source."""
    bench.ensure_replica()
    alone = Ours(bench, "verify", bench.replica)
    against = Ours(bench, "verify", bench.replica, "--source", bench.source)
    compare = ["cmp", str(bench.head), str(bench.source)]
    taken = rows.alternate(
        bench.rounds, {"alone": alone, "source": against, "cmp": lambda: process.run(compare).seconds}
    )
    size = bench.work.data_bytes
    bench.add(rows.compare("verify", "verify, replica alone", taken["alone"], "cmp", taken["cmp"], size=size))
    bench.add(rows.compare("verify", "verify, with the source", taken["source"], "cmp", taken["cmp"], size=size))
    bench.peak("verify", "peak memory, verify", max(alone.peak, against.peak))


def restore(bench: Bench) -> None:
    """The latest point and an older one as new files against `cp` of the head; the older one in place."""
    bench.ensure_replica()
    bench.drop_updates()
    older = int(bench.ours("info", bench.replica).json["generation"])
    expected = digest(bench.head)
    bench.changes += 1
    undo = workload.change(bench.source, CHANGED, bench.changes) * workload.BLOCK
    bench.ours("replicate", bench.source, bench.replica)
    target = bench.folder / "restored"

    def clean() -> None:
        remove(target)
        bench.settle()

    def copy() -> float:
        seconds = peers.CP.run(bench.head, target)
        clean()
        return seconds

    latest = Ours(bench, "restore", bench.replica, target, after=clean)
    past = Ours(bench, "restore", bench.replica, target, "--at", str(older), after=clean)
    taken = rows.alternate(bench.rounds, {"latest": latest, "past": past, "cp": copy})
    size = bench.work.data_bytes
    for name, key in (("restore the latest point", "latest"), ("restore an older point", "past")):
        bench.add(rows.compare("restore", name, taken[key], peers.CP.name, taken["cp"], size=size,
                               note="peer does not sync"))  # fmt: skip
    bench.peak("restore", "peak memory, restore", max(latest.peak, past.peak))
    _in_place(bench, target, older, undo, expected, taken["cp"])
    remove(target)


def _in_place(bench: Bench, target: Path, older: int, undo: int, expected: str, copies: list[float]) -> None:
    """An image at the latest point becomes the older one: what is written is the undo, not the image."""
    bench.ours("restore", bench.replica, target)
    bench.settle()
    back = Ours(bench, "restore", bench.replica, target, "--at", str(older), "--in-place")
    forth = Ours(bench, "restore", bench.replica, target, "--in-place")
    for _ in range(bench.rounds):
        back()
        bench.settle()
        if digest(target) != expected:
            raise errors.Damaged("is not the older point", path=str(target))
        forth()
        bench.settle()
    bench.checks["older point"] = expected
    seconds = [run.seconds for run in back.runs]
    bench.add(rows.compare("restore", "restore an older point in place", seconds, peers.CP.name, copies,
                           size=bench.work.data_bytes, note="peer does not sync"))  # fmt: skip
    written = statistics.median(float(run.json["bytes_written"]) for run in back.runs)
    note = f"image {bench.work.virtual_bytes // MIB} MiB"
    bench.add(rows.at_most("restore", "written by it, against the undo", written, undo, "B", note=note))
    bench.peak("restore", "peak memory, restore in place", max(back.peak, forth.peak))


def sparse(bench: Bench) -> None:
    """An image of 8 TiB with 64 MiB of data: first copy, nothing changed, one megabyte changed."""
    source, replica = bench.folder / "sparse", bench.folder / "sparse-replica"
    chosen = random.Random(SPARSE_BYTES)
    places = sorted(chosen.sample(range(SPARSE_BYTES // MIB), SPARSE_DATA // MIB))
    try:
        with source.open("wb") as file:
            file.truncate(SPARSE_BYTES)
            for place in places:
                file.seek(place * MIB)
                file.write(chosen.randbytes(MIB))
    except OSError as error:
        bench.skipped["8 TiB sparse image"] = str(error)
        remove(source)
        return
    peak = max((row.ours for row in bench.lines if row.unit == "MiB"), default=0.0)
    limit = int(peak * MIB) + SPARSE_EXTRA_BYTES
    for name in ("first copy", "unchanged", "1 MiB changed"):
        if name == "1 MiB changed":
            with source.open("r+b") as file:
                file.seek(chosen.choice(places) * MIB)
                file.write(chosen.randbytes(MIB))
        done = bench.ours("replicate", source, replica)
        bench.add(rows.at_most("sparse", f"8 TiB sparse, {name}", done.seconds, SPARSE_SECONDS, "s"))
        if peak:
            bench.add(rows.peak("sparse", f"peak memory, 8 TiB, {name}", done.peak, limit, judged=bench.judged))
    head = Path(str(bench.ours("info", replica).json["head"]))
    _same_data(source, head, places)
    bench.checks["8 TiB sparse"] = "the 64 MiB of data are equal, byte for byte"
    remove(source)
    remove(replica)
    subprocess.run(["sync", "-f", str(bench.folder)], check=False)


def _same_data(source: Path, head: Path, places: list[int]) -> None:
    """Nobody compares 8 TiB: the data must be equal, and there must be no other data."""
    with source.open("rb") as left, head.open("rb") as right:
        for place in places:
            left.seek(place * MIB)
            right.seek(place * MIB)
            if left.read(MIB) != right.read(MIB):
                raise errors.Damaged("differs from the source", path=str(head), offset=place * MIB)
    if workload.data_bytes(head) > workload.data_bytes(source):
        raise errors.Damaged("holds more than the source", path=str(head))
