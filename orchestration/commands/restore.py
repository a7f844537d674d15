"""secondsite restore"""

from __future__ import annotations

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import at_option, json_option, key_options, parents_option, state_option


@click.command(short_help="Write a recovery point to an image file.")
@click.argument("replica")
@click.argument("output_path", metavar="OUTPUT")
@at_option
@click.option("--in-place", is_flag=True, help="Rewrite an existing file or device: only what differs is written.")
@click.option(
    "--format", type=click.Choice(["raw", "vhdx", "vhd"]),
    help="Of a new OUTPUT; with --in-place it stays what it is.  [default: raw]",
)  # fmt: skip
@click.option("--subformat", type=click.Choice(["dynamic", "fixed"]), help="Of a new VHDX or VHD.  [default: dynamic]")
@parents_option("With --in-place, parents of OUTPUT")
@click.option("--threads", type=click.IntRange(1, 64), help="Workers.  [default: one a core, at most 4]")
@state_option
@json_option
@key_options
def command(
    replica: str,
    output_path: str,
    at: str | None,
    in_place: bool,
    format: str | None,
    subformat: str | None,
    allow_parent_path: tuple[str, ...],
    threads: int | None,
    as_json: bool,
    state: str | None,
) -> None:
    """Write a recovery point of REPLICA, the latest or --at, to the image OUTPUT.

    Every block is checked against the point's sealed map before it is written, and read back. A new OUTPUT appears
    under its name only when it is whole. A fixed VHD has whole MiB, as Azure wants it; what is more than the point is
    zeros.

    \b
    secondsite restore /backup/vm vm-monday.raw --at 2026-11-16T08:00
    secondsite restore /backup/vm vm.raw --at 41 --in-place
    """
    with output.watching() as watch:
        done = engine.restore(
            replica, output_path, at="latest" if at is None else at, in_place=in_place, format=format,
            subformat=subformat, allow_parent_path=allow_parent_path, workers=threads, progress=watch.progress,
            cancel=watch.cancelled, state=state,
        )  # fmt: skip
    output.print_written(done, done.method, as_json=as_json)
