"""secondsite map"""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import image_options, json_option


@click.command(short_help="Show where a disk image holds data.")
@click.argument("image")
@image_options
@json_option
def command(image: str, as_json: bool, source_format: str | None, allow_parent_path: tuple[str, ...]) -> None:
    """List the runs of data and zeros of IMAGE, as its guest sees the disk.

    DEPTH is 0 for the image's own data, 1 for its parent's, and so on.

    \b
    secondsite map vm.vhdx --json
    """
    found = engine.image_map(image, format=source_format, allow_parent_path=allow_parent_path)
    if as_json:
        # Written as it is found: a fragmented disk has millions of runs.
        before = '{"extents": ['
        for extent in found:
            click.echo(before + json.dumps(asdict(extent)), nl=False)
            before = ",\n"
        click.echo(("" if before == ",\n" else before) + "]}")
        return
    rows = [(str(e.start), str(e.length), "data" if e.data else "zero", str(e.depth)) for e in found]
    click.echo(output.table(("START", "LENGTH", "KIND", "DEPTH"), rows, right=(0, 1, 3)))
