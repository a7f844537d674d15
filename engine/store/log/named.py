"""Records that another record names by their digest, so that whoever has that one proves them.

Each holds a random `turn`: a name is used once, and what was deleted under it never comes again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from typing import Any

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.store.base import Absent, Store

DIGEST = re.compile(r"[0-9a-f]{32}")


def turn() -> str:
    """Unlike every other."""
    return os.urandom(8).hex()


def save(store: Store, name: Callable[[str], str], fields: dict[str, Any]) -> str:
    """Put a record there under the `name` that its digest gives it; the digest."""
    packed = record.pack({**fields, "turn": turn()})
    digest = hashlib.sha256(packed).hexdigest()[:32]
    store.put_if_absent(name(digest), packed)
    return digest


def load(store: Store, name: str, digest: str, what: str) -> dict[str, Any]:
    """The fields of the record with this digest. Raises Damaged, where it is missing too, and NewerFormat."""
    path = store.path(name)
    try:
        data = fetch(store, name)
    except Absent:
        raise errors.Damaged(f"{what} is missing", path=path) from None
    fields, _ = record.unpack(data, path)
    # One bad byte leaves one good line, which says what all of it was.
    whole = record.pack({key: value for key, value in fields.items() if key != "checksum"})
    if hashlib.sha256(whole).hexdigest()[:32] != digest:
        raise errors.Damaged(f"it is not {what} that the head names", path=path)
    return fields


def fetch(store: Store, name: str) -> bytes:
    """A record's bytes, as many as one may have. Raises Absent, Damaged."""
    found = store.get(name, 0, record.MAX_BYTES)
    return whole(found.size, found.data, store.path(name))


def whole(size: int, data: bytes, path: str) -> bytes:
    """Raises Damaged for what is larger than a record may be."""
    if size > record.MAX_BYTES:
        raise errors.Damaged(f"a record has at most {record.MAX_BYTES} bytes, not {size}", path=path)
    return data
