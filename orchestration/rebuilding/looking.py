"""What replicas say of themselves: who they are, which points they hold, and the note of their machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.protection import note as notes
from secondsite.orchestration.protection.note import Note
from secondsite.orchestration.protection.worker import beside

# A folder of replicas has one of each machine, and in that one of each disk.
_DEPTH = 3
_MOST_FOLDERS = 100_000


@dataclass(frozen=True)
class Seen:
    """A replica that could be read. `times` are those of its points, by generation; what it holds and cannot read is
    not among them. `problem` says why its note is none; `newer`: a later version of this program wrote it.
    """

    replica: str
    replica_id: str
    epoch: int
    times: Mapping[int, str]
    note: Note | None = None
    problem: str | None = None
    newer: bool = False


@dataclass(frozen=True)
class Unseen:
    """A replica that could not be read, and why."""

    replica: str
    why: str


def look(replicas: Iterable[str], state: str | None = None, plain: Collection[str] = ()) -> list[Seen | Unseen]:
    """Each of them once, in order, several at a time. Those in `plain` need not be encrypted where a key is given."""

    def one(replica: str) -> Seen | Unseen:
        with engine.using_key(engine.Key(plain=replica in plain)):
            return _look(replica, state)

    return beside(one, list(dict.fromkeys(replicas)))


def _look(replica: str, state: str | None) -> Seen | Unseen:
    try:
        found = engine.info(replica, state=state)
        if not isinstance(found, engine.ReplicaInfo):
            return Unseen(replica, f"{replica}: is a disk image and no replica")
        # What has no time is a record that cannot be read: nothing restores from it.
        times = {one.generation: one.time for one in engine.points(replica, state=state) if one.time}
    except errors.Error as error:
        return Unseen(replica, f"{error}{_keys(replica, error, state)}")
    seen = Seen(replica, found.replica_id, found.epoch, times)
    try:
        said = engine.read_note(replica, state=state)
        return seen if said is None else replace(seen, note=notes.parse(said, replica))
    except errors.Error as error:
        return replace(seen, problem=str(error), newer=isinstance(error, errors.NewerFormat))


def _keys(replica: str, error: errors.Error, state: str | None) -> str:
    """Of an encrypted replica that nothing opened: what would."""
    if not isinstance(error, errors.Refused):
        return ""
    try:
        slots = engine.replica_keys(replica, state=state)
    except errors.Error:
        return ""
    kinds = ", ".join(f"the {one.kind} of slot {one.slot}, made {one.made[:10]}" for one in slots)
    return f"; it opens with {kinds}"


def expand(places: Sequence[str]) -> Iterator[str]:
    """Replicas that operators name: each itself, by path or URL, or a folder that has some below. Raises Unreachable
    for a folder that is not there, Refused for one without any.
    """
    for place in places:
        if "://" in place:
            yield place
            continue
        if not os.path.isdir(place):
            raise errors.Unreachable("there is no such folder", path=place)
        found = list(_below(place))
        if not found:
            raise errors.Refused("no replica lies here", path=place)
        yield from found


def _below(place: str) -> Iterator[str]:
    """Folders with a `replica.json`, in order. No link is followed, and nothing is looked for inside a replica."""
    base = place.rstrip("/").count("/")
    for seen, (root, folders, names) in enumerate(os.walk(place), 1):
        if seen > _MOST_FOLDERS:
            raise errors.Refused(f"has more than {_MOST_FOLDERS} folders; name the replicas", path=place)
        if "replica.json" in names:
            yield root
            folders.clear()
        elif root.rstrip("/").count("/") - base >= _DEPTH:
            folders.clear()
        folders.sort()
