"""secondsite host-call: how another host's orchestration does something here. Not for people, and not in the help."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Any

import click

from secondsite.engine import errors
from secondsite.orchestration import output

# Of the arguments: a machine's description has a few KiB.
_MOST_BYTES = 4 << 20


@click.command(short_help="Do an operation of this host for another one.")
@click.argument("operation")
@click.option("--held", is_flag=True, help="Standard input ends with the caller: cancel the operation then.")
def command(operation: str, held: bool) -> int:
    """Do an OPERATION of this host. Its arguments are a line of JSON on standard input, its answer one on the output.

    \b
    echo '{}' | secondsite host-call host.describe
    """
    from secondsite.orchestration.hosts.operations import find
    from secondsite.orchestration.hosts.reaching import Here, opening, packed_error

    with output.watching() as watch:
        gone = threading.Event()
        try:
            find(operation)
            arguments = _arguments()
            if held:
                threading.Thread(target=_wait_for_end, args=(gone,), daemon=True).start()
            with opening(arguments):
                done = Here().call(operation, arguments, cancel=lambda: gone.is_set() or watch.cancelled())
        except errors.Error as error:
            output.print_json({"error": packed_error(error)})
            return error.exit_code
    output.print_json({"return": done})
    return 0


def _arguments() -> dict[str, Any]:
    import json

    line = sys.stdin.buffer.readline(_MOST_BYTES)
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise errors.Usage("standard input is no line with a JSON object")
    return found


def _wait_for_end(gone: threading.Event) -> None:
    """Whatever comes after the line is of no interest."""
    with suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    gone.set()
