"""How a machine is brought to rest where it runs now (R4).

At home it is by what the estate says. What a failover started, there or at home again, is a QEMU with a socket of its
own for the agent in its guest. Whether it is that at home only its host knows.
"""

from __future__ import annotations

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.protection import rest
from secondsite.orchestration.protection.elsewhere import unplugged
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.rest import Plan
from secondsite.orchestration.protection.said import Protected

_ANSWER_SECONDS = 10.0


def restable(item: Held, said: Protected) -> bool:
    """Is there anything that could, as far as can be told without asking?"""
    if item.active == "source":
        return rest.plan(said.machine) is not None
    spec = item.away.spec if item.away is not None else None
    return said.machine.guest_agent is not None and spec is not None and spec.hypervisor != "external"


def plan(item: Held, said: Protected) -> Plan | None:
    """As rest.plan, by the agent that its host names. Its user's commands are for where the estate has it."""
    machine = said.machine if item.active == "source" else unplugged(said.machine)
    # A first epoch has no failover behind it.
    if item.epoch > 1 and said.machine.guest_agent is not None and restable(item, said):
        machine = msgspec.structs.replace(machine, guest_agent=_there(item) or _at_home(said) or machine.guest_agent)
    return rest.plan(machine)


def _there(item: Held) -> str | None:
    """That of the machine at the target."""
    from secondsite.orchestration.hypervisors.folder import Folder

    placed = item.away if item.active == "target" else None
    return Folder(placed.spec).file("agent") if placed is not None and placed.spec is not None else None


def _at_home(said: Protected) -> str | None:
    """None where its host does not tell."""
    from secondsite.orchestration.failover.machines import Known
    from secondsite.orchestration.mapping.explain import Mapper

    known = Known(Mapper.of(said.index.estate), said.pair, said.item, said.machine)
    try:
        found = known.ask(known.home(), "status", within=_ANSWER_SECONDS)
    except errors.Error:
        return None
    agent = found.get("guest_agent")
    return agent if isinstance(agent, str) else None
