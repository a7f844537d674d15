"""The head: which points there are, in which epoch. It moves by compare-and-swap; nothing else is ever changed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from secondsite.engine import errors, units
from secondsite.engine.replica import record
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.layout import MAX_GENERATION
from secondsite.engine.replica.point import parse_time
from secondsite.engine.store.base import Absent, Changed, Exists, Fence, Store
from secondsite.engine.store.log.layout import HEAD, IDENTITY

# Two lines of 110 bytes a point: a record has at most 1 MiB.
MAX_POINTS = 4000
_DIGEST = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Row:
    """What the head says of a point; `digest` names its manifest."""

    generation: int
    time: str
    virtual_bytes: int
    changed_bytes: int
    kind: str
    digest: str

    @property
    def name(self) -> str:
        """How people call it: the generation's number."""
        return str(self.generation)


@dataclass(frozen=True, slots=True)
class Head:
    """As it was read: `etag` is what the next one replaces."""

    replica_id: str
    epoch: int
    source: str
    source_format: str
    points: tuple[Row, ...]
    etag: str = ""

    def of(self, identity: Identity) -> Identity:
        """What the replica is now: whom it follows and in which epoch may change, and only the head says it."""
        return identity.raised(self.epoch).following(self.source, self.source_format)

    @property
    def generation(self) -> int:
        """Of the newest point, or 0."""
        return self.points[-1].generation if self.points else 0

    def pack(self) -> bytes:
        """Unlike every head before: a store's etag may be a digest of this."""
        rows = [[row.generation, row.time, row.virtual_bytes, row.changed_bytes, row.kind, row.digest]
                for row in self.points]  # fmt: skip
        return record.pack({
            "replica_id": self.replica_id, "epoch": self.epoch, "source": self.source,
            "source_format": self.source_format, "turn": os.urandom(8).hex(), "points": rows,
        })  # fmt: skip

    def with_point(self, row: Row, identity: Identity) -> Head:
        """One point more, of what the replica is from now on. Raises Refused where there are too many."""
        if len(self.points) >= MAX_POINTS:
            raise errors.Refused(f"a replica in a store has at most {MAX_POINTS} points; prune some first")
        return replace(
            self, epoch=identity.epoch, source=identity.source, source_format=identity.source_format,
            points=(*self.points, row),
        )  # fmt: skip


def create(store: Store, identity: Identity) -> Identity:
    """Make an empty replica; where another was faster, it is that one. Whole once both objects are there."""
    try:
        store.put_if_absent(IDENTITY, record.pack(identity.fields()))
    except Exists:
        identity = load_identity(store)
    begin(store, identity)
    return identity


def begin(store: Store, identity: Identity) -> None:
    """Make the head of a replica that has no point: whoever made its identity may have got no further. Raises Damaged
    where there were points.
    """
    if any(store.list("points/")):
        raise errors.Damaged("the head is missing, and there are manifests", path=store.path(HEAD))
    try:
        made = Head(identity.replica_id.hex(), identity.epoch, identity.source, identity.source_format, ())
        store.put_if_absent(HEAD, made.pack())
    except Exists:
        pass


def load_identity(store: Store) -> Identity:
    """Raises Absent where there is no replica, Damaged, NewerFormat."""
    path = store.path(IDENTITY)
    fields, _ = record.unpack(store.get(IDENTITY).data, path)
    return Identity.parse(fields, path)


def load(store: Store, identity: Identity) -> Head:
    """Raises Damaged, NewerFormat."""
    path = store.path(HEAD)
    try:
        found = store.get(HEAD)
    except Absent:
        raise errors.Damaged("the head is missing", path=path) from None
    fields, _ = record.unpack(found.data, path)
    if record.field(fields, "replica_id", str, path) != identity.replica_id.hex():
        raise errors.Damaged("it is another replica's head", path=path)
    epoch = record.field(fields, "epoch", int, path)
    rows = [_row(row, path) for row in record.field(fields, "points", list, path)]
    if any(one.generation >= two.generation for one, two in pairwise(rows)):
        raise errors.Damaged("its points do not ascend", path=path)
    source = record.field(fields, "source", str, path), record.field(fields, "source_format", str, path)
    return Head(identity.replica_id.hex(), epoch, *source, tuple(rows), found.etag)


def _row(said: Any, path: str) -> Row:
    kinds = (int, str, int, int, str, str)
    whole = isinstance(said, list) and len(said) == len(kinds)
    if not whole or not all(type(value) is kind for value, kind in zip(said, kinds, strict=True)):
        raise errors.Damaged("a point in it does not parse", path=path)
    row = Row(*said)
    numbers = (row.generation - 1, row.virtual_bytes, row.changed_bytes, MAX_GENERATION - row.generation)
    if min(numbers) < 0 or max(numbers) > units.MAX_NUMBER or not _DIGEST.fullmatch(row.digest):
        raise errors.Damaged("a point in it makes no sense", path=path)
    parse_time(row.time, path)
    return row


def move(store: Store, head: Head, fence: Fence) -> Head:
    """Put a head in the place of the one that it was made of. Raises Changed or Fenced: then it was not, unless
    somebody who read it has moved it on since.
    """
    try:
        etag = store.replace(HEAD, head.pack(), head.etag, {"epoch": str(head.epoch)}, fence)
    except Changed:
        now = load(store, load_identity(store))
        if head.points and head.points[-1] in now.points:
            return now
        raise
    return replace(head, etag=etag)


def become(store: Store, head: Head, identity: Identity, fence: Fence) -> Head:
    """Put the same points there, of what the replica is from now on. Raises Changed or Fenced."""
    made = replace(head, epoch=identity.epoch, source=identity.source, source_format=identity.source_format)
    return replace(made, etag=store.replace(HEAD, made.pack(), head.etag, {"epoch": str(made.epoch)}, fence))
