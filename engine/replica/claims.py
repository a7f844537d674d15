"""Claims: which points overlays stand on, so that nobody drops them, whether the overlay is in use just now or not.

A lease (lease.py) ends with the process that holds it. A machine that runs from an overlay is stopped, its host is
started again, and the point must still be there: a claim stays until it is released. It holds one point, by a record
`claim-ID.json` in the replica's folder; those before and after it may go, since what is merged restores the same.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import asdict, dataclass

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.replica.directory import Replica

# Each is read by who drops points, and each keeps one from being dropped.
MAX_CLAIMS = 64
MAX_BY = 1000
_NAME = re.compile(r"claim-([0-9a-f]{16})\.json")
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Claim:
    """`by` tells a person where the overlay lies. `generation` is 0 where the claim cannot be read."""

    id: str
    generation: int
    by: str


def check(claim: Claim) -> None:
    """Raises Usage for what cannot be one: it may come from another host."""
    check_id(claim.id)
    if claim.generation < 1 or not 0 < len(claim.by) <= MAX_BY:
        raise errors.Usage("is no claim on a point")


def check_id(id: str) -> str:
    """Raises Usage for what is no id of a claim."""
    if not _ID.fullmatch(id):
        raise errors.Usage(f"{id[:40]!r} is not the id of a claim")
    return id


def put(replica: Replica, claim: Claim) -> None:
    """Claim a point, durably. The caller holds the replica as a reader, so that nothing is dropped meanwhile.

    Raises Refused where there is no such point, or as many claims as may be; Unreachable, Full.
    """
    check(claim)
    replica.point(claim.generation)
    others = [one for one in of(replica) if one.id != claim.id]
    if len(others) >= MAX_CLAIMS:
        raise errors.Refused(f"has {len(others)} overlays over it; remove some first", path=replica.layout.root)
    record.write(replica.files, _path(replica, claim.id), asdict(claim))
    replica.files.flush_dir(replica.layout.root)


def release(replica: Replica, id: str) -> bool:
    """Let go of a claim; was there one?"""
    path = _path(replica, check_id(id))
    there = replica.files.size(path) >= 0
    if there:
        replica.files.unlink(path)
        replica.files.flush_dir(replica.layout.root)
    return there


def of(replica: Replica) -> list[Claim]:
    """All claims, by their ids."""
    names = map(_NAME.fullmatch, replica.files.listdir(replica.layout.root))
    return [_read(replica, name[1]) for name in names if name]


def claimed(replica: Replica) -> dict[int, str]:
    """Who claims each generation; 0 stands for any of them, by a claim that cannot be read."""
    return {claim.generation: claim.by for claim in of(replica)}


def refuse(replica: Replica, unwanted: list[int]) -> None:
    """Raises Refused where one of these generations is claimed."""
    found = claimed(replica)
    for generation in unwanted:
        by = found.get(generation) or found.get(0)
        if by is not None:
            raise errors.Refused(f"point {generation} stays: an overlay stands on it ({by})", path=replica.layout.root)


def _read(replica: Replica, id: str) -> Claim:
    path = _path(replica, id)
    try:
        fields, _ = record.read(replica.files, path)
        found = Claim(id, record.field(fields, "generation", int, path), record.field(fields, "by", str, path))
    except errors.Damaged:
        return Claim(id, 0, f"its claim is damaged: {os.path.basename(path)}")
    return found


def _path(replica: Replica, id: str) -> str:
    return posixpath.join(replica.layout.root, f"claim-{id}.json")
