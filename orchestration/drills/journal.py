"""Drills as the vault remembers them: when each machine was drilled last, and how it went."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, insert, select

from secondsite.orchestration.drills.report import Report
from secondsite.orchestration.vault import schema
from secondsite.orchestration.vault.database import Database

_DRILL = schema.drill
# Reports are files; of each machine the vault remembers so many.
MOST = 100


@dataclass(frozen=True, slots=True)
class Drilled:
    """`path` is where its report was written."""

    id: str
    machine: str
    began: float
    ok: bool
    up_seconds: float | None
    path: str | None


def note(database: Database, report: Report, path: str | None) -> None:
    """Remember a drill; of those before it only the newest."""
    with database.begin() as connection:
        connection.execute(insert(_DRILL).values(
            id=report.id, machine=report.machine, began=report.began, ok=report.ok, up_seconds=report.up_seconds,
            path=path,
        ))  # fmt: skip
        mine = select(_DRILL.c.id).where(_DRILL.c.machine == report.machine).order_by(_DRILL.c.began.desc())
        spare = list(connection.execute(mine.offset(MOST)).scalars())
        if spare:
            connection.execute(_DRILL.delete().where(_DRILL.c.id.in_(spare)))


def newest(database: Database, machine: str | None = None, count: int = 50) -> list[Drilled]:
    """The newest first."""
    wanted = select(_DRILL).order_by(_DRILL.c.began.desc()).limit(count)
    if machine is not None:
        wanted = wanted.where(_DRILL.c.machine == machine)
    with database.reading() as connection:
        return [Drilled(row.id, row.machine, row.began, row.ok, row.up_seconds, row.path)
                for row in connection.execute(wanted)]  # fmt: skip


def last(database: Database) -> dict[str, float]:
    """When the last drill of each machine began, whatever came of it."""
    wanted = select(_DRILL.c.machine, func.max(_DRILL.c.began)).group_by(_DRILL.c.machine)
    with database.reading() as connection:
        return {machine: began for machine, began in connection.execute(wanted)}
