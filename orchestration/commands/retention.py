"""secondsite retention"""

from __future__ import annotations

import datetime
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import json_option

if TYPE_CHECKING:
    from secondsite.orchestration.protection.report import Forecast


@click.command(short_help="Show every point of a machine, the rule that keeps it, and when it dies.")
@click.argument("machine")
@click.option("--at", metavar="TIME", help="As it would be then, if cycles went on as planned (UTC unless it says).")
@vaults.vault_option
@json_option
def command(machine: str, at: str | None, vault: str | None, as_json: bool) -> None:
    """Show every recovery point of MACHINE, the rules that keep it, and when it dies if cycles go on as planned.

    Under DISKS are the points of its replicas that it consists of, in the order in which `secondsite status MACHINE`
    lists them, for `secondsite restore REPLICA OUTPUT --at`.

    \b
    secondsite retention app1
    secondsite retention app1 --at 2026-12-01T08:00
    """
    moment = _moment(at) if at else None
    with vaults.opened(vault) as database:
        found = _forecasts(database, machine, moment)
    if as_json:
        output.print_json({"points": [_facts(one) for one in found]})
        return
    rows = [
        (
            str(one.made.number), one.made.time.replace("T", " ")[:19], "yes" if one.made.application else "",
            ", ".join(str(number) for _, number in sorted(one.made.generations.items())), _when(one),
            ", ".join(f"{vote.rule} {vote.why}" for vote in one.kept.votes) or "no rule: it is dropped",
        )
        for one in found
    ]  # fmt: skip
    head = ("POINT", "TIME (UTC)", "APPLICATION", "DISKS", "DIES (UTC)", "KEPT BY")
    click.echo(output.table(head, rows, right=(0,)) if rows else "there is no recovery point yet")


def _forecasts(database: Any, machine: str, moment: datetime.datetime | None) -> list[Forecast]:
    from secondsite.orchestration.protection import lookup, report, said
    from secondsite.orchestration.vault import inventory

    items = lookup.load(database, machine)
    with database.reading() as connection:
        estate = inventory.last_estate(connection)
    known = said.protected(estate).get(machine) if estate is not None else None
    if not items or known is None:
        raise errors.Refused(f"no machine {machine!r} is protected")
    return list(report.retention(items[0], lookup.points(database, items[0].id), known, moment))


def _moment(text: str) -> datetime.datetime:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{text!r} is no time; the form is 2026-12-01T08:00") from None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def _when(one: Forecast) -> str:
    if one.dies is not None:
        return one.dies.strftime("%Y-%m-%d %H:%M:%S")
    return "never" if one.kept.votes else "now"


def _facts(one: Forecast) -> dict[str, Any]:
    votes = [{"rule": vote.rule, "why": vote.why} for vote in one.kept.votes]
    return {**asdict(one.made), "kept_by": votes, "dies": one.dies.isoformat() if one.dies else None}
