"""One line of the report: what we took, what the other side took, and whether the figure that was set is met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from secondsite.engine.units import GIB, MIB

# Below this size a command's start takes longer than its work: ratios are shown, but not judged.
JUDGED_BYTES = 1 * GIB


@dataclass(frozen=True, slots=True)
class Row:
    """`ratio` is peer / ours: above 1 ours is the faster or the smaller. `kind`: `command` (whole, with its start),
    `engine` (what a command says of itself), `kernel` (in this process) or `limit` (the peer is a limit, not a tool).
    `unit`: s, B (bytes written or stored), MiB (of memory) or nothing (a share). `bytes` is the work behind a time."""

    group: str
    name: str
    kind: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    figure: float | None = None
    met: bool | None = None
    bytes: int = 0
    note: str = ""
    runs: dict[str, list[float]] = field(default_factory=dict)


def compare(
    group: str,
    name: str,
    ours: Sequence[float],
    peer: str = "",
    theirs: Sequence[float] = (),
    *,
    kind: str = "command",
    unit: str = "s",
    figure: float | None = None,
    size: int = 0,
    note: str = "",
) -> Row:
    """The medians of both sides as a row; `figure` is the least ratio that meets it, None where none was set."""
    own = statistics.median(ours)
    other = statistics.median(theirs) if theirs else None
    ratio = other / own if other is not None and own > 0 else None
    return Row(
        group, name, kind, unit, own, peer, other, ratio, figure,
        ratio >= figure if ratio is not None and figure is not None else None,
        size, note, {"ours": list(ours), **({"peer": list(theirs)} if theirs else {})},
    )  # fmt: skip


def at_most(
    group: str, name: str, value: float, limit: float, unit: str, *, judged: bool = True, note: str = ""
) -> Row:
    """A value that has an upper limit instead of a peer."""
    return compare(
        group, name, [value], "limit", [limit], kind="limit", unit=unit, figure=1.0 if judged else None, note=note
    )


def peak(group: str, name: str, peak_bytes: int, limit: int, *, judged: bool) -> Row:
    """The peak memory of one of our processes against what it may use."""
    return at_most(group, name, peak_bytes / MIB, limit / MIB, "MiB", judged=judged)


def alternate(rounds: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run every side once a round, each round in another order, so that drift and neighbours hit all alike."""
    names = list(sides)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            taken[name].append(sides[name]())
    return taken
