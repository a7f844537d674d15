"""What the engine's calls return: plain values, ready for JSON through `dataclasses.asdict`."""

from __future__ import annotations

from dataclasses import dataclass, field

from secondsite.engine.scan import Range


@dataclass(frozen=True, slots=True)
class Replicated:
    """`kind`: initial, delta, unchanged or resync. Sizes in bytes; `sent_bytes` are the data blocks given to the
    replica, zeros and unchanged blocks not counted.

    `tracker` is what named the blocks that were read, and `why` says why it was this one; `scanned`: all of them were
    read. `sampled` blocks that it did not name were looked at, and `caught` is the probability with which a tracker
    that hides 0.1 % of the changes is caught within 100 cycles like this one, see distrust.caught (None where nothing
    changed, or all was read). The source's writer may have stood still for `stall_seconds` (None: nothing stopped it).
    `application`: file systems or databases were at rest. `kept_bytes`: what the tracking had taken beside the source.

    `read_bytes` are this call's. A cycle that goes on where another call was cut short has changed what both did.
    To another host `over_bytes` were given to the link in `attempts`, of which `again_bytes` had been lost and went
    another time; the last attempt used up to so many `connections` at once.
    `moment` is the time of the point that was SOURCE, where it was one: the replica is as old as that.
    """

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
    why: str = ""
    scanned: bool = True
    sampled: int = 0
    caught: float | None = None
    stall_seconds: float | None = None
    application: bool = False
    kept_bytes: int = 0
    over_bytes: int = 0
    again_bytes: int = 0
    attempts: int = 1
    moment: str | None = None
    connections: int = 1


@dataclass(frozen=True, slots=True)
class Pruned:
    """So many points were dropped. Of a replica in a store `freed_bytes` were removed by this call, and
    `condemned_bytes` wait until a later one, as somebody may be reading them.
    """

    points: int
    freed_bytes: int = 0
    condemned_bytes: int = 0
    warnings: list[str] = field(default_factory=list)


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
class SeedExported:
    """`kind`: exported, or whole where the medium held it already. `stored_bytes` lie on the medium in `parts` files,
    `written_bytes` of them were written now. `replica` waits for it, where one was named.
    """

    kind: str
    medium: str
    replica_id: str
    virtual_bytes: int
    stored_bytes: int
    read_bytes: int
    written_bytes: int
    parts: int
    tracker: str
    time: str
    replica: str | None
    seconds: float
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SeedImported:
    """`kind`: imported, or finished where an import before had been cut short behind the seed. `held` deltas that had
    come meanwhile followed it, up to `point`, the newest now.
    """

    kind: str
    replica: str
    replica_id: str
    point: str
    generation: int
    time: str
    virtual_bytes: int
    seed_bytes: int
    held: int
    seconds: float
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Adopted:
    """`method`: move, clone or copy."""

    replica: str
    replica_id: str
    point: str
    virtual_bytes: int
    read_bytes: int
    method: str
    seconds: float
    warnings: list[str] = field(default_factory=list)


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
class Verified:
    """`bad`: ranges of the head (or of the point, or of the source) that differ. `damaged`: points that would not
    restore whole, with what is wrong. `against`: what stood for the source, `kept clone` (of the moment of the point),
    `clone` (of now) or `image`; None where there was no source. Of an encrypted replica that was read without its key
    `objects` of `stored_bytes` were looked at, and `damaged` names objects."""

    ok: bool
    point: str
    blocks: int
    bad: list[Range]
    damaged: dict[str, str]
    seconds: float
    warnings: list[str] = field(default_factory=list)
    against: str | None = None
    objects: int | None = None
    stored_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One of the keys that open an encrypted replica; `kind`: passphrase or key file."""

    slot: int
    kind: str
    made: str


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
