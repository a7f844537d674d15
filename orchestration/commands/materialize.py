"""secondsite materialize"""

from __future__ import annotations

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import at_option, json_option, key_options, state_option


@click.command(short_help="Write a recovery point as a disk that Azure boots.")
@click.argument("replica")
@click.argument("output_url", metavar="azure://CONTAINER/NAME.vhd")
@at_option
@click.option("--in-place", is_flag=True, help="Rewrite a finished or foreign blob: only what differs is written.")
@click.option("--threads", type=click.IntRange(1, 64), help="Requests at once, at most.  [default: 8]")
@state_option
@json_option
@key_options
def command(
    replica: str, output_url: str, at: str | None, in_place: bool, threads: int | None, as_json: bool, state: str | None
) -> None:
    """Write a recovery point of REPLICA, the latest or --at, as a fixed VHD to a page blob: a virtual machine's disk.

    Zeros are not written; every block is checked against the point's sealed map and read back. Until all of it is
    there the blob has no footer and is no disk. The same command again goes on where one was cut short. What opens the
    store is in the environment (AZURE_STORAGE_CONNECTION_STRING, ...) or in stores.toml.

    \b
    secondsite materialize /backup/vm azure://disks/vm.vhd
    secondsite materialize secondsite://backup.example/vm azure://disks/vm-monday.vhd --at 2026-11-16T08:00
    """
    with output.watching() as watch:
        done = engine.materialize(
            replica, output_url, at="latest" if at is None else at, in_place=in_place, workers=threads,
            progress=watch.progress, cancel=watch.cancelled, state=state,
        )  # fmt: skip
    output.print_written(done, done.kind, as_json=as_json)
