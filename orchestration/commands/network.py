"""secondsite network"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from secondsite.orchestration import output
from secondsite.orchestration.commands.options import json_option

if TYPE_CHECKING:
    from secondsite.orchestration.networks.sweeping import Device

namespace_option = click.option("--namespace", metavar="NAME", help="The network namespace.  [default: this one]")


@click.group(short_help="Show the network devices of failed-over machines on this host, or sweep up what a crash left.")
def command() -> None:
    """Bridges and taps that were made here for machines, in a network namespace and in those of its tests; with --json
    as one object.

    \b
    secondsite network list
    secondsite network sweep --keep app1 --keep app2
    """


@command.command("list", short_help="Show what there is.")
@namespace_option
@json_option
def listed(namespace: str | None, as_json: bool) -> None:
    """Show each bridge and tap that secondsite made here; a bridge of yours is not among them.

    \b
    secondsite network list
    """
    from secondsite.orchestration.networks import sweeping

    found = sweeping.ours(namespace)
    if as_json:
        output.print_json({"devices": [asdict(one) for one in found]})
        return
    rows = [(one.namespace or "-", one.name, one.kind, *_card(one)) for one in found]
    click.echo(output.table(("NAMESPACE", "DEVICE", "KIND", "BRIDGE", "CARD", "ADDRESS"), rows))


def _card(one: Device) -> tuple[str, str, str]:
    return one.bridge or "-", one.mac or "-", one.address or "-"


@command.command("sweep", short_help="Remove what belongs to no machine.")
@click.option("--keep", multiple=True, metavar="MACHINE", help="A machine that runs here; more than once for more.")
@namespace_option
@json_option
def sweep(keep: tuple[str, ...], namespace: str | None, as_json: bool) -> None:
    """Remove every tap that is not of a MACHINE that is named, and every bridge of ours without a port.

    It is for what is left after a crash. A machine that runs here and is not named loses its network; its test is a
    machine of its own, "NAME - Test".

    \b
    secondsite network sweep --keep app1 --keep "app2 - Test"
    """
    from secondsite.orchestration.networks import sweeping

    gone = sweeping.sweep(lambda: keep, namespace)
    if as_json:
        output.print_json({"removed": gone})
    else:
        click.echo(f"removed {len(gone)}: {' '.join(gone)}" if gone else "nothing is left over")
