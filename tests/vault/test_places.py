"""Where the vault is that a command works on: what it is told, or vault.db in the state folder, wherever that is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from secondsite.orchestration import cli

# What each command that takes both --vault and --state needs besides; `vault rebuild` makes a vault.
CALLS = {
    "drill": ["--list"], "protection": ["pause", "app1"], "run": [], "recovery run": ["plan", "--kind", "test"],
    "recovery resume": ["5f0c1d2e3a4b"], "recovery test-cleanup": ["plan"], "failover status": ["app1"],
    "failover test": ["app1"], "failover test-cleanup": ["app1"], "failover planned": ["app1"],
    "failover unplanned": ["app1"],
    "failover failback": ["app1"], "failover change-point": ["app1"], "failover start": ["app1"],
    "failover complete": ["app1"], "failover cancel": ["app1"], "failover commit": ["app1"],
    "failover reverse": ["app1"], "failover give-up": ["app1"],
}  # fmt: skip


def both(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Commands that take a vault and a state folder."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from both(found, (*path, name))
        elif found is not None and {"vault", "state"} <= {one.name for one in found.params}:
            yield " ".join((*path, name))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECONDSITE_VAULT", "SECONDSITE_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "usual"))


def test_the_vault_is_in_the_state_folder_that_was_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    assert {*both(cli.secondsite)} == {*CALLS, "vault rebuild"}
    for command, more in CALLS.items():
        assert cli.run([*command.split(), *more, "--state", str(state)]) != 0
        assert str(state / "vault.db") in (told := capsys.readouterr().err), (command, told)


def test_a_vault_is_made_anew_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, estate = tmp_path / "state", tmp_path / "estate.toml"
    estate.write_text('[vault]\nname = "v"\nregion = "r"\nsubscription = "s"\n')
    assert cli.run(["vault", "rebuild", str(estate), "--state", str(state)]) == 0, capsys.readouterr()
    assert (state / "vault.db").exists() and not (tmp_path / "usual").exists()
