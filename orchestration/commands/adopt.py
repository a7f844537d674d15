"""secondsite adopt"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import SIZE, json_option, state_option


@click.command(short_help="Make a copy of a disk that lies here the first point of a new replica.")
@click.argument("copy")
@click.argument("replica")
@click.option("--move", is_flag=True, help="The raw file COPY itself becomes the head: no room, no second copy.")
@click.option("--block-size", type=SIZE, help="Unit of tracking of the replica, 4K to 4M.  [default: 64K]")
@click.option(
    "--source-format", type=click.Choice(["raw", "vhdx", "vhd", "vmdk"]), help="Of COPY.  [default: found out]"
)
@click.option("--like", metavar="REPLICA", help="COPY was the source of this one: read only what changed since.")
@click.option("--threads", type=click.IntRange(1, 64), help="Workers.  [default: one a core, at most 4]")
@json_option
@state_option
def command(
    copy: str, replica: str, move: bool, block_size: int | None, source_format: str | None, threads: int | None,
    like: str | None, as_json: bool, state: str | None,
) -> None:  # fmt: skip
    """Make the disk image COPY, from a restored backup for one, the first point of a replica in the new folder REPLICA.

    The replica follows the first source that replicates to it, here or through an agent: what is the same is not sent
    again. COPY stays as it is, cloned where its file system can, else copied; with --move the file becomes the head,
    and nobody may write it any more.

    After a failover the machine's old disk comes back so, --like the replica that followed it: a tracker says what
    changed on it, and the active side's overlay sends what was written (see `overlay`).

    \b
    secondsite adopt restored.raw /backup/vm --move           # on the host `backup`
    secondsite replicate vm.raw secondsite://backup/vm        # on the disk's host: sends only what differs
    """
    with output.watching() as watch:
        done = engine.adopt(
            copy, replica, move=move, block_size=block_size, source_format=source_format, like=like, workers=threads,
            progress=watch.progress, cancel=watch.cancelled, state=state,
        )  # fmt: skip
    output.warn(done.warnings)
    if as_json:
        output.print_json(asdict(done))
        return
    size = f"{format_size(done.virtual_bytes)}, {format_size(done.read_bytes)} read"
    click.echo(f"{done.replica}: point {done.point} ({done.method}), {size}; {done.seconds:.2f} s")
