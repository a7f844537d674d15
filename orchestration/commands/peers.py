"""secondsite peers"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option, state_option


@click.command(short_help="List who is paired with this host's agent, or revoke one.")
@click.option("--revoke", metavar="NAME", help="No longer let this host in; what it does now ends within a second.")
@state_option
@json_option
def command(revoke: str | None, state: str | None, as_json: bool) -> None:
    """List the hosts that may connect to the agent of this host, and what each may do.

    \b
    secondsite peers --revoke old-server
    """
    if revoke is not None:
        engine.revoke(revoke, state=state)
    found = engine.peers(state=state)
    output.warn([peer.warning for peer in found if peer.warning])
    if as_json:
        output.print_json({"peers": [asdict(peer) for peer in found]})
    elif revoke is not None:
        click.echo(f"{revoke} is not let in any more")
    elif not found:
        click.echo("nobody is paired with this host; secondsite agent --token prints a key")
    else:
        rows = [
            (peer.name, ", ".join(peer.actions), ", ".join(peer.replicas), peer.ends[:10], peer.pin[:16])
            for peer in found
        ]
        click.echo(output.table(("HOST", "MAY", "REPLICAS", "UNTIL", "KEY"), rows))
