"""What becomes of an item: a pure function of the estate, and of what its replicas say.

The newest note counts, and of it the points that are still there whole. Where replicas hold none, as those of a version
before notes, points are matched by their time, which all disks of a cycle share; each is pinned then, since nobody
knows any more what was pinned.

A note is input from the other side (D11): it names no disk that the estate does not, no replica that neither the estate
nor the operator does, and no command.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection.application import Application
from secondsite.orchestration.protection.item import Made
from secondsite.orchestration.protection.note import FORWARD, Disk, Note, Relation
from secondsite.orchestration.rebuilding.looking import Seen
from secondsite.orchestration.retention.timeline import Timeline, rebuilt

PINNED = "vault rebuild: its replicas held no note"


class Wanted(NamedTuple):
    """A machine that the estate protects, and its disks; `placed` is where the estate puts its replicas, by disk. Its
    cycles are `every` so many seconds.
    """

    machine: str
    protection: str
    placed: Mapping[str, str]
    every: int
    disks: frozenset[str]


@dataclass(frozen=True)
class Restored:
    """An item as the vault gets it. `reason` says why it has no cycles; `lost` points had a part that is not there
    any more; `told` is what the operator should know.
    """

    item: str
    machine: str
    protection: str
    state: State
    epoch: int
    timeline: Timeline | None
    disks: tuple[Disk, ...]
    points: tuple[Made, ...]
    dropped: tuple[Made, ...] = ()
    relation: Relation = field(default_factory=Relation)
    reason: str | None = None
    application: Application = field(default_factory=Application)
    lost: tuple[int, ...] = ()
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left:
    """A machine that could not be restored, and why."""

    machine: str
    why: str


class _Missing(Exception):
    """Which replica, in words."""


def decide(
    wanted: Wanted, seen: Sequence[Seen], failed: Mapping[str, str], named: Collection[str]
) -> Restored | Left:
    """`seen` are all replicas that could be read, `failed` says why others could not; those `named` are where the
    estate or the operator says.
    """
    candidates = [one.note for one in seen if one.note is not None and one.note.machine == wanted.machine]
    try:
        if not candidates:
            return _without_note(wanted, seen, failed)
        note = _newest(candidates)
        strangers = {one.item for one in candidates if one.item != note.item and not _shared(one, note)}
        if strangers:
            items = ", ".join(sorted({note.item, *strangers}))
            raise _Missing(f"replicas of several items are called so: {items}; name those of one")
        return _of_note(wanted, note, _Found(wanted, note, seen, failed, named))
    except _Missing as error:
        return Left(wanted.machine, str(error))


def _newest(notes: Sequence[Note]) -> Note:
    """The one that counts. All disks of a machine get the same one, and a process that was killed in between has told
    some; numbers of points only grow, whatever somebody does to the clock. Of two items of a machine, one came after
    the other was disabled.
    """
    by_item: dict[str, Note] = {}
    for one in sorted(notes, key=lambda note: (note.epoch, note.newest)):
        by_item[one.item] = one
    return max(by_item.values(), key=lambda note: (note.epoch, note.points[-1].time if note.points else ""))


def _shared(one: Note, other: Note) -> bool:
    """Whether two items have a replica in common: then one came after the other."""
    return bool({disk.replica for disk in one.disks} & {disk.replica for disk in other.disks})


class _Found:
    """The replicas of a note's disks, by (path, direction): where they were, or copies that somebody named. Of the
    direction in which it replicates all have to be there; _Missing is raised. Of the other one points may be lost.
    Disks that the estate does not know have left the machine: they are there for the points that have them.
    """

    def __init__(
        self, wanted: Wanted, note: Note, seen: Sequence[Seen], failed: Mapping[str, str], named: Collection[str]
    ) -> None:
        self.replicas: dict[tuple[str, str], Seen] = {}
        self.disks = [disk for disk in note.disks if disk.path in wanted.disks]
        if not self.disks:
            raise _Missing(f"its replicas are of other disks: {', '.join(disk.path for disk in note.disks)}")
        for direction in (FORWARD, "reverse"):
            for disk in self.disks:
                one = _find(disk, direction, seen)
                if isinstance(one, Seen) and one.replica not in named:
                    one = f"{one.replica}: its replica of disk {disk.path}, says the note; name it if that is right"
                if isinstance(one, Seen):
                    self.replicas[disk.path, direction] = one
                elif direction == note.relation.direction:
                    raise _Missing(failed.get(disk.lies(direction)[0] or "") or one)
        for disk in note.disks:
            if disk.path not in wanted.disks and isinstance(one := _find(disk, FORWARD, seen), Seen):
                self.replicas[disk.path, FORWARD] = one
                self.disks.append(msgspec.structs.replace(disk, left=True))

    def whole(self, made: Made, direction: str) -> list[bool]:
        """Of each disk, whether its part of the point is there."""
        replicas = [(number, self.replicas.get((path, direction))) for path, number in made.generations.items()]
        return [one is not None and number in one.times for number, one in replicas]

    def disk(self, disk: Disk) -> Disk:
        """As it is now."""
        there, back = (self.replicas.get((disk.path, direction)) for direction in (FORWARD, "reverse"))
        return Disk(
            disk.path, there.replica if there else disk.replica, there.replica_id if there else disk.replica_id,
            back.replica if back else disk.back, back.replica_id if back else disk.back_id, disk.left,
        )  # fmt: skip


def _find(disk: Disk, direction: str, seen: Sequence[Seen]) -> Seen | str:
    """The replica of a disk, or why there is none."""
    replica, known = disk.lies(direction)
    there = [one for one in seen if one.replica == replica]
    same = [one for one in there if known in (None, one.replica_id)]
    same += [one for one in seen if known is not None and one.replica_id == known]
    if same:
        return same[0]
    if there:
        return f"{replica}: is another replica than the one of disk {disk.path} that the note names"
    return f"{replica}: the replica of disk {disk.path} was not found"


def _of_note(wanted: Wanted, note: Note, found: _Found) -> Restored:
    points, dropped, lost = [], [], []
    for row in note.points:
        made = note.made(row)
        whole = found.whole(made, row.direction)
        if row.dropped and any(whole):
            dropped.append(made)
        elif not row.dropped and whole and all(whole):
            points.append(made)
        elif not row.dropped:
            lost.append(row.number)
    epoch = max([note.epoch, *(one.epoch for one in found.replicas.values())])
    state, reason = _state(note, epoch, bool(points))
    return Restored(
        note.item, wanted.machine, wanted.protection, state, epoch, note.reached(),
        (*map(found.disk, found.disks), *_added(wanted, note)), tuple(points), tuple(dropped),
        _harmless(note.relation), reason, note.application, tuple(lost), tuple(_told(wanted, note, found)),
    )  # fmt: skip


def _added(wanted: Wanted, note: Note) -> list[Disk]:
    """Disks that came when the note had been written, or whose first copy was under way: cycles see to it (P3)."""
    known = {disk.path for disk in note.disks}
    return [Disk(path, replica, None) for path, replica in wanted.placed.items() if path not in known]


def _harmless(relation: Relation) -> Relation:
    """Without what would be run by whoever stops the machine at the target: that the estate says."""
    away = relation.away
    if away is None or away.spec is None:
        return relation
    spec = msgspec.structs.replace(away.spec, commands=None, options=(), qmp=None, guest_agent=None)
    return msgspec.structs.replace(relation, away=msgspec.structs.replace(away, spec=spec))


def _told(wanted: Wanted, note: Note, found: _Found) -> list[str]:
    pairs = [(disk.lies(direction)[0], one.replica) for (path, direction), one in found.replicas.items()
             for disk in note.disks if disk.path == path]  # fmt: skip
    told = [f"the replica of {was} is taken from {now}" for was, now in pairs if was != now]
    if note.relation.busy:
        told.append("a failover was under way, and what it was at is not restored")
    if note.older:
        told.append("points that were too old to be noted are not restored")
    if note.protection != wanted.protection:
        told.append(f"was protected by {note.protection!r}")
    return told


def _state(note: Note, epoch: int, points: bool) -> tuple[State, str | None]:
    """After a failover that the note does not know of nothing is written before somebody looked (D9)."""
    if epoch > note.epoch:
        why = f"a replica is in epoch {epoch}, and its newest note is of {note.epoch}: a failover happened since"
        return State.ERROR, f"{why}; `protection recover` if this side is to go on"
    if not note.relation.plain:
        found = State(note.state) if note.state in list(State) else State.ERROR
        return found, "its note says that it was failed over: look where it runs; `protection sync` begins cycles again"
    if not points:
        return State.READY_FOR_INITIAL_REPLICATION, None
    found = State(note.state) if note.state in list(State) else State.ERROR
    return (State.REPLICATING if found is State.READY_FOR_INITIAL_REPLICATION else found), None


# -- without a note ----------------------------------------------------------------------------------------------


def _without_note(wanted: Wanted, seen: Sequence[Seen], failed: Mapping[str, str]) -> Restored:
    by_place = {one.replica: one for one in seen}
    found: dict[str, Seen] = {}
    for path, replica in wanted.placed.items():
        if replica not in by_place:
            raise _Missing(failed.get(replica) or f"{replica}: was not found")
        found[path] = by_place[replica]
    for one in found.values():
        if one.newer:
            raise _Missing(str(one.problem))
    if not found:
        raise _Missing("the estate does not say where its replicas are; name them")
    points, single = _matched(found, wanted.every)
    told = sorted({one.problem for one in found.values() if one.problem})
    matched = f"points matched by their times: {len(points)}; they are pinned until somebody unpins them"
    told.append(f"its replicas hold no note: {matched}")
    if single:
        told.append(f"generations of single disks that belong to no point which is known: {single}")
    ids = "".join(sorted(one.replica_id for one in found.values()))
    return Restored(
        hashlib.sha256(ids.encode()).hexdigest()[:32], wanted.machine, wanted.protection,
        State.REPLICATING if points else State.READY_FOR_INITIAL_REPLICATION,
        max(one.epoch for one in found.values()), None,
        tuple(Disk(path, one.replica, one.replica_id) for path, one in found.items()), tuple(points),
        told=tuple(told),
    )  # fmt: skip


def _matched(found: Mapping[str, Seen], every: int) -> tuple[list[Made], int]:
    """Points of which every disk has its part, by time; and how many generations are of no such point. Of two of one
    disk with the same time, the first was of a try that others failed in.
    """
    times = {path: {time: number for number, time in sorted(one.times.items())} for path, one in found.items()}
    common = sorted(set.intersection(*(set(one) for one in times.values())), key=_wall)
    walls = [_wall(time) for time in common]
    points = [
        Made(number, time, at, False, PINNED, {path: one[time] for path, one in times.items()}, 0)
        for number, (time, at) in enumerate(zip(common, rebuilt(walls, every * 1_000_000), strict=True), 1)
    ]
    used = len(points) * len(found)
    return points, sum(len(one.times) for one in found.values()) - used


def _wall(time: str) -> int:
    """Microseconds since 1970."""
    return round(datetime.datetime.fromisoformat(time).timestamp() * 1_000_000)
