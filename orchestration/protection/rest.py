"""A machine at rest around an instant: its user's commands, and its guest's file systems (R4).

`before` runs, the guest freezes its file systems, the disks are cut, the guest thaws, `after` runs. Whatever fails
costs the point its mark and nothing else (R4.4); what was begun is ended in every case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.model import Machine, Quiesce
from secondsite.orchestration.processes import limited
from secondsite.orchestration.typed import ready

# After so many tries to let a machine go on the audit log says so.
MANY_TRIES = 10
# Of what a command says, for a message of one line.
_KEPT_BYTES = 4096


class Plan(msgspec.Struct, frozen=True):
    """How a machine is brought to rest. The vault keeps it until the machine went on: it names all that is needed for
    that, whatever has become of the estate by then. `tries` to do so have failed. `host` is another one, which the
    command `reach` reaches.
    """

    machine: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    seconds: int = 60
    agent: str | None = None
    tries: int = 0
    host: str = ""
    reach: tuple[str, ...] = ()


def plan(machine: Machine) -> Plan | None:
    """None where nothing can bring it to rest."""
    said = machine.quiesce or Quiesce(before=())
    if not said.before and machine.guest_agent is None:
        return None
    return Plan(machine.name, said.before, said.after, said.seconds, machine.guest_agent)


@contextmanager
def at_rest(asked: Plan) -> Iterator[engine.Freeze]:
    """Around the instant. What is yielded is whole when this has ended."""
    rest = engine.Freeze()
    failed = _command(asked, "before", asked.before)
    rest.warnings += [failed] if failed else []
    try:
        # What failed already makes no such point: the guest need not stand still for it.
        with engine.guest_frozen(None if failed else asked.agent) as freeze:
            yield rest
    finally:
        rest.warnings += freeze.warnings
        last = _command(asked, "after", asked.after)
        rest.warnings += [last] if last else []
        rest.thawed = freeze.thawed and last is None
        rest.held = failed is None and (asked.agent is None or freeze.held)


def go_on(asked: Plan) -> str | None:
    """Let a machine go on whose cycle was killed; it may have done so already. What went wrong, or None."""
    found = []
    if asked.agent is not None and os.path.lexists(asked.agent):  # a machine that is off stands still for nobody
        try:
            engine.thaw_guest(asked.agent)
        except errors.Error as error:
            found.append(str(error))
    failed = _command(asked, "after", asked.after)
    return "; ".join([*found, *([failed] if failed else [])]) or None


def _command(asked: Plan, step: str, command: tuple[str, ...]) -> str | None:
    """What went wrong with one of the commands, in a line. What has to stay behind it leaves its process group."""
    if not command:
        return None
    known = {"SECONDSITE_MACHINE": asked.machine, "SECONDSITE_STEP": step}
    try:
        ended = limited.run(command, asked.seconds, environment=known, most=_KEPT_BYTES)
    except errors.Error as error:
        return f"the command {step} the point failed: {error}"
    if not ended.late and ended.status == 0:
        return None
    how = f"took more than {asked.seconds} s" if ended.late else f"ended with {ended.status}"
    said = f" ({ended.last_line})" if ended.last_line else ""
    return f"the command {step} the point {how}: {command[0]}{said}"


ready(Plan)
