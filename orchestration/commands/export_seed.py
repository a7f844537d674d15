"""secondsite export-seed"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from secondsite import engine
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import (
    SIZE,
    image_options,
    json_option,
    qemu_of,
    qemu_options,
    state_option,
)


@click.command(short_help="Write a disk to a medium, as the first copy of a replica elsewhere.")
@click.argument("source")
@click.argument("medium")
@click.option("--replica", metavar="URL", help="The replica secondsite://HOST/NAME, which waits for it from now on.")
@click.option("--anew", is_flag=True, help="Forget the seed on MEDIUM, and the one that the replica waits for.")
@click.option("--block-size", type=SIZE, help="Unit of tracking of the replica, 4K to 4M.  [default: 64K]")
@click.option(
    "--codec", default="auto", metavar="CODEC", show_default=True,
    help="How the seed is packed: auto, none, lz4 or zstd[:LEVEL].",
)  # fmt: skip
@click.option("--source-id", metavar="NAME", help="Know the source by this name instead of its path.")
@click.option("--tracker", metavar="NAME", default="auto", show_default=True, help="As for replicate.")
@qemu_options
@click.option("--threads", type=click.IntRange(1, 64), help="Workers.  [default: one a core, at most 4]")
@image_options
@state_option
@json_option
def command(source: str, medium: str, as_json: bool, threads: int | None, **options: Any) -> None:
    """Write what SOURCE holds now to the folder MEDIUM, to be carried to the host that is to keep its replica.

    Zeros are left out, and all that was written is read back. What was cut short goes on when it is called again; a
    seed that is whole is proved again, and announced. There, import-seed makes the replica's first point of it. With
    --replica the agent is told at once: from then on `replicate` sends it what changed since the export, and it holds
    that until the medium has come.

    The medium holds the disk as it is. Encrypt it if it leaves the house.

    \b
    secondsite export-seed vm.raw /mnt/stick/vm --replica secondsite://backup/vm
    secondsite replicate vm.raw secondsite://backup/vm       # what changed, held there
    backup$ secondsite import-seed /mnt/stick/vm /backup/vm
    """
    with output.watching() as watch:
        done = engine.export_seed(
            source, medium, workers=threads, progress=watch.progress, cancel=watch.cancelled, **qemu_of(options)
        )
    output.warn(done.warnings)
    if as_json:
        output.print_json(asdict(done))
        return
    size = f"{format_size(done.stored_bytes)} for {format_size(done.virtual_bytes)}"
    wrote = "was whole already, and is proved" if done.kind == "whole" else f"tracker {done.tracker}"
    click.echo(f"{done.medium}: {size} in {done.parts} file{'s' * (done.parts != 1)}; {wrote}; {done.seconds:.2f} s")
    if done.replica:
        click.echo(f"{done.replica} waits for it")
