"""What is meant to happen to an item, as the vault keeps it: written before anything is done, so that whoever comes
next completes it or takes it back. What was done already is never written here; each effect looks for itself (D12).
"""

from __future__ import annotations

import secrets
from typing import Any, Literal

import msgspec

from secondsite.orchestration.failover.situation import Kind, Phase, TestPhase
from secondsite.orchestration.health.states import State
from secondsite.orchestration.hosts.spec import MachineSpec
from secondsite.orchestration.scenarios.matrix import SideName
from secondsite.orchestration.typed import ready

# R10.3: two documents give the options of a failback opposite meanings; these are those of 2018. "Before": what differs
# is sent while the machine runs, then it stops for the rest. "During": it stops first, and everything is sent.
MEANING_2018 = {"before": ("delta", "before"), "during": ("full", "during")}
MEANING_2015 = {"before": ("full", "before"), "during": ("delta", "during")}
MEANING = MEANING_2018


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """`synchronize`: shut the source down and send its last changes, where that is possible (R9.8). `source_is_dead`:
    an operator says so, whatever is seen of it (R9.9). `copy`: what goes back is compared with the old disks, or all of
    it is sent (R10.3); an intent has one of them. `host`: where it comes back to, if not where it was (R10.5). `wait`:
    it is started by `start`. `verify`: all of the point is read and hashed before anything is done.
    """

    synchronize: bool = False
    source_is_dead: bool = False
    copy: Literal["delta", "full"] | None = None
    host: str | None = None
    wait: bool = False
    verify: bool = False


def _number() -> str:
    return secrets.token_hex(4)


class Placed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine on a host, with the path of each disk there by its path at the source. In Azure it has neither host nor
    spec; its disks are page blobs, and `definition` is what makes a machine of them.
    """

    disks: dict[str, str]
    host: str | None = None
    spec: MachineSpec | None = None
    definition: dict[str, object] | None = None


class Intent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A failover under way. `here` is the machine where it ran, `there` where it goes, and `old` those that are to go
    first (of another point). `used` are addresses that others have there. `ran`: it was running here when it was
    stopped, so a cancel starts it again. `touched`: something was done; what is refused before that was never begun.
    `lost`: an operator says that it cannot go back to where it ran. `left` is what stays behind, in words. `number`
    makes the folders of each attempt others: nothing of an earlier one is ever taken for this one's.
    """

    kind: Kind | None
    phase: Phase
    to: SideName | None = None
    before: State | None = None
    point: int | None = None
    epoch: int
    began: float
    who: str
    options: Options = Options()
    here: Placed | None = None
    there: Placed | None = None
    old: tuple[Placed, ...] = ()
    used: tuple[str, ...] = ()
    ran: bool = False
    touched: bool = False
    lost: bool = False
    left: str | None = None
    number: str = msgspec.field(default_factory=_number)
    error: str | None = None

    def anew(self, **changes: Any) -> Intent:
        """Another attempt: what there is of this one goes first."""
        old = (*self.old, self.there) if self.there is not None else self.old
        return msgspec.structs.replace(self, there=None, old=old, number=_number(), **changes)


class Test(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A test failover (R9.1). It has a lease of its own, since cycles go on beside it. `network` and
    `group` are those of machines.test. `wait`: it is started by itself once it is prepared, or by `test-start`.
    `forced`: it was cleaned up because two weeks had passed (R9.3). `touched` as that of an intent. `drill` is
    who drills with it (vault/holders.py): once that process is gone, the next drill cleans up. `lost`: an operator says
    that its host is gone for good, so that nothing is to be taken away there.
    """

    phase: TestPhase
    point: int
    began: float
    who: str
    there: Placed | None = None
    network: str = "none"
    group: str | None = None
    wait: bool = False
    notes: str | None = None
    forced: bool = False
    lost: bool = False
    drill: str | None = None
    touched: bool = False
    number: str = msgspec.field(default_factory=_number)
    error: str | None = None
    holder: str | None = None
    until: float = 0.0


ready(Options, Placed, Intent, Test)
