"""Where a replica is in a chain of logs: what it remembers, and what follows from its points.

The replica remembers the last log that it took, so that the next chain must go on from there, and so that a folder of
logs can be given again and again. `hrl.json` is a record (FORMAT.md, section 1). It is written before a cycle, with
the log that the cycle is to end with as `next`, and after its commit, so that a crash in between forgets nothing.

A log that was exported from a replica names the points between which it leads, for whoever knows that replica's id:
the replica itself, and a copy of its folder. Any other replica cannot tell; its block maps' seals are keyed, so they
say nothing of another's content, and a log has no other field for it: Vhd2DataWriteGuid is that of the VHDX which was
written, and nothing says whether before or after the writes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

from secondsite.engine import errors
from secondsite.engine.hrl.format import NIL
from secondsite.engine.hrl.reader import HrlReader
from secondsite.engine.replica import record
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point


def log_id(replica_id: bytes, point: Point) -> UUID:
    """The identifier of every log that leads to a point: from the replica, the generation and its content.

    So logs exported at different times make a chain by themselves, and a generation that was taken back and made anew
    with another content breaks it.
    """
    return uuid5(UUID(bytes=replica_id), f"{point.generation} {point.seal}")


def where(replica: Replica, point: Point, readers: Sequence[HrlReader]) -> UUID | None:
    """The identifier of the log that the newest point ends with, as these logs call it; None where nothing tells.

    Raises Refused where the replica has gone back behind the last log (R7.1f), and for logs that are known to lead
    elsewhere: between points of this replica that are not the newest. Raises Damaged.
    """
    last = last_applied(replica, point)
    named = {name for reader in readers for name in (reader.unique_id, reader.previous_id)}
    if last in named:
        return last
    own = {log_id(replica.identity.replica_id, old): old for old in reversed(replica.points())}
    known = [name for name in own if name in named]
    for name in known:
        if own[name].seal == point.seal:  # of one replica equal seals are equal disks, whichever the generation
            return name
    if known:
        raise _elsewhere(replica, point, readers, known[0], own[known[0]])
    return last


def _elsewhere(
    replica: Replica, point: Point, readers: Sequence[HrlReader], name: UUID, old: Point
) -> errors.Refused:
    onward = [reader for reader in readers if reader.previous_id == name]
    reader = (onward or [reader for reader in readers if reader.unique_id == name])[0]
    way = "goes on from" if onward else "leads to"
    return errors.Refused(
        f"this log {reader.unique_id} {way} point {old.name} of this disk, and the replica is at point {point.name} "
        f"({replica.layout.root}); give logs that go on from there, or replicate the disk itself",
        path=reader.path,
    )


def last_applied(replica: Replica, point: Point) -> UUID | None:
    """The identifier of the log that the newest point ends with; None where it was not made of logs.

    Raises Refused where the replica has gone back behind it (R7.1f), and Damaged.
    """
    path = _path(replica)
    if replica.files.size(path) < 0:
        return None
    try:
        fields, _ = record.read(replica.files, path)
    except errors.Damaged as error:
        what = f"{error.message}; which log was the last is lost (replicate the disk itself, then remove this file)"
        raise errors.Damaged(what, path=path) from None
    generation = record.field(fields, "generation", int, path)
    if record.field(fields, "replica_id", str, path) != replica.identity.replica_id.hex():
        raise errors.Damaged("it is of another replica", path=path, offset=0)
    last, following = (_identifier({"next": str(NIL), **fields}, name, path) for name in ("unique_id", "next"))
    if generation > point.generation:
        raise errors.Refused(
            f"the replica went back to point {point.name}; log {last} was applied in point {generation} "
            "(replicate the disk itself, then remove this file)",
            path=path,
        )
    if generation == point.generation and record.field(fields, "seal", str, path) == point.seal:
        return last
    # A newer point that logs made was made of those announced. Otherwise a scan has looked at the disk itself since:
    # whatever chain comes now begins anew.
    return following if generation < point.generation and point.tracker == "hrl" else None


def _identifier(fields: dict[str, Any], name: str, path: str) -> UUID | None:
    try:
        found = UUID(record.field(fields, name, str, path))
    except ValueError:
        raise errors.Damaged(f"'{name}' is no identifier", path=path, offset=0) from None
    return None if found == NIL else found


def remember(replica: Replica, point: Point, last: UUID | None, following: UUID | None = None) -> None:
    """Note, durably: the newest point is what log `last` leads to, and the cycle that begins now ends with `following`.

    None: no log that is known, no cycle.
    """
    fields: dict[str, Any] = {
        "generation": point.generation,
        "seal": point.seal,
        "unique_id": str(last or NIL),
        "replica_id": replica.identity.replica_id.hex(),
    }
    if following is not None:
        fields["next"] = str(following)
    record.write(replica.files, _path(replica), fields)
    replica.files.flush_dir(replica.layout.root)


def _path(replica: Replica) -> str:
    return posixpath.join(replica.layout.root, "hrl.json")
