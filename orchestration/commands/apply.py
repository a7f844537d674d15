"""secondsite apply"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import json_option


@click.command(short_help="Make the vault say what an estate file says.")
@click.argument("estate", default="estate.toml")
@vaults.ask_option
@vaults.vault_option
@json_option
def command(estate: str, ask: bool, vault: str | None, as_json: bool) -> None:
    """Make the vault say what the file ESTATE says: all of it, or nothing where a rule is broken.

    Machines that the file protects are enabled, those that it does not name any more are disabled. Applying the same
    file again changes nothing.

    \b
    secondsite vault init
    secondsite apply estate.toml
    """
    from secondsite.orchestration.estate.loading import load

    loaded = load(estate)
    if ask:
        from secondsite.orchestration.scenarios import asked

        findings = list(asked.accounts(loaded.estate))
        if findings:
            vaults.refuse(findings, loaded, as_json=as_json)
    with vaults.opened(vault) as database:
        from secondsite.orchestration.protection import leases
        from secondsite.orchestration.vault import audit, inventory

        try:
            with audit.action(database, "apply", estate):
                made = inventory.apply(database, loaded, audit.operator(), leases.now(database))
        except inventory.Broken as broken:
            vaults.refuse(broken.findings, loaded, as_json=as_json)
    if as_json:
        output.print_json({"changes": [asdict(change) for change in made.changes], "findings": []})
        return
    for change in made.changes:
        click.echo(output.one_line(str(change)))
    click.echo(f"applied: changes: {len(made.changes)}" if made.changes else "nothing to change")
