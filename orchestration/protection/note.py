"""What an item notes in each of its replicas, so that the vault can be lost (D8, M16). NOTE.md is the specification.

It says which generations of which replicas are a point of the machine, and is written when all disks of a cycle are
committed: half a cycle is in no note (P16). Who rebuilds a vault believes only points that are still there.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.failover.situation import Direction
from secondsite.orchestration.protection.application import Application
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.retention.timeline import Moment, Timeline
from secondsite.orchestration.scenarios.matrix import SideName
from secondsite.orchestration.typed import ready

VERSION = 1
FORWARD: Direction = "forward"
# Half a MiB is what the engine takes. Points that go beyond are the oldest ones that nobody pinned.
MAX_BYTES = 480_000


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A point; `generations` in the order of the note's disks, None of one that was not there yet. One that is
    `dropped` is not chosen any more, and the replicas may hold it yet. A `direction` of reverse: the replicas of the
    way back have it.
    """

    number: int
    time: str
    at: int
    application: bool
    pinned: str | None
    changed_bytes: int
    dropped: bool
    generations: list[int | None]
    direction: Direction = FORWARD


class Disk(msgspec.Struct, frozen=True, omit_defaults=True):
    """`back` is the replica of the way back. One that has `left` its machine is there for older points."""

    path: str
    replica: str
    replica_id: str | None
    back: str | None = None
    back_id: str | None = None
    left: bool = False

    def lies(self, direction: str) -> tuple[str | None, str | None]:
        """Its replica in this direction, and that one's id."""
        return (self.replica, self.replica_id) if direction == FORWARD else (self.back, self.back_id)


class Relation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which side a machine runs on, and which way it replicates; `away` is the machine as it runs at the target.
    `busy`: a failover was under way.
    """

    active: SideName = "source"
    direction: Direction = FORWARD
    away: Placed | None = None
    busy: bool = False

    @property
    def plain(self) -> bool:
        """It runs where it belongs, and is replicated from there."""
        return self.active == "source" and self.direction == FORWARD and not self.busy


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """`timeline` is [at, wall, since boot, boot]. `older`: there were points that are too old to be in it."""

    kind: Literal["secondsite item"] = "secondsite item"
    version: int = VERSION
    item: str
    machine: str
    protection: str
    state: int
    epoch: int
    timeline: tuple[int, int, int, str] | None
    application: Application = Application()
    disks: list[Disk]
    points: list[Row]  # ascending
    relation: Relation = Relation()
    older: bool = False

    @property
    def newest(self) -> int:
        """Number of the newest point; 0 without one."""
        return max((row.number for row in self.points), default=0)

    def reached(self) -> Timeline | None:
        """The item's timeline when it was written."""
        return Timeline(self.timeline[0], Moment(*self.timeline[1:])) if self.timeline is not None else None

    def made(self, row: Row) -> Made:
        """A point as the vault has it."""
        paths = [disk.path for disk in self.disks]
        pairs = zip(paths, row.generations, strict=True)
        return Made(
            row.number, row.time, row.at, row.application, row.pinned,
            {path: number for path, number in pairs if number is not None}, row.changed_bytes, row.direction,
        )  # fmt: skip


ready(Note)


def of(
    item: Held, points: Iterable[Made], dropped: Iterable[Made], *, state: int, timeline: Timeline | None,
    ids: Mapping[str, str | None], application: Application,
) -> dict[str, Any]:  # fmt: skip
    """The note of an item as it is then; `ids` are those of the replicas that it replicates into."""
    disks = [_disk(item, path, ids.get(path)) for path in item.disks]
    disks += [Disk(path, replica, known, left=True) for path, (replica, known) in item.leaving.items()]
    paths = [disk.path for disk in disks]
    both = ((False, points), (True, dropped))
    rows = [_row(one, paths, gone) for gone, some in both for one in some]
    rows.sort(key=lambda row: row.number)
    kept = _fitting(rows)
    moment = timeline.moment if timeline is not None else None
    return dict(msgspec.to_builtins(Note(
        item=item.id, machine=item.machine, protection=item.protection, state=state, epoch=item.epoch,
        timeline=(timeline.at, moment.wall, moment.since_boot, moment.boot) if timeline and moment else None,
        application=application, disks=disks, points=kept,
        relation=Relation(item.active, item.direction, item.away, item.failover is not None),
        older=len(kept) < len(rows),
    )))  # fmt: skip


def _disk(item: Held, path: str, replica_id: str | None) -> Disk:
    """What is not known of the other direction, who reads the replica finds out."""
    forward = item.direction == FORWARD
    return Disk(
        path, item.homes.get(path, item.disks[path]), replica_id if forward else None, item.backs.get(path),
        item.back_ids.get(path) if forward else replica_id,
    )  # fmt: skip


def _row(one: Made, paths: Sequence[str], gone: bool) -> Row:
    return Row(
        one.number, one.time, one.at, one.application, one.pinned, one.changed_bytes, gone,
        [one.generations.get(path) for path in paths], one.direction,
    )  # fmt: skip


def _fitting(rows: list[Row]) -> list[Row]:
    """As many as there is room for: pinned ones first, then the newest."""
    room, kept = MAX_BYTES, []
    for row in sorted(rows, key=lambda row: (row.pinned is None, -row.number)):
        room -= len(msgspec.json.encode(row)) + 16 + len(row.generations)
        if room < 0:
            break
        kept.append(row)
    return sorted(kept, key=lambda row: row.number)


def parse(said: Mapping[str, Any], path: str) -> Note:
    """Raises Damaged for what is no note of ours, NewerFormat."""
    version = said.get("version")
    if isinstance(version, int) and version > VERSION and said.get("kind") == "secondsite item":
        raise errors.NewerFormat(f"its note has version {version}; this program knows {VERSION}", path=path)
    try:
        found = msgspec.convert(said, Note)
    except (msgspec.ValidationError, RecursionError) as error:
        raise errors.Damaged(f"its note is none of a protected machine: {error}", path=path) from None
    _check(found, path)
    return found


def _check(found: Note, path: str) -> None:
    """What a vault could not hold. Raises Damaged."""
    numbers = [row.number for row in found.points]
    paths = [disk.path for disk in found.disks]
    whole = [
        all(one < two for one, two in pairwise(numbers)), len(set(paths)) == len(paths), bool(paths),
        all(len(row.generations) == len(paths) for row in found.points),
        all(0 < row.number < 1 << 62 and abs(row.at) < 1 << 62 for row in found.points),
        all(0 <= row.changed_bytes < 1 << 62 for row in found.points), 0 <= found.epoch < 1 << 31,
        all(number is None or 0 < number < 1 << 62 for row in found.points for number in row.generations),
        all(_is_time(row.time) for row in found.points), len(found.item) <= 32, len(found.machine) <= 200,
        len(found.protection) <= 200, all(len(disk.path) <= 1000 and len(disk.replica) <= 1000 for disk in found.disks),
        all(len(disk.back or "") <= 1000 for disk in found.disks),
    ]  # fmt: skip
    if not all(whole):
        raise errors.Damaged("its note contradicts itself", path=path)


def _is_time(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
