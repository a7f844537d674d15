"""secondsite replicate"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from secondsite import engine
from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import (
    SIZE,
    address,
    image_options,
    json_option,
    key_options,
    qemu_of,
    qemu_options,
    state_option,
)

if TYPE_CHECKING:
    from secondsite.engine import Replicated


@click.command(short_help="Bring a replica up to date with a disk image.")
@click.argument("sources", nargs=-1, metavar="SOURCE")
@click.argument("replica")
@click.option("--hrl", is_flag=True, help="SOURCE… are logs of Hyper-V Replica, to be applied to the replica.")
@click.option("--block-size", type=SIZE, help="Unit of tracking of a new replica, 4K to 4M.  [default: 64K]")
@click.option(
    "--head", type=click.Choice(["raw", "vhdx", "vhd"]), help="Format of a new replica's head.  [default: raw]"
)
@click.option(
    "--codec", default="auto", metavar="CODEC", show_default=True,
    help="How undo deltas are packed: auto, none, lz4 or zstd[:LEVEL].",
)  # fmt: skip
@click.option("--keep", type=int, metavar="N", help="Afterwards keep the newest N points, the latest included.")
@click.option("--limit", type=SIZE, help="Write, or send to another host or a store, at most so many bytes a second.")
@click.option(
    "--schedule", metavar="RULES",
    help="Rates by days and hours, `mon-fri 08:00-18:00 10M; 22:00-06:00 none`; @FILE is read again when it changes. "
    "For a replica on another host or in a store, as the next two.",
)  # fmt: skip
@click.option("--retries", type=click.IntRange(0), metavar="N", help="Try again so often.  [default: 5 after a cut]")
@click.option(
    "--retry-delays", metavar="SECONDS,…", help="Before each of them.  [default: 60,120,240,480,600, then 1800]"
)
@click.option(
    "--connections", type=click.IntRange(1, 8), metavar="N",
    help="Send over so many at once to another host.  [default: one, up to 4 where they are faster]",
)  # fmt: skip
@click.option("--epoch", type=int, metavar="N", help="Refuse where the replica has seen a higher epoch (failover).")
@click.option(
    "--replica-id", metavar="ID",
    help="Go on with this replica (info tells its id) and begin no other: the folder may not be mounted.",
)  # fmt: skip
@click.option(
    "--take-over", is_flag=True,
    help="After a failover, for a replica in a store: go on in place of whoever writes into it now, in a higher epoch.",
)  # fmt: skip
@click.option("--source-id", metavar="NAME", help="Know the source by this name instead of its path.")
@click.option("--accept-source", is_flag=True, help="Let this image take the place of the recorded source.")
@click.option("--encrypt", is_flag=True, help="A new replica is encrypted: see secondsite key.")
@click.option("--resync", is_flag=True, help="Trust no block map: hash both sides, mend what is damaged.")
@click.option(
    "--resync-cancel", "cancels", is_flag=True,
    help="Drop what a --resync over the network has compared and sent: REPLICA stays as it is. Without SOURCE.",
)  # fmt: skip
@click.option("--trust-mtime", is_flag=True, help="Skip the scan where the file's times say that it is unchanged.")
@click.option(
    "--tracker", metavar="NAME", default="auto", show_default=True,
    help="What follows the source: scan reads all of it, clone keeps a clone beside it, vhdx asks a checkpoint; auto "
    "chooses and says which.",
)  # fmt: skip
@click.option(
    "--distrust", type=int, metavar="N", default=64, show_default=True,
    help="Look at N blocks that the tracker did not name.",
)  # fmt: skip
@qemu_options
@click.option(
    "--next-bitmap", metavar="NAME",
    help="The dirty bitmap of the NBD export that marks every write from this copy on: believed in the next cycle.",
)  # fmt: skip
@click.option(
    "--bitmap-since", metavar="NAME", help="The URL's bitmap is the one that was called so in the last cycle."
)
@click.option("--changed", metavar="FILE", help="A JSON list of changed extents (offset, length): only they are read.")
@click.option(
    "--history", type=click.Choice(["auto", "undo", "clone", "log"]), default="auto", show_default=True,
    help="How points are kept: clones where the file system has them, else undo deltas; or as a log, as in an object "
    "store, packed and without a plain head.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 64), help="Workers.  [default: one a core, at most 4]")
@click.option(
    "--watch", "every", type=float, is_flag=False, flag_value=30.0, metavar="SECONDS",
    help="Go on for ever, a cycle every so many seconds, 1 to 86400; last among the options, or with a number.  "
    "[30 without one]",
)  # fmt: skip
@click.option("--metrics", metavar="ADDR:PORT", help="With --watch: tell figures to Prometheus here, without TLS.")
@image_options
@state_option
@json_option
@key_options
def command(
    sources: tuple[str, ...], replica: str, hrl: bool, cancels: bool, as_json: bool, threads: int | None,
    every: float | None, retries: int | None, retry_delays: str | None, metrics: str | None, connections: int | None,
    **options: Any,
) -> None:  # fmt: skip
    """Bring the replica in the folder REPLICA up to date with the disk image SOURCE.

    The first time all of SOURCE is copied; afterwards it is read, and what changed moves. Each cycle that changed
    something makes a recovery point. SOURCE is a raw, VHDX, VHD or VMDK file or a block device that nobody writes
    meanwhile: a file that changes while it is read is read again, and after three tries refused. With --qmp it is the
    disk of a machine that runs in QEMU, which may write.

    \b
    secondsite replicate vm.raw /backup/vm --keep 48
    secondsite replicate /dev/vg0/vm /backup/vm --limit 100M
    secondsite replicate vm.qcow2 /backup/vm --qmp /run/vm.qmp --guest-agent /run/vm.agent
    secondsite replicate --hrl vm-1.hrl vm-2.hrl /backup/vm
    secondsite replicate vm.raw /backup/vm --watch 1 --keep 3600
    secondsite replicate vm.raw azure://backup/vm
    secondsite replicate vm.raw azure://backup/vm --encrypt --key-file vm.key
    secondsite replicate vm.raw secondsite://backup.example/vm --resync

    With --watch it goes on until SIGINT or SIGTERM: a cycle that is due while one runs begins when that one ends, and
    counts as missed. What may pass is tried again, after 1, 2, 4, 8, 10 and then every 30 minutes, sooner where cycles
    are closer together; what does not ends the program with its exit status. --json prints an object for each cycle.
    """
    if cancels:
        _cancel(sources, replica, options["state"], as_json)
        return
    if (not hrl and len(sources) != 1) or not sources:
        raise click.UsageError("one SOURCE and one REPLICA were expected")
    options["link"] = _link(replica, retries, retry_delays, connections)
    if every is not None:
        if hrl:
            raise click.UsageError("--watch means nothing with --hrl")
        from secondsite.orchestration import live

        where = address(metrics, option="--metrics")
        live.watch(sources[0], replica, every, as_json, workers=threads, metrics=where, **qemu_of(options))
        return
    if metrics is not None:
        raise click.UsageError("--metrics goes with --watch")
    with output.watching() as watch:
        common: dict[str, Any] = {"workers": threads, "progress": watch.progress, "cancel": watch.cancelled}
        if hrl:
            done = engine.replicate_logs(sources, replica, **_for_logs(options), **common)
        else:
            done = engine.replicate(sources[0], replica, **qemu_of(options), **common)
    output.warn(done.warnings)
    if as_json:
        output.print_json(asdict(done))
    else:
        click.echo(describe(done))
        click.echo(follow(done))


def _cancel(sources: tuple[str, ...], replica: str, state: str | None, as_json: bool) -> None:
    if sources:
        raise click.UsageError("--resync-cancel takes REPLICA alone")
    found = engine.cancel_resync(replica, state=state)
    if as_json:
        output.print_json({"cancelled": found})
    else:
        click.echo("the resync was dropped; the replica is as it was" if found else "no resync is pending")


def _link(replica: str, retries: int | None, delays: str | None, connections: int | None) -> Any:
    """How to get over to another host or a store; None for a folder. Raises Usage."""
    there = replica.lower()
    if connections is not None and not there.startswith("secondsite://"):
        raise click.UsageError("--connections is for a replica on another host")
    if not there.startswith(("secondsite://", "azure://", "s3://")):
        if retries is not None or delays is not None:
            raise click.UsageError("--retries and --retry-delays are for a replica on another host or in a store")
        return None
    return engine.Link.of(retries, delays, notify=lambda line: output.warn([line]), connections=connections)


def _for_logs(options: dict[str, Any]) -> dict[str, Any]:
    """The options that mean something where the source is a chain of logs; any other that was given is an error."""
    kept = {name: options[name] for name in ("codec", "keep", "limit", "epoch", "history")}
    context = click.get_current_context()
    for name in options.keys() - {"link"}:
        if name not in kept and context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} means nothing with --hrl")
    return kept


def describe(done: Replicated) -> str:
    """One line: what happened, how much of it, how fast."""
    speed = output.rate(done.read_bytes, done.seconds)
    head = f"{done.kind}: point {done.point}, {format_size(done.virtual_bytes)}"
    read = f"read {format_size(done.read_bytes)} in {done.seconds:.2f} s ({speed})"
    changed = f"{format_size(done.changed_bytes)} changed"
    pruned = f", {done.pruned} old point{'s' * (done.pruned != 1)} dropped" if done.pruned else ""
    over = f"; {format_size(done.over_bytes)} sent" if done.over_bytes else ""
    again = f", {format_size(done.again_bytes)} of it again" if done.again_bytes else ""
    return f"{head}; {changed}; {read}{over}{again}{pruned}"


def follow(done: Replicated) -> str:
    """One line: what told where to read, what that cost, and how far it is to be trusted."""
    parts = [f"tracker {done.tracker}: {done.why}"]
    if done.scanned and done.tracker != "scan":
        parts.append("what changed was not known, all was read")
    if done.stall_seconds is not None:
        parts.append(f"writers stood still for {output.stall(done.stall_seconds)} at most")
    if done.kept_bytes:
        parts.append(f"{format_size(done.kept_bytes)} kept beside the source")
    if done.sampled:
        parts.append(f"{done.sampled} more blocks looked at")
    if done.caught is not None:
        parts.append(f"hiding 0.1 % would be caught in 100 cycles with {_percent(done.caught)}")
    return "; ".join(parts)


def _percent(probability: float) -> str:
    """Never rounded up to certainty."""
    return f"{min(probability * 100, 99.99):.2f} %"
