"""Claims of overlays on points, wherever the replica lies: in a folder, at an agent, in a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from secondsite.engine import errors
from secondsite.engine.remote import url
from secondsite.engine.replica import claims
from secondsite.engine.replica.claims import Claim
from secondsite.engine.replica.directory import Replica
from secondsite.engine.store.place import finding_logs, is_place, noting

State = str | os.PathLike[str] | None


@finding_logs
def claim(replica: str, wanted: Claim, seal: str, state: State) -> list[str]:
    """Keep a point from being dropped until `release`; what there is to say about it. Raises Refused where the point is
    not there any more, Damaged where it is not the one with this seal.
    """
    if is_place(replica):
        from secondsite.engine.store.log import claiming as stored

        return stored.put(replica, wanted, state)
    if url.is_remote(replica):
        from secondsite.engine.remote import questions as q

        with _asking(replica, state) as (ask, name):
            ask("claim", q.Claim(name, wanted.id, wanted.generation, seal, wanted.by), q.Count)
        return []
    return in_folder(Replica.open(replica), wanted, seal)


def in_folder(opened: Replica, wanted: Claim, seal: str) -> list[str]:
    """As `claim`. Where nothing can be written nothing can be dropped either."""
    with opened.reading():
        if opened.point(wanted.generation).seal != seal:
            raise errors.Damaged("is not the point that it was", path=f"{opened.layout.root} at {wanted.generation}")
        if not os.access(opened.layout.root, os.W_OK):
            return [f"{opened.layout.root} is read-only here, and so does not know of the overlay"]
        claims.put(opened, wanted)
    return []


@finding_logs
def release(replica: str, id: str, state: State) -> bool:
    """Let go of a point; was it claimed?"""
    if is_place(replica):
        from secondsite.engine.store.log import claiming as stored

        return stored.release(replica, id, state)
    if url.is_remote(replica):
        from secondsite.engine.remote import questions as q

        with _asking(replica, state) as (ask, name):
            return bool(ask("release", q.Release(name, id), q.Count).count)
    return claims.release(Replica.open(replica), id)


@finding_logs
def claimed(replica: str, state: State) -> list[Claim]:
    """All claims on a replica's points."""
    if is_place(replica):
        from secondsite.engine.store.log import claiming as stored

        return stored.of(replica, state)
    if url.is_remote(replica):
        from secondsite.engine.remote import questions as q

        with _asking(replica, state) as (ask, name):
            return [Claim(*one) for one in ask("claims", q.Claims(name), q.Claimed).found]
    return claims.of(Replica.open(replica))


@contextmanager
def _asking(replica: str, state: State) -> Iterator[tuple[Any, str]]:
    """How to ask its agent, and the replica's name there."""
    from secondsite.engine.remote import dial
    from secondsite.engine.remote.home import Home

    remote = url.parse(replica)
    with noting(replica), dial.connect(remote, Home.of(state)) as connection:
        yield connection.ask, remote.name
