"""secondsite check"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import image_options, json_option


@click.command(short_help="Check the structure of a disk image.")
@click.argument("image")
@image_options
@json_option
def command(image: str, as_json: bool, source_format: str | None, allow_parent_path: tuple[str, ...]) -> int:
    """Look at every structure of IMAGE and of its parents: headers, tables, logs, and where blocks lie.

    Nothing is changed. The exit status is 4 where something is damaged.

    \b
    secondsite check vm.vhdx
    """
    found = engine.check_image(image, format=source_format, allow_parent_path=allow_parent_path)
    damaged = any(finding.damaged for finding in found)
    if as_json:
        output.print_json({"ok": not damaged, "findings": [asdict(finding) for finding in found]})
        return errors.DAMAGED if damaged else 0
    for finding in found:
        where = "" if finding.offset is None else f" at byte {finding.offset}"
        click.echo(f"{'DAMAGED' if finding.damaged else 'note'}: {finding.path}{where}: {finding.text}")
    click.echo(f"{'NOT OK' if damaged else 'ok'}: {image}")
    return errors.DAMAGED if damaged else 0
