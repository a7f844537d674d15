"""A vault is made, opened and brought up to date, or refused with a line."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, inspect, select

from secondsite.engine import errors
from secondsite.orchestration.vault import database, migrate, schema
from secondsite.orchestration.vault.database import Database


def test_the_migrations_make_the_tables_that_the_code_knows(vault: Database) -> None:
    with vault.begin() as connection:
        found = inspect(connection)
        assert set(found.get_table_names()) == {*schema.metadata.tables, "schema_version"}
        for name, table in schema.metadata.tables.items():
            columns = {column["name"]: column for column in found.get_columns(name)}
            assert columns.keys() == {column.name for column in table.columns}, name
            for column in table.columns:
                assert column.primary_key or columns[column.name]["nullable"] == column.nullable, (name, column.name)
                wanted = column.type.as_generic()._type_affinity
                assert columns[column.name]["type"].as_generic()._type_affinity is wanted, (name, column.name)
            key = found.get_pk_constraint(name)["constrained_columns"]
            assert key == [column.name for column in table.primary_key], name
        assert migrate.version(connection) == migrate.newest()


def test_a_vault_is_made_once_and_opened_again(url: str) -> None:
    for _ in range(2):
        database.create(url).close()
    database.opened(url).close()


def test_where_there_is_none_nothing_is_made(url: str, tmp_path: Path) -> None:
    with pytest.raises(errors.Refused, match="there is no vault"):
        database.opened(url)
    assert not list(tmp_path.iterdir())


def test_a_newer_vault_is_refused(vault: Database, url: str) -> None:
    with vault.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO schema_version VALUES ({migrate.newest() + 1})")
    for way in (database.opened, database.create):
        with pytest.raises(errors.NewerFormat):
            way(url)


def test_ten_that_make_it_at_once_make_it_once(url: str) -> None:
    failed = []

    def make() -> None:
        try:
            database.create(url).close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    with database.opened(url) as vault, vault.begin() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM schema_version").scalar()
        assert count == len(migrate.scripts())


def test_what_is_no_vault_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "vault.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(errors.Damaged, match="is no vault"):
        database.opened(str(path))
    assert path.read_bytes() == b"no database" * 1000
    with pytest.raises(errors.Unreachable):
        database.create(str(tmp_path / "no folder" / "vault.db"))
    with pytest.raises(errors.Usage):
        database.create("mysql://x/y")


def test_a_server_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(errors.Unreachable) as caught:
        database.opened(f"postgresql://me:sesame@/vault?host={tmp_path}")
    assert "sesame" not in str(caught.value) and "does not answer" in str(caught.value)


def test_the_file_is_its_owners_alone_and_safe_from_a_loss_of_power(tmp_path: Path) -> None:
    path = tmp_path / "vault.db"
    with database.create(str(path)) as vault, vault.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    assert path.stat().st_mode & 0o777 == 0o600
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("value", ["na\udcefme", float("inf"), 2**63, [1.5, None, {"é": "x"}]])
def test_columns_of_json_give_back_what_was_put_in(tmp_path: Path, value: object) -> None:
    """In a file names that are no text too, which a faster reader refuses; a server takes none."""
    row = {"id": "1", "machine": "m", "protection": "p", "state": 1, "enabled": 0.0, "due": 0.0}
    with database.create(str(tmp_path / "v.db")) as vault, vault.begin() as connection:
        connection.execute(insert(schema.item).values(row | {"statistics": {"is": value}}))
        assert connection.execute(select(schema.item.c.statistics)).scalar() == {"is": value}


def test_a_url_that_is_none_is_told_without_its_password() -> None:
    with pytest.raises(errors.Usage, match=r"^postgresql://db:here/vault: a vault is a file, or") as told:
        database.opened("postgresql://me:sesame@db:here/vault")
    assert "sesame" not in str(told.value)


def test_a_server_that_the_network_lost_is_not_waited_for_without_end() -> None:
    """As long as the URL says, or seconds."""
    with database._postgresql("me@db/vault?connect_timeout=3") as made:
        asked = made.engine.url.query
        assert asked["connect_timeout"] == "3" and int(str(asked["tcp_user_timeout"])) <= 60_000
