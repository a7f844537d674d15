"""secondsite plan"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import json_option


@click.command(short_help="Show what an estate file would change, and every rule that it breaks.")
@click.argument("estate", default="estate.toml")
@vaults.ask_option
@vaults.vault_option
@json_option
def command(estate: str, ask: bool, vault: str | None, as_json: bool) -> None:
    """Show what applying the file ESTATE would change in the vault, and every rule that is broken, by number and line.

    Nothing is changed. Where there is no vault yet, everything is new. The exit status is 3 where a rule is broken.

    \b
    secondsite plan estate.toml
    secondsite plan estate.toml --ask
    """
    from secondsite.orchestration.estate.loading import load

    loaded = load(estate)
    library = vaults.library()
    from secondsite.orchestration.vault import inventory

    where = vaults.where(vault)
    if "://" in where or Path(where).exists():
        with library.opened(where) as database, database.reading() as connection:
            made = inventory.plan(loaded, inventory.last_estate(connection), inventory.items(connection))
    else:
        made = inventory.plan(loaded, None, [])
    findings = list(dict.fromkeys(made.findings))
    if ask:
        from secondsite.orchestration.scenarios import asked

        findings += asked.accounts(loaded.estate)
    if as_json:
        changes = [asdict(change) for change in made.changes]
        output.print_json({"changes": changes, "findings": vaults.told(findings, loaded)})
        if findings:
            click.get_current_context().exit(errors.Refused.exit_code)
        return
    for change in made.changes:
        click.echo(output.one_line(str(change)))
    if not made.changes:
        click.echo("nothing would change")
    if findings:
        vaults.complain(findings, loaded)
