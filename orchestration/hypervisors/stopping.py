"""A machine is asked to stop, by its guest agent, then by its power button; it is killed only where the caller says so.

One that goes on after all of that is an error, and whoever wanted it off goes no further (R9.6).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.hosts.spec import Way
from secondsite.orchestration.hypervisors.base import Cancel

_LOOK_SECONDS = 0.1
_ANSWER_SECONDS = 5.0
# A guest that is busy booting does not see its button.
_PRESS_SECONDS = 15.0


class Target(Protocol):
    """What runs."""

    @property
    def name(self) -> str:
        """Of the machine."""

    def over(self) -> bool:
        """Has it stopped?"""

    def ask(self) -> None:
        """Its guest agent is to shut it down. Raises what stands against that."""

    def press(self) -> None:
        """Its power button. Raises what stands against that."""

    def kill(self) -> None:
        """End it as a power loss does. Raises what stands against that."""


def stop(target: Target, how: Sequence[Way], seconds: float, cancel: Cancel) -> str:
    """The way that led there; "" where it had stopped before. Each has its share of the time that is left. Raises
    Refused, Cancelled.
    """
    if target.over():
        return ""
    deadline, problems = time.monotonic() + seconds, list[str]()
    for place, way in enumerate(how):
        share = (deadline - time.monotonic()) / (len(how) - place)
        try:
            if _try(target, way, time.monotonic() + share, cancel):
                return way
            problems.append(f"{way}: it goes on after {max(share, 0):.0f} s")
        except errors.Cancelled:
            raise
        except errors.Error as error:
            if target.over():
                return way
            problems.append(f"{way}: {error}")
    raise errors.Refused(f"machine {target.name!r} still runs; {'; '.join(problems) or 'no way to stop it was given'}")


def _try(target: Target, way: Way, deadline: float, cancel: Cancel) -> bool:
    pressed = -_PRESS_SECONDS
    while not target.over():
        now = time.monotonic()
        if cancel():
            raise errors.Cancelled("the caller is gone")
        if now > deadline:
            return False
        if pressed < 0 or (way == "acpi" and now - pressed > _PRESS_SECONDS):
            _ask(target, way)
            pressed = now
        time.sleep(_LOOK_SECONDS)
    return True


def _ask(target: Target, way: Way) -> None:
    if way == "kill":
        target.kill()
    elif way == "agent":
        target.ask()
    else:
        target.press()


def ask(address: str | None) -> None:
    """The guest agent whose socket is there (a path, or HOST:PORT)."""
    if address is None:
        raise errors.Refused("it has no guest agent")
    with engine.GuestAgent.connect(address, _ANSWER_SECONDS) as agent:
        agent.tell("guest-shutdown", arguments={"mode": "powerdown"})


def press(address: str | None) -> None:
    """The power button of a machine whose QMP monitor is there."""
    if address is None:
        raise errors.Refused("it has no monitor")
    with engine.Monitor.connect(address, _ANSWER_SECONDS) as monitor:
        monitor.run("system_powerdown")
