"""Whatever is written into a vault's file, commands say in one line what cannot be read."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from test_cycles import Bench

from secondsite.engine import errors
from secondsite.orchestration import cli
from secondsite.orchestration.vault import database, schema

COLUMNS = [(table.name, column.name) for table in (schema.item, schema.disk, schema.point) for column in table.columns]
COMMANDS = (["status"], ["retention", "app1"], ["failover", "status"], ["protection", "pause", "app1"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an item of two points."""
    folder = tmp_path_factory.mktemp("whole")
    with database.create(str(folder / "vault.db")) as made:
        bench = Bench(folder, made)
        bench.cycle()
        bench.clock.now += 300
        bench.write()
        bench.cycle()
    return folder / "vault.db"


@pytest.mark.sweep(sample=12)
@pytest.mark.parametrize("value", ["'zzz'", "-99999999999", "x'ff00'"])
@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_no_value_is_taken_for_a_bug(whole: Path, tmp_path: Path, table: str, column: str, value: str) -> None:
    for number, command in enumerate(COMMANDS):
        vault = tmp_path / f"{number}.db"
        shutil.copy(whole, vault)
        with sqlite3.connect(vault) as connection:
            try:
                connection.execute(f"UPDATE {table} SET {column} = {value}")
            except sqlite3.IntegrityError:
                continue  # of a key: not into this one
        assert cli.run([*command, "--vault", str(vault)]) != errors.Error.exit_code, command
