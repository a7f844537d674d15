"""secondsite mapping"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option

if TYPE_CHECKING:
    from secondsite.orchestration.estate.model import Machine
    from secondsite.orchestration.mapping.placement import Chosen, Placement


@click.group(short_help="Say where a machine goes at a failover, and why.")
def command() -> None:
    """Networks, addresses, hosts and storage of a machine at the other site; with --json as one object.

    \b
    secondsite mapping explain app1 --estate estate.toml
    """


@command.command("explain", short_help="Where a machine goes, and the rule that chose each part of it.")
@click.argument("machine")
@click.option("--estate", default="estate.toml", show_default=True, metavar="FILE", help="The estate file.")
@json_option
def explain(machine: str, estate: str, as_json: bool) -> None:
    """Say which host, network, subnet, address and storage location MACHINE gets at a failover, and by which rule.

    It is a dry run: nobody is asked and nothing is changed, so that addresses in use and free space are not known. The
    exit status is 3 where the failover would fail.

    \b
    secondsite mapping explain app1 --estate estate.toml
    """
    from secondsite.orchestration.estate.loading import load
    from secondsite.orchestration.mapping.explain import Mapper
    from secondsite.orchestration.mapping.placement import Facts
    from secondsite.orchestration.scenarios.check import check

    loaded = load(estate)
    wrong = check(loaded.estate).findings
    if wrong:
        first = wrong[0].line(loaded.line(wrong[0].where))
        more = f" (and {len(wrong) - 1} more: secondsite scenarios --check)" if len(wrong) > 1 else ""
        raise errors.Refused(f"{first}{more}", path=estate)
    mapper = Mapper.of(loaded.estate)
    found = mapper.machine(machine)
    if found is None:
        raise errors.Refused(f"protects no machine {machine!r}", path=estate)
    placed = mapper.place(*found, Facts())
    if as_json:
        output.print_json({**asdict(placed), "problems": placed.all_problems})
    else:
        _print(placed, found[2])
    if placed.all_problems:
        output.complain(f"{machine}: the failover would fail: {placed.all_problems[0]}")
        click.get_current_context().exit(errors.Refused.exit_code)


def _print(placed: Placement, machine: Machine) -> None:
    rows: list[tuple[str, ...]] = [("host", *_cells(placed.host))] if placed.host else []
    for number, card in enumerate(placed.connections, 1):
        for what in ("network", "subnet", "address"):
            chosen = getattr(card, what)
            if chosen is not None:
                rows.append((f"card {number} {what}", *_cells(chosen)))
        if card.problem:
            rows.append((f"card {number}", "FAILS", *card.problem.split(": ", 1)))
    has = len(placed.connections)
    missing = range(has + 1, len(machine.nics) + 1)
    rows += [(f"card {number}", "-", "R11.9", f"the machine there has {has}") for number in missing]
    rows += [(f"disk {path}", *_cells(chosen)) for path, chosen in placed.disks.items()]
    rows += [("", "FAILS", *problem.split(": ", 1)) for problem in placed.problems]
    click.echo(output.table(("WHAT", "WHERE", "RULE", "WHY"), rows))


def _cells(chosen: Chosen) -> tuple[str, str, str]:
    return chosen.value or "-", chosen.rule, chosen.why
