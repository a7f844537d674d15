"""Delete a log: every object of it below its prefix, the head and the identity last."""

from __future__ import annotations

import os

from secondsite.engine import errors
from secondsite.engine.deletion import check_epoch, check_id, remove_folder
from secondsite.engine.store.base import MAX_FENCE, Store
from secondsite.engine.store.log import claims
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log.layout import CATALOGUE, HEAD, IDENTITY, MAPS, NOTE, POINTS, SEGMENTS
from secondsite.engine.store.log.session import Opened
from secondsite.engine.store.log.writing import holding
from secondsite.engine.store.opening import open_store
from secondsite.engine.store.place import OWN

# What says which replica it is, and what opens it, in the order in which it goes.
_KEYS = "key.json"
_LAST = (NOTE, HEAD, f"{HEAD}.lease", IDENTITY, _KEYS)
# Where all others lie (../FORMAT.md, sections 1 and 7).
_FOLDERS = (SEGMENTS, MAPS, POINTS, CATALOGUE, "condemned", "readers", "claims", "clock", "inventory")


def delete(url: str, replica_id: str, epoch: int | None, state: str | os.PathLike[str] | None) -> bool:
    """See engine/deletion.py. Raises Held while a cycle runs, Locked where it is encrypted and nothing opens it."""
    if "://" not in url and os.path.islink(url):
        raise errors.Refused("is a link, which is not followed to delete anything", path=url)
    with open_store(url, state=state) as below:
        there = below.stat(IDENTITY) is not None
        if there:
            _delete(url, replica_id, epoch, state, below)
        elif below.stat(HEAD) is None:
            below.delete(_KEYS)  # a deletion was killed here
    if "://" not in url:
        _folder(url)
    return there


def _delete(
    url: str, replica_id: str, epoch: int | None, state: str | os.PathLike[str] | None, below: Store
) -> None:
    with Opened(url, None, state) as opened:
        store = opened.store
        identity = heads.load_identity(store)
        check_id(identity.replica_id.hex(), replica_id, url)
        for claim in claims.every(store):
            raise errors.Refused(f"stays: an overlay stands on point {claim.generation} ({claim.by})", path=url)
        if store.stat(HEAD) is not None:  # or a deletion was killed behind it
            check_epoch(heads.load(store, identity).epoch, epoch, url)
            with holding(store, identity, MAX_FENCE):
                _remove(below)
    below.delete(HEAD)
    _remove(below)  # who wrote between the fence and the end of the head wrote for nothing
    for name in _LAST:
        below.delete(name)


def _remove(below: Store) -> None:
    for folder in _FOLDERS:
        for entry in list(below.list(f"{folder}/")):
            below.delete(entry.name)


def _folder(root: str) -> None:
    """What a store in a folder has for itself, and the folder where nothing else is in it."""
    own = os.path.join(root, OWN)
    if os.path.islink(root) or os.path.islink(own) or not os.path.isdir(root):
        return
    if os.path.isdir(own):
        for name in ("new", "holders", "kept"):
            folder = os.path.join(own, name)
            if os.path.isdir(folder) and not os.path.islink(folder):
                remove_folder(folder, os.listdir(folder))  # noqa: PTH208
        remove_folder(own, ("lock", "writing"))
    remove_folder(root, ())
