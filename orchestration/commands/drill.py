"""secondsite drill"""

from __future__ import annotations

import datetime
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import json_option, key_options, state_option

if TYPE_CHECKING:
    from secondsite.orchestration.drills.report import Report
    from secondsite.orchestration.estate.model import Signal


@click.command(short_help="Prove that a machine comes up from its copy, and how soon; with a report.")
@click.argument("machine", required=False)
@click.option("--at", metavar="POINT", help="A point's number, a time, `application` or `latest`.  [default: latest]")
@click.option("--serial", metavar="TEXT", help="It is up when it prints this on its serial line.")
@click.option("--agent", is_flag=True, help="... when its guest agent answers.")
@click.option("--tcp", metavar="PORT", type=click.IntRange(1, 65535), help="... when this port takes a connection.")
@click.option("--url", metavar="URL", help="... when this answers; {address} in it is that of its first card.")
@click.option("--seconds", type=click.IntRange(1, 86400), default=300, show_default=True, help="How long it may take.")
@click.option("--network", type=click.Choice(["none", "isolated"]), default="isolated", show_default=True,
              help="No network, or copies of its networks that only this drill reaches (R9.2).")  # fmt: skip
@click.option("--verify", is_flag=True, help="Prove the point by its hashes first.")
@click.option("--notes", default="", help="What is to be in the report.")
@click.option("--reports", metavar="DIR", default="drills", show_default=True, help="Where reports are written.")
@click.option("--due", is_flag=True, help="Drill every machine whose policy says so (drill_days), one after another.")
@click.option("--list", "listed", is_flag=True, help="Show the drills that were done.")
@vaults.vault_option
@state_option
@key_options
@json_option
def command(
    machine: str | None, at: str | None, network: Any, verify: bool, notes: str, reports: str, due: bool,
    listed: bool, **common: Any,
) -> None:  # fmt: skip
    """Start a copy of MACHINE from a recovery point, apart from its networks, wait until it is up, measure how long
    that took, take a picture of its screen, write a report (HTML and JSON), and take everything away again (M7).

    What shows that it is up is said here, or in the estate ([machine.signal]). Replication goes on meanwhile. The exit
    status is 1 where a machine did not come up.

    \b
    secondsite drill app1 --serial "login:"
    secondsite drill --due --reports /var/lib/secondsite/drills     # from a timer, once a day
    secondsite drill --list
    """
    if sum((machine is not None and not listed, due, listed)) != 1 or (due and at is not None):
        raise click.UsageError("name a machine, or --due for all that are due, or --list")
    if listed:
        _list(machine, common)
        return
    signal = _signal(common)
    with _failovers(common) as failovers:
        names = [machine] if machine is not None else _due(failovers)
        how = {"network": network, "verify": verify, "notes": notes}
        good = [_one(failovers, name, at, signal, reports, common, how, alone=not due) for name in names]
    if not names and not common["as_json"]:
        click.echo("no machine is due for a drill")
    if not all(good):
        click.get_current_context().exit(1)


def _signal(common: dict[str, Any]) -> Signal | None:
    """What was said here; the estate's own where nothing was."""
    from secondsite.orchestration.estate.model import Signal

    said = {name: common.pop(name) for name in ("serial", "agent", "tcp", "url", "seconds")}
    return Signal(**said) if any(said[name] for name in ("serial", "agent", "tcp", "url")) else None


def _failovers(common: dict[str, Any]) -> Any:
    from secondsite.orchestration.commands.failovers import opened

    return opened(common["vault"], common["state"], quiet=True)


def _due(failovers: Any) -> list[str]:
    from secondsite.orchestration.drills import drill, journal
    from secondsite.orchestration.protection import said
    from secondsite.orchestration.vault import inventory

    with failovers.database.reading() as connection:
        estate = inventory.last_estate(connection)
    found = said.protected(estate) if estate is not None else {}
    every = {name: one.policy.drill_days * 86400.0 for name, one in found.items() if one.policy.drill_days}
    return drill.due(journal.last(failovers.database), every, time.time())


def _one(failovers: Any, machine: str, *rest: Any, alone: bool) -> bool:
    """Of several, one that cannot be drilled does not keep the others from it."""
    try:
        return _drill(failovers, machine, *rest)
    except errors.Cancelled:
        raise
    except errors.Error as error:
        if alone:
            raise
        output.complain(f"{machine}: {error}")
        return False


def _drill(
    failovers: Any, machine: str, at: str | None, signal: Signal | None, reports: str, common: dict[str, Any],
    how: dict[str, Any],
) -> bool:  # fmt: skip
    """Of one machine: did it come up?"""
    from secondsite.orchestration.drills import journal
    from secondsite.orchestration.drills.drill import Drills
    from secondsite.orchestration.vault import audit

    quiet = common["as_json"]
    told = (lambda stage: None) if quiet else (lambda stage: print(f"{machine}: {stage}", file=sys.stderr, flush=True))
    with audit.action(failovers.database, "drill", machine):
        report = Drills(failovers, told=told, **how).drill(machine, point=at, signal=signal)
        path = _write(report, reports)
        journal.note(failovers.database, report, path)
    if quiet:
        output.print_json({**_facts(report), "report": path})
    else:
        _print(report, path)
    return report.ok


def _write(report: Report, folder: str) -> str:
    """Both forms of it; the path of the page."""
    from secondsite.orchestration.drills.report import to_html, to_json

    when = datetime.datetime.fromtimestamp(report.began, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in report.machine)[:80]
    base = os.path.join(folder, f"{plain}-{when}-{report.id}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for suffix, data in ((".json", to_json(report)), (".html", to_html(report).encode())):
            with open(base + suffix + ".new", "wb") as file:
                file.write(data)
            os.replace(base + suffix + ".new", base + suffix)
    except OSError as error:
        raise errors.from_os(error, folder, "write a report there") from None
    return base + ".html"


def _facts(report: Report) -> dict[str, Any]:
    import msgspec

    return {"ok": report.ok, **msgspec.to_builtins(report), "screenshot": report.screenshot is not None}


def _print(report: Report, path: str) -> None:
    for stage in report.stages:
        if not stage.ok:
            click.echo(f"{report.machine}: {stage.name}: FAILED: {output.one_line(stage.detail)}")
    if report.up_seconds is not None:
        took = f"up after {report.up_seconds:.1f} s from point {report.point}"
        click.echo(f"{report.machine}: {took}, which was {report.age_seconds:.0f} s old")
    else:
        click.echo(f"{report.machine}: did NOT come up from point {report.point}")
    click.echo(f"{report.machine}: report: {path}")


def _list(machine: str | None, common: dict[str, Any]) -> None:
    from dataclasses import asdict

    from secondsite.orchestration.drills import journal

    with vaults.opened(common["vault"], common["state"]) as database:
        found = journal.newest(database, machine)
    if common["as_json"]:
        output.print_json({"drills": [asdict(one) for one in found]})
        return
    rows = [
        (one.machine, datetime.datetime.fromtimestamp(one.began, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S"),
         "ok" if one.ok else "FAILED", f"{one.up_seconds:.1f} s" if one.up_seconds is not None else "-", one.path or "")
        for one in found
    ]  # fmt: skip
    head = ("MACHINE", "TIME (UTC)", "RESULT", "UP AFTER", "REPORT")
    click.echo(output.table(head, rows) if rows else "no machine was drilled yet")
