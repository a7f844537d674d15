"""What is done inside a guest, through its agent: its addresses are set there where no DHCP does it (R11.3, R11.8)."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from typing import Any

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import NicSpec
from secondsite.orchestration.hypervisors.base import Cancel

_ANSWER_SECONDS = 5.0
_COMMAND_SECONDS = 30.0
_LOOK_SECONDS = 0.1


def answers(address: str) -> bool:
    """Is there an agent that answers?"""
    try:
        with engine.GuestAgent.connect(address, _ANSWER_SECONDS) as agent:
            agent.run("guest-ping")
    except errors.Error:
        return False
    return True


def addresses(address: str) -> list[str]:
    """The guest's own addresses of version 4 that others may reach, in the order of its interfaces."""
    with engine.GuestAgent.connect(address, _ANSWER_SECONDS) as agent:
        found = [one["ip-address"] for each in _interfaces(agent) for one in _listed(each.get("ip-addresses"))
                 if one.get("ip-address-type") == "ipv4" and isinstance(one.get("ip-address"), str)]  # fmt: skip
    return [one for one in found if _reachable(one)]


def _reachable(text: str) -> bool:
    try:
        return not (found := ipaddress.ip_address(text)).is_loopback and not found.is_link_local
    except ValueError:
        return False


def configure(address: str, nics: Sequence[NicSpec], macs: Sequence[str], cancel: Cancel) -> int:
    """Set the address of each card that has one; how many. May be done again. Raises Refused where the guest lacks the
    card or its command fails, Unreachable.
    """
    wanted = [(nic, mac.lower()) for nic, mac in zip(nics, macs, strict=True) if nic.address is not None]
    if not wanted:
        return 0
    with engine.GuestAgent.connect(address, _ANSWER_SECONDS) as agent:
        names = {str(each.get("hardware-address", "")).lower(): str(each.get("name")) for each in _interfaces(agent)}
        windows = _is_windows(agent)
        for nic, mac in wanted:
            if mac not in names:
                raise errors.Refused(f"the guest has no network card {mac}", path=address)
            for command in _windows(names[mac], nic) if windows else _linux(names[mac], nic):
                _execute(agent, command, cancel)
    return len(wanted)


def _interfaces(agent: engine.GuestAgent) -> list[dict[str, Any]]:
    return _listed(agent.run("guest-network-get-interfaces"))


def _listed(answer: Any) -> list[dict[str, Any]]:
    return [one for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []


def _is_windows(agent: engine.GuestAgent) -> bool:
    found = agent.run("guest-get-osinfo")
    return isinstance(found, dict) and found.get("id") == "mswindows"


def _linux(name: str, nic: NicSpec) -> list[list[str]]:
    made = [["ip", "link", "set", "dev", name, "up"], ["ip", "addr", "replace", str(nic.address), "dev", name]]
    if nic.gateway is not None:
        made.append(["ip", "route", "replace", "default", "via", nic.gateway, "dev", name])
    return made


def _windows(name: str, nic: NicSpec) -> list[list[str]]:
    place = ipaddress.ip_interface(str(nic.address))
    made = ["netsh", "interface", "ipv4", "set", "address", f"name={name}", "static", str(place.ip), str(place.netmask)]
    return [made if nic.gateway is None else [*made, nic.gateway]]


def _execute(agent: engine.GuestAgent, command: list[str], cancel: Cancel) -> None:
    """Run a command in the guest, no shell, to its end. Raises Refused with what it said."""
    arguments = {"path": command[0], "arg": command[1:], "capture-output": False}
    begun = agent.run("guest-exec", arguments=arguments)
    number = begun.get("pid") if isinstance(begun, dict) else None
    until = time.monotonic() + _COMMAND_SECONDS
    while True:
        found = agent.run("guest-exec-status", arguments={"pid": number})
        if isinstance(found, dict) and found.get("exited"):
            break
        if cancel():
            raise errors.Cancelled("the caller is gone")
        if time.monotonic() > until:
            raise errors.Unreachable(f"in the guest {command[0]} does not end")
        time.sleep(_LOOK_SECONDS)
    if found.get("exitcode") != 0:
        raise errors.Refused(f"in the guest '{' '.join(command)}' ends with {found.get('exitcode', 'a signal')}")
