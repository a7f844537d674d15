"""secondsite protection"""

from __future__ import annotations

import time

import click

from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import json_option

_ACTIONS = {
    "pause": "pause", "resume": "resume", "resync": "resync", "cancel-resync": "cancel resync", "recover": "recover",
}  # fmt: skip


@click.command(short_help="Pause, resume, resync or recover a protected machine; pin its points.")
@click.argument("action", type=click.Choice([*_ACTIONS, "pin", "unpin"]))
@click.argument("machine")
@click.option("--point", type=int, metavar="N", help="For pin and unpin, as `secondsite retention` prints it.")
@click.option("--why", default="by an operator", help="For pin: what it is kept for.")
@vaults.vault_option
@json_option
def command(action: str, machine: str, point: int | None, why: str, vault: str | None, as_json: bool) -> None:
    """Do ACTION to the protected MACHINE. A pinned point is never dropped until it is unpinned.

    `resync` compares both sides and mends the replica; `recover` lets an item that failed for good try again.

    \b
    secondsite protection pause app1
    secondsite protection pin app1 --point 12 --why "before the upgrade"
    """
    if (action in ("pin", "unpin")) != (point is not None):
        raise click.UsageError("--point goes with pin and unpin")
    with vaults.opened(vault) as database:
        from secondsite.orchestration.protection import ledger
        from secondsite.orchestration.vault import audit

        with audit.action(database, action, machine):
            if point is not None:
                items = ledger.load(database, machine)
                if not items:
                    raise errors.Refused(f"no machine {machine!r} is protected")
                ledger.pin(database, items[0].id, point, why if action == "pin" else None)
                done = f"point {point} is {'pinned' if action == 'pin' else 'not pinned any more'}"
            else:
                done = f"it is {ledger.act(database, machine, _ACTIONS[action], time.time()).words}"
    if as_json:
        output.print_json({"machine": machine, "done": done})
    else:
        click.echo(f"{machine}: {done}")
