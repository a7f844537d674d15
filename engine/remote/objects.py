"""What is asked of an agent about the objects of a log that it keeps in a folder, and what it answers.

A call of `store` is a channel: Ready, then questions in order, each answered before the next is looked at, and each
allowed or not by what the peer may do. What an object is put with comes in messages behind the question, as many bytes
as it says. An answer that is no error of the channel is No; any other error ends the channel.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from secondsite.engine.store.leases import SUFFIX
from secondsite.engine.store.log import clock, layout, readers

OPERATION = "store"
# What a cycle replaces, or who noted it; everything else is written once, unless an administrator replaces it.
MOVING = (layout.HEAD, layout.HEAD + SUFFIX, layout.NOTE)
# What lies here is small, and goes soon: who reads, and the store's clock. Whoever is paired may write there, and
# touch again what he knows the name of; only an administrator is told names.
PASSING = (readers.FOLDER, layout.CLAIMS, f"{clock.FOLDER}/")
MAX_PASSING, MAX_PASSING_BYTES = 1000, 64 << 10

# Bytes of one answer, of one message with a part of an object (2 s at 1 Mbit/s, since the
# fence is renewed between them), and of an object (FORMAT.md of the store, section 3).
MAX_GET = 4 << 20
PART_BYTES = 256 << 10
MAX_OBJECT = (4 << 30) + (64 << 20)
MAX_ENTRIES = 400


Why = Literal["exists", "changed", "absent"]


class Store(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The objects of one replica; answered by Ready."""

    name: str


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`clock` is the agent's now, in seconds since 1970. `removes`: the peer may administer, and so delete."""

    clock: float
    removes: bool = False


class Put(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="put"):
    """Answered by Made, or No: exists."""

    name: str
    size: int
    metadata: dict[str, str]


class Replace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="replace"):
    """Answered by Made, or No: changed."""

    name: str
    size: int
    metadata: dict[str, str]
    etag: str


class Get(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="get"):
    """Answered by Content, with the bytes as its body, or No: absent."""

    name: str
    start: int
    length: int


class Stat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="stat"):
    """Answered by Found, with one entry or none."""

    name: str


class Below(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="below"):
    """The objects below a folder; answered by any number of Found."""

    folder: str


class Delete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="delete"):
    """Answered by Made, with an empty etag."""

    name: str


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="made"):
    """It was done, and is durable."""

    etag: str


class No(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="no"):
    """It was not done, and why."""

    why: Why


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="content"):
    """Of the whole object."""

    size: int
    etag: str
    metadata: dict[str, str]


class Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="found"):
    """(name, size, etag, modified) of objects, by name; `more` follow."""

    entries: list[tuple[str, int, str, float]]
    more: bool = False
