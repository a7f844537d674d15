"""What the engine's calls return: plain values, ready for JSON through `dataclasses.asdict`."""

from __future__ import annotations

from dataclasses import dataclass, field

from secondsite.engine.scan import Range


@dataclass(frozen=True, slots=True)
class Replicated:
    """`kind`: initial, delta, unchanged or resync. Sizes in bytes; `sent_bytes` are the data blocks given to the
    replica, zeros and unchanged blocks not counted."""

    kind: str
    generation: int
    point: str
    tracker: str
    virtual_bytes: int
    read_bytes: int
    changed_bytes: int
    sent_bytes: int
    seconds: float
    history: str
    pruned: int = 0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PointInfo:
    """A point as `points` lists it. `damaged` with `problem` where it is known not to restore."""

    point: str
    generation: int
    time: str
    virtual_bytes: int
    changed_bytes: int
    history: str
    damaged: bool
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """`head` is the path of the plain image; None before the first point."""

    kind: str
    head: str | None
    generation: int
    epoch: int
    block_size: int
    virtual_bytes: int
    history: str
    replica_id: str
    source: str
    points: int
    time: str | None
    stored_bytes: int
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """`allocated_bytes` are those that the image does not report as zero."""

    kind: str
    path: str
    format: str
    virtual_bytes: int
    allocated_bytes: int


@dataclass(frozen=True, slots=True)
class Verified:
    """`bad`: ranges of the head (or of the point, or of the source) that differ. `damaged`: points that would not
    restore whole, with what is wrong."""

    ok: bool
    point: str
    blocks: int
    bad: list[Range]
    damaged: dict[str, str]
    seconds: float
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Restored:
    """`bytes_written` counts what was written to the output; `method`: copy, clone or in-place."""

    point: str
    virtual_bytes: int
    bytes_written: int
    seconds: float
    method: str
    output: str
    warnings: list[str] = field(default_factory=list)
