"""secondsite import-seed"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option


@click.command(short_help="Make a replica's first point from a medium, and apply what was held for it.")
@click.argument("medium")
@click.argument("replica")
@click.option(
    "--history", type=click.Choice(["auto", "undo", "clone"]), default="auto", show_default=True,
    help="How older points are kept: clones where the file system has them, else undo deltas.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 64), help="Workers.  [default: one a core, at most 4]")
@json_option
def command(medium: str, replica: str, history: str, threads: int | None, as_json: bool) -> None:
    """Make the first point of the replica in the folder REPLICA from the seed in the folder MEDIUM, proved by its seal.

    REPLICA is a new folder, or one whose replica waits for this seed; what was held for it follows, each cycle with its
    point. An agent that serves the folder may run meanwhile. Run it as the user that the agent runs as. What was cut
    short may be repeated: until the point is there nothing has changed, and then it goes on with what is held.

    \b
    secondsite import-seed /mnt/stick/vm /backup/vm
    """
    with output.watching() as watch:
        done = engine.import_seed(
            medium, replica, history=history, workers=threads, progress=watch.progress, cancel=watch.cancelled
        )
    output.warn(done.warnings)
    if as_json:
        output.print_json(asdict(done))
        return
    held = f"; {done.held} held delta{'s' * (done.held != 1)} applied" if done.held else ""
    size = f"{format_size(done.virtual_bytes)} from {format_size(done.seed_bytes)}"
    click.echo(f"{done.replica}: {done.kind}: point {done.point}, {size}{held}; {done.seconds:.2f} s")
