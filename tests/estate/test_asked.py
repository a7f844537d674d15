"""The storage account is asked itself: its redundancy, and whether replicas may be written (R12.11)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import samples

from secondsite.orchestration import cli
from secondsite.orchestration.scenarios import asked

sys.path.insert(0, str(Path(__file__).parents[1]))
pytestmark = pytest.mark.needs("azurite")


@pytest.fixture(scope="module")
def azure() -> Iterator[Any]:
    from azure.storage.blob import ContainerClient
    from azurite.emulator import running

    with running() as made:
        client = ContainerClient.from_connection_string(made.connection_string, "recovery", api_version="2026-06-06")
        client.create_container()
        yield made


@pytest.fixture(autouse=True)
def opened(azure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)


def told(*edits: tuple[str, str]) -> list[str]:
    loaded = samples.edited("S4", *edits)
    return [f"{one.rule} {loaded.line(one.where)} {one.message}" for one in asked.accounts(loaded.estate)]


def test_the_account_is_what_the_estate_says() -> None:
    """The emulator says that it is Standard_RAGRS."""
    assert told() == []


def test_the_account_is_another_one_than_the_estate_says() -> None:
    assert told(('"RAGRS"', '"GZRS"')) == [
        "R12.11 46 account 'contosorecovery' is Standard_RAGRS, and the estate says GZRS"
    ]


def test_a_container_that_is_not_there() -> None:
    found = told(("azure://recovery/", "azure://elsewhere/"))
    assert found and all(one.startswith("R12.11 43 account 'contosorecovery': ") for one in found)


def test_plan_and_apply_ask_where_they_are_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, vault = tmp_path / "estate.toml", str(tmp_path / "vault.db")
    path.write_text(samples.text("S4").replace('"RAGRS"', '"GRS"'))
    assert cli.run(["vault", "init", "--vault", vault]) == 0
    assert cli.run(["plan", str(path), "--vault", vault]) == 0
    for command in ("plan", "apply"):
        capsys.readouterr()
        assert cli.run([command, str(path), "--ask", "--vault", vault]) == 3
        assert "R12.11: account 'contosorecovery' is Standard_RAGRS" in capsys.readouterr().out
    assert cli.run(["status", "--vault", vault]) == 0
    assert "nothing is protected" in capsys.readouterr().out
