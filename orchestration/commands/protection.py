"""secondsite protection"""

from __future__ import annotations

from typing import Any

import click

from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import json_option, state_option

_ACTIONS = {
    "pause": "pause", "resume": "resume", "resync": "resync", "cancel-resync": "cancel resync", "recover": "recover",
}  # fmt: skip


@click.command(short_help="Start a cycle at once; pause, resume, resync or recover a machine; pin its points.")
@click.argument("action", type=click.Choice(["sync", *_ACTIONS, "pin", "unpin", "acknowledge"]))
@click.argument("machine")
@click.option("--point", type=int, metavar="N", help="For pin and unpin, as `secondsite retention` prints it.")
@click.option("--why", default="by an operator", help="For pin: what it is kept for.")
@click.option(
    "--seconds", type=click.FloatRange(1), default=3600, show_default=True, help="For sync: wait for the point so long."
)
@vaults.vault_option
@state_option
@json_option
def command(
    action: str, machine: str, point: int | None, why: str, seconds: float, vault: str | None, state: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Do ACTION to the protected MACHINE. A pinned point is never dropped until it is unpinned.

    `sync` has a cycle begin at once, in whichever `secondsite run` works on the vault, and waits for its point, which
    is later than this command. `resync` compares both sides and mends the replica; `recover` lets an item that failed
    for good try again, and one that found the points of a lost vault begin without them. `acknowledge` says that a
    person looked at what the tripwire saw: it watches on, and does not keep the points that it pinned any more.

    \b
    secondsite protection pause app1
    secondsite protection sync app1
    secondsite protection pin app1 --point 12 --why "before the upgrade"
    """
    if (action in ("pin", "unpin")) != (point is not None):
        raise click.UsageError("--point goes with pin and unpin")
    with output.watching() as watch, vaults.opened(vault, state) as database:
        from secondsite.orchestration.vault import audit

        with audit.action(database, action, machine):
            if action == "sync":
                done, facts = _sync(database, machine, seconds, watch)
            else:
                done, facts = _act(database, action, machine, point, why), {}
                output.warn(_tell(database, machine, state))
    if as_json:
        output.print_json({"machine": machine, "done": done, **facts})
    else:
        click.echo(f"{machine}: {done}")


def _act(database: Any, action: str, machine: str, point: int | None, why: str) -> str:
    from secondsite.orchestration.protection import alarms, leases, ledger, lookup

    if action == "acknowledge":
        return f"acknowledged: {alarms.acknowledge(database, machine).words}"
    if point is None:
        return f"it is {ledger.act(database, machine, _ACTIONS[action], leases.now(database)).words}"
    items = lookup.load(database, machine)
    if not items:
        raise errors.Refused(f"no machine {machine!r} is protected")
    ledger.pin(database, items[0].id, point, why if action == "pin" else None)
    return f"point {point} is {'pinned' if action == 'pin' else 'not pinned any more'}"


def _tell(database: Any, machine: str, state: str | None) -> list[str]:
    """The replicas, so that a lost vault loses no pin and no pause."""
    from secondsite import engine
    from secondsite.orchestration.protection import noting
    from secondsite.orchestration.protection.worker import EngineWorker

    with engine.using_key(engine.Key(plain=True)):  # a key in the environment may be for other machines
        return noting.refresh(database, EngineWorker(state), machine)


def _sync(database: Any, machine: str, seconds: float, watch: output.Watch) -> tuple[str, dict[str, Any]]:
    from secondsite.orchestration.protection.sync import Sync

    made = Sync(database, machine, seconds, watch.cancelled).run()
    facts = {"point": made.number, "time": made.time, "changed_bytes": made.changed_bytes}
    return f"point {made.number}; {vaults.changed(made)}", facts
