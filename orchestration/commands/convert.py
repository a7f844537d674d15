"""secondsite convert"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine.units import format_size, larger_disk
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import image_options, json_option


@click.command(short_help="Convert a disk image to another format.")
@click.argument("source")
@click.argument("output_path", metavar="OUTPUT")
@click.option("--format", "target", type=click.Choice(["raw", "vhdx", "vhd"]), required=True, help="Of OUTPUT.")
@click.option("--subformat", type=click.Choice(["dynamic", "fixed"]), help="Of a VHDX or VHD.  [default: dynamic]")
@image_options
@click.option("--threads", type=click.IntRange(1, 64), help="Workers.  [default: one a core, at most 4]")
@json_option
def command(
    source: str,
    output_path: str,
    target: str,
    subformat: str | None,
    threads: int | None,
    as_json: bool,
    source_format: str | None,
    allow_parent_path: tuple[str, ...],
) -> None:
    """Write the disk in the image SOURCE, as its guest sees it, to the new image OUTPUT.

    Parents are read through, a log that was left dirty is replayed in memory, zeros are left out, and every block is
    read back and compared. OUTPUT appears under its name when it is whole. A fixed VHD has whole MiB, as Azure wants
    it; what is more than the source is zeros.

    \b
    secondsite convert vm.avhdx vm.raw --format raw
    secondsite convert vm.raw vm.vhd --format vhd --subformat fixed      # as Azure takes it
    """
    with output.watching() as watch:
        done = engine.convert(
            source, output_path, format=target, subformat=subformat, source_format=source_format,
            allow_parent_path=allow_parent_path, workers=threads, progress=watch.progress, cancel=watch.cancelled,
        )  # fmt: skip
    # A fixed VHD is larger, by zeros, where the source is no whole number of MiB.
    made = done.virtual_bytes
    if target == "vhd" and subformat == "fixed":
        made = engine.info(done.output, format=target).virtual_bytes
    warnings = [larger_disk(done.output, done.virtual_bytes, made)] if made > done.virtual_bytes else []
    output.warn(warnings)
    if as_json:
        output.print_json(asdict(done) | {"output_bytes": made, "warnings": warnings})
        return
    wrote = f"{format_size(done.written_bytes)} of data in {format_size(done.virtual_bytes)}"
    click.echo(f"{done.output}: {done.format}; {wrote}, {done.seconds:.2f} s")
