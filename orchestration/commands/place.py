"""secondsite place"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option, state_option


@click.command(short_help="Put a recovery point in the place of a machine's own disk, and back.")
@click.argument("path")
@click.argument("replica", required=False)
@click.option("--at", default="latest", metavar="POINT", help="Which point.  [default: latest]")
@click.option("--commit", "how", flag_value="commit", help="Let the old disk go.")
@click.option("--undo", "how", flag_value="undo", help="Put the old disk back.")
@click.option(
    "--format", type=click.Choice(["raw", "vhdx", "vhd"]), help="Where the disk's name and bytes do not agree."
)
@click.option("--threads", type=click.IntRange(1, 64), help="Workers.  [default: one a core, at most 4]")
@json_option
@state_option
def command(
    path: str, replica: str | None, at: str, how: str | None, format: str | None, threads: int | None, as_json: bool,
    state: str | None,
) -> None:  # fmt: skip
    """Make the disk file PATH a point of REPLICA, in its own format; its machine has to be off.

    All of the point is made beside it and hashed, then it gets the name in one step. The old disk stays, as
    PATH.before-POINT, until `place PATH --commit`; `place PATH --undo` puts it back.

    \b
    secondsite place /vms/vm.vhdx /backup/vm --at latest
    secondsite place /vms/vm.vhdx --commit
    """
    if (replica is None) != (how is not None):
        raise click.UsageError("place PATH REPLICA, place PATH --commit, or place PATH --undo")
    if replica is None:
        done = engine.place_commit(path) if how == "commit" else engine.place_undo(path)
        _tell({how or "": done}, f"{path}: {'done' if done else 'no old disk was there'}", as_json)
        return
    with output.watching() as watch:
        placed = engine.place(
            replica, path, at, format=format, workers=threads, progress=watch.progress, cancel=watch.cancelled,
            state=state,
        )  # fmt: skip
    output.warn(placed.warnings)
    old = f"; the old disk is {placed.before}" if placed.before else ""
    wrote = f"{format_size(placed.bytes_written)} written in {placed.seconds:.2f} s"
    _tell(asdict(placed), f"{placed.path}: point {placed.point} ({placed.method}), {wrote}{old}", as_json)


def _tell(fields: dict[str, object], told: str, as_json: bool) -> None:
    if as_json:
        output.print_json(fields)
    else:
        click.echo(output.one_line(told))
