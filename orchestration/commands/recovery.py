"""secondsite recovery"""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import click

from secondsite.engine import errors
from secondsite.orchestration import output
from secondsite.orchestration.commands import recovery_tests, vaults
from secondsite.orchestration.commands.failovers import read_key
from secondsite.orchestration.commands.options import json_option, key_options, state_option

if TYPE_CHECKING:
    from secondsite.orchestration.plans.journal import Run
    from secondsite.orchestration.plans.order import Task
    from secondsite.orchestration.plans.steps import Outcome
    from secondsite.orchestration.vault.database import Database

_KINDS = click.Choice(["test", "planned", "unplanned", "failback"])
# How long a run that is stopped may take for what it does just now.
_PATIENCE_SECONDS = 15.0
# What a script or a server says may be long, and would hide what else is on the screen; --json has all that is kept.
_MOST_LINES, _MOST_CHARACTERS = 8, 200


@click.group(short_help="Run recovery plans: several machines in order, with scripts and manual steps.")
def command() -> None:
    """Recovery plans of the estate ([[recovery]]). A run that is killed or stopped goes on with `resume`. With --json
    each prints objects.

    \b
    secondsite recovery run everything --kind test
    secondsite recovery status
    secondsite recovery confirm 5f0c1d2e3a4b "is the storage there?"
    """


@command.command("list", short_help="Show the plans of the estate and what each would do.")
@click.argument("plan", required=False)
@click.option("--kind", type=_KINDS, default="planned", show_default=True, help="Of failover.")
@vaults.vault_option
@json_option
def listed(plan: str | None, kind: Any, vault: str | None, as_json: bool) -> None:
    """Show the tasks of each plan, or of PLAN, in their order. Nothing is done.

    \b
    secondsite recovery list everything --kind unplanned
    """
    with vaults.opened(vault) as database:
        from secondsite.orchestration.plans.order import tasks

        plans = [one for one in _plans(database) if plan in (None, one.name)]
    if plan is not None and not plans:
        raise errors.Refused(f"the estate has no recovery plan {plan!r}")
    found = {one.name: tasks(one, kind) for one in plans}
    if as_json:
        output.print_json({"plans": {name: [_said(task) for task in order] for name, order in found.items()}})
        return
    rows = [(name, str(task.number), _what(task), task.name) for name, order in found.items() for task in order]
    head = ("PLAN", "TASK", "WHAT", "NAME")
    click.echo(output.table(head, rows, right=(1,)) if rows else "there is no recovery plan")


@command.command("run", short_help="Run a plan.")
@click.argument("plan")
@click.option("--kind", type=_KINDS, required=True, help="Of failover.")
@click.option("--at", default="latest", show_default=True, metavar="POINT",
              help="latest, a time, or `consistent`: the newest instant that all machines have.")  # fmt: skip
@vaults.vault_option
@state_option
@json_option
@key_options
def run(plan: str, kind: Any, at: str, vault: str | None, state: str | None, as_json: bool) -> None:
    """Fail over the machines of PLAN, a group after the other; the data of all are made ready at once before.

    A planned run stops at the first error and goes on with `resume`; the others run to their end. A manual step waits
    for `confirm`. The exit status is 1 where a task failed.

    \b
    secondsite recovery run everything --kind unplanned
    """
    with read_key(), vaults.opened(vault, state) as database:
        from secondsite.orchestration.plans import journal
        from secondsite.orchestration.protection import leases
        from secondsite.orchestration.vault import audit, holders

        chosen = next((one for one in _plans(database) if one.name == plan), None)
        if chosen is None:
            raise errors.Refused(f"the estate has no recovery plan {plan!r}")
        with audit.action(database, f"recovery {kind}", plan):
            now, holder = leases.now(database), holders.this_process()
            at = _at(database, chosen, kind, at)
            made = journal.new(database, chosen, kind, at, audit.operator(), now, holder)
            _go_on(database, made, state, as_json=as_json)


def _at(database: Database, plan: Any, kind: str, at: str) -> str:
    """Of `consistent` the instant; it is decided once, when the run begins."""
    from secondsite.orchestration.plans.machines import CONSISTENT, instant

    if kind not in ("test", "unplanned") and at != "latest":
        raise errors.Usage(f"R9.6: a {kind} run goes to the last point of each machine; --at is for test and unplanned")
    return instant(database, [name for group in plan.group for name in group.machines]) if at == CONSISTENT else at


@command.command("resume", short_help="Go on with a run.")
@click.argument("run_id", metavar="RUN")
@click.option("--left-behind", is_flag=True, help="Only where who was at it died, as `secondsite run` does.")
@vaults.vault_option
@state_option
@json_option
@key_options
def resume(run_id: str, left_behind: bool, vault: str | None, state: str | None, as_json: bool) -> None:
    """Go on with a run that was killed or stopped, or begin anew what failed in it. What was done is not done again.
    `secondsite run` does that by itself for a run that was killed.

    \b
    secondsite recovery resume 5f0c1d2e3a4b
    """
    with read_key(), vaults.opened(vault, state) as database:
        from secondsite.orchestration.vault import audit

        with audit.action(database, "recovery resume", run_id):
            _go_on(database, run_id, state, left_behind=left_behind, as_json=as_json)


@command.command("confirm", short_help="Say that a manual step was done.")
@click.argument("run_id", metavar="RUN")
@click.argument("step", required=False)
@click.option("--note", default="", help="What is to be remembered of it.")
@vaults.vault_option
@json_option
def confirm(run_id: str, step: str | None, note: str, vault: str | None, as_json: bool) -> None:
    """Confirm the manual step that RUN waits at; the run goes on. With STEP only if it is that one.

    \b
    secondsite recovery confirm 5f0c1d2e3a4b --note "checked by phone"
    """
    with vaults.opened(vault) as database:
        from secondsite.orchestration.plans import journal, workflow
        from secondsite.orchestration.vault import audit

        found = journal.load(database, run_id)
        waiting = [task for task in found.waiting if step in (None, task.name)]
        if not waiting:
            raise errors.Refused(f"run {run_id} waits for no manual step{f' {step!r}' if step else ''}")
        with audit.action(database, "recovery confirm", f"{run_id} {waiting[0].name}"):
            journal.confirm(database, run_id, waiting[0].number, audit.operator(), note, time.time())
            workflow.confirmed(database, run_id, found.attempt, waiting[0].number)
    if as_json:
        output.print_json({"run": run_id, "confirmed": waiting[0].name})
    else:
        click.echo(f"run {run_id}: {waiting[0].name} is confirmed")


@command.command("cancel", short_help="Give a run up.")
@click.argument("run_id", metavar="RUN")
@vaults.vault_option
@json_option
def cancel(run_id: str, vault: str | None, as_json: bool) -> None:
    """Give up a run that was killed or stopped. What it did with machines stays, and is told: tests go with
    `test-cleanup`, a failover is cancelled or committed by itself (`secondsite failover`).

    \b
    secondsite recovery cancel 5f0c1d2e3a4b
    """
    with vaults.opened(vault) as database:
        from secondsite.orchestration.plans import journal, leaving
        from secondsite.orchestration.protection import leases
        from secondsite.orchestration.vault import audit

        with audit.action(database, "recovery cancel", run_id):
            journal.cancel(database, run_id, leases.now(database))
        said = journal.load(database, run_id).said
        left = leaving.left(database, [name for group in said.group for name in group.machines])
    if as_json:
        output.print_json({"run": run_id, "state": "cancelled", "left": [asdict(one) for one in left]})
    else:
        click.echo(f"run {run_id} is cancelled")
        recovery_tests.left(said.name, left)


command.add_command(recovery_tests.command)


@command.command("status", short_help="Show runs, and what became of their tasks.")
@click.argument("run_id", metavar="RUN", required=False)
@vaults.vault_option
@json_option
def status(run_id: str | None, vault: str | None, as_json: bool) -> None:
    """Show the newest runs, or every task of RUN.

    \b
    secondsite recovery status
    """
    with vaults.opened(vault) as database:
        from secondsite.orchestration.plans import journal

        found = [journal.load(database, run_id)] if run_id is not None else journal.newest(database)
    if as_json:
        output.print_json({"runs": [_facts(one) for one in found]})
    elif run_id is not None:
        click.echo(output.table(("TASK", "WHAT", "NAME", "STATE", "SECONDS", "WHY"), _tasks(found[0]), right=(0, 4)))
    else:
        rows = [(one.id, one.plan, one.kind, _when(one.began), _state(one), one.who) for one in found]
        head = ("RUN", "PLAN", "KIND", "BEGAN (UTC)", "STATE", "BY")
        click.echo(output.table(head, rows) if rows else "no plan was run")


def _plans(database: Database) -> Sequence[Any]:
    from secondsite.orchestration.vault import inventory

    with database.reading() as connection:
        estate = inventory.last_estate(connection)
    return estate.recovery if estate is not None else ()


def _go_on(
    database: Database, run_id: str, state: str | None, *, left_behind: bool = False, as_json: bool
) -> None:  # fmt: skip
    """Until it ends, or until a signal: then it is left as it is, to be resumed."""
    try:
        from secondsite.orchestration.plans import journal, workflow
    except ImportError as error:
        raise errors.Refused(f"plans need {error.name}: pip install 'secondsite[failover]'") from None
    from secondsite.orchestration.failover.failovers import Failovers
    from secondsite.orchestration.plans import machines
    from secondsite.orchestration.plans.doing import Doing
    from secondsite.orchestration.protection import leases
    from secondsite.orchestration.protection.worker import EngineWorker
    from secondsite.orchestration.vault import holders

    holder = holders.this_process()
    taken = journal.claim(database, run_id, holder, leases.now(database), left_behind=left_behind)
    if not as_json:
        click.echo(f"run {taken.id} of {taken.plan}: {taken.kind} failover, {len(taken.tasks)} tasks")
    with output.watching() as watch:
        failovers = Failovers(database, worker=EngineWorker(state), state=state, stops=watch.cancelled)
        names = [name for group in taken.said.group for name in group.machines]
        doing = Doing(
            database, taken, machines.Failing(failovers, names, taken.id), machines.reaches(database, taken),
            told=lambda task, outcome: _tell(taken, task, outcome, as_json=as_json),
        )  # fmt: skip
        with workflow.executing(doing) as execution:
            while not execution.ended.wait(0.05) and not watch.cancelled() and not execution.left:
                pass
            if not execution.ended.is_set():
                _leave(execution, watch.signal, left_behind=left_behind)
    if execution.error is not None:
        raise execution.error
    _told_end(journal.load(database, run_id), as_json=as_json)


def _leave(execution: Any, signal: int, *, left_behind: bool) -> NoReturn:
    """The threads of a run that is left wait for ever, so that nothing is noted that did not happen: the process ends
    without them. What `secondsite run` had begun the next one goes on with.
    """
    from secondsite.orchestration.plans import journal

    execution.stop()
    until = time.monotonic() + _PATIENCE_SECONDS
    while not execution.left and time.monotonic() < until:
        time.sleep(0.05)
    doing = execution.doing
    run = doing.run.id
    try:
        journal.give_back(doing.database, run, doing.holder, left_behind=left_behind)
    except errors.Error as error:
        output.complain(str(error))
    output.complain(f"run {run} was left; go on with: secondsite recovery resume {run}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + signal if signal else errors.Unreachable.exit_code)


def _tell(run: Run, task: Task, outcome: Outcome | None, *, as_json: bool) -> None:
    """A task that begins, or ended."""
    if as_json:
        said = {"ok": outcome.ok, "detail": outcome.detail} if outcome else {"begins": True}
        output.print_json({"run": run.id, "task": task.number, "name": task.name, "time": time.time(), **said})
    elif task.step is not None and task.step.manual is not None:
        click.echo(f"  {task.number}. {output.one_line(task.name)}: {output.one_line(task.step.manual)}")
        click.echo(f"     waits; confirm with: secondsite recovery confirm {run.id}")
    elif outcome is None:
        click.echo(f"  {task.number}. {output.one_line(task.name)}")
    elif not outcome.ok:
        lines = outcome.detail.splitlines() or ["failed"]
        if (more := len(lines) - _MOST_LINES) > 0:
            lines = [lines[0], f"({more} lines more: secondsite recovery status {run.id} --json)", *lines[more + 1 :]]
        for line in lines:
            click.echo(f"     FAILED: {_short(line)}")
    sys.stdout.flush()


def _told_end(run: Run, *, as_json: bool) -> None:
    seconds = (run.ended or time.time()) - run.began
    if as_json:
        output.print_json(_facts(run))
    else:
        click.echo(f"run {run.id} is {run.state} after {seconds:.1f} s")
        if run.kind == "test":
            click.echo(f"what it started stays until: secondsite recovery test-cleanup {run.plan}")
    if run.failed:
        names = ", ".join(task.name for task in run.failed)
        again = f"; begin it anew with: secondsite recovery resume {run.id}"
        output.complain(f"run {run.id}: failed: {names}{again}")
        click.get_current_context().exit(1)


def _facts(run: Run) -> dict[str, Any]:
    """As --json has it."""
    told = {
        "run": run.id, "plan": run.plan, "kind": run.kind, "at": run.at, "by": run.who, "began": run.began,
        "ended": run.ended, "state": run.state, "attempt": run.attempt,
    }  # fmt: skip
    tasks = []
    for task in run.tasks:
        done = run.begun.get(task.number)
        became = {"state": done.state, "began": done.began, "ended": done.ended, "detail": done.detail} if done else {}
        tasks.append({**_said(task), "state": "pending", **became})
    return {**told, "tasks": tasks}


def _said(task: Task) -> dict[str, Any]:
    return {
        "task": task.number, "what": _what(task), "name": task.name, "group": task.group or None,
        "machines": list(task.machines) if task.what != "step" else [],
    }  # fmt: skip


def _what(task: Task) -> str:
    step = task.step
    if step is None:
        return task.what
    return "manual" if step.manual is not None else "http" if step.http is not None else "script"


def _tasks(run: Run) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for task in run.tasks:
        done = run.begun.get(task.number)
        name = output.one_line(task.name)
        if done is None:
            rows.append((str(task.number), _what(task), name, "-", "-", ""))
            continue
        seconds = f"{done.ended - done.began:.1f}" if done.ended is not None else "-"
        rows.append((str(task.number), _what(task), name, done.state, seconds, _short(done.detail or "")))
    return rows


def _short(text: str) -> str:
    line = output.one_line(text)
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}..."


def _state(run: Run) -> str:
    if run.state == "running" and run.waiting:
        return f"waits: {output.one_line(run.waiting[0].name)}"
    return run.state


def _when(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
