"""The keys of an encrypted replica: list, add, remove. Who adds one proves that he has one (`using_key`)."""

from __future__ import annotations

import os

from secondsite.engine import errors
from secondsite.engine.results.listed import KeyInfo
from secondsite.engine.store import key as keys
from secondsite.engine.store import keyring
from secondsite.engine.store.base import Store
from secondsite.engine.store.key import Key
from secondsite.engine.store.keyring import Keyring
from secondsite.engine.store.locked import MAGIC
from secondsite.engine.store.opening import open_store
from secondsite.engine.store.retry import Retrying
from secondsite.engine.store.unlocking import IDENTITY, secret_of

Replica = str | os.PathLike[str]
State = Replica | None


def replica_keys(replica: Replica, *, state: State = None) -> list[KeyInfo]:
    """What opens it; no key is needed for that. Raises Refused where it is not encrypted, Damaged."""
    with open_store(os.fspath(replica), state=state) as store:
        return _told(_ring(store))


def add_key(replica: Replica, new: Key, *, state: State = None) -> list[KeyInfo]:
    """Let another key open it, too; all of them then. Raises Refused, Locked, Changed."""
    with open_store(os.fspath(replica), state=state) as store:
        ring = _ring(store)
        data_key = ring.open(secret_of(keys.current_key(), store.label), store.label)
        secret = new.secret(new=True)
        if secret is None:
            raise errors.Usage("which key is to be added? a key file, or a passphrase")
        if any(slot.open(secret) for slot in ring.slots):
            raise errors.Refused(f"{secret} opens it already", path=store.label)
        return _saved(store, ring.with_secret(secret, data_key, store.label))


def remove_key(replica: Replica, slot: int, *, state: State = None) -> list[KeyInfo]:
    """Let a key open it no more; the others then. Raises Refused for the last one, Locked, Changed."""
    with open_store(os.fspath(replica), state=state) as store:
        ring = _ring(store)
        ring.open(secret_of(keys.current_key(), store.label), store.label)
        return _saved(store, ring.without(slot, store.label))


def _ring(store: Retrying) -> Keyring:
    """Raises Damaged where the keys of an encrypted replica are gone, Refused where it is none."""
    found = keyring.load(store)
    if found is None:
        identity = store.peek(IDENTITY, len(MAGIC))
        if identity is not None and identity.data.startswith(MAGIC):
            raise keyring.lost(store)
        raise errors.Refused("is not encrypted", path=store.label)
    return found


def _saved(store: Store, ring: Keyring) -> list[KeyInfo]:
    keyring.save(store, ring)
    return _told(ring)


def _told(ring: Keyring) -> list[KeyInfo]:
    return [KeyInfo(slot.number, slot.kind, slot.made) for slot in ring.slots]
