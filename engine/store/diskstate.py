"""What a disk of Azure says of itself, in its blob's metadata (FORMAT.md, section 5)."""

from __future__ import annotations

from collections.abc import Mapping

from secondsite.engine import errors
from secondsite.engine.replica.point import Point

FORMAT = 1
WRITING, WHOLE = "writing", "whole"
# Of the names of all that is ours.
PREFIX = "secondsite_"


def words(point: Point, state: str) -> dict[str, str]:
    """Of a blob that holds, or is to hold, a point."""
    said = {
        "format": str(FORMAT), "state": state, "replica": point.replica_id, "point": point.name, "time": point.time,
        "seal": point.seal, "bytes": str(point.virtual_bytes),
    }  # fmt: skip
    return {PREFIX + name: value for name, value in said.items()}


def begun(replica_id: str) -> dict[str, str]:
    """Of a blob that is made before it is known what it will hold."""
    return {f"{PREFIX}format": str(FORMAT), f"{PREFIX}state": WRITING, f"{PREFIX}replica": replica_id}


def said(metadata: Mapping[str, str], path: str) -> dict[str, str]:
    """By short names. The service keeps the case of names, others on the way need not. Raises NewerFormat."""
    lower = {name.lower(): value for name, value in metadata.items()}
    found = {name.removeprefix(PREFIX): value for name, value in lower.items() if name.startswith(PREFIX)}
    version = found.get("format", "0")
    if not version.isascii() or not version.isdigit() or len(version) > 9 or int(version) > FORMAT:
        raise errors.NewerFormat(f"a disk of format {version[:20]}; this program knows {FORMAT}", path=path)
    return found


def others(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata that are not ours, which stay."""
    return {name: value for name, value in metadata.items() if not name.lower().startswith(PREFIX)}


def refused(told: Mapping[str, str], path: str) -> errors.Refused:
    """A blob that is there and not to be written without being asked to."""
    what = f"holds point {told['point'][:20]}" if "point" in told else "was made by somebody else"
    if told.get("state") == WRITING:
        what = "is being written from another replica"
    return errors.Refused(f"exists and {what}; --in-place rewrites what differs in it, or name another", path=path)
