"""secondsite failover"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults
from secondsite.orchestration.commands.options import json_option, key_options, state_option


@click.group(short_help="Fail a protected machine over, as a test or for good, and bring it back.")
def command() -> None:
    """Fail a protected machine over to its target, as a test or for good, and bring it back.

    What a call did not finish, because it was killed or a step failed, the same call goes on with, or `cancel` takes
    back; `secondsite run` completes what was left behind. At no time does a machine run on both sides. Each takes
    --json.

    \b
    secondsite failover test app1                 # beside the real one, apart from its networks
    secondsite failover planned app1              # loses nothing: source off, last delta, proof
    secondsite failover unplanned app1 --at 12    # the source is gone
    secondsite failover commit app1
    secondsite failover failback app1
    """


def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    """MACHINE, and what each of them takes."""
    for option in (json_option, state_option, vaults.vault_option, click.argument("machine")):
        function = option(function)
    return function


at = click.option(
    "--at", metavar="POINT",
    help="A point's number (secondsite retention), a time, `application` or `latest`.  [default: latest]",
)  # fmt: skip
planning = click.option("--plan", "only_plan", is_flag=True, help="Say what would be done, and do nothing.")
waiting = click.option("--prepare", "wait", is_flag=True, help="Prepare it only; `failover start` starts it.")


@command.command("test")
@_common
@at
@planning
@click.option("--network", metavar="none|isolated|NETWORK", default=None,
              help="No network, copies of its networks that only this test reaches, or a network of the estate, such "
              "as one that leads nowhere (R9.2).  [default: none]")  # fmt: skip
@key_options
def test(machine: str, at: str | None, network: str | None, only_plan: bool, **common: Any) -> None:
    """Start a copy of MACHINE, named "MACHINE - Test", from a point; replication goes on (R9.1).

    \b
    secondsite failover test app1 --network isolated
    secondsite failover test-cleanup app1 --notes "came up in 20 s"
    """
    with _failovers(common) as failovers:
        if only_plan:
            _plan(failovers, machine, "test", at, common)
            return
        from secondsite.orchestration.failover.trying import Tests

        _done(failovers, machine, "test", lambda: Tests(failovers).test(machine, point=at, network=network), common)


@command.command("test-cleanup")
@_common
@click.option("--notes", help="What the test showed; kept with its record (R9.3).")
@click.option("--lost", is_flag=True, help="Its host does not answer and is gone for good: what is there stays there.")
@key_options
def test_cleanup(machine: str, notes: str | None, lost: bool, **common: Any) -> None:
    """Take away what the test failover of MACHINE made. After two weeks `secondsite run` does it (R9.3).

    \b
    secondsite failover test-cleanup app1 --notes "mail works"
    """
    from secondsite.orchestration.failover.trying import Tests

    with _failovers(common) as failovers:
        cleanup = lambda: Tests(failovers).cleanup(machine, notes=notes, gone=lost)  # noqa: E731
        _done(failovers, machine, "test-cleanup", cleanup, common)


@command.command("planned")
@_common
@planning
@waiting
@key_options
def planned(machine: str, only_plan: bool, wait: bool, **common: Any) -> None:
    """Fail MACHINE over without any loss: stop it, send the last delta, prove that both sides are equal, start it at
    the other side (R9.6). The source must be there. It waits for `commit` or `cancel`.

    \b
    secondsite failover planned app1 --plan
    """
    _fail_over(machine, "planned", None, only_plan, common, wait=wait)


@command.command("unplanned")
@_common
@at
@planning
@waiting
@click.option("--synchronize", is_flag=True,
              help="Shut the source down and send its last changes first, where that is possible (R9.8).")  # fmt: skip
@click.option("--source-is-dead", is_flag=True, help="Whatever is seen of it, the source does not run (R9.9).")
@click.option("--verify", is_flag=True,
              help="Read all of the point and prove it first. Else each block is as it is read.")  # fmt: skip
@key_options
def unplanned(machine: str, at: str | None, only_plan: bool, wait: bool, synchronize: bool, source_is_dead: bool,
              verify: bool, **common: Any) -> None:  # fmt: skip
    """Fail MACHINE over to a point; its source need not be there (R9.8). It waits for `commit`, `change-point` or
    `cancel`. Refused while the source is seen running.

    \b
    secondsite failover unplanned app1 --at 2026-11-26T08:00
    """
    _fail_over(machine, "unplanned", at, only_plan, common, wait=wait, synchronize=synchronize,
               source_is_dead=source_is_dead, verify=verify)  # fmt: skip


@command.command("failback")
@_common
@planning
@waiting
@click.option("--when", type=click.Choice(["before", "during"]), default=None,
              help="R10.3: `before`, what differs is sent while it runs, and `complete` goes on; `during`, it stops "
              "first, and everything is sent.")  # fmt: skip
@click.option("--copy", type=click.Choice(["delta", "full"]), default=None,
              help="Send what differs from the old disks, or everything.  [default: as --when says]")  # fmt: skip
@click.option("--host", metavar="HOST", help="Bring it to this host of its side instead (R10.5).")
@key_options
def failback(
    machine: str, only_plan: bool, wait: bool, when: str | None, copy: Any, host: str | None, **common: Any
) -> None:
    """Bring MACHINE home: a planned failover the other way (R10.1, R10.3). The old disks stay until `commit` (M12).

    \b
    secondsite failover failback app1
    secondsite failover failback app1 --when before      # then: secondsite failover complete app1
    """
    from secondsite.orchestration.failover.intent import MEANING

    usual, moment = MEANING[when] if when is not None else (None, "during")
    action = "copy-back" if moment == "before" else "failback"
    _fail_over(machine, action, None, only_plan, common, wait=wait, copy=copy or usual, host=host)


@command.command("change-point")
@_common
@at
@key_options
def change_point(machine: str, at: str | None, **common: Any) -> None:
    """Run MACHINE from another point, before its unplanned failover is committed (R9.10). What it wrote is lost.

    \b
    secondsite failover change-point app1 --at 11
    """
    _act(machine, "change-point", common, point=at)


@command.command("start")
@_common
@key_options
def start(machine: str, **common: Any) -> None:
    """Start MACHINE, whose failover was only prepared; or once more where a failover started it, if it or the server of
    its disks went down there. What it wrote is kept, and one that is up stays as it is.

    \b
    secondsite failover start app1
    """
    with _failovers(common) as failovers:
        _done(failovers, machine, "start", lambda: failovers.start(machine), common)


@command.command("complete")
@_common
@key_options
def complete(machine: str, **common: Any) -> None:
    """Go on with a failback that copied MACHINE while it ran: stop it, send the rest, start it at home (R10.4).

    \b
    secondsite failover complete app1
    """
    _act(machine, "complete", common)


@command.command("cancel")
@_common
@click.option("--lost", is_flag=True, help="What it would be started in again is gone for good: it is not started.")
@key_options
def cancel(machine: str, lost: bool, **common: Any) -> None:
    """Take the failover of MACHINE back: what it wrote there is lost, and it is as before (R9.10). Refused where the
    side that it came from, which ran it until then, does not answer or has its disks no more.

    \b
    secondsite failover cancel app1
    """
    _act(machine, "cancel", common, lost=lost)


@command.command("commit")
@_common
@key_options
def commit(machine: str, **common: Any) -> None:
    """Keep the failover of MACHINE: its other points go (R9.10, R9.12). After a planned one replication turns at once.

    \b
    secondsite failover commit app1
    """
    _act(machine, "commit", common)


@command.command("reverse")
@_common
@click.option("--copy", type=click.Choice(["delta", "full"]),
              help="Send what differs from the old disks, or all, where these are gone.  [default: delta]")  # fmt: skip
@key_options
def reverse(machine: str, copy: str | None, **common: Any) -> None:
    """Protect MACHINE where it runs now: replicate to where it was, what differs from the old disks (R10.1). Until
    something came there, `cancel` ends it.

    \b
    secondsite failover reverse app1
    """
    _act(machine, "reverse", common, copy=copy)


@command.command("give-up")
@_common
@click.option("--lost", is_flag=True,
              help="What MACHINE wrote is lost, and a side that does not answer is gone for good.")  # fmt: skip
def give_up(machine: str, lost: bool, **common: Any) -> None:
    """End the protection of MACHINE where no failover leads on, since both sides have lost it. Its replicas and what
    else is left stay as they are, and the next `apply` protects it anew. Refused where it is seen running. Without
    --lost it says what would stay.

    \b
    secondsite failover give-up app1 --lost
    """
    from secondsite.orchestration.failover import giving_up
    from secondsite.orchestration.vault import audit

    with _failovers(common) as failovers, audit.action(failovers.database, "failover give-up", machine):
        told = giving_up.give_up(failovers, machine, gone=lost)
    if common["as_json"]:
        output.print_json({"machine": machine, "given_up": True, "left": told})
    else:
        click.echo(f"{output.one_line(machine)}: given up, and not protected any more; {output.one_line(told)}")


@command.command("status")
@click.argument("machine", required=False)
@vaults.vault_option
@state_option
@json_option
def status(machine: str | None, **common: Any) -> None:
    """Show where MACHINE runs, which way it replicates, and what is under way (R9.12, R9.13); without MACHINE all that
    are not simply replicated. Both sides are asked whether it runs there, for some seconds.

    \b
    secondsite failover status app1 --json
    """
    from secondsite.orchestration.failover import asking, rehearsals

    with _failovers(common) as failovers:
        told = asking.looked(failovers, asking.find(failovers, machine))
        if machine is not None:
            told[0]["tests"] = rehearsals.notes(failovers.database, machine)
    if common["as_json"]:
        output.print_json({"machines": told})
        return
    for one in told:
        _print(one)
    if not told:
        click.echo("no failover is under way, and all machines run where they belong")


def _fail_over(
    machine: str, action: str, at: str | None, only_plan: bool, common: dict[str, Any], **options: Any
) -> None:
    with _failovers(common) as failovers:
        if only_plan:
            _plan(failovers, machine, action, at, common, wait=options["wait"])
            return
        from secondsite.orchestration.failover.intent import Options

        said = Options(**options)
        do = lambda: failovers.fail_over(machine, action, point=at, options=said)  # noqa: E731
        _done(failovers, machine, action, do, common)


def _act(machine: str, action: str, common: dict[str, Any], **more: Any) -> None:
    with _failovers(common) as failovers:
        _done(failovers, machine, action, lambda: failovers.act(machine, action, **more), common)


def _failovers(common: dict[str, Any]) -> Any:
    from secondsite.orchestration.commands.failovers import opened

    return opened(common["vault"], common["state"], quiet=common["as_json"])


def _done(failovers: Any, machine: str, action: str, do: Callable[[], Any], common: dict[str, Any]) -> None:
    """Do it, with a line in the audit log, and say how it stands then."""
    from secondsite.orchestration.failover import asking
    from secondsite.orchestration.vault import audit

    began = time.monotonic()
    with audit.action(failovers.database, f"failover {action}", machine), _onward(failovers, machine):
        item = do()
    seconds = round(time.monotonic() - began, 3)
    # What was taken back may be down where it ran, as it was before: it is looked at, and not taken for granted.
    standing = asking.looked(failovers, [item])[0] if action == "cancel" else asking.standing(item)
    told = {**standing, "seconds": seconds}
    if common["as_json"]:
        output.print_json(told)
    else:
        _print(told)


@contextmanager
def _onward(failovers: Any, machine: str) -> Iterator[None]:
    """Behind a step that failed, what may be done now: a line on standard error."""
    from secondsite.engine import errors
    from secondsite.orchestration.failover import asking

    try:
        yield
    except errors.Error:
        with suppress(errors.Error):
            for item in asking.find(failovers, machine):
                way = asking.standing(item)["failover"]
                if way is not None and way["onward"]:
                    click.echo(f"{output.one_line(machine)}: {way['onward']}", err=True)
        raise


def _plan(
    failovers: Any, machine: str, action: str, at: str | None, common: dict[str, Any], *, wait: bool = False
) -> None:
    from dataclasses import asdict

    import msgspec

    from secondsite.orchestration.failover import asking

    made = asking.plan(failovers, machine, action, at, wait=wait)
    if common["as_json"]:
        output.print_json(msgspec.to_builtins(asdict(made)))
        return
    if made.point is not None:
        click.echo(f"{machine}: from point {made.point.number} of {made.point.time}, or a newer one")
    for number, step in enumerate(made.steps, 1):
        click.echo(f"{number:3}  {step}")
    where = f" on {made.there.host}" if made.there and made.there.host else ""
    click.echo(f"then it is {made.state}{where}; nothing was done")


def _print(told: dict[str, Any]) -> None:
    """A line for what it is, and one for each that is under way."""
    where = f" on {told['runs_on']}" if told["runs_on"] else ""
    way = f"{told['where']}{where}, replicates {told['direction']}"
    click.echo(f"{told['machine']}: {told['state']}; {way}")
    for what in ("failover", "test"):
        if (one := told[what]) is not None:
            kind = one.get("kind") or what
            kind = f"{kind} failover" if kind in ("planned", "unplanned") else kind
            point = f" from point {one['point']}" if one["point"] is not None else ""
            wrong = f"; failed: {output.one_line(one['error'])}" if one["error"] else ""
            click.echo(f"  {kind}{point}: {one['phase']}, since {one['began']} by {one['who']}{wrong}")
            if one.get("onward"):
                click.echo(f"  {one['onward']}")
            _print_cloud(told["machine"], one["there"])
    if not told["failover"]:
        _print_cloud(told["machine"], told["away"])
    if told["reason"] and not told["failover"]:
        click.echo(f"  {output.one_line(told['reason'])}")
    for side, state in told.get("seen", {}).items():
        click.echo(f"  seen at the {side}: {output.one_line(state)}")


def _print_cloud(machine: str, placed: dict[str, Any] | None) -> None:
    """The disks that a machine has in Azure, and where its definition is."""
    if placed is None or not placed.get("definition"):
        return
    for disk in placed["definition"]["disks"]:
        click.echo(f"  in Azure: {output.one_line(disk['blob'])}{' (boots)' if disk['os'] else ''}")
    click.echo(f"  what to make of it there: secondsite failover status {output.one_line(machine)} --json")
