"""What is asked of an agent to read or look after one of its replicas, and what it answers.

Reading is in questions and answers over a call that stays open: `hold` keeps cycles away as a reader of the folder
does, `open` is an open file, `point` a recovery point that stays as it is while cycles go on. Nothing here writes a
replica's contents; who reads them proves them by their own checksums, seals and digests, as from a disk.
"""

from __future__ import annotations

import msgspec

# Bytes of one answer, and what a glance holds of a file's beginning and of its end.
MAX_READ = 4 << 20
GLANCE_BYTES = 4096
MAX_GLANCES = 256
MAX_EXTENTS = 4096
MAX_NAMES = 2000
MAX_PARTS = 500
MAX_WARNINGS = 100


class Hold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reader's lock, for as long as the call is open; answered by Held."""

    name: str
    proving: bool = False


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """It is held."""


class Look(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Is there a file or folder at `path`? Answered by Seen."""

    name: str
    path: str


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`size` is -1 where there is no file."""

    exists: bool
    size: int


class List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answered by any number of Names."""

    name: str
    path: str


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names in a folder, in order, with the sizes of files (-1: a folder). `more` follow."""

    names: list[str]
    sizes: list[int]
    more: bool


class Peek(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The beginning and the end of some files; answered by Glances, with the bytes as its body."""

    name: str
    paths: list[str]


class Glance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`head` and `tail` bytes of the body are of this file; `size` is -1 where there is none."""

    size: int
    version: int
    head: int
    tail: int


class Glances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In the order of the question."""

    found: list[Glance]


class Open(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file, or with `kind` the disk in a container of that format; answered by Opened. Then Read and Holes."""

    name: str
    path: str
    kind: str = "raw"


class Opened(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`version` differs where another file was put in its place."""

    size: int
    version: int


class AtPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A recovery point; answered by Standing. Then Read and Holes."""

    name: str
    at: str


class Standing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which point it is: its record's fields, and the replica's id."""

    size: int
    replica_id: str
    generation: int
    seal: str
    point: str


class Read(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="read"):
    """Answered by that many bytes; since version 3 by protocol.Failure where they cannot be read."""

    offset: int
    length: int


class Holes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="holes"):
    """Answered by Extents."""

    start: int
    length: int


class Extents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From `start` on, in order, without gaps: lengths, each data or zeros. They may end before the range does."""

    lengths: list[int]
    zeros: list[bool]


class Verify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As `engine.verify` without a source. Answered by any number of Told, then of Part, then by Proved."""

    name: str
    at: str | None = None


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="told"):
    """Progress."""

    stage: str
    done: int
    total: int
    changed: int


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="part"):
    """Some of what was found."""

    bad: list[tuple[int, int]]
    damaged: dict[str, str]


class Proved(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="proved"):
    """The end of it."""

    ok: bool
    point: str
    blocks: int
    seconds: float
    warnings: list[str]


class Prune(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As `engine.prune`. Answered by Count."""

    name: str
    keep: int | None = None
    drop: list[str] | None = None


class CancelResync(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As `engine.cancel_resync`. Answered by Count: one, or none."""

    name: str


class RaiseEpoch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As `engine.raise_epoch`. Answered by Count."""

    name: str
    epoch: int


class Delete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As `engine.delete_replica`: nothing but the replica of this id, from a host that no later epoch has fenced off.
    Answered by Count: 1, or 0 where there was none.
    """

    name: str
    replica_id: str
    epoch: int | None = None


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As `engine.write_note`, which comes behind it, as JSON. Answered by Count: none went."""

    name: str
    epoch: int | None = None


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep a point, with this seal, until it is released. Answered by Count."""

    name: str
    id: str
    generation: int
    seal: str
    by: str


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answered by Count: one, or none."""

    name: str
    id: str


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answered by Claimed."""

    name: str


class Claimed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """(id, generation, by whom) of each claim."""

    found: list[tuple[str, int, str]]


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How many points or resyncs went, or the epoch. Since version 3: what did no harm."""

    count: int
    warnings: list[str] = []
