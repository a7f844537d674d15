"""secondsite vault"""

from __future__ import annotations

import datetime
import time
from dataclasses import asdict

import click

from secondsite.orchestration import output
from secondsite.orchestration.commands import vault_rebuild, vaults
from secondsite.orchestration.commands.options import json_option


@click.group(short_help="The database of what is protected: make it, register with it, look at its log.")
def command() -> None:
    """The vault holds what is protected, how, and what was done; never a block of a disk. With --json one object each.

    \b
    secondsite vault init
    secondsite vault key
    secondsite vault audit
    secondsite vault rebuild estate.toml
    """


command.add_command(vault_rebuild.command)


@command.command("init", short_help="Make a vault.")
@vaults.vault_option
@json_option
def init(vault: str | None, as_json: bool) -> None:
    """Make a vault where there is none: a file that only its owner reads, or tables in a database of PostgreSQL.

    \b
    secondsite vault init
    secondsite vault init --vault postgresql://recovery@db.example/recovery
    """
    with vaults.made(vault) as database:
        if as_json:
            output.print_json({"vault": database.label})
        else:
            click.echo(f"the vault is {database.label}")


@command.command("key", short_help="Give out a registration key.")
@vaults.vault_option
@json_option
def key(vault: str | None, as_json: bool) -> None:
    """Give out a key by which one Provider or agent registers. It works once, for five days (R1.7).

    \b
    secondsite vault key
    """
    with vaults.opened(vault) as database:
        from secondsite.orchestration.vault import audit, keys

        with audit.action(database, "key", "vault"):
            made = keys.new_key(database, time.time())
    if as_json:
        output.print_json({"key": made, "days": keys.LIFE_SECONDS // 86400})
    else:
        click.echo(made)


@command.command("register", short_help="Register a Provider or an agent.")
@click.argument("kind", type=click.Choice(["provider", "agent"]))
@click.argument("name")
@click.option("--key", "secret", envvar="SECONDSITE_KEY", required=True, help="Of `secondsite vault key`.")
@click.option("--version", "number", required=True, help="Its version; all Providers of a vault have one (R1.8).")
@vaults.vault_option
@json_option
def register(kind: str, name: str, secret: str, number: str, vault: str | None, as_json: bool) -> None:
    """Register the Provider of a management server or host, or an agent, by a key.

    \b
    SECONDSITE_KEY=… secondsite vault register provider vmm-london --version 3.5.468
    """
    with vaults.opened(vault) as database:
        from secondsite.orchestration.vault import audit, keys

        with audit.action(database, "register", f"{kind} {name}"):
            made = keys.register(database, secret, kind, name, number, time.time())
    if as_json:
        output.print_json(asdict(made))
    else:
        click.echo(f"registered {kind} {name}, version {number}")


@command.command("registered", short_help="List what is registered.")
@vaults.vault_option
@json_option
def registered(vault: str | None, as_json: bool) -> None:
    """List the Providers and agents that are registered, with their versions.

    \b
    secondsite vault registered
    """
    with vaults.opened(vault) as database:
        from secondsite.orchestration.vault import keys

        found = keys.registered(database)
    if as_json:
        output.print_json({"registered": [asdict(one) for one in found]})
        return
    rows = [(one.kind, one.name, one.version, _when(one.at)) for one in found]
    click.echo(output.table(("KIND", "NAME", "VERSION", "REGISTERED (UTC)"), rows) if rows else "nothing is registered")


@command.command("audit", short_help="Show what was done.")
@click.option("--last", default=50, show_default=True, type=click.IntRange(1), help="So many actions.")
@click.option("--subject", help="Only what was done to it: a machine, an estate.")
@vaults.vault_option
@json_option
def audit(last: int, subject: str | None, vault: str | None, as_json: bool) -> None:
    """Show the newest actions: who did what, to what, when, and how it ended. One without a result runs, or was killed.

    \b
    secondsite vault audit --last 20
    """
    with vaults.opened(vault) as database:
        from secondsite.orchestration.vault import audit as log

        found = log.newest(database, last, subject)
    if as_json:
        output.print_json({"actions": [asdict(one) for one in found]})
        return
    rows = [
        (_when(one.at), one.who, one.what, one.subject, one.result or "-", output.one_line(one.detail or ""))
        for one in found
    ]
    click.echo(output.table(("TIME (UTC)", "WHO", "WHAT", "ON", "RESULT", "WHY"), rows) if rows else "nothing was done")


def _when(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
