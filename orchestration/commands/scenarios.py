"""secondsite scenarios"""

from __future__ import annotations

import shutil
from importlib import resources
from typing import TYPE_CHECKING, Any

import click

from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option
from secondsite.orchestration.scenarios import matrix

if TYPE_CHECKING:
    from secondsite.orchestration.estate.loading import Loaded
    from secondsite.orchestration.scenarios.check import Report

_LEAST_WIDTH = 120
# In the folder samples: the first is the least that protects a machine, the others are a whole estate a scenario.
_SAMPLES = ("small", *matrix.SCENARIOS)


@click.command(short_help="Show what each scenario has and asks for; hold an estate to it.")
@click.option("--check", "estate", metavar="ESTATE", help="An estate file: each of its protections, row by row.")
@click.option("--sample", type=click.Choice(_SAMPLES, case_sensitive=False), help="Print an estate file to begin with.")
@json_option
def command(estate: str | None, sample: str | None, as_json: bool) -> None:
    """Show the five scenarios of site recovery and what each one has and asks for, or hold an estate to it.

    With --check every row is filled in for every protection of ESTATE, with pass or FAIL and why; broken rules are
    named by number, with the line of the file. The exit status is 3 where a rule is broken. Nothing is changed.

    With --sample an estate file of that scenario is printed; `small` is one machine of this host and a folder.

    \b
    secondsite scenarios
    secondsite scenarios --sample small > estate.toml
    secondsite scenarios --check estate.toml
    """
    if sample is not None:
        if estate is not None or as_json:
            raise errors.Usage("--sample prints a file as it is: without --check and --json")
        text = resources.files("secondsite.orchestration").joinpath("samples", f"{sample.lower()}.toml").read_text()
        click.echo(text, nl=False)
        return
    if estate is None:
        _print_matrix(as_json=as_json)
        return
    from secondsite.orchestration.estate.loading import load
    from secondsite.orchestration.scenarios.check import check

    loaded = load(estate)
    report = check(loaded.estate)
    if as_json:
        output.print_json(_facts(report, loaded))
    else:
        _print_report(report, loaded)
    if report.findings:
        count = len(report.findings)
        output.complain(f"{estate}: {count} {'rules are' if count != 1 else 'rule is'} broken")
        click.get_current_context().exit(errors.Refused.exit_code)


def _print_matrix(*, as_json: bool) -> None:
    found = matrix.load()
    if as_json:
        rows = [
            {"feature": row.feature, **{name: row.cell(name).text for name in matrix.SCENARIOS}} for row in found.row
        ]
        output.print_json({"scenarios": {name: found.scenario[name].title for name in matrix.SCENARIOS}, "rows": rows})
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(show_lines=True)
    drawn.add_column("Feature", ratio=2)
    for name in matrix.SCENARIOS:
        drawn.add_column(f"{name}  {found.scenario[name].title}", ratio=3)
    for row in found.row:
        drawn.add_row(row.feature, *(row.cell(name).text for name in matrix.SCENARIOS))
    width = max(shutil.get_terminal_size((_LEAST_WIDTH, 24)).columns, _LEAST_WIDTH)
    Console(width=width, markup=False, highlight=False).print(drawn)


def _print_report(report: Report, loaded: Loaded) -> None:
    last = None
    for judged in report.judged:
        protection = judged.pair.protection
        if protection is not last:
            title = matrix.load().scenario[protection.scenario].title
            count = len(judged.pair.machines)
            click.echo(f"{protection.name}: {protection.scenario}, {title}; machines: {count}")
            last = protection
        text = judged.row.cell(protection.scenario).text
        click.echo(f"  {'FAIL' if judged.findings else 'pass'}  {judged.row.feature}: {text}")
        for finding in judged.findings:
            click.echo(f"          {output.one_line(finding.line(loaded.line(finding.where)))}")
    if report.others:
        click.echo("names, machines and rules over several protections")
    for finding in report.others:
        click.echo(f"  FAIL  {output.one_line(finding.line(loaded.line(finding.where)))}")


def _facts(report: Report, loaded: Loaded) -> dict[str, Any]:
    def facts(findings: Any) -> list[dict[str, Any]]:
        return [
            {"rule": one.rule, "line": loaded.line(one.where), "message": one.message, "remedy": one.remedy}
            for one in findings
        ]

    rows = [
        {
            "protection": judged.pair.protection.name, "scenario": judged.pair.protection.scenario,
            "feature": judged.row.feature, "passed": not judged.findings, "findings": facts(judged.findings),
        }
        for judged in report.judged
    ]  # fmt: skip
    return {"passed": not report.findings, "rows": rows, "others": facts(report.others)}
