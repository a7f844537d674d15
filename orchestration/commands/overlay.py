"""secondsite overlay"""

from __future__ import annotations

from dataclasses import asdict

import click

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option, state_option

WHAT = ("create", "remove", "list", "release")


@click.command(short_help="Make a disk to run from a recovery point at once, remove it, or list those of a replica.")
@click.argument("what", type=click.Choice(WHAT), metavar="|".join(WHAT))
@click.argument("target", metavar="FILE|REPLICA")
@click.argument("other", required=False, metavar="[REPLICA|CLAIM]")
@click.option("--at", default="latest", metavar="POINT", help="The point below.  [default: latest]")
@click.option("--force", is_flag=True, help="Remove FILE also where its replica does not answer, and keeps the claim.")
@json_option
@state_option
def command(
    what: str, target: str, other: str | None, at: str, force: bool, as_json: bool, state: str | None
) -> None:
    """Make FILE (NAME.overlay) a disk over a point of REPLICA that takes what is written: at once, of any size.

    FILE is an image like others: `track` serves it to a guest, `replicate`, `convert`, `verify --source` and `info`
    read it. The replica keeps its point from being dropped until `overlay remove FILE` throws it away. Where FILE was
    lost, `overlay list REPLICA` names what it claims, and `overlay release REPLICA CLAIM` lets that go.

    \b
    secondsite overlay create vm.overlay /backup/vm --at 2026-11-22T09:14
    secondsite track vm.overlay --socket /run/vm.sock
    secondsite overlay remove vm.overlay
    """
    if (other is not None) != (what in ("create", "release")):
        raise click.UsageError("create FILE REPLICA, remove FILE, list REPLICA, or release REPLICA CLAIM")
    if what == "create":
        done = engine.create_overlay(target, str(other), at, state=state)
        output.warn(done.warnings)
        told = f"{done.path}: over point {done.point} of {done.replica}" + ("" if done.created else "; it was there")
        _tell(asdict(done), told, as_json)
    elif what == "list":
        _list(engine.overlays_of(target, state=state), as_json)
    else:
        gone = engine.remove_overlay(target, force=force) if what == "remove" else engine.release_overlay(
            target, str(other), state=state
        )  # fmt: skip
        _tell({"gone": gone}, f"{target}: {'gone' if gone else 'nothing was there'}", as_json)


def _tell(fields: dict[str, object], told: str, as_json: bool) -> None:
    if as_json:
        output.print_json(fields)
    else:
        click.echo(output.one_line(told))


def _list(found: list[engine.Claim], as_json: bool) -> None:
    if as_json:
        output.print_json({"overlays": [asdict(claim) for claim in found]})
        return
    rows = [(claim.id, str(claim.generation or "any"), output.one_line(claim.by)) for claim in found]
    click.echo(output.table(("CLAIM", "POINT", "OVERLAY"), rows))
