"""Replicas that know of more than the vault does (D8): what a first cycle must not write over.

A vault that was lost, or put back to an older state, and an estate that is applied to it instead of `vault rebuild`,
would begin each item anew, in the replicas of the one before. The first cycle's note would be all that they say of
their machine, and the points of before would be nobody's. A machine that this vault itself disabled is no stranger.
"""

from __future__ import annotations

from secondsite.engine import errors
from secondsite.orchestration.protection import lookup, note
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.worker import Worker
from secondsite.orchestration.vault import audit
from secondsite.orchestration.vault.database import Database

# In the audit log.
_FOUND = "unknown points"


class Stranger(errors.Refused):
    """The first cycle of an item found the points of another one. It waits for its operator."""


def check(database: Database, worker: Worker, item: Held, who: str, at: float) -> None:
    """Before the first cycle of an item. Raises Stranger until an operator has said that it is meant, Damaged where a
    note cannot be read, and what reaching the replicas raises.
    """
    following = lookup.next_number(database, item.id)
    for replica in item.disks.values():
        said = worker.noted(replica)
        if said is None or said.get("kind") != "secondsite item":
            continue
        found = note.parse(said, replica)
        # A cycle that was killed between its note and the vault has told the replicas of the point that follows.
        own = found.item == item.id and found.newest <= following
        if found.points and not own and not _meant(database, item.machine, found.machine):
            with database.begin() as connection:
                audit.note(connection, _FOUND, item.machine, who=who, at=at, detail=replica)
            raise Stranger(_told(item, found), path=replica)


def _meant(database: Database, machine: str, before: str) -> bool:
    """This vault disabled the machine, or an operator had it recover since its points were found."""
    done = [one.what for one in audit.newest(database, subject=machine) if one.result != "failed"]
    ended = any(one.what == "disable" for one in audit.newest(database, subject=before))
    return ended or (_FOUND in done and "recover" in done[done.index(_FOUND) :])


def _told(item: Held, found: note.Note) -> str:
    count = sum(not row.dropped for row in found.points)
    return (
        f"D8: {count} points of {found.machine!r} lie here that this vault does not know, and would forget; "
        "`secondsite vault rebuild ESTATE --vault FILE` restores them in a new vault, and "
        f"`secondsite protection recover {item.machine}` begins without them"
    )
