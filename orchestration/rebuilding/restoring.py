"""What is missing in a vault of an estate, put there in one transaction: from the replicas, and from nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, insert

from secondsite.engine import errors
from secondsite.orchestration.estate.loading import Loaded
from secondsite.orchestration.estate.model import Estate
from secondsite.orchestration.protection.application import Application
from secondsite.orchestration.protection.item import Made
from secondsite.orchestration.protection.leases import NEVER
from secondsite.orchestration.protection.said import protected
from secondsite.orchestration.protection.turn import packed
from secondsite.orchestration.rebuilding.deciding import Left, Restored, Wanted, decide
from secondsite.orchestration.rebuilding.looking import Seen, Unseen, expand, look
from secondsite.orchestration.vault import audit, inventory, schema
from secondsite.orchestration.vault.database import Database
from secondsite.orchestration.vault.inventory import Item

# What no replica holds.
NOT_RESTORED = (
    "statistics", "the audit log", "test failovers and runs of plans",
    "registration keys and what registered with them",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """`there` were in the vault already; `strangers` are replicas of machines that the estate does not protect, with
    the machine. Nothing was `written` where something is `left` that was not to be left.
    """

    restored: tuple[Restored, ...]
    left: tuple[Left, ...]
    there: tuple[str, ...]
    strangers: Mapping[str, str]
    written: bool


def rebuild(
    database: Database, loaded: Loaded, places: Sequence[str], *, partial: bool, who: str, now: float,
    state: str | None = None,
) -> Outcome:  # fmt: skip
    """Restore every item of the estate that the vault does not hold. `places` are replicas, or folders of replicas,
    beside those where the estate puts them. With `partial` what can be restored is, where something else can not.

    Raises Refused for an estate with broken rules, or another one than the vault's.
    """
    with database.reading() as connection:
        before, held = inventory.last_estate(connection), inventory.items(connection)
    wanted = list(_wanted(loaded, before, held, now))
    replicas = [*(path for one in wanted for path in one.placed.values()), *expand(places)] if wanted else []
    said = protected(loaded.estate) if wanted else {}
    plain = {path for one in wanted if not said[one.machine].policy.encrypt for path in one.placed.values()}
    seen, failed = _look(replicas, state, plain)
    found = [decide(one, seen, failed, set(replicas)) for one in wanted]
    restored = tuple(one for one in found if isinstance(one, Restored))
    left = tuple(one for one in found if isinstance(one, Left))
    names = {one.machine for one in loaded.estate.item}
    strangers = {one.replica: one.note.machine for one in seen if one.note and one.note.machine not in names}
    written = bool(restored) and (partial or not left)
    if written:
        _write(database, loaded, restored, who, now)
    return Outcome(restored, left, tuple(sorted(one.machine for one in held)), strangers, written)


def _wanted(loaded: Loaded, before: Estate | None, held: Sequence[Item], now: float) -> Iterator[Wanted]:
    """What the vault lacks of the estate."""
    if before is not None and before != loaded.estate:
        raise errors.Refused("the vault holds another estate than this file; apply it, or take an empty vault")
    made = inventory.plan(loaded, before, held, now)
    if made.findings:
        first = made.findings[0]
        raise errors.Refused(first.line(loaded.line(first.where)), path=loaded.path)
    known, said = {one.machine for one in held}, protected(loaded.estate)
    for one in loaded.estate.item:
        if one.machine not in known:
            machine = said[one.machine].machine
            disks = frozenset(disk.path for disk in machine.disks if not disk.exclude)
            placed = made.placed.get(one.machine, {})
            yield Wanted(one.machine, one.protection, placed, said[one.machine].every, disks)


def _look(
    replicas: Sequence[str], state: str | None, plain: Collection[str]
) -> tuple[list[Seen], dict[str, str]]:
    """The replicas, and those that their notes name beside them."""
    seen: list[Seen] = []
    failed: dict[str, str] = {}
    more = list(replicas)
    for _ in range(2):
        for one in look(more, state, plain):
            if isinstance(one, Unseen):
                failed[one.replica] = one.why
            else:
                seen.append(one)
        disks = [disk for one in seen if one.note for disk in one.note.disks]
        known = {*failed, *(one.replica for one in seen)}
        more = [one for disk in disks for one in (disk.replica, disk.back) if one is not None and one not in known]
    return seen, failed


# -- the transaction ---------------------------------------------------------------------------------------------


def _write(database: Database, loaded: Loaded, restored: Sequence[Restored], who: str, now: float) -> None:
    with database.alone() as connection:
        before, held = inventory.last_estate(connection), inventory.items(connection)
        if before is not None and before != loaded.estate:
            raise errors.Busy("another estate was applied just now; try again")
        if before is None:
            inventory.remember(connection, loaded, who, now)
        known = {one.machine for one in held}
        for one in restored:
            if one.machine not in known:
                _write_item(connection, one, now)
                detail = f"{len(one.points)} points, epoch {one.epoch}"
                audit.note(connection, "rebuild", one.machine, who=who, at=now, detail=detail)


def _write_item(connection: Connection, one: Restored, now: float) -> None:
    runs = one.state.cycles and one.reason is None
    connection.execute(insert(schema.item).values(
        id=one.item, machine=one.machine, protection=one.protection, state=int(one.state), reason=one.reason,
        epoch=one.epoch, enabled=_seconds(one.points[0]) if one.points else now, due=now if runs else NEVER,
        last=_seconds(one.points[-1]) if one.points else None, statistics={}, sending=runs,
        timeline=packed(one.timeline) if one.timeline is not None else None,
        application=msgspec.to_builtins(one.application) if one.application != Application() else None,
        active=one.relation.active,
        direction=one.relation.direction, away=msgspec.to_builtins(one.relation.away),
    ))  # fmt: skip
    for disk in one.disks:
        connection.execute(insert(schema.disk).values(
            item=one.item, path=disk.path, replica=disk.replica, replica_id=disk.replica_id, back=disk.back,
            back_id=disk.back_id, leaving=now if disk.left else None,
        ))  # fmt: skip
    both = ((False, one.points), (True, one.dropped))
    rows = [
        {**msgspec.to_builtins(point), "item": one.item, "dropped": gone} for gone, some in both for point in some
    ]
    if rows:
        connection.execute(insert(schema.point), rows)


def _seconds(point: Made) -> float:
    return datetime.datetime.fromisoformat(point.time).timestamp()
