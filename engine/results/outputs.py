"""Disks that were written."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Converted:
    """`read_bytes` were read of the source, `written_bytes` are the data blocks given to the output."""

    output: str
    format: str
    virtual_bytes: int
    read_bytes: int
    written_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Restored:
    """`bytes_written` counts what was written to the output; `method`: copy, clone or in-place. `output_bytes` is the
    size of the output's disk, where that is larger than the point's the rest is zeros: a fixed VHD has whole MiB.
    (A block device is as large as it is.)
    """

    point: str
    virtual_bytes: int
    bytes_written: int
    seconds: float
    method: str
    output: str
    output_bytes: int
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Materialized:
    """A point as a disk of Azure. `kind`: new, continued (an interrupted call's) or in-place. `bytes_written` counts
    data that was not there already; `output_bytes` is the size of the disk, in whole MiB. A step of a standby is of
    kind standby or unchanged where it goes on from a whole disk; so many `snapshots` of points there are then.
    """

    point: str
    virtual_bytes: int
    bytes_written: int
    seconds: float
    kind: str
    output: str
    output_bytes: int
    warnings: list[str] = field(default_factory=list)
    snapshots: int | None = None


@dataclass(frozen=True)
class Followed:
    """What a standby that goes on tells: a step that ended well, or an `error` and in how many seconds it tries again.
    """

    done: Materialized | None = None
    error: str | None = None
    retry: float | None = None


@dataclass(frozen=True, slots=True)
class Overlaid:
    """An overlay of `size` bytes over a point. `claim` is what the replica knows it by; `created` is False for one that
    was there already.
    """

    path: str
    replica: str
    point: str
    size: int
    claim: str
    created: bool
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Placed:
    """A point at the place `path` of a disk of the machine's own. `before`: where the old disk is, None where there was
    none. `method`: clone of the replica, clone or copy of the disk, new, or done before; `bytes_written` into that.
    """

    path: str
    before: str | None
    point: str
    virtual_bytes: int
    bytes_written: int
    method: str
    seconds: float
    warnings: list[str] = field(default_factory=list)
