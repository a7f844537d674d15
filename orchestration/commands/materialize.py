"""secondsite materialize"""

from __future__ import annotations

from typing import Any

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import at_option, json_option, key_options, state_option


@click.command(short_help="Write a recovery point as a disk that Azure boots.")
@click.argument("replica")
@click.argument("output_url", metavar="azure://CONTAINER/NAME.vhd")
@at_option
@click.option("--in-place", is_flag=True, help="Rewrite a finished or foreign blob: only what differs is written.")
@click.option("--standby", is_flag=True, help="Bring the disk from the point that it holds to the newest one.")
@click.option(
    "--watch", "every", type=float, metavar="SECONDS",
    help="With --standby: go on for ever, a step every so many seconds, 1 to 86400.",
)  # fmt: skip
@click.option(
    "--snapshots", type=click.IntRange(0), metavar="N",
    help="With --standby: keep at most N snapshots, 0 for none.  [default: one of each kept point]",
)  # fmt: skip
@click.option("--take-over", "take", is_flag=True, help="With --standby: take the lease from who has it.")
@click.option("--threads", type=click.IntRange(1, 64), help="Requests at once, at most.  [default: 8]")
@state_option
@json_option
@key_options
def command(
    replica: str, output_url: str, at: str | None, standby: bool, every: float | None, snapshots: int | None,
    take: bool, threads: int | None, as_json: bool, **common: Any,
) -> None:  # fmt: skip
    """Write a recovery point of REPLICA, the latest or --at, as a fixed VHD to a page blob: a virtual machine's disk.

    Zeros are not written; every block is checked against the point's sealed map and read back. Until all of it is
    there the blob has no footer and is no disk. The same command again goes on where one was cut short. What opens the
    store is in the environment (AZURE_STORAGE_CONNECTION_STRING, ...) or in stores.toml.

    With --standby the disk is kept: what changed since the point that it holds is written, and a snapshot is taken,
    which stays whole while a later step writes. Snapshots of points that the replica has no more are deleted.

    \b
    secondsite materialize /backup/vm azure://disks/vm.vhd
    secondsite materialize secondsite://backup.example/vm azure://disks/vm-monday.vhd --at 2026-11-16T08:00
    secondsite materialize /backup/vm azure://disks/vm.vhd --standby --watch 30 --snapshots 24
    """
    if not standby and (every is not None or snapshots is not None or take):
        raise click.UsageError("--watch, --snapshots and --take-over go with --standby")
    if standby and at is not None:
        raise click.UsageError("--standby follows the newest point; --at names another")
    with output.watching() as watch:
        common |= {"workers": threads, "progress": watch.progress, "cancel": watch.cancelled}
        if standby:
            shown = _Steps(as_json)
            done = engine.standby(
                replica, output_url, every=every, snapshots=snapshots, take=take, observe=shown.show, **common
            )
        else:
            done = engine.materialize(replica, output_url, at="latest" if at is None else at, **common)
    output.print_written(done, done.kind, as_json=as_json)


class _Steps:
    """A standby that goes on: a line for what is new, or an object for each step, the same as without --watch."""

    def __init__(self, as_json: bool) -> None:
        self.as_json, self._error, self._begun = as_json, "", False

    def show(self, now: engine.Followed) -> None:
        if now.error is not None and now.error != self._error:
            output.complain(f"retrying: {now.error}; tried again in {now.retry or 0:.0f} s")
        self._error = now.error or ""
        if now.done is None:
            if self.as_json:
                output.print_json({"error": self._error, "retry": now.retry})
        elif self.as_json or now.done.kind != "unchanged" or not self._begun:
            output.print_written(now.done, now.done.kind, as_json=self.as_json)
            self._begun = True
