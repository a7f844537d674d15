"""secondsite serve"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import address, json_option, key_options, state_option


@click.command(short_help="Export a recovery point over NBD, without a copy.")
@click.argument("replica")
@click.option("--at", default="latest", show_default=True, metavar="POINT", help="Which point: see secondsite points.")
@click.option("--socket", metavar="PATH", help="Listen on a Unix socket.")
@click.option("--listen", metavar="ADDR:PORT", help="Listen on an address.")
@click.option("--overlay", metavar="FILE", help="Take writes, into this file; it can be used again with this point.")
@click.option("--tls", metavar="DIR", help="Take TLS alone, with server-cert.pem and server-key.pem of DIR.")
@state_option
@json_option
@key_options
def command(
    replica: str, at: str, socket: str | None, listen: str | None, overlay: str | None, tls: str | None,
    as_json: bool, state: str | None,
) -> None:  # fmt: skip
    """Export a recovery point of REPLICA until SIGTERM or SIGINT.

    The bytes that are served stay what they are while cycles go on, and the replica stays as it is: without an overlay
    the export is read-only.

    \b
    secondsite serve /backup/vm --socket /run/vm-copy.sock
    secondsite serve /backup/vm --at 2026-11-16T08:00 --socket /run/drill.sock --overlay /tmp/drill
    qemu-system-x86_64 -drive file=nbd+unix:///?socket=/run/drill.sock,format=raw,if=virtio
    """
    where = address(listen)
    with (
        output.watching() as watch,
        engine.serve(
            replica, at, socket=socket, listen=where, overlay=overlay, tls=tls, state=state, told=output.complain
        ) as serving,
    ):
        how = f"writes go to {overlay}" if serving.writable else "read-only"
        line = f"serving point {serving.point} ({how}): {' '.join(serving.urls)}"
        output.until_stopped(watch, asdict(serving), line, as_json=as_json)
