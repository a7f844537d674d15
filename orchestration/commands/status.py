"""secondsite status"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from secondsite.engine.units import format_size
from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import json_option

if TYPE_CHECKING:
    from secondsite.orchestration.protection.report import Row

# Of the worst machine: normal, warning, critical.
STATUS = (0, 1, 3)


@click.command(short_help="Show state and health of the protected machines.")
@click.argument("machine", required=False)
@click.option(
    "--watch", "every", type=click.FloatRange(0.1), is_flag=False, flag_value=2.0, metavar="SECONDS",
    help="Again and again, every so many seconds.  [2 without a number]",
)
@vaults.vault_option
@json_option
def command(machine: str | None, every: float | None, vault: str | None, as_json: bool) -> None:
    """Show state, health, age of the newest point and statistics of each protected machine, or of MACHINE; of that also
    which replica follows each disk.

    The exit status is fit for monitoring: 0 where all is normal, 1 for a warning, 3 where something is critical.

    \b
    secondsite status
    secondsite status app1 --json
    """
    with output.watching() as watch, vaults.opened(vault) as database:
        while True:
            rows = _rows(database, machine)
            if as_json:
                output.print_json({"machines": [_facts(row) for row in rows]})
            else:
                _print(rows)
                if machine is not None:
                    _print_disks(rows[0])
            if every is None or watch.cancelled():
                break
            _wait(every, watch)
            if watch.cancelled():
                break
    click.get_current_context().exit(STATUS[max((row.level for row in rows), default=0)])


def _rows(database: Any, machine: str | None) -> list[Row]:
    from secondsite.engine import errors
    from secondsite.orchestration.protection import leases, report

    rows = report.rows(database, leases.now(database), machine)
    if machine is not None and not rows:
        raise errors.Refused(f"no machine {machine!r} is protected")
    return rows


def _facts(row: Row) -> dict[str, Any]:
    import msgspec

    reasons = [{"level": one.level.name.lower(), "rule": one.rule, "words": one.words} for one in row.reasons]
    told = msgspec.to_builtins(row.outlook)
    return {**asdict(row), "level": row.level.name.lower(), "reasons": reasons, "outlook": told}


def _print(rows: list[Row]) -> None:
    cells = [
        (
            row.machine, row.state, _way(row), row.level.name.lower(), _age(row.rpo), f"{row.cycles}", f"{row.missed}",
            f"{row.errors}", format_size(round(row.average_bytes)),
            output.one_line("; ".join(_why(row))),
        )
        for row in rows
    ]  # fmt: skip
    head = ("MACHINE", "STATE", "RUNS AT", "HEALTH", "RPO", "CYCLES", "MISSED", "ERRORS", "AVERAGE", "WHY")
    click.echo(output.table(head, cells, right=(4, 5, 6, 7, 8)) if cells else "nothing is protected")


def _why(row: Row) -> Iterator[str]:
    """What is under way, the rules, then what the last cycle said, which is what an operator acts on."""
    if row.failover is not None:
        yield f"R9.12 {row.failover}"
    if row.test is not None:
        yield f"R9.1 test failover: {row.test}"
    yield from (f"{one.rule} {one.words}" for one in row.reasons)
    if row.reason:
        yield row.reason


def _way(row: Row) -> str:
    """The side that it runs at, and which way it replicates from there (R9.13)."""
    return f"{row.where.removeprefix('runs at the ')}, {row.direction}"


def _print_disks(row: Row) -> None:
    click.echo()
    cells = [(output.one_line(path), output.one_line(replica)) for path, replica in row.disks.items()]
    click.echo(output.table(("DISK", "REPLICA"), cells))


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / 3600:.0f} h"


def _wait(seconds: float, watch: output.Watch) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not watch.cancelled():
        time.sleep(0.1)
