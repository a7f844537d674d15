"""secondsite pair"""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option, state_option


@click.command(short_help="Pair with another host's agent.")
@click.argument("host", metavar="HOST[:PORT]")
@click.option("--token", metavar="KEY", required=True, help="What secondsite agent --token printed there; - reads it.")
@click.option("--name", metavar="NAME", help="What this host is called there.  [default: its name]")
@state_option
@json_option
def command(host: str, token: str, name: str | None, state: str | None, as_json: bool) -> None:
    """Exchange certificates with the agent at HOST, so that each knows the other from now on.

    The key says which agent it is from: another one at that address is refused before it is told anything.

    \b
    secondsite pair backup.example --token 2ss1.…
    """
    if token == "-":
        token = sys.stdin.readline(1000)
    made = engine.pair(host, token, name=name, state=state)
    if as_json:
        output.print_json(asdict(made))
    else:
        click.echo(f"paired as {made.name}: may {', '.join(made.actions)} {', '.join(made.replicas)}")
