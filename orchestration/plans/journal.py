"""Runs of plans as the vault has them. Each function is one transaction.

A run is gone on with by one process at a time, which renews its lease, and which alone notes what became of its tasks.
A lease that is older than a minute is nobody's; that of a process of this host that is gone is so at once. A run whose
holder died is left behind: a running orchestrator goes on with it. One that was given back waits for its operator.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update

from secondsite.engine import errors
from secondsite.orchestration.estate.model import RecoveryPlan
from secondsite.orchestration.plans.order import Kind, Task, tasks
from secondsite.orchestration.vault import holders, schema
from secondsite.orchestration.vault.database import Database

LEASE_SECONDS = 60.0
_RUN, _TASK = schema.plan_run, schema.plan_task
# What is not going on any more: a planned one stops at its first error and may be started again (R9.7).
ENDED = ("done", "failed", "stopped", "cancelled")


@dataclass(frozen=True)
class Done:
    """What a task came to: running, waiting (for a confirmation), done or failed; cancelled with its run."""

    state: str
    began: float
    ended: float | None
    detail: str | None


@dataclass(frozen=True)
class Run:
    """A run with its tasks in their order, and what was begun of them by number."""

    id: str
    plan: str
    kind: Kind
    at: str
    who: str
    began: float
    ended: float | None
    state: str
    attempt: int
    said: RecoveryPlan
    holder: str | None
    until: float
    begun: dict[int, Done]

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tasks(self.said, self.kind)

    @property
    def failed(self) -> list[Task]:
        return [task for task in self.tasks if (done := self.begun.get(task.number)) and done.state == "failed"]

    @property
    def waiting(self) -> list[Task]:
        """Manual steps that somebody has to confirm."""
        return [task for task in self.tasks if (done := self.begun.get(task.number)) and done.state == "waiting"]

    def held(self, now: float) -> bool:
        """Is a process at it that lives, as far as can be told?"""
        return self.holder is not None and self.until > now and not holders.gone(self.holder)


def new(
    database: Database, plan: RecoveryPlan, kind: Kind, at: str, who: str, now: float, holder: str | None = None
) -> str:  # fmt: skip
    """Write down a run that is to begin, by `holder`; its id. Raises Refused where a run of the plan has not ended."""
    made = uuid.uuid4().hex[:12]
    with database.alone() as connection:
        _refuse_unended(connection, plan.name)
        connection.execute(insert(_RUN).values(
            id=made, plan=plan.name, kind=kind, at=at, who=who, began=now, state="running", attempt=0,
            said=msgspec.json.encode(plan).decode(), lease_holder=holder,
            lease_until=now + LEASE_SECONDS if holder else 0.0,
        ))  # fmt: skip
    return made


def refuse_unended(database: Database, plan: str, kind: Kind) -> None:
    """Raises Refused where a run of the plan, of this kind, has not ended."""
    with database.reading() as connection:
        _refuse_unended(connection, plan, kind)


def _refuse_unended(connection: Connection, plan: str, kind: Kind | None = None) -> None:
    wanted = select(_RUN.c.id).where(_RUN.c.plan == plan, _RUN.c.state.not_in(ENDED))
    other = connection.execute(wanted if kind is None else wanted.where(_RUN.c.kind == kind)).scalar()
    if other is not None:
        raise errors.Refused(f"run {other} of plan {plan!r} has not ended: resume or cancel it")


def claim(database: Database, run: str, holder: str, now: float, *, left_behind: bool = False) -> Run:
    """Take a run, to begin or to go on with it; with `left_behind` only where its holder died. What was waiting or
    running is looked at again; what failed is begun anew. Raises Refused where it has ended well, Busy where another
    process is at it.
    """
    with database.alone() as connection:
        found = _load(connection, run)
        if found.state in ("done", "cancelled"):
            raise errors.Refused(f"run {run} is {found.state}")
        if left_behind and (found.state != "running" or found.holder is None):
            raise errors.Refused(f"run {run} was not left behind")
        if found.holder != holder and found.held(now):
            raise errors.Busy(f"run {run} is being worked on by {str(found.holder).split(' ')[0]}")
        values = {
            "lease_holder": holder, "lease_until": now + LEASE_SECONDS, "state": "running", "ended": None,
            "attempt": found.attempt + (found.state != "running" or found.attempt == 0),
        }  # fmt: skip
        connection.execute(update(_RUN).where(_RUN.c.id == run).values(values))
        if found.state != "running":
            again = _TASK.delete().where(_TASK.c.run == run, _TASK.c.state.in_(("failed", "running")))
            connection.execute(again)
        return _load(connection, run)


def renew(database: Database, run: str, holder: str, now: float) -> bool:
    """Hold it a minute longer. False: it was lost."""
    ours = update(_RUN).where(_RUN.c.id == run, _RUN.c.lease_holder == holder)
    with database.begin() as connection:
        return connection.execute(ours.values(lease_until=now + LEASE_SECONDS)).rowcount == 1


def give_back(database: Database, run: str, holder: str, *, left_behind: bool = False) -> None:
    """As it is: whoever resumes it goes on. With `left_behind` that is the next orchestrator."""
    ours = update(_RUN).where(_RUN.c.id == run, _RUN.c.lease_holder == holder)
    with database.begin() as connection:
        connection.execute(ours.values(lease_holder=holder if left_behind else None, lease_until=0.0))


def left_behind(database: Database, now: float) -> list[str]:
    """Runs whose holder died, the oldest first."""
    wanted = select(_RUN.c.id, _RUN.c.lease_holder, _RUN.c.lease_until)
    wanted = wanted.where(_RUN.c.state == "running", _RUN.c.lease_holder.is_not(None)).order_by(_RUN.c.began)
    with database.reading() as connection:
        rows = connection.execute(wanted).all()
    return [row.id for row in rows if row.lease_until <= now or holders.gone(row.lease_holder)]


def begin(database: Database, run: str, holder: str, number: int, state: str, now: float) -> Done | None:
    """Note that a task begins, as `running` or `waiting`. What was noted of it before. Raises Busy where the run was
    lost.
    """
    with database.alone() as connection:
        _check(connection, run, holder)
        chosen = select(_TASK).where(_TASK.c.run == run, _TASK.c.number == number)
        row = connection.execute(chosen).first()
        if row is None:
            connection.execute(insert(_TASK).values(run=run, number=number, state=state, began=now))
            return None
        return Done(row.state, row.began, row.ended, row.detail)


def end(
    database: Database, run: str, holder: str, number: int, state: str, now: float, detail: str | None
) -> None:  # fmt: skip
    """What a task came to: done or failed. Raises Busy where the run was lost."""
    with database.alone() as connection:
        _check(connection, run, holder)
        chosen = update(_TASK).where(_TASK.c.run == run, _TASK.c.number == number)
        connection.execute(chosen.values(state=state, ended=now, detail=detail))


def confirm(database: Database, run: str, number: int, who: str, note: str, now: float) -> None:
    """A manual step was done by somebody. Raises Refused where it does not wait for that."""
    with database.alone() as connection:
        chosen = update(_TASK).where(_TASK.c.run == run, _TASK.c.number == number, _TASK.c.state == "waiting")
        said = f"confirmed by {who}{': ' + note if note else ''}"
        if connection.execute(chosen.values(state="done", ended=now, detail=said)).rowcount != 1:
            raise errors.Refused(f"that step of run {run} does not wait for a confirmation")


def finish(database: Database, run: str, holder: str, state: str, now: float) -> None:
    """How the run ended; nobody is at it any more. Once more changes nothing. Raises Busy where the run was lost."""
    with database.alone() as connection:
        if _load(connection, run).state == state:
            return
        _check(connection, run, holder)
        values: dict[str, Any] = {"state": state, "ended": now, "lease_holder": None, "lease_until": 0.0}
        connection.execute(update(_RUN).where(_RUN.c.id == run).values(values))


def cancel(database: Database, run: str, now: float) -> None:
    """Nobody goes on with it, nor with the task that it was at. Raises Refused where it has ended, Busy while a process
    is at it.
    """
    with database.alone() as connection:
        found = _load(connection, run)
        if found.state in ("done", "cancelled"):
            raise errors.Refused(f"run {run} is {found.state}")
        if found.held(now):
            raise errors.Busy(f"run {run} is being worked on by {str(found.holder).split(' ')[0]}: stop that first")
        values = {"state": "cancelled", "ended": now, "lease_holder": None, "lease_until": 0.0}
        connection.execute(update(_RUN).where(_RUN.c.id == run).values(values))
        at = update(_TASK).where(_TASK.c.run == run, _TASK.c.state.in_(("running", "waiting")))
        detail = "the run was cancelled; whether it did its work is not known"
        connection.execute(at.values(state="cancelled", ended=now, detail=detail))


def load(database: Database, run: str) -> Run:
    """Raises Refused where there is none."""
    with database.reading() as connection:
        return _load(connection, run)


def newest(database: Database, count: int = 20, plan: str | None = None) -> list[Run]:
    """The newest runs first."""
    wanted = select(_RUN.c.id).order_by(_RUN.c.began.desc()).limit(count)
    if plan is not None:
        wanted = wanted.where(_RUN.c.plan == plan)
    with database.reading() as connection:
        return [_load(connection, run) for run in connection.execute(wanted).scalars()]


def _check(connection: Connection, run: str, holder: str) -> None:
    """One that stood still for longer than its lease does not write into what another one goes on with."""
    if connection.execute(select(_RUN.c.lease_holder).where(_RUN.c.id == run)).scalar() != holder:
        raise errors.Busy(f"another process is at run {run} now")


def _load(connection: Connection, run: str) -> Run:
    row = connection.execute(select(_RUN).where(_RUN.c.id == run)).first()
    if row is None:
        raise errors.Refused(f"there is no run {run!r}")
    begun = {
        task.number: Done(task.state, task.began, task.ended, task.detail)
        for task in connection.execute(select(_TASK).where(_TASK.c.run == run))
    }
    return Run(
        row.id, row.plan, row.kind, row.at, row.who, row.began, row.ended, row.state, row.attempt,
        msgspec.json.decode(row.said, type=RecoveryPlan), row.lease_holder, row.lease_until, begun,
    )  # fmt: skip
