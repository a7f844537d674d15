"""VHDX beside raw: scan, convert, an image of 64 TiB, and cycles that read what a checkpoint holds."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from secondsite import engine
from secondsite.engine.units import GIB, MIB, TIB
from secondsite.orchestration.bench import process, rows
from secondsite.orchestration.bench.context import Bench, remove
from secondsite.orchestration.bench.flows import Ours

# The least ratios: a scan of a VHDX to one of the same disk as raw, to qemu-img, and a conversion to qemu-img's.
SCAN_FIGURE, COMPARE_FIGURE, CONVERT_FIGURE = 0.85, 3.0, 1.0
OPEN_SECONDS, OPEN_PEAK = 0.05, 60 * MIB
CHANGED_BYTES = 64 * MIB
# A cycle over a parent of 1 TiB takes at most twice one over 16 GiB, and reads at most a tenth more than changed.
PARENTS, PARENT_FIGURE, READ_FACTOR = (16 * GIB, 1 * TIB), 0.5, 1.1


def formats(bench: Bench) -> None:
    """All of them; those with qemu-img as a peer where it is installed."""
    image, made = bench.folder / "source.vhdx", bench.folder / "made.vhdx"
    bench.ours("convert", bench.source, made, "--format", "vhdx")
    # Written in order by one thread, as the raw image is. As two threads of ours left it in memory, page by page in
    # turn, 0.9 GiB took 0.16 s to read on tmpfs, against 0.11 s for the copy and for the raw image.
    process.run(["cp", "--sparse=auto", str(made), str(image)])
    remove(made)
    _scan(bench, image)
    if process.which("qemu-img"):
        _convert(bench, image)
        _open_large(bench)
    else:
        bench.skipped["conversions and the 64 TiB image"] = "qemu-img is not installed"
    remove(image)
    _checkpoints(bench)


def _scan(bench: Bench, image: Path) -> None:
    bench.ensure_replica()
    replica = bench.folder / "vhdx-replica"
    bench.ours("replicate", image, replica)
    raw, vhdx = Ours(bench, "replicate", bench.source, bench.replica), Ours(bench, "replicate", image, replica)
    sides: dict[str, Callable[[], float]] = {"vhdx": vhdx, "raw": raw}
    compare = ["qemu-img", "compare", "-f", "vhdx", "-F", "raw", str(image), str(bench.source)]
    if process.which("qemu-img"):
        sides["qemu"] = lambda: process.run(compare).seconds
    taken = rows.alternate(bench.rounds, sides)
    add, size = bench.add, bench.work.data_bytes
    add(
        rows.compare(
            "formats", "scan, dynamic VHDX", vhdx.engine_seconds, "the same as raw", raw.engine_seconds,
            kind="engine", figure=bench.figure(SCAN_FIGURE), size=size,
        )
    )
    if "qemu" in taken:
        add(
            rows.compare(
                "formats", "unchanged, dynamic VHDX", taken["vhdx"], "qemu-img compare", taken["qemu"],
                figure=bench.figure(COMPARE_FIGURE), size=size,
            )
        )
    remove(replica)


def _convert(bench: Bench, image: Path) -> None:
    """Both ways, against `qemu-img convert -W`; ours syncs and reads back what it wrote, the peer does neither."""
    target = bench.folder / "converted"
    for source, source_kind, kind in ((image, "vhdx", "raw"), (bench.source, "raw", "vhdx")):
        command = ["qemu-img", "convert", "-W", "-f", source_kind, "-O", kind, str(source), str(target)]

        def clean() -> None:
            remove(target)
            bench.settle()

        def peer(command: list[str] = command, after: Callable[[], None] = clean) -> float:
            seconds = process.run(command).seconds
            after()
            return seconds

        ours = Ours(bench, "convert", source, target, "--format", kind, after=clean)
        taken = rows.alternate(bench.rounds, {"ours": ours, "peer": peer})
        bench.add(
            rows.compare(
                "formats", f"convert {source_kind} to {kind}", taken["ours"], "qemu-img convert -W", taken["peer"],
                figure=bench.figure(CONVERT_FIGURE), size=bench.work.data_bytes, note="peer does not sync",
            )
        )
        bench.peak("formats", f"peak memory, convert to {kind}", ours.peak)


def _open_large(bench: Bench) -> None:
    """Open a dynamic VHDX of 64 TiB in blocks of 1 MiB: its table alone has 512 MiB."""
    image = bench.folder / "large.vhdx"
    size = str(64 * TIB)
    process.run(["qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", str(image), size])
    taken = []
    for _ in range(bench.rounds):
        began = time.perf_counter()
        engine.open_image(image).close()
        taken.append(time.perf_counter() - began)
    code = f"from secondsite import engine; engine.open_image({str(image)!r}).read(0, 4096)"
    done = process.run([sys.executable, "-c", code])
    bench.add(rows.at_most("formats", "open a VHDX of 64 TiB", min(taken), OPEN_SECONDS, "s"))
    bench.add(rows.peak("formats", "peak memory, 64 TiB VHDX opened", done.peak, OPEN_PEAK, judged=True))
    remove(image)


def _checkpoints(bench: Bench) -> None:
    """A cycle from the child of a replicated VHDX, with 64 MiB of changes, over a small and a large parent."""
    taken: dict[int, list[float]] = {size: [] for size in PARENTS}
    read = 0
    for number in range(bench.rounds):
        for size in PARENTS:
            done = _checkpoint(bench, size, random.Random(number))
            taken[size].append(done.seconds)
            read = max(read, int(done.json["read_bytes"]))
    small, large = (taken[size] for size in PARENTS)
    bench.add(
        rows.compare(
            "formats", "64 MiB in a child of 1 TiB", large, "of 16 GiB", small, figure=PARENT_FIGURE,
            size=CHANGED_BYTES, kind="command",
        )
    )
    limit = READ_FACTOR * CHANGED_BYTES
    bench.add(rows.at_most("formats", "bytes read of the child", read, limit, "B"))


def _checkpoint(bench: Bench, size: int, chosen: random.Random) -> process.Ran:
    base, child, replica = (bench.folder / name for name in ("base.vhdx", "child.vhdx", "chain-replica"))
    engine.create_vhdx(base, size)
    places = chosen.sample(range(size // MIB), CHANGED_BYTES // MIB)
    with engine.open_image(base, "rw") as image:
        for place in places:
            image.write(place * MIB, chosen.randbytes(MIB))
    bench.ours("replicate", base, replica)
    engine.create_vhdx(child, subformat="differencing", parent=base)
    with engine.open_image(child, "rw") as image:
        for place in places:
            image.write(place * MIB, chosen.randbytes(MIB))
    time.sleep(0.1)  # a file that was just written is looked at twice, which is not what is measured
    done = bench.ours("replicate", child, replica)
    if done.json["tracker"] != "vhdx" or not bench.ours("verify", replica, "--source", child).json["ok"]:
        raise engine.Error("the child was not replicated by its own changes", path=str(child))
    for path in (child, base, replica):
        remove(path)
    return done
