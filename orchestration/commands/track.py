"""secondsite track"""

from __future__ import annotations

from typing import Any

import click

from secondsite import engine
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import SIZE, address, json_option, key_options


@click.command(short_help="Serve disk images over NBD and note what changes.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--socket", metavar="PATH", help="Listen on a Unix socket.")
@click.option("--listen", metavar="ADDR:PORT", help="Listen on an address.")
@click.option("--tls", metavar="DIR", help="Take TLS alone, with server-cert.pem and server-key.pem of DIR.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="The export's name.  [default: the file's]")
@click.option("--format", "formats", multiple=True, metavar="FORMAT",
              help="raw, vhdx, vhd or overlay; once for all, or once for each.  [default: found out]")  # fmt: skip
@click.option("--area", metavar="DIR", help="Where overwritten bytes are kept while a cycle reads.  [default: beside]")
@click.option("--area-limit", type=SIZE, help="How much of them, at most.  [default: half of what is free]")
@click.option("--status", "asks", is_flag=True, help="Ask the server of each IMAGE how it is, and end.")
@json_option
@key_options
def command(
    images: tuple[str, ...], formats: tuple[str, ...], as_json: bool, asks: bool, listen: str | None, **options: Any
) -> None:
    """Serve each IMAGE over NBD to its guest, and note every write, until SIGTERM or SIGINT.

    `secondsite replicate IMAGE REPLICA` finds the server by itself: its cycles then cost what changed, and each point
    is one instant of a disk in use. After a crash of the server only the regions in use are read again.

    \b
    secondsite track vm.raw --socket /run/vm.sock
    secondsite track vm.raw --status
    """
    if asks:
        _show([engine.tracking_status(image) for image in images], as_json)
        return
    options |= {"listen": address(listen), "source_format": formats or None}
    # An overlay says itself of which replica it is.
    opening = engine.using_key(engine.Key(plain=True))
    with opening, output.watching() as watch, engine.track(images, **options) as tracking:
        line = f"tracking: {' '.join(tracking.urls)}"
        output.until_stopped(watch, {"urls": tracking.urls}, line, as_json=as_json)


def _show(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        output.print_json({"images": found})
        return
    for one in found:
        size, marked = format_size(one["size"]), format_size(one["marked_bytes"])
        state = "in a cycle" if one["cut_open"] else "resync required" if one["resync_required"] else "tracked"
        since = f"{marked} changed since point {one['have'][1]}" if one["known"] else "no point is known"
        click.echo(f"{output.one_line(one['image'])}: {state}, {size}; {since}; {one['active_regions']} regions active")
        for problem in (one["lost"], one["map_error"]):
            if problem:
                click.echo(f"  {problem}")
