"""Until a machine says that it has booted: a text on its serial line, its agent, a port, a URL (M7).

What comes over a network is looked for from inside the namespace of the machine's bridges, where it can be reached.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from secondsite.engine import errors
from secondsite.orchestration.estate.model import Signal
from secondsite.orchestration.hosts.spec import MachineSpec
from secondsite.orchestration.hypervisors import guests
from secondsite.orchestration.hypervisors.base import Cancel, Hypervisor
from secondsite.orchestration.networks.namespaces import within

_LOOK_SECONDS = 0.2
_TRY_SECONDS = 5.0
_CONSOLE_BYTES = 1 << 20


@dataclass
class Waiting:
    """For all that a signal names. `configure`: its agent is told its addresses before anything else."""

    machine: Hypervisor
    spec: MachineSpec
    signal: Signal
    configure: Callable[[], object] | None = None

    def run(self, seconds: float, cancel: Cancel) -> float:
        """Seconds that it took. Raises Unreachable where it does not come, or the machine ends; Cancelled."""
        began = time.monotonic()
        left = self._wanted()
        while left:
            left = [(what, there) for what, there in left if not there()]
            if left:
                self._pause(began, seconds, left[0][0], cancel)
        return time.monotonic() - began

    def _pause(self, began: float, seconds: float, what: str, cancel: Cancel) -> None:
        if cancel():
            raise errors.Cancelled("the caller is gone")
        late = time.monotonic() - began > seconds
        if late or self.machine.status().state == "stopped":
            why = f"no {what} within {seconds:.0f} s" if late else f"it ended before there was {what}"
            last = self._last_line()
            said = f"; its last line: {last!r}" if last else ""
            raise errors.Unreachable(f"machine {self.spec.name!r}: {why}{said}")
        time.sleep(_LOOK_SECONDS)

    def _last_line(self) -> str:
        try:
            return "".join(self.machine.console(_CONSOLE_BYTES).strip().splitlines()[-1:]).strip()[:200]
        except errors.Error:
            return ""

    def _wanted(self) -> list[tuple[str, Callable[[], bool]]]:
        """In their order: what cannot be there before another is asked for after it."""
        made: list[tuple[str, Callable[[], bool]]] = []
        if (text := self.signal.serial) is not None:
            made.append((f"text {text!r} on its serial line", lambda: text in self.machine.console(_CONSOLE_BYTES)))
        if self.configure is not None:
            made.append(("guest agent that sets its address", self._configured))
        if self.signal.agent:
            made.append(("answer of its guest agent", self._agent))
        if (port := self.signal.tcp) is not None:
            made.append((f"answer at port {port}", lambda: self._reached(lambda at: _connects(at, port))))
        if (url := self.signal.url) is not None:
            made.append((f"answer at {url}", lambda: self._reached(lambda at: _answers(url, at))))
        return made

    def _configured(self) -> bool:
        assert self.configure is not None
        try:
            self.configure()
        except errors.Error as error:
            if not error.retryable:
                raise
            return False
        return True

    def _agent(self) -> bool:
        address = self.machine.status().guest_agent
        return address is not None and guests.answers(address)

    def _reached(self, reaches: Callable[[str], bool]) -> bool:
        address = self._address()
        return address is not None and within(self.spec.namespace, lambda: reaches(address))

    def _address(self) -> str | None:
        """The one that it was given, else what its agent tells."""
        for nic in self.spec.nics[:1]:
            if nic.address is not None:
                return nic.address.partition("/")[0]
        agent = self.machine.status().guest_agent
        try:
            return next(iter(guests.addresses(agent)), None) if agent is not None else None
        except errors.Error:
            return None


def _connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), _TRY_SECONDS).close()
    except OSError:
        return False
    return True


def _answers(url: str, address: str) -> bool:
    """A status below 400. Its certificate is the machine's own affair, which just moved."""
    parts = urlsplit(url.replace("{address}", address))
    try:
        with closing(_connection(parts)) as connection:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"User-Agent": "secondsite"})
            return connection.getresponse().status < 400
    except (OSError, http.client.HTTPException, ValueError):
        return False


def _connection(parts: SplitResult) -> http.client.HTTPConnection:
    if parts.scheme != "https":
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TRY_SECONDS)
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=_TRY_SECONDS, context=context)
