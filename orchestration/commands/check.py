"""secondsite check"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import image_options, json_option


@click.command(short_help="Check the structure of a disk image, or what a store allows.")
@click.argument("image", metavar="IMAGE|STORE")
@image_options
@json_option
def command(image: str, as_json: bool, source_format: str | None, allow_parent_path: tuple[str, ...]) -> int:
    """Look at every structure of IMAGE and of its parents: headers, tables, logs, and where blocks lie.

    Nothing is changed. The exit status is 4 where something is damaged.

    Of a STORE, azure://CONTAINER/PREFIX or s3://BUCKET/PREFIX: what the account is, what the credentials may do, tried
    with a small object that is gone afterwards, and how far the clocks are apart. The exit status is 3 where something
    is in the way of a replica.

    \b
    secondsite check vm.vhdx
    secondsite check azure://backup/vm
    """
    if image.lower().startswith(("azure://", "s3://")):
        return _store(image, as_json)
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


def _store(url: str, as_json: bool) -> int:
    with output.watching() as watch:
        found = engine.check_store(url, cancel=watch.cancelled)
    output.warn(found.warnings)
    if as_json:
        output.print_json(asdict(found))
        return 0 if found.ok else errors.REFUSED
    for name, value in _rows(found):
        click.echo(f"{name:<12}{value}")
    for line in found.problems:
        click.echo(f"PROBLEM: {output.one_line(line)}")
    for line in found.notes:
        click.echo(f"note: {output.one_line(line)}")
    click.echo(f"{'ok' if found.ok else 'NOT OK'}: {found.store}")
    return 0 if found.ok else errors.REFUSED


def _rows(found: engine.StoreChecked) -> list[tuple[str, str]]:
    rows = []
    if found.sku is not None:
        rows.append(("account", f"{found.kind}, {found.sku}"))
        kinds = (("replicas", found.block_blobs), ("disks", found.page_blobs))
        rows.append(("holds", ", ".join(name for name, possible in kinds if possible) or "neither replicas nor disks"))
    rows.append(("may", ", ".join(name for name, allowed in found.may.items() if allowed) or "nothing"))
    if found.clock is not None:
        rows.append(("clock", f"{abs(found.clock):.0f} s off the store's"))
    if found.limits:
        of = found.limits
        disk, pages, block = (format_size(of[name]) for name in ("page_blob", "pages", "block"))
        rows.append(("limits", f"disks of {disk} in pages of {pages}, objects of {of['blocks']} blocks of {block}"))
    return rows
