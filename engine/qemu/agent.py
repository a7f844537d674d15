"""The QEMU guest agent: a guest's file systems at rest around a cut (R4.4).

QEMU's docs/interop/qemu-ga-ref. The channel is a serial line that outlives both ends: what an earlier client left
unread is still in it, so each use begins by getting in step (guest-sync-delimited).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from secondsite.engine import errors
from secondsite.engine.qemu.lines import Lines

# An agent that is there answers in milliseconds; a freeze first writes back what is dirty in the guest.
SYNC_SECONDS = 5.0
FREEZE_SECONDS = 20.0
# Thawing is tried until then: a guest that stays frozen stands still.
THAW_SECONDS = 60.0
_RETRY_SECONDS = 0.5
_MARK = b"\xff"


@dataclass
class Freeze:
    """How it went. `held`: what writes was at rest before the cut, and still was after it; known once it goes on.
    `thawed`: it goes on, as far as can be known.
    """

    file_systems: int = 0
    held: bool = False
    warnings: list[str] = field(default_factory=list)
    thawed: bool = True


# What brings the writers of a source to rest around an instant, and lets them go on in every case. What fails about
# that is told in the Freeze and not raised: the cut is then as after a power loss (R4.4).
Quiesce = Callable[[], AbstractContextManager[Freeze]]


class AgentFailed(errors.Refused):
    """The agent refused a command."""


class GuestAgent:
    """A connection to the agent's socket, of which there may be one at a time. Raises Unreachable, AgentFailed."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    @classmethod
    def connect(cls, address: str, timeout: float = SYNC_SECONDS) -> GuestAgent:
        """Connected and in step; `timeout` seconds for each of the two."""
        made = cls(Lines.connect(address, timeout))
        try:
            made.sync(timeout)
        except BaseException:
            made.close()
            raise
        return made

    def sync(self, timeout: float = SYNC_SECONDS) -> None:
        """Drop what is on its way; the 0xFF also ends a half command that the agent may hold."""
        deadline, number = time.monotonic() + timeout, secrets.randbelow(1 << 31)
        message = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._lines.send(message, deadline, before=_MARK)
        while True:
            self._lines.skip_past(_MARK, deadline)
            if self._lines.receive(deadline).get("return") == number:
                return

    def run(self, command: str, timeout: float = SYNC_SECONDS, arguments: dict[str, Any] | None = None) -> Any:
        """A command's answer."""
        deadline = time.monotonic() + timeout
        self.tell(command, timeout, arguments)
        answer = self._lines.receive(deadline)
        if "return" in answer:
            return answer["return"]
        error = answer.get("error")
        words = str(error.get("desc", "")) if isinstance(error, dict) else ""
        raise AgentFailed(f"the guest refuses {command}: {' '.join(words.split())[:300]}", path=self._lines.name)

    def tell(self, command: str, timeout: float = SYNC_SECONDS, arguments: dict[str, Any] | None = None) -> None:
        """A command whose answer is not waited for: guest-shutdown has none where it worked."""
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self._lines.send(message, time.monotonic() + timeout)

    def close(self) -> None:
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def guest_frozen(address: str | None, limit: float = FREEZE_SECONDS) -> Iterator[Freeze]:
    """Around the cut: file systems frozen where the guest can, and thawed again in every case.

    Whatever fails is a warning: the cut is then as after a power loss. `limit` seconds for the freeze. None: no agent.
    """
    freeze = Freeze()
    if address is None:
        yield freeze
        return
    agent, asked, refused = None, False, False
    try:
        try:
            agent = GuestAgent.connect(address)
            asked = True
            freeze.file_systems = _count(agent.run("guest-fsfreeze-freeze", limit))
        except errors.Error as error:
            refused = isinstance(error, AgentFailed)
            freeze.warnings.append(f"the guest's file systems were not frozen: {error}")
        yield freeze
        if agent is not None and freeze.file_systems:
            _check_held(agent, freeze)
    finally:
        # Also where no answer came: the agent may have frozen, or do so any moment.
        if asked:
            _thaw(address, agent, freeze, refused)
        if agent is not None:
            agent.close()


def thaw_guest(address: str) -> None:
    """Let a guest go on whose freezer was killed; nothing happens to one that is not frozen. Raises Unreachable,
    AgentFailed.
    """
    agent = GuestAgent.connect(address)
    try:
        agent.run("guest-fsfreeze-thaw", THAW_SECONDS)
    finally:
        agent.close()


def _count(answer: Any) -> int:
    return answer if type(answer) is int and answer > 0 else 0


def _check_held(agent: GuestAgent, freeze: Freeze) -> None:
    """A guest may thaw by itself, Windows after ten seconds."""
    try:
        freeze.held = agent.run("guest-fsfreeze-status") == "frozen"
    except errors.Error as error:
        freeze.warnings.append(f"whether the guest's file systems stayed frozen is not known: {error}")
        return
    if not freeze.held:
        freeze.warnings.append("the guest thawed its file systems before the cut was made")


def _thaw(address: str, agent: GuestAgent | None, freeze: Freeze, refused: bool) -> None:
    """Until the guest says that it did, over a new connection where the old one failed.

    An agent that refused to freeze may refuse this too, and is believed.
    """
    deadline, problem = time.monotonic() + THAW_SECONDS, ""
    while True:
        try:
            if agent is None:
                agent = GuestAgent.connect(address)
            else:
                agent.sync()
            agent.run("guest-fsfreeze-thaw", max(deadline - time.monotonic(), SYNC_SECONDS))
            return
        except errors.Error as error:
            if refused and isinstance(error, AgentFailed):
                return
            problem = str(error)
        if agent is not None:
            agent.close()
            agent = None
        if time.monotonic() > deadline:
            freeze.thawed = False
            freeze.warnings.append(f"THE GUEST MAY STAND STILL, its file systems were not thawed: {problem}")
            return
        time.sleep(_RETRY_SECONDS)
