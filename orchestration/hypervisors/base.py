"""What a hypervisor does for a machine. Everything may be asked again, after it was killed half way too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from secondsite.orchestration.hosts.spec import Way

# Three answers: what cannot be found out is not the same as a machine that does not run (R9.9).
Running = Literal["running", "stopped", "unknown"]
Cancel = Callable[[], bool]

# Of one that runs, and whose guest stands still therefore.
SERVER_GONE = "the server of its disks is gone; failover start brings it back"


@dataclass(frozen=True)
class Status:
    """`ours`: it was started through a machine's folder here, whether it runs or not. `guest` is the hypervisor's own
    word for its state, `why` says what the state was told from, `wrong` what keeps one that runs from its work. `qmp`
    and `guest_agent` are sockets that it has now.
    """

    state: Running
    ours: bool = False
    guest: str = ""
    why: str = ""
    wrong: str = ""
    pid: int | None = None
    qmp: str | None = None
    guest_agent: str | None = None
    disks: list[dict[str, Any]] = field(default_factory=list)


class Hypervisor(Protocol):
    """One machine of it."""

    def prepare(self, cancel: Cancel) -> None:
        """Whatever a start needs but the start: overlays, who serves them, network cards."""

    def start(self, cancel: Cancel) -> None:
        """Prepared, and running. Raises Refused where it runs from other disks, and what starting it says."""

    def stop(self, how: Sequence[Way], seconds: float, cancel: Cancel) -> str:
        """Not running any more; by which way ("" where it did not run). Raises Refused where none led there."""

    def status(self) -> Status:
        """How it is, found out just now."""

    def remove(self, force: bool) -> bool:
        """All that preparing and starting made goes, but not images that were there before. Was there anything?
        Raises Refused while it runs; with `force` a replica that does not answer is not told of its overlay.
        """

    def macs(self) -> tuple[str, ...]:
        """The addresses of its network cards."""

    def screenshot(self) -> bytes:
        """Its screen as a PNG."""

    def console(self, most: int) -> str:
        """The last so many bytes of what it printed on its serial line since it was started."""
