"""What a paired host may ask an agent for: each operation's arguments, what it needs to be allowed, and who does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from secondsite.engine import errors
from secondsite.engine.remote import access, protocol, talk
from secondsite.engine.remote.calls import Call
from secondsite.engine.remote.confined import ConfinedFiles, Root
from secondsite.engine.remote.receiver import Receiver


@dataclass(frozen=True)
class Work:
    """One request that is allowed: the folder of its replica, and who to ask whether to stop."""

    root: Root
    name: str
    folder: str
    stopping: Callable[[], bool] = field(default=lambda: False)

    @property
    def files(self) -> ConfinedFiles:
        return ConfinedFiles(self.folder)


class Operation(msgspec.Struct, frozen=True):
    """`args` is a Struct with a `name`, which is the replica's."""

    args: Any
    action: access.Action
    run: Callable[[Work, Call, Any], object]


def _receive(work: Work, call: Call, begin: talk.Begin) -> object:
    return Receiver(work.folder, work.files).run(call, begin)


OPERATIONS = {
    talk.OPERATION: Operation(talk.Begin, "send", _receive),
}


def find(call: Call) -> tuple[Operation, Any]:
    """What a request asks for, and its arguments, checked. Raises Refused, Garbled."""
    found = OPERATIONS.get(call.operation)
    if found is None:
        raise errors.Refused(f"the agent knows no {call.operation[:40]!r}; is it older than this program?")
    return found, protocol.decode(call.args, found.args, call.peer)
