"""The proof that a replica is equal to its source, asked for on the host that has the source (D10)."""

from __future__ import annotations

from secondsite import engine
from secondsite.orchestration.estate.model import Table
from secondsite.orchestration.hosts.operations import Cancel, Json
from secondsite.orchestration.hosts.spec import unpacked


class Prove(Table, frozen=True):
    """`replica.prove`: the point `at` against the image at `source`, by hashes of all of it; without one against what
    the replica itself says of it.
    """

    replica: str
    source: str | None = None
    at: str | None = None
    state: str | None = None


def prove(arguments: Json, cancel: Cancel) -> Json:
    """`ok`, and how many ranges differ (`bad`). A source is compared with the hashes that the replica has of itself;
    whether its bytes are still what those say, only reading them tells, and the machine is to run from the bytes. What
    lies in a store is proved block for block where a disk is made of it, and is not fetched twice for that.
    """
    said = unpacked(Prove, arguments)
    found = engine.verify(said.replica, source=said.source, at=said.at, state=said.state, cancel=cancel)
    bad, ok = len(found.bad), found.ok
    if ok and said.source is not None and not said.replica.startswith("azure://"):
        held = engine.verify(said.replica, at=said.at, state=said.state, cancel=cancel)
        bad, ok = len(held.bad), held.ok
    return {"ok": ok, "bad": bad, "blocks": found.blocks, "point": found.point}
