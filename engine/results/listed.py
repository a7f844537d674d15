"""What is told of replicas, points, images and stores."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PointInfo:
    """A point as `points` lists it. `damaged` with `problem` where it is known not to restore. `history` says how it is
    kept: head, undo or clone; seed or held where it can be restored only once the replica's seed was imported.
    """

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
    """`head` is the path of the plain image; None before the first point. `clones` of the source, which the clone
    tracker keeps beside it, hold `clone_bytes` that no other file does. One that `waits` for its seed holds so many
    deltas for it, of `held_bytes`. `resync` is `pending` where another host began one that is not done yet, and
    `compared` how much of the head it has compared, from 0 to 1; it is `required` where the newest point is known to be
    damaged.
    """

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
    clones: list[str] = field(default_factory=list)
    clone_bytes: int = 0
    waits: bool = False
    held: int = 0
    held_bytes: int = 0
    resync: str | None = None
    compared: float | None = None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """`allocated_bytes` is the room that the file itself, without its parents, gives to data. `log` is `clean` or
    `dirty` for formats that have one. `parents` are (path, identifier), the image's own first.
    """

    kind: str
    path: str
    format: str
    subformat: str
    virtual_bytes: int
    allocated_bytes: int
    block_size: int
    logical_sector: int
    log: str | None
    parents: list[tuple[str, str]]
    identifiers: dict[str, str]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class MapExtent:
    """A run of the disk as its guest sees it. `depth`: 0 for the image's own data, 1 for its parent's, and so on."""

    start: int
    length: int
    data: bool
    zero: bool
    depth: int


@dataclass(frozen=True, slots=True)
class StoreChecked:
    """What a store is and lets us do. `sku`, `kind`, `redundancy`, `page_blobs` (can disks lie there?) and
    `block_blobs` (replicas?) are of an Azure account, None where it does not say; `clock` is how many seconds this
    host's is ahead.
    `may` has what was tried: list, write, read, delete. `limits` are those that we hold to, in bytes but for `blocks`.
    `problems` are in the way of a replica; `notes` are not.
    """

    ok: bool
    store: str
    may: dict[str, bool]
    problems: list[str]
    notes: list[str]
    sku: str | None = None
    kind: str | None = None
    redundancy: str | None = None
    page_blobs: bool | None = None
    block_blobs: bool | None = None
    clock: float | None = None
    limits: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finding:
    """What `check` found: `damaged` where reading will be refused, otherwise a remark."""

    path: str
    text: str
    damaged: bool
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One of the keys that open an encrypted replica; `kind`: passphrase or key file."""

    slot: int
    kind: str
    made: str
