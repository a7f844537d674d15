"""What the commands share that work with the vault: where it is, and an estate that is held to its rules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from secondsite.engine import errors
from secondsite.engine.units import format_size
from secondsite.orchestration import output

if TYPE_CHECKING:
    from secondsite.orchestration.estate.findings import Finding
    from secondsite.orchestration.estate.loading import Loaded
    from secondsite.orchestration.protection.item import Made
    from secondsite.orchestration.vault.database import Database


def vault_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--vault", metavar="FILE|URL", envvar="SECONDSITE_VAULT",
        help="The vault: a file, or postgresql://USER@HOST/DATABASE.  [default: vault.db in the state folder]",
    )(command)  # fmt: skip


def ask_option(command: Callable[..., Any]) -> Callable[..., Any]:
    help = "Ask the storage accounts themselves too: their redundancy (R12.11), and whether replicas may be written."
    return click.option("--ask", is_flag=True, help=help)(command)


def where(vault: str | None, state: str | None = None) -> str:
    """The vault that is meant; `state` is the state folder where a command was told one."""
    if vault:
        return vault
    base = state or os.environ.get("SECONDSITE_STATE")
    if not base:
        base = str(Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "secondsite")
    return str(Path(base) / "vault.db")


@contextmanager
def opened(vault: str | None, state: str | None = None) -> Iterator[Database]:
    """The vault, for one command. Raises Refused where SQLAlchemy is not installed, and what `database.opened` does."""
    with library().opened(where(vault, state)) as found:
        yield found


@contextmanager
def made(vault: str | None, state: str | None = None) -> Iterator[Database]:
    """The vault, made where there is none, for one command. Raises as `opened`."""
    place = where(vault, state)
    if vault is None:
        Path(place).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with library().create(place) as found:
        yield found


def library() -> Any:
    """The module that knows databases. Raises Refused where it cannot be loaded."""
    try:
        from secondsite.orchestration.vault import database
    except ImportError as error:
        raise errors.Refused(f"the vault needs {error.name}: pip install 'secondsite[vault]'") from None
    return database


def told(findings: Iterable[Finding], loaded: Loaded) -> list[dict[str, Any]]:
    """Broken rules as --json has them."""
    return [
        {"rule": one.rule, "line": loaded.line(one.where), "message": one.message, "remedy": one.remedy}
        for one in findings
    ]


def refuse(findings: Sequence[Finding], loaded: Loaded, changes: Iterable[Any] = (), *, as_json: bool) -> NoReturn:
    """Tell all broken rules, a line each or as JSON beside what would change, and how many; then exit status 3."""
    if as_json:
        output.print_json({"changes": [asdict(one) for one in changes], "findings": told(findings, loaded)})
    else:
        for one in findings:
            click.echo(f"  FAIL  {output.one_line(one.line(loaded.line(one.where)))}")
    count = len(findings)
    output.complain(f"{loaded.path}: {count} {'rules are' if count != 1 else 'rule is'} broken; nothing was changed")
    click.get_current_context().exit(errors.Refused.exit_code)


def changed(made: Made) -> str:
    """What a point of a machine took."""
    return f"{format_size(made.changed_bytes)} changed"
