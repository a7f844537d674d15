"""Claim a point of a log, and let go of it, by the replica's URL or folder (../FORMAT.md, section 8)."""

from __future__ import annotations

import os
import time

from secondsite.engine import errors
from secondsite.engine.remote.home import Home
from secondsite.engine.replica.claims import MAX_CLAIMS, Claim, check
from secondsite.engine.store.base import MAX_FENCE, Store
from secondsite.engine.store.log import claims
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log.catalogue import Catalogue
from secondsite.engine.store.log.mine import of_host
from secondsite.engine.store.log.session import Opened
from secondsite.engine.store.log.writing import holding

# Who drops points looks for claims, and a moment later puts a head without those points. Where somebody holds the fence
# just now, so that it cannot be had to be sure, that moment is waited for.
_SETTLE_SECONDS = 5.0
State = str | os.PathLike[str] | None


def put(url: str, wanted: Claim, state: State) -> list[str]:
    """Claim a point; what there is to say about it. Raises Refused where it is not listed any more."""
    check(wanted)
    with Opened(url, None, state) as opened:
        store = opened.store
        if len(claims.every(store)) >= MAX_CLAIMS:
            raise errors.Refused(f"has {MAX_CLAIMS} overlays over it; remove some first", path=store.label)
        try:
            claims.add(store, wanted)
        except errors.Refused as error:
            return [f"{error}; so nobody knows of the overlay, and its point may be dropped", *opened.warnings]
        try:
            settle(store, wanted.generation, state)
        except BaseException:
            store.delete(claims.name(wanted.id))
            raise
        return opened.warnings


def settle(store: Store, generation: int, state: State) -> None:
    """It is listed, and was so after all that did not know of the claim was done. Raises Refused."""
    identity = heads.load_identity(store)
    try:
        mine = of_host(Home.of(state).folder / "far", identity.replica_id)
        with mine as holder, holding(store, identity, MAX_FENCE, holder=holder):
            pass
    except errors.Refused:
        time.sleep(_SETTLE_SECONDS)
    if Catalogue(store, heads.load(store, identity)).find(generation) is None:
        raise errors.Refused(f"point {generation} was dropped just now", path=store.label)


def release(url: str, id: str, state: State) -> bool:
    """Let go of a claim; was there one?"""
    with Opened(url, None, state) as opened:
        there = opened.store.stat(claims.name(id)) is not None
        opened.store.delete(claims.name(id))
        return there


def of(url: str, state: State) -> list[Claim]:
    """All of a replica's."""
    with Opened(url, None, state) as opened:
        heads.load_identity(opened.store)
        return claims.every(opened.store)
