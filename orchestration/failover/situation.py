"""Where an item stands: its state, where its machine runs, which way it replicates, and what failover is under way."""

from __future__ import annotations

from typing import Literal

import msgspec

from secondsite.orchestration.health.states import State
from secondsite.orchestration.scenarios.matrix import Abilities, SideName

Direction = Literal["forward", "reverse"]
# `failback` is the planned failover home (R10.3).
Kind = Literal["planned", "unplanned", "failback"]
# A failover that works has things to do, which whoever comes next completes; one that rests waits for its operator.
Working = Literal["preparing", "starting", "changing", "copying", "cancelling", "committing", "reversing"]
Resting = Literal["prepared", "running", "copied"]
Phase = Working | Resting
TestPhase = Literal["preparing", "prepared", "starting", "running", "cleaning"]

WORKING: tuple[Working, ...] = (
    "preparing", "starting", "changing", "copying", "cancelling", "committing", "reversing",
)  # fmt: skip
RESTING: tuple[Resting, ...] = ("prepared", "running", "copied")
TESTING: tuple[TestPhase, ...] = ("preparing", "prepared", "starting", "running", "cleaning")
KINDS: tuple[Kind, ...] = ("planned", "unplanned", "failback")


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """`active` is the side whose disks are the truth; `direction` leads from the pair's source (forward) or to it.
    `kind`, `phase` and `to` are of the failover under way, `before` the state that its cancelling leads back to. `test`
    is the phase of a test failover. `copied`: the first copy in this direction has ended (R5.7).
    """

    state: State
    active: SideName = "source"
    direction: Direction = "forward"
    kind: Kind | None = None
    phase: Phase | None = None
    to: SideName | None = None
    before: State | None = None
    test: TestPhase | None = None
    copied: bool = True

    @property
    def home(self) -> bool:
        """Does the machine run where the estate says that it belongs?"""
        return self.active == "source"


def offered(situation: Situation, abilities: Abilities) -> tuple[str, ...]:
    """The failovers that R9's table has from where the machine runs."""
    return abilities.forward if situation.home else abilities.back


def other(side: SideName) -> SideName:
    return "target" if side == "source" else "source"


# What goes on with a failover whose step failed.
_AGAIN = {
    "starting": "start", "changing": "change-point", "copying": "failback --when before", "cancelling": "cancel",
    "committing": "commit", "reversing": "reverse",
}  # fmt: skip
_ENDING = ("cancelling", "committing")


def onward(machine: str, kind: str | None, phase: str) -> str:
    """What an operator may do about a failover that failed on its way (R9.7)."""
    again = f"`secondsite failover {_AGAIN.get(phase, kind)} {machine}` goes on"
    if phase == "cancelling":
        again += "; where it cannot go back, `failover unplanned` takes a point, and `failover cancel --lost` ends it"
    if phase in _ENDING:
        return f"{again}; where its other side is lost too, `failover give-up` ends its protection"
    return f"{again}, `secondsite failover cancel {machine}` takes it back"


def whereabouts(active: str, phase: str | None) -> str:
    """The side that a machine runs at, in words that promise no more than is known while it moves (R9.13)."""
    if phase in ("preparing", "prepared"):
        return f"leaves the {active}"
    return f"is to run at the {active}" if phase in ("starting", "changing", "cancelling") else f"runs at the {active}"
