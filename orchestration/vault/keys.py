"""Registration: a key opens the door once, within five days (R1.7); all Providers have one version (R1.8)."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from secondsite.engine import errors
from secondsite.orchestration.vault import schema
from secondsite.orchestration.vault.database import Database

LIFE_SECONDS = 5 * 86400
PROVIDER, AGENT = "provider", "agent"


@dataclass(frozen=True, slots=True)
class Registered:
    kind: str
    name: str
    version: str
    at: float


def new_key(database: Database, now: float) -> str:
    """A key; only its digest is kept."""
    made = secrets.token_urlsafe(32)
    with database.begin() as connection:
        connection.execute(insert(schema.key).values(digest=_digest(made), created=now))
    return made


def register(database: Database, key: str, kind: str, name: str, version: str, now: float) -> Registered:
    """Raises Refused for a key that is unknown, used or too old, and for another version than the other Providers'."""
    with database.begin() as connection:
        _use(connection, key, name, now)
        if kind == PROVIDER:
            _same_version(connection, name, version)
        table = schema.registered
        connection.execute(table.delete().where(table.c.kind == kind, table.c.name == name))
        connection.execute(insert(table).values(kind=kind, name=name, version=version, at=now, seen=now))
    return Registered(kind, name, version, now)


def _use(connection: Connection, key: str, name: str, now: float) -> None:
    """In one statement, so that of two at once only one registers."""
    table = schema.key
    fresh = update(table).where(
        table.c.digest == _digest(key), table.c.used.is_(None), table.c.created > now - LIFE_SECONDS,
        table.c.created <= now,
    )  # fmt: skip
    if connection.execute(fresh.values(used=now, used_by=name)).rowcount != 1:
        raise errors.Refused("R1.7: the registration key is unknown, was used, or is older than five days")


def _same_version(connection: Connection, name: str, version: str) -> None:
    table = schema.registered
    others = select(table.c.version).where(table.c.kind == PROVIDER, table.c.name != name, table.c.version != version)
    other = connection.execute(others.limit(1)).scalar()
    if other is not None:
        raise errors.Refused(f"R1.8: the other Providers of this vault have version {other}, not {version}")


def registered(database: Database) -> list[Registered]:
    with database.reading() as connection:
        return known(connection)


def known(connection: Connection) -> list[Registered]:
    """All that registered, by kind and name."""
    table = schema.registered.c
    rows = select(table.kind, table.name, table.version, table.at).order_by(table.kind, table.name)
    return [Registered(*row) for row in connection.execute(rows)]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
