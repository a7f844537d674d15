"""The note of a replica in a store (../../notes.py): one small object, which is replaced by its etag and not under the
fence, so that neither cycles nor notes wait for each other.
"""

from __future__ import annotations

import os
from typing import Any

from secondsite.engine import notes
from secondsite.engine.replica import record
from secondsite.engine.store.base import Absent, Changed, Exists, Store
from secondsite.engine.store.log import named
from secondsite.engine.store.log.layout import NOTE
from secondsite.engine.store.log.reading import Replica
from secondsite.engine.store.log.session import Opened

# Of several who write at once the last one counts; each writes what it knows, and is asked again only so often.
_TRIES = 5
State = str | os.PathLike[str] | None


def write(url: str, packed: str, epoch: int | None, state: State) -> None:
    """Raises Refused where the replica knows a higher epoch, Changed where others write all the time, Locked."""
    with Opened(url, None, state) as opened:
        replica, store = Replica.open(opened.store), opened.store
        notes.check_epoch(replica.head.epoch, epoch, store.label)
        fields = notes.fields(packed, replica.identity.replica_id.hex())
        for left in reversed(range(_TRIES)):
            try:
                _put(store, record.pack({**fields, "turn": named.turn()}))
                return
            except (Changed, Exists):
                if not left:
                    raise


def _put(store: Store, data: bytes) -> None:
    found = store.stat(NOTE)
    if found is None:
        store.put_if_absent(NOTE, data)
    else:
        store.replace(NOTE, data, found.etag)


def read(url: str, state: State) -> dict[str, Any] | None:
    """None where there is none yet."""
    with Opened(url, None, state) as opened:
        replica, store = Replica.open(opened.store), opened.store
        path = store.path(NOTE)
        try:
            said, _ = record.unpack(named.fetch(store, NOTE), path)
        except Absent:
            return None
        return notes.unpack(said, path, replica.identity.replica_id.hex())
