"""secondsite plan"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

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
    from secondsite.orchestration.vault import inventory, keys

    where = vaults.where(vault)
    if "://" in where or Path(where).exists():
        with library.opened(where) as database, database.reading() as connection:
            before, held = inventory.last_estate(connection), inventory.items(connection)
            made = inventory.plan(loaded, before, held, time.time(), keys.known(connection))
    else:
        made = inventory.plan(loaded, None, [], time.time())
    findings = list(dict.fromkeys(made.findings))
    if ask:
        from secondsite.orchestration.scenarios import asked

        findings += asked.accounts(loaded.estate)
    if as_json:
        if findings:
            vaults.refuse(findings, loaded, made.changes, as_json=True)
        output.print_json({"changes": [asdict(change) for change in made.changes], "findings": []})
        return
    for change in made.changes:
        click.echo(output.one_line(str(change)))
    if findings:
        vaults.refuse(findings, loaded, as_json=False)
    if not made.changes:
        click.echo("nothing would change")
