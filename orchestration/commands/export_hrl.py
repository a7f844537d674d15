"""secondsite export-hrl"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import at_option, json_option


@click.command(short_help="Write what changed between two points as a Hyper-V Replica log.")
@click.argument("replica")
@click.argument("output_path", metavar="OUTPUT")
@at_option
@click.option("--base", metavar="POINT", help="The older point.  [default: the one before]")
@json_option
def command(replica: str, output_path: str, at: str | None, base: str | None, as_json: bool) -> None:
    """Write the delta that leads to a recovery point of REPLICA, the latest or --at, to the log OUTPUT.

    The log is an HRL, the format of Hyper-V Replica. Its identifier is made from the point that it leads to and the
    one before from --base, so that logs of consecutive points make a chain, whenever they are exported. A disk that
    changed its size between the two points is refused: a log cannot say that.

    \b
    secondsite export-hrl /backup/vm vm-42.hrl --at 42
    secondsite export-hrl /backup/vm today.hrl --base 2026-11-22T00:00
    """
    with output.watching() as watch:
        done = engine.export_hrl(
            replica, output_path, at=at, base=base, progress=watch.progress, cancel=watch.cancelled
        )
    output.warn(done.warnings)
    if as_json:
        output.print_json(asdict(done))
        return
    wrote = f"{format_size(done.data_bytes)} in {done.entries} write{'s' * (done.entries != 1)}"
    click.echo(f"{done.output}: from point {done.base} to {done.point}; {wrote}, {done.seconds:.2f} s")
