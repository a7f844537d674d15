"""secondsite prune"""

from __future__ import annotations

import click

from secondsite import engine
from secondsite.engine import units
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option, key_options, state_option


@click.command(short_help="Drop old recovery points.")
@click.argument("replica")
@click.option("--keep", type=int, metavar="N", help="Keep the newest N points, the latest included.")
@click.option("--drop", multiple=True, metavar="POINT", help="Drop this point; more than once for more.")
@click.option("--collect", is_flag=True, help="In a store: look through every map for what no point names.")
@click.option(
    "--grace", type=click.IntRange(0), metavar="SECONDS",
    help="In a store: how long what points named stays after they were dropped.  [default: 3600]",
)  # fmt: skip
@state_option
@json_option
@key_options
def command(
    replica: str, keep: int | None, drop: tuple[str, ...], collect: bool, grace: int | None, state: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Drop recovery points of REPLICA; those that stay restore the same bytes.

    In an object store what only they named is removed by a later call or cycle, after the grace, and not while somebody
    reads it. Without --keep and --drop that is all that is done.

    \b
    secondsite prune /backup/vm --keep 48
    secondsite prune secondsite://backup.example/vm --drop 17
    secondsite prune azure://backup/vm --keep 48
    """
    with output.watching() as watch:
        done = engine.prune_report(
            replica, keep=keep, drop=list(drop) or None, collect=collect, grace=grace, state=state,
            cancel=watch.cancelled,
        )  # fmt: skip
    if as_json:
        output.print_json({
            "dropped": done.points, "freed_bytes": done.freed_bytes, "condemned_bytes": done.condemned_bytes,
            "warnings": done.warnings,
        })  # fmt: skip
        return
    output.warn(done.warnings)
    stored = [f"{units.format_size(done.freed_bytes)} removed"] if done.freed_bytes else []
    if done.condemned_bytes:
        stored.append(f"{units.format_size(done.condemned_bytes)} go when the grace is over")
    click.echo("; ".join([f"{done.points} point{'s' * (done.points != 1)} dropped", *stored]))
