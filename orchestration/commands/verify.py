"""secondsite verify"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import at_option, image_options, json_option, key_options, state_option

# The whole list is in --json.
SHOWN_RANGES = 20


@click.command(short_help="Prove that a replica is what it should be.")
@click.argument("replica")
@click.option(
    "--source", help="Compare this image with the point, or its clone that was kept when the point was made."
)
@at_option
@click.option("--sealed", is_flag=True, help="Of an encrypted replica, without its key: are its bytes what they were?")
@image_options
@click.option("--threads", type=click.IntRange(1, 64), help="Workers.  [default: one a core, at most 4]")
@state_option
@json_option
@key_options
def command(
    replica: str,
    source: str | None,
    at: str | None,
    sealed: bool,
    threads: int | None,
    as_json: bool,
    state: str | None,
    source_format: str | None,
    allow_parent_path: tuple[str, ...],
) -> int:
    """Hash what REPLICA holds and compare: the head with its block map, and every undo delta and point with its seal.

    With --at, what a restore of that point would give. With --source, that image with the newest point (or --at).
    The exit status is 1 where anything differs.

    Of an encrypted replica, with --sealed or where there is no key: whether all of its objects are what was once
    stored. What they say is then not proved.

    \b
    secondsite verify /backup/vm
    secondsite verify /backup/vm --source vm.raw
    """
    with output.watching() as watch:
        found = engine.verify(
            replica, source=source, at=at, source_format=source_format, allow_parent_path=allow_parent_path,
            workers=threads, progress=watch.progress, cancel=watch.cancelled, state=state,
            sealed=sealed,
        )  # fmt: skip
    output.warn(found.warnings)
    if as_json:
        bad = [{"offset": offset, "length": length} for offset, length in found.bad]
        output.print_json({**asdict(found), "bad": bad})
    else:
        _tell(found, source)
    return 0 if found.ok else errors.DIFFERENT


def _tell(found: engine.Verified, source: str | None) -> None:
    if found.objects is not None:
        _tell_sealed(found)
        return
    what = f"{_named(found, source)} against point {found.point}" if source else f"point {found.point}"
    for offset, length in found.bad[:SHOWN_RANGES]:
        click.echo(f"differs: {length} bytes at {offset}")
    if len(found.bad) > SHOWN_RANGES:
        click.echo(f"differs: {len(found.bad) - SHOWN_RANGES} more ranges (--json lists all)")
    for point, problem in found.damaged.items():
        click.echo(f"point {point} is damaged: {problem}")
    verdict = "ok" if found.ok else "NOT OK"
    click.echo(f"{verdict}: {what}, {found.blocks} blocks, {found.seconds:.2f} s")


def _tell_sealed(found: engine.Verified) -> None:
    for problem in found.damaged.values():
        click.echo(f"damaged: {problem}")
    verdict = "intact" if found.ok else "NOT OK"
    what = f"{found.objects} objects, {format_size(found.stored_bytes or 0)}, {found.seconds:.2f} s"
    click.echo(f"{verdict}: {what}; read without the key: what they say was not proved")


def _named(found: engine.Verified, source: str) -> str:
    if found.against == "kept clone":
        return f"{source}, as it was then,"
    return f"{source}, as a clone," if found.against == "clone" else source
