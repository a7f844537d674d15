"""A manifest: a point as a folder's record has it, and where the groups of its map lie (../FORMAT.md, section 2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.replica.point import Point
from secondsite.engine.store.base import Store
from secondsite.engine.store.log import layout, named
from secondsite.engine.store.log.layout import PLACE, Place
from secondsite.engine.store.log.rows import Row

_GROUP = re.compile(r"[0-9a-f]{96}|")


@dataclass(frozen=True, slots=True)
class Group:
    """Where a group of the map lies, and the SHA-256 of its block."""

    place: Place
    digest: bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """`groups` has None for a group of zeros."""

    point: Point
    groups: tuple[Group | None, ...]

    def row(self, digest: str) -> Row:
        """What the head says of it."""
        point = self.point
        return Row(point.generation, point.time, point.virtual_bytes, point.changed_bytes, point.kind, digest)


def save(store: Store, manifest: Manifest) -> str:
    """Put it there, and return the digest that is in its name."""
    groups = ["" if group is None else (PLACE.pack(*group.place) + group.digest).hex() for group in manifest.groups]
    generation = manifest.point.generation
    return named.save(
        store, lambda digest: layout.manifest(generation, digest), {**manifest.point.fields(), "groups": groups}
    )


def load(store: Store, row: Row, replica_id: str) -> Manifest:
    """The manifest that the head names. Raises Damaged, NewerFormat."""
    name = layout.manifest(row.generation, row.digest)
    path = store.path(name)
    fields = named.load(store, name, row.digest, f"the manifest of point {row.generation}")
    point = Point.parse(fields, path, replica_id, row.generation)
    return Manifest(point, tuple(_group(said, path) for said in record.field(fields, "groups", list, path)))


def _group(said: object, path: str) -> Group | None:
    if not isinstance(said, str) or not _GROUP.fullmatch(said):
        raise errors.Damaged("a group in it does not parse", path=path)
    packed = bytes.fromhex(said)
    return Group(Place(*PLACE.unpack(packed[: PLACE.size])), packed[PLACE.size :]) if packed else None
