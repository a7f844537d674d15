"""secondsite identity"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option, state_option


@click.command(short_help="Make or show the key that other hosts know this one by.")
@click.argument("what", type=click.Choice(["init", "renew", "show"]), default="show", metavar="[init|renew|show]")
@click.option("--name", metavar="NAME", help="What the certificate is called.  [default: the host's name]")
@state_option
@json_option
def command(what: str, name: str | None, state: str | None, as_json: bool) -> None:
    """Make this host's key and certificate (init), or show them.

    The private key never leaves the host. Others pin the public one: see secondsite pair. A certificate holds for ten
    years; renew makes another of the same key, so that nobody has to pair again, also after the old one has ended.

    \b
    secondsite identity init
    secondsite identity renew
    """
    if name is not None and what != "init":
        raise click.UsageError("--name is for init")
    if what == "init":
        found = engine.init_identity(name=name, state=state)
    else:
        found = engine.renew_identity(state=state) if what == "renew" else engine.host_identity(state=state)
    output.warn([found.warning] if found.warning else [])
    if as_json:
        output.print_json(asdict(found))
    else:
        click.echo(f"key {found.pin}, its certificate holds until {found.ends[:10]}, in {found.folder}")
