"""What the commands share that work with the vault: where it is, and an estate that is held to its rules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondsite.engine import errors
from secondsite.orchestration import output

if TYPE_CHECKING:
    from secondsite.orchestration.estate.findings import Finding
    from secondsite.orchestration.estate.loading import Loaded
    from secondsite.orchestration.vault.database import Database


def vault_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--vault", metavar="FILE|URL", envvar="SECONDSITE_VAULT",
        help="The vault: a file, or postgresql://USER@HOST/DATABASE.  [default: vault.db in the state folder]",
    )(command)  # fmt: skip


def ask_option(command: Callable[..., Any]) -> Callable[..., Any]:
    help = "Ask the storage accounts themselves too: their redundancy (R12.11), and whether replicas may be written."
    return click.option("--ask", is_flag=True, help=help)(command)


def where(vault: str | None) -> str:
    """The vault that is meant."""
    if vault:
        return vault
    base = os.environ.get("SECONDSITE_STATE")
    if not base:
        base = str(Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "secondsite")
    return str(Path(base) / "vault.db")


@contextmanager
def opened(vault: str | None) -> Iterator[Database]:
    """The vault, for one command. Raises Refused where SQLAlchemy is not installed, and what `database.opened` does."""
    with library().opened(where(vault)) as found:
        yield found


def library() -> Any:
    """The module that knows databases. Raises Refused where it cannot be loaded."""
    try:
        from secondsite.orchestration.vault import database
    except ImportError as error:
        raise errors.Refused(f"the vault needs {error.name}: pip install 'secondsite[vault]'") from None
    return database


def told(findings: list[Finding], loaded: Loaded) -> list[dict[str, Any]]:
    """Broken rules as --json has them."""
    return [
        {"rule": one.rule, "line": loaded.line(one.where), "message": one.message, "remedy": one.remedy}
        for one in findings
    ]


def complain(findings: list[Finding], loaded: Loaded) -> None:
    """All broken rules, a line each, and how many; then exit status 3."""
    for one in findings:
        click.echo(f"  FAIL  {output.one_line(one.line(loaded.line(one.where)))}")
    count = len(findings)
    output.complain(f"{loaded.path}: {count} {'rules are' if count != 1 else 'rule is'} broken; nothing was changed")
    click.get_current_context().exit(errors.Refused.exit_code)
