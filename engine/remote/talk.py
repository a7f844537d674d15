"""What the two ends of a transfer say to each other, in order: Begin, State, then whatever the source side still needs
to know, frames with their acknowledgements, Finish and Done."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from secondsite.engine import errors, units
from secondsite.engine.remote.link import protocol

OPERATION = "replicate"
EXPECT = "expect-seed"
JOIN = "join"

# Of one transfer, the one that it began on too.
MAX_CONNECTIONS = 8
# Pages of a block map that may be asked for at once.
MAX_PAGES = 64
TABLE_PIECE = 1024 * 1024

# What a record holds: one that came over and was written all the same would make the replica unreadable.
Number = Annotated[int, msgspec.Meta(ge=0, le=units.MAX_NUMBER)]
# Microseconds: no transfer takes ten years.
MAX_AGE = 10 * 365 * 86400 * 1_000_000
Age = Annotated[int, msgspec.Meta(ge=0, le=MAX_AGE)]


class Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The source and how its replica is to be; checked as for a replica in a folder. The last three since version 2:
    `keep` drops all but the newest points afterwards, `history` is how older ones are kept. With `resync` the source is
    compared with what the head really holds: State comes after any number of Looked and Answered, and Done is
    followed by any number of Looked and Examined.
    """

    name: str
    source: str
    source_format: str
    size: Number
    block_size: int | None = None
    head: str | None = None
    epoch: int | None = None
    accept_source: bool = False
    keep: int | None = None
    history: str = "auto"
    resync: bool = False


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The replica's newest generation (0: none) and what is spooled for the next one. Since version 3: `ticket` is what
    further connections of the same host join this transfer with, until its end.
    """

    replica_id: bytes
    block_size: int
    seed: int
    epoch: int
    generation: int
    virtual_bytes: int
    seal: str
    spool_bytes: int
    spool_frames: int
    ticket: bytes = b""


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ask"):
    """`what` is table, pages (of these numbers) or spool; the answers come as bodies, ended by Answered."""

    what: str
    pages: list[int] = []


class Spooled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="spooled"):
    """One spooled frame; the body holds its block numbers and hashes, or its runs of zeros."""

    kind: int
    count: int


class Answered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="answered"):
    """The end of an answer, or a frame acknowledged: the spool is durable up to `durable` bytes."""

    durable: int = 0


class Frames(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="frames"):
    """The body is frames of a delta, one after another."""


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A further connection of a transfer to the replica `name`. Answered by Joined; then Frames come over it too, in no
    order with those of the others, and nothing is said to them here.
    """

    name: str
    ticket: bytes


class Joined(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="joined"):
    """It has joined; or, after Leave, all that it carried was taken."""


class Leave(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="leave"):
    """Nothing more comes over this connection, while the transfer goes on."""


class Finish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="finish", kw_only=True, omit_defaults=True):
    """All was sent, and is there when `sent_bytes` of frames have come, over whatever connections. `seal` is what the
    replica's block map must be then. Since version 2: `moment` is when the source's bytes were these, of a point that
    goes on to a third site (R2.1). Since version 4, of any other source: `age` is how many microseconds ago they were,
    since the clocks of two hosts need not agree. Without either that is now.
    """

    seal: str
    tracker: str
    read_bytes: Number
    changed_bytes: Number
    sent_bytes: Number
    moment: str | None = None
    age: Age | None = None


class Done(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="done", kw_only=True, omit_defaults=True):
    """The replica durably holds the point. Since version 2: `pruned` points were dropped, what did no harm, and what
    all attempts of the cycle together changed, each block once (account.py).
    """

    kind: str
    generation: int
    seal: str
    time: str
    history: str
    pruned: int = 0
    warnings: list[str] = []
    changed_bytes: int | None = None
    data_bytes: int | None = None


class Looked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="looked"):
    """Progress of a resync there: `done` of `total` bytes."""

    stage: str
    done: int
    total: int


class Examined(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="examined"):
    """All was looked at after a resync; what is still damaged."""

    warnings: list[str]


MAX_WARNINGS = 100


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A seed is on its way: the replica that it is of, and its point. The agent asks for its map, then
    says Answered. Without a point it is only asked whether that would be allowed. `anew`: also where it waits for
    another one.
    """

    name: str
    source: str
    source_format: str
    anew: bool = False
    replica_id: bytes = b""
    block_size: int = 0
    seed: Number = 0
    epoch: Number = 0
    point: dict[str, Number | str] = {}


FromSource = Ask | Frames | Finish
FROM_JOINED: Any = Frames | Leave
FromReplica = Spooled | Answered | Done | Looked | Examined


def from_source(data: bytes, peer: str) -> FromSource:
    """Raises Garbled."""
    kind: Any = FromSource
    found: FromSource = protocol.decode(data, kind, peer)
    return found


def from_replica(data: bytes, peer: str) -> FromReplica:
    """Raises Garbled."""
    kind: Any = FromReplica
    found: FromReplica = protocol.decode(data, kind, peer)
    return found


def check_version(version: int, begin: Begin, peer: str) -> None:
    """Raises Refused where the agent is too old for what is asked of it."""
    new = {"keep": begin.keep is not None, "history": begin.history != "auto", "resync": begin.resync}
    asked = [f"--{name}" for name, given in new.items() if given]
    if version < 2 and asked:
        raise errors.Refused(f"its agent is too old for {' and '.join(asked)}; it must be updated", path=peer)
