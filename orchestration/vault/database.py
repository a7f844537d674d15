"""The vault's database: a file of SQLite, or PostgreSQL by URL."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy import Connection, Engine, event

from secondsite.engine import errors
from secondsite.orchestration.vault import migrate

_POSTGRESQL = ("postgresql://", "postgres://")
# How long a writer of SQLite waits for another one.
_BUSY_SECONDS = 30
# How long a server of PostgreSQL is waited for that takes no connection, and one that the network lost, in seconds (and
# for the last in milliseconds), where its URL does not say it. By themselves they are two minutes and two hours.
_PATIENCE = {
    "connect_timeout": "10", "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}  # fmt: skip
# One number for all orchestrators of a database: who changes its tables, or what is protected, holds it.
_ALONE = 0x5EC05173


class Database:
    """Made by `create` or `opened`; each `begin` is one transaction, durable when it ends."""

    def __init__(self, engine: Engine, label: str, file: tuple[int, int] | None = None) -> None:
        """`file` is what a file of SQLite was when it was opened: device and inode."""
        self.engine, self.label, self._file = engine, label, file

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Raises Unreachable where the database does not answer, Damaged where it is none or has a value that cannot be
        read, Refused where its file is not the one any more that was opened.
        """
        with self._told(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What a driver raises, as ours."""
        self._look()
        try:
            yield
        except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError) as error:
            raise errors.Unreachable(f"the vault does not answer: {_short(error)}", path=self.label) from None
        except sqlalchemy.exc.IntegrityError:
            raise
        except sqlalchemy.exc.DatabaseError as error:
            raise errors.Damaged(f"is no vault: {_short(error)}", path=self.label) from None
        except (msgspec.DecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            told = f"a value of the vault cannot be read: {error}; `secondsite vault rebuild` makes a vault anew"
            raise errors.Damaged(told, path=self.label) from None

    def _look(self) -> None:
        """SQLite goes on in a file that was deleted, which nobody ever reads, or makes an empty one in its place."""
        if self._file is None:
            return
        try:
            found = os.stat(self.label)
        except FileNotFoundError:
            raise errors.Refused("the vault's file was deleted", path=self.label) from None
        except OSError as error:
            raise errors.from_os(error, self.label, "open the vault") from None
        if (found.st_dev, found.st_ino) != self._file:
            raise errors.Refused("the vault's file was replaced by another one; begin again", path=self.label)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that changes nothing, and so waits for no writer. Raises as `begin`."""
        with self._told(), self.engine.connect().execution_options(reading=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A transaction beside which nobody else has one of these: what it reads first is still so at its end."""
        with self.begin() as connection:
            if self.shared:  # SQLite has one writer at a time in any case
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ALONE})")
            yield connection

    @property
    def shared(self) -> bool:
        """Whether orchestrators on several hosts may use it."""
        return self.engine.dialect.name == "postgresql"

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def create(url: str) -> Database:
    """Make the tables where there are none, and bring older ones up to date. Raises as `opened`."""
    return _migrated(_connect(url, make=True), make=True)


def opened(url: str) -> Database:
    """A vault that is there, brought up to date. Raises Refused where there is none, NewerFormat, Unreachable,
    Damaged, Usage.
    """
    return _migrated(_connect(url, make=False), make=False)


def _connect(url: str, *, make: bool) -> Database:
    if url.startswith(_POSTGRESQL):
        return _postgresql(url.split("://", 1)[1])
    if "://" in url:
        raise errors.Usage("a vault is a file, or postgresql://USER@HOST/DATABASE")
    if not make and not Path(url).is_file():
        raise errors.Refused("there is no vault; `secondsite vault init` makes one", path=url)
    try:
        fd = os.open(url, os.O_RDWR | (os.O_CREAT if make else 0) | os.O_CLOEXEC, 0o600)
        found = os.fstat(fd)
        os.close(fd)
    except OSError as error:
        raise errors.from_os(error, url, "open the vault") from None
    engine = sqlalchemy.create_engine(
        f"sqlite:///{url}", connect_args={"timeout": _BUSY_SECONDS}, json_deserializer=_decoded
    )
    event.listen(engine, "connect", _settings)
    event.listen(engine, "begin", _write_from_the_start)
    return Database(engine, url, (found.st_dev, found.st_ino))


def _postgresql(plain: str) -> Database:
    """What errors call it has no password in it."""
    label = "postgresql://" + plain.rsplit("@", 1)[-1].split("?")[0]
    try:
        url = sqlalchemy.make_url(f"postgresql+psycopg://{plain}")
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise errors.Usage(f"{label}: a vault is a file, or postgresql://USER@HOST[:PORT]/DATABASE") from None
    url = url.update_query_dict({**_PATIENCE, **url.query})
    try:
        engine = sqlalchemy.create_engine(url, pool_pre_ping=True, json_deserializer=_decoded)
    except ImportError:
        raise errors.Refused("needs psycopg: pip install 'secondsite[vault]'", path=label) from None
    return Database(engine, label)


def _decoded(text: str | bytes) -> Any:
    """A column of JSON, in a fifth of the time that the standard library takes, which also reads what msgspec does not:
    names that are no text, numbers that are none.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)


def _settings(connection: Any, _: object) -> None:
    """What is said to be done survives a loss of power, and readers do not wait for a writer."""
    connection.isolation_level = None
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}")


def _write_from_the_start(connection: Connection) -> None:
    """A transaction that began by reading could not become a writer's while another one writes."""
    reading = connection.get_execution_options().get("reading")
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _migrated(database: Database, *, make: bool) -> Database:
    try:
        with database.reading() as connection:
            if migrate.version(connection) == migrate.newest():
                return database  # so that who only looks waits for no writer
        with database.alone() as connection:
            now = migrate.version(connection)
            if now == 0 and not make:
                raise errors.Refused("there is no vault; `secondsite vault init` makes one", path=database.label)
            if now > migrate.newest():
                message = f"a vault of version {now}; this program knows {migrate.newest()}"
                raise errors.NewerFormat(message, path=database.label)
            migrate.upgrade(connection, now)
    except BaseException:
        database.close()
        raise
    return database


def _short(error: sqlalchemy.exc.DBAPIError) -> str:
    """What the driver says, on one line, without the statement."""
    return " ".join(str(error.orig).split())[:200]
