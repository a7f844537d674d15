"""secondsite prune"""

from __future__ import annotations

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option, key_options, state_option


@click.command(short_help="Drop old recovery points.")
@click.argument("replica")
@click.option("--keep", type=int, metavar="N", help="Keep the newest N points, the latest included.")
@click.option("--drop", multiple=True, metavar="POINT", help="Drop this point; more than once for more.")
@state_option
@json_option
@key_options
def command(replica: str, keep: int | None, drop: tuple[str, ...], state: str | None, as_json: bool) -> None:
    """Drop recovery points of REPLICA; those that stay restore the same bytes.

    \b
    secondsite prune /backup/vm --keep 48
    secondsite prune secondsite://backup.example/vm --drop 17
    """
    count = engine.prune(replica, keep=keep, drop=list(drop) or None, state=state)
    if as_json:
        output.print_json({"dropped": count})
    else:
        click.echo(f"{count} point{'s' * (count != 1)} dropped")
