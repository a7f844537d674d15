"""The time by a store's own clock, which is the only one that all its users see."""

from __future__ import annotations

import secrets

from secondsite.engine.store.base import Failed, Store

FOLDER = "clock"
# A store may tell times in whole seconds.
TICK = 1


def now(store: Store) -> float:
    """Seconds since 1970. Takes an object that is put there and removed."""
    name = f"{FOLDER}/{secrets.token_hex(8)}"
    store.put_if_absent(name, b"")
    try:
        found = store.stat(name)
    finally:
        store.delete(name)
    if found is None:
        raise Failed("a new object is not there", path=store.path(name))
    return found.modified
