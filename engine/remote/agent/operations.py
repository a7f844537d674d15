"""What a paired host may ask an agent for: each operation's arguments, what it needs to be allowed, and who does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from secondsite.engine import errors
from secondsite.engine.remote import objects, talk
from secondsite.engine.remote import questions as q
from secondsite.engine.remote.agent import awaiting, reading, stored, upkeep
from secondsite.engine.remote.agent.receiver import Receiver
from secondsite.engine.remote.agent.request import Request
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.trust import access


class Operation(msgspec.Struct, frozen=True):
    """`args` is a Struct with a `name`, which is the replica's. `logs`: it takes the log of a store.
    Without an `action` it looks itself at what the peer may do, of which there is something.
    """

    args: Any
    action: access.Action | None
    run: Callable[[Request, Call, Any], object]

    @property
    def logs(self) -> bool:
        return self.args in (objects.Store, q.Verify)


def _receive(work: Request, call: Call, begin: talk.Begin) -> object:
    made = Receiver(
        work.folder, work.files, stopping=work.stopping, counts=work.counts, keep=work.keep,
        administering=lambda: work.require("administer"), peer=work.peer, streams=work.streams,
    )  # fmt: skip
    return made.run(call, begin)


def _join(work: Request, call: Call, join: talk.Join) -> None:
    work.streams.find(join.ticket, work.peer, join.name).serve(call)


OPERATIONS = {
    talk.OPERATION: Operation(talk.Begin, "send", _receive),
    talk.JOIN: Operation(talk.Join, "send", _join),
    talk.EXPECT: Operation(talk.Expect, "send", awaiting.expect),
    "hold": Operation(q.Hold, "read", reading.hold),
    "look": Operation(q.Look, "read", reading.look),
    "list": Operation(q.List, "read", reading.names),
    "peek": Operation(q.Peek, "read", reading.peek),
    "open": Operation(q.Open, "read", reading.open_file),
    "point": Operation(q.AtPoint, "read", reading.at_point),
    "verify": Operation(q.Verify, "read", upkeep.verify),
    "claim": Operation(q.Claim, "read", upkeep.claim),
    "release": Operation(q.Release, "read", upkeep.release),
    "claims": Operation(q.Claims, "read", upkeep.claimed),
    "prune": Operation(q.Prune, "administer", upkeep.prune),
    "cancel-resync": Operation(q.CancelResync, "send", upkeep.cancel_resync),
    objects.OPERATION: Operation(objects.Store, None, stored.serve),
    "note": Operation(q.Note, "send", upkeep.note),
    "raise-epoch": Operation(q.RaiseEpoch, "administer", upkeep.raise_epoch),
    "delete": Operation(q.Delete, "administer", upkeep.delete),
}


def find(call: Call) -> tuple[Operation, Any]:
    """What a request asks for, and its arguments, checked. Raises Refused, Garbled."""
    found = OPERATIONS.get(call.operation)
    if found is None:
        raise errors.Refused(f"the agent knows no {call.operation[:40]!r}; is it older than this program?")
    return found, protocol.decode(call.args, found.args, call.peer)
