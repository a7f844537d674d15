"""The head: which points there are, in which epoch. It moves by compare-and-swap; nothing else is ever changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.replica.identity import Identity
from secondsite.engine.store.base import Absent, Changed, Exists, Fence, Store
from secondsite.engine.store.log import condemned, named, pages, rows
from secondsite.engine.store.log.condemned import Condemned
from secondsite.engine.store.log.layout import HEAD, IDENTITY
from secondsite.engine.store.log.pages import Page
from secondsite.engine.store.log.rows import Row

MAX_POINTS = 1_000_000
# What each cycle puts: 220 bytes a point, so 56 KB at most, and a page of the catalogue for every 192 cycles. Whoever
# reads one of the newest 64 points needs no page.
INLINE, _KEPT = 256, 64


@dataclass(frozen=True, slots=True)
class Head:
    """As it was read: `etag` is what the next one replaces. `taken_by`: the host that took it over into this epoch."""

    replica_id: str
    epoch: int
    source: str
    source_format: str
    pages: tuple[Page, ...] = ()
    recent: tuple[Row, ...] = ()
    condemned: tuple[Condemned, ...] = ()
    etag: str = ""
    taken_by: str = ""

    def of(self, identity: Identity) -> Identity:
        """What the replica is now: whom it follows and in which epoch may change, and only the head says it."""
        return identity.raised(self.epoch).following(self.source, self.source_format)

    @property
    def newest(self) -> Row | None:
        return self.recent[-1] if self.recent else None

    @property
    def generation(self) -> int:
        """Of the newest point, or 0."""
        return self.recent[-1].generation if self.recent else 0

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self.recent) + sum(page.count for page in self.pages)

    def pack(self) -> bytes:
        """Unlike every head before: a store's etag may be a digest of this."""
        return record.pack({
            "replica_id": self.replica_id, "epoch": self.epoch, "source": self.source,
            "source_format": self.source_format, "turn": named.turn(), "pages": pages.pack(self.pages),
            "points": rows.pack(self.recent), "condemned": condemned.pack(self.condemned), "taken_by": self.taken_by,
        })  # fmt: skip

    def with_point(self, store: Store, row: Row, identity: Identity) -> Head:
        """One point more, of what the replica is from now on. Older ones go into the catalogue where they are too many
        for the head. Raises Refused where there are too many points.
        """
        if self.count >= MAX_POINTS:
            raise errors.Refused(f"a replica in a store has at most {MAX_POINTS} points; prune some first")
        recent, older = (*self.recent, row), self.pages
        if len(recent) > INLINE:
            older, recent = pages.joined(store, self.replica_id, older, recent[:-_KEPT]), recent[-_KEPT:]
        return replace(self.following(identity), pages=older, recent=recent)

    def following(self, identity: Identity) -> Head:
        """Of what the replica is from now on. Whoever took it over did so into one epoch."""
        return replace(
            self, epoch=identity.epoch, source=identity.source, source_format=identity.source_format,
            taken_by=self.taken_by if identity.epoch == self.epoch else "",
        )  # fmt: skip


def create(store: Store, identity: Identity) -> Identity:
    """Make an empty replica; where another was faster, it is that one. Whole once both objects are there. Raises
    Damaged where one was, whose identity is missing: another in its place would hide that.
    """
    check_orphaned(store)
    try:
        store.put_if_absent(IDENTITY, record.pack(identity.fields()))
    except Exists:
        identity = load_identity(store)
    begin(store, identity)
    return identity


def check_orphaned(store: Store) -> None:
    """Raises Damaged where there is a head and no identity, which is put there first."""
    if store.stat(HEAD) is not None and store.stat(IDENTITY) is None:
        raise errors.Damaged("it is missing, and there is a head", path=store.path(IDENTITY))


def begin(store: Store, identity: Identity) -> None:
    """Make the head of a replica that has no point: whoever made its identity may have got no further. Raises Damaged
    where there were points.
    """
    if any(store.list("points/")):
        raise errors.Damaged("the head is missing, and there are manifests", path=store.path(HEAD))
    try:
        made = Head(identity.replica_id.hex(), identity.epoch, identity.source, identity.source_format)
        store.put_if_absent(HEAD, made.pack())
    except Exists:
        pass


def load_identity(store: Store) -> Identity:
    """Raises Absent where there is no replica, Damaged, NewerFormat."""
    path = store.path(IDENTITY)
    fields, _ = record.unpack(named.fetch(store, IDENTITY), path)
    return Identity.parse(fields, path)


def load(store: Store, identity: Identity) -> Head:
    """Raises Damaged, NewerFormat."""
    path = store.path(HEAD)
    try:
        found = store.get(HEAD, 0, record.MAX_BYTES)
    except Absent:
        raise errors.Damaged("the head is missing", path=path) from None
    fields, _ = record.unpack(named.whole(found.size, found.data, path), path)
    if record.field(fields, "replica_id", str, path) != identity.replica_id.hex():
        raise errors.Damaged("it is another replica's head", path=path)
    recent = rows.parse(record.field(fields, "points", list, path), path)
    older = pages.parse(record.field(fields, "pages", list, path), path)
    if len(recent) > INLINE or (older and not (recent and older[-1].last < recent[0].generation)):
        raise errors.Damaged("its points do not follow its pages of the catalogue", path=path)
    return Head(
        identity.replica_id.hex(), record.field(fields, "epoch", int, path), record.field(fields, "source", str, path),
        record.field(fields, "source_format", str, path), older, recent,
        condemned.parse(record.field(fields, "condemned", list, path), path), found.etag,
        record.field(fields, "taken_by", str, path) if "taken_by" in fields else "",  # older ones have none
    )  # fmt: skip


def move(store: Store, head: Head, fence: Fence) -> Head:
    """Put a head in the place of the one that it was made of. Raises Changed or Fenced: then it was not, unless
    somebody who read it has moved it on since.
    """
    try:
        etag = store.replace(HEAD, head.pack(), head.etag, {"epoch": str(head.epoch)}, fence)
    except Changed:
        now = load(store, load_identity(store))
        if head.recent and head.recent[-1] in now.recent:
            return now
        raise
    return replace(head, etag=etag)


def become(store: Store, head: Head, identity: Identity, fence: Fence, *, taken_by: str | None = None) -> Head:
    """Put the same points there, of what the replica is from now on. Raises Changed or Fenced."""
    made = head.following(identity)
    return put(store, replace(made, taken_by=made.taken_by if taken_by is None else taken_by), fence)


def put(store: Store, head: Head, fence: Fence) -> Head:
    """As `move`, where the newest point stays what it is."""
    return replace(head, etag=store.replace(HEAD, head.pack(), head.etag, {"epoch": str(head.epoch)}, fence))
