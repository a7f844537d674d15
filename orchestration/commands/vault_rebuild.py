"""secondsite vault rebuild"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import json_option, key_options, state_option

if TYPE_CHECKING:
    from secondsite.orchestration.rebuilding.deciding import Restored
    from secondsite.orchestration.rebuilding.restoring import Outcome


@click.command("rebuild", short_help="Make a lost vault anew from the replicas.")
@click.argument("estate", default="estate.toml")
@click.argument("places", nargs=-1, metavar="[REPLICA|FOLDER|URL]...")
@click.option("--partial", is_flag=True, help="Restore what can be restored, where some replica cannot be read.")
@vaults.vault_option
@state_option
@json_option
@key_options
def command(
    estate: str, places: tuple[str, ...], partial: bool, vault: str | None, state: str | None, as_json: bool
) -> None:
    """Put every item of the file ESTATE that the vault does not hold there again, with its points, from the replicas.

    They are looked for where the estate puts them and where their notes say that the others of a machine are; more
    replicas, or folders that have some below, can be named. The vault is made where there is none. With one replica
    missing nothing is written: mount it, start its agent, give its key, and call this again; or leave its machine out
    with --partial, and call this again once it is there. Nothing in the replicas is changed.

    \b
    secondsite vault rebuild estate.toml
    secondsite vault rebuild estate.toml /mnt/replicas --key-file /etc/secondsite/replicas.key
    """
    from secondsite.orchestration.estate.loading import load

    loaded = load(estate)
    with vaults.made(vault, state) as database:
        from secondsite.orchestration.rebuilding import restoring
        from secondsite.orchestration.vault import audit

        with audit.action(database, "rebuild", estate):
            found = restoring.rebuild(
                database, loaded, places, partial=partial, who=audit.operator(), now=time.time(), state=state
            )
    if as_json:
        output.print_json(_packed(found, restoring.NOT_RESTORED))
    else:
        _tell(found, restoring.NOT_RESTORED)
    if found.left and not found.written:
        output.complain(f"machines that cannot be restored: {len(found.left)}; nothing was written (see --partial)")
        click.get_current_context().exit(errors.Refused.exit_code)


def _packed(found: Outcome, not_restored: tuple[str, ...]) -> dict[str, Any]:
    return {
        "written": found.written, "machines": [_machine(one) for one in found.restored],
        "left": [asdict(one) for one in found.left], "there": list(found.there), "strangers": dict(found.strangers),
        "not_restored": list(not_restored),
    }  # fmt: skip


def _machine(one: Restored) -> dict[str, Any]:
    return {
        "machine": one.machine, "item": one.item, "state": one.state.words, "reason": one.reason, "epoch": one.epoch,
        "points": len(one.points), "newest": one.points[-1].time if one.points else None,
        "pinned": sum(point.pinned is not None for point in one.points), "lost": list(one.lost),
        "disks": {disk.path: disk.replica for disk in one.disks}, "told": list(one.told),
    }  # fmt: skip


def _tell(found: Outcome, not_restored: tuple[str, ...]) -> None:
    rows = [
        (one.machine, one.state.words, str(len(one.points)), one.points[-1].time[:19].replace("T", " ") if one.points
         else "-", str(one.epoch), str(len(one.disks)))
        for one in found.restored
    ]  # fmt: skip
    if rows:
        heads = ("MACHINE", "STATE", "POINTS", "NEWEST (UTC)", "EPOCH", "DISKS")
        click.echo(output.table(heads, rows, right=(2, 4, 5)))
    for one in found.restored:
        lines = [one.reason, *one.told]
        if one.lost:
            lines.append(f"points that are not whole any more: {', '.join(map(str, one.lost))}")
        for line in filter(None, lines):
            click.echo(output.one_line(f"{one.machine}: {line}"))
    for replica, machine in found.strangers.items():
        click.echo(output.one_line(f"{replica} is of machine {machine!r}, which the estate does not protect"))
    for left in found.left:
        click.echo(f"  FAIL  {output.one_line(f'{left.machine}: {left.why}')}")
    if found.written:
        click.echo(f"restored: {len(found.restored)}; no replica holds {', '.join(not_restored)}")
    elif not found.left:
        click.echo("nothing is missing in the vault")
