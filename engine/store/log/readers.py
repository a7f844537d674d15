"""Who reads a point says so in the store, so that nothing that he needs is removed (../FORMAT.md, section 8)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.layout import MAX_GENERATION
from secondsite.engine.store.base import Absent, Changed, Store
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log import named
from secondsite.engine.store.log.catalogue import Catalogue
from secondsite.engine.store.log.clock import TICK
from secondsite.engine.store.log.rows import Row
from secondsite.engine.workers import looking

FOLDER = "readers/"
# No point has this generation, so that it never counts as one that is kept.
EVERY = MAX_GENERATION + 1
RENEWED_SECONDS = 20
# Six renewals may be lost. One that was not renewed for longer holds nothing back, and goes after ten minutes.
ALIVE_SECONDS, _GONE_SECONDS = 120, 600


@contextmanager
def registered(store: Store, generation: int, warn: Callable[[str], object]) -> Iterator[bool]:
    """Have it written down for a block that a point is read, or with EVERY any. False, and a warning, where we may not
    write there.
    """
    name = f"{FOLDER}{secrets.token_hex(8)}"
    try:
        reader = _Reader(store, name, generation)
    except (errors.Refused, errors.Busy, errors.Unreachable) as error:
        warn(f"{error}; so nobody knows that this point is read, and if it is pruned it stays for the grace alone")
        yield False
        return
    with looking(RENEWED_SECONDS, reader.renew, "reader"):
        try:
            yield True
        finally:
            _quietly(lambda: store.delete(name))


@contextmanager
def reading(
    store: Store, identity: Identity, head: heads.Head, at: str, warn: Callable[[str], object]
) -> Iterator[Row]:
    """The point that `at` names, for a block that reads it: it is looked for again once it is known that it is read.
    Raises as Catalogue.choose.
    """
    row = Catalogue(store, head).choose(at)
    with registered(store, row.generation, warn) as known:
        if known and Catalogue(store, heads.load(store, identity)).find(row.generation) != row:
            raise errors.Refused(f"point {row.name} was dropped just now", path=store.label)
        yield row


class _Reader:
    def __init__(self, store: Store, name: str, generation: int) -> None:
        self.store, self.name, self.generation = store, name, generation
        self.etag = store.put_if_absent(name, said(self.generation))

    def renew(self) -> bool:
        """It goes on whatever happens: the next one may be better."""
        try:
            self.etag = self.store.replace(self.name, said(self.generation), self.etag)
        except Changed:  # an answer was lost, or we were away for so long that it was removed
            _quietly(lambda: self.store.delete(self.name))
            _quietly(self._again)
        except errors.Error:
            pass
        return True

    def _again(self) -> None:
        self.etag = self.store.put_if_absent(self.name, said(self.generation))


def said(generation: int) -> bytes:
    """What a reader puts there; each time something else, as `replace` wants it."""
    return record.pack({"generation": generation, "turn": named.turn()})


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except errors.Error:
        pass


def alive(store: Store, now: float) -> set[int]:
    """The generations that are being read, by what is written down; `now` is by the store's clock. What nobody renewed
    for long is removed.
    """
    found = set()
    for entry in list(store.list(FOLDER)):
        age = now - entry.modified
        if age <= ALIVE_SECONDS + TICK:
            found.add(_generation(store, entry.name))
        elif age > _GONE_SECONDS:
            store.delete(entry.name)
    found.discard(0)
    return found


def _generation(store: Store, name: str) -> int:
    """What cannot be read may mean any. 0 for one that went away just now."""
    try:
        fields, _ = record.unpack(named.fetch(store, name), store.path(name))
        return int(record.field(fields, "generation", int, name))
    except Absent:
        return 0
    except errors.Damaged:
        return EVERY
