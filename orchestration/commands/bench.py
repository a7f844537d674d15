"""secondsite bench"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from secondsite.orchestration import output
from secondsite.orchestration.commands.options import SIZE, json_option


@click.command(short_help="Measure what this machine can do.")
@click.option("--size", type=SIZE, default="1G", show_default=True, help="Size of the image that is measured.")
@click.option("--dir", "folder", metavar="DIR", help="Where source and replica lie.  [default: the temporary folder]")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each side.")
@click.option(
    "--only", multiple=True, metavar="NAME",
    help="Just this (may be given again): read, scan, hash, codec, initial, unchanged, delta, verify, restore, sparse, "
    "formats, trackers, servers, points, failover, hosts, store.",
)  # fmt: skip
@json_option
def command(size: int, folder: str | None, rounds: int, only: tuple[str, ...], as_json: bool) -> None:
    """Measure reading, scanning, hashing, each codec, the first copy, an unchanged cycle, a delta, verify and restore,
    against the tools that are installed here (cp, rsync, qemu-img, nbdcopy, borg, restic, lz4, zstd).

    The work is an ext4 image of files from /usr in a new folder inside DIR, which is removed at the end; it needs
    three to five times SIZE of room. Ratios are theirs / ours: above 1, ours is the faster.

    \b
    secondsite bench --size 4G --dir /dev/shm
    secondsite bench --only unchanged --only delta --json
    """
    from secondsite.orchestration.bench import runner, table

    def say(line: str) -> None:
        click.echo(f"secondsite: {line}", err=True)

    report = runner.measure(
        size, Path(folder or tempfile.gettempdir()), rounds=rounds, only=only,
        say=runner.quiet if as_json else say,
    )  # fmt: skip
    if as_json:
        output.print_json(report)
        return
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=table.WIDE)
    for drawn in table.draw(report, console.width):
        console.print(drawn)
    console.print()
    for line in table.notes(report):
        console.print(line, highlight=False, markup=False)
