"""secondsite points"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option, key_options, state_option


@click.command(short_help="List the recovery points of a replica.")
@click.argument("replica")
@state_option
@json_option
@key_options
def command(replica: str, as_json: bool, state: str | None) -> None:
    """List the recovery points of REPLICA, oldest first. The last one is the head.

    What is held for a seed that has not come yet is listed as waiting for it, and cannot be restored before. A point is
    shown as damaged where a look at its files, or the last `verify`, found that it does not restore whole.

    \b
    secondsite points /backup/vm
    """
    warnings: list[str] = []
    found = engine.points(replica, warnings=warnings, state=state)
    output.warn(warnings)
    if as_json:
        output.print_json({"points": [asdict(point) for point in found]})
        return
    if not found:
        click.echo("no recovery point yet: the first cycle has not been completed")
        return
    rows = [
        (
            point.point,
            point.time.replace("T", " ")[:19],
            format_size(point.changed_bytes),
            format_size(point.virtual_bytes),
            point.history,
            _state(point),
        )
        for point in found
    ]
    click.echo(output.table(("POINT", "TIME (UTC)", "CHANGED", "SIZE", "KEPT AS", "STATE"), rows, right=(0, 2, 3)))


def _state(point: engine.PointInfo) -> str:
    if point.damaged:
        return f"DAMAGED: {point.problem}"
    return "waits for its seed" if point.history in ("seed", "held") else "ok"
