"""The audit log: every action with who, what, on what, when and how it ended."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from secondsite.orchestration.vault import schema
from secondsite.orchestration.vault.database import Database


@dataclass(frozen=True, slots=True)
class Action:
    """`result` is None while it runs, and for good where its process died."""

    id: int
    at: float
    who: str
    what: str
    subject: str
    result: str | None
    ended: float | None
    detail: str | None


def operator() -> str:
    """Who runs this program, and where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "?"
    return f"{user}@{socket.gethostname()}"


@contextmanager
def action(
    database: Database, what: str, subject: str, *, who: str | None = None, clock: Callable[[], float] = time.time
) -> Iterator[None]:
    """Around an action: it is written down before anything happens, and how it ended afterwards."""
    said = {"at": clock(), "who": who or operator(), "what": what, "subject": subject}
    with database.begin() as connection:
        made = connection.execute(insert(schema.audit).values(said)).inserted_primary_key
    assert made is not None
    try:
        yield
    except BaseException as error:
        _end(database, made[0], "failed", clock(), str(error) or type(error).__name__)
        raise
    _end(database, made[0], "done", clock(), None)


def note(connection: Connection, what: str, subject: str, *, who: str, at: float, detail: str | None) -> None:
    """An action that is done with the transaction that is open, or not at all."""
    values = {"at": at, "who": who, "what": what, "subject": subject, "result": "done", "ended": at, "detail": detail}
    connection.execute(insert(schema.audit).values(values))


def _end(database: Database, number: int, result: str, at: float, detail: str | None) -> None:
    with database.begin() as connection:
        done = update(schema.audit).where(schema.audit.c.id == number)
        connection.execute(done.values(result=result, ended=at, detail=detail))


def newest(database: Database, count: int = 100, subject: str | None = None) -> list[Action]:
    """The newest so many, oldest first."""
    asked = select(schema.audit).order_by(schema.audit.c.id.desc()).limit(count)
    if subject is not None:
        asked = asked.where(schema.audit.c.subject == subject)
    with database.begin() as connection:
        return [Action(*row) for row in connection.execute(asked)][::-1]
