"""secondsite recovery test-cleanup, and what is told of machines that a run leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import json_option, key_options, state_option

if TYPE_CHECKING:
    from secondsite.orchestration.plans.leaving import Left


@click.command("test-cleanup", short_help="Take away the tests of a plan's machines.")
@click.argument("plan")
@click.option("--notes", help="What the tests showed; kept with the record of each (R9.3).")
@vaults.vault_option
@state_option
@json_option
@key_options
def command(plan: str, notes: str | None, vault: str | None, state: str | None, as_json: bool) -> None:
    """Take away what the test failovers of the machines of PLAN made, of several machines at once. Each is tried,
    whatever becomes of the others; the exit status is 1 where one is still there.

    \b
    secondsite recovery test-cleanup everything --notes "all came up"
    """
    from secondsite.orchestration.commands.failovers import opened

    with opened(vault, state, quiet=True) as failovers:
        from secondsite.orchestration.plans import leaving
        from secondsite.orchestration.vault import audit, inventory

        with failovers.database.reading() as connection:
            estate = inventory.last_estate(connection)
        found = next((one for one in estate.recovery if one.name == plan), None) if estate is not None else None
        if found is None:
            raise errors.Refused(f"the estate has no recovery plan {plan!r}")
        names = [name for group in found.group for name in group.machines]
        told = (lambda machine, error: None) if as_json else _tell
        with audit.action(failovers.database, "recovery test-cleanup", plan):
            done = leaving.clean(failovers, plan, names, notes, told)
        stopped = failovers.stops()
    _end(plan, done, stopped=stopped, as_json=as_json)


def _tell(machine: str, error: errors.Error | None) -> None:
    name = output.one_line(machine)
    click.echo(f"{name}: FAILED: {output.one_line(str(error))}" if error else f"{name}: its test failover is gone")


def _end(plan: str, done: dict[str, errors.Error | None], *, stopped: bool, as_json: bool) -> None:
    failed = {machine: str(error) for machine, error in done.items() if error is not None}
    if as_json:
        output.print_json({"plan": plan, "cleaned": [one for one in done if one not in failed], "failed": failed})
    elif not done:
        click.echo(f"no machine of plan {plan!r} has a test failover")
    if stopped:
        raise errors.Cancelled("stopped on request; the same call goes on")
    if failed:
        output.complain(f"the test failover of {_count(failed)} is still there: {', '.join(failed)}")
        click.get_current_context().exit(1)


def left(plan: str, machines: Sequence[Left]) -> None:
    """A line for all that have a test, with what takes them away, and one for each failover that waits."""
    tested = [one.machine for one in machines if one.test is not None]
    if tested:
        keeps = "keeps" if len(tested) == 1 else "keep"
        click.echo(f"  {_count(tested)} {keeps} a test failover: {output.one_line(', '.join(tested))}")
        click.echo(f"  take {'it' if len(tested) == 1 else 'them'} away with: secondsite recovery test-cleanup {plan}")
    for one in machines:
        if one.failover is not None:
            waits = "waits for its commit" if one.failover == "running" else f"is {one.failover}"
            click.echo(f"  {output.one_line(one.machine)}: its failover {waits}: {output.one_line(one.onward)}")


def _count(names: Any) -> str:
    return f"{len(names)} machine{'' if len(names) == 1 else 's'}"
