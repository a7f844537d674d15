"""secondsite map"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import image_options, json_option, key_options, state_option


@click.command(short_help="Show where a disk image holds data.")
@click.argument("image")
@image_options
@state_option
@json_option
@key_options
def command(
    image: str, as_json: bool, state: str | None, source_format: str | None, allow_parent_path: tuple[str, ...]
) -> int:
    """List the runs of data and zeros of IMAGE, as its guest sees the disk.

    DEPTH is 0 for the image's own data, 1 for its parent's, and so on.

    \b
    secondsite map vm.vhdx --json
    """
    found = engine.image_map(image, format=source_format, allow_parent_path=allow_parent_path, state=state)
    if as_json:
        return _stream(found)
    rows = [(str(e.start), str(e.length), "data" if e.data else "zero", str(e.depth)) for e in found]
    click.echo(output.table(("START", "LENGTH", "KIND", "DEPTH"), rows, right=(0, 1, 3)))
    return 0


def _stream(found: Iterator[engine.MapExtent]) -> int:
    """One object, written as it is found: a fragmented disk has millions of runs. What goes wrong on the way is the
    object's end.
    """
    last = next(found, None)
    click.echo('{"extents": [', nl=False)
    try:
        while last is not None:
            following = next(found, None)
            click.echo(json.dumps(asdict(last)) + (",\n" if following else ""), nl=False)
            last = following
    except errors.Error as error:
        assert last is not None  # the error came behind it
        end = json.dumps(output.fail(str(error), error.exit_code, retryable=error.retryable))
        click.echo(f"{json.dumps(asdict(last))}], {end[1:]}")
        return error.exit_code
    click.echo("]}")
    return 0
