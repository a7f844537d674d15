"""A long link, on which one connection carries 256 KiB in 50 ms: what further connections bring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secondsite.engine.units import KIB, MIB
from secondsite.orchestration.bench import rows, servers
from secondsite.orchestration.bench.context import Bench, remove
from secondsite.orchestration.bench.hosts.distance import distance
from secondsite.orchestration.bench.hosts.sites import Site, site

SECONDS, WINDOW = 0.05, 256 * KIB
_LINK = "noise over a link of 256 KiB in 50 ms a connection"
SENT_BYTES, SMALL_BYTES = 96 * MIB, 4 * MIB
# Four bring three times what one does, and `auto` finds most of that while it sends.
FOUR_FIGURE, AUTO_FIGURE = 3.0, 1.3


_SIDES = {"one connection": ("--connections", "1"), "4 connections": ("--connections", "4"), "as many as pay": ()}


def long_link(bench: Bench) -> None:
    """Seconds are the engine's: the handshakes of further connections, and the search for them, are in them."""
    source, size = bench.folder / "noise.raw", SENT_BYTES if bench.judged else SMALL_BYTES
    try:
        servers.fill(source, size, seed=18)
        with site(bench, over=_over) as made:
            taken = {side: _seconds(bench, made, source, *options) for side, options in _SIDES.items()}
    finally:
        remove(source)
    one, *others = _SIDES
    for side, figure in zip(others, (FOUR_FIGURE, AUTO_FIGURE), strict=True):
        bench.add(
            rows.compare("hosts", f"{_LINK}, {side}", [taken[side]], one, [taken[one]], kind="engine",
                         figure=bench.figure(figure), size=size)
        )  # fmt: skip


@contextmanager
def _over(port: int) -> Iterator[int]:
    with distance(port, SECONDS, WINDOW) as link:
        yield link.port


def _seconds(bench: Bench, made: Site, source: Path, *options: str) -> float:
    name = made.names[0]
    done = made.replicate(source, name, *options)
    bench.prove(f"copy over a long link {' '.join(options)}", made.head(name), source)
    made.forget(name)
    return float(done.json["seconds"])
