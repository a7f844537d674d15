"""What there should be of an encrypted replica, in the clear: names and sizes of its objects (FORMAT.md, section 7).

Notes that are only added to: an object is there where one note has it and none says that it is gone. Names are used
once, so their order says nothing. A note of what was put is written before the head moves, so that it has all that the
head names; one of what goes, before it goes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.store.base import Absent, Store

FOLDER = "inventory/"
# 100 bytes an object in two lines: 400 KB.
_NOTE_OBJECTS = 4096
# Of more than so many notes one is made where something is deleted.
_MERGED = 64
# What one note can name.
_MOST_MERGED = 10_000
_ASKING = 8


class Inventory:
    """What one caller of a store puts and deletes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._new: dict[str, int] = {}
        self._known: dict[str, int] | None = None
        self._lock = threading.Lock()

    def add(self, name: str, size: int) -> None:
        """It is there, with so many bytes below; noted with the next `flush`."""
        with self._lock:
            self._new[name] = size

    def flush(self, but: str) -> None:
        """Note what was added, `but` for what is to be replaced and is of another size then."""
        with self._lock:
            self._new.pop(but, None)
            self._note(self._new)
            if self._known is not None:
                self._known |= self._new
            self._new = {}

    def forget(self, names: Iterable[str]) -> None:
        """They are about to go."""
        with self._lock:
            older = [name for name in names if self._new.pop(name, None) is None]
            if not older:
                return
            if self._known is None:
                self._known = self._merged()
            gone = [name for name in older if self._known.pop(name, None) is not None]
            for at in range(0, len(gone), _NOTE_OBJECTS):
                self._write({}, gone[at : at + _NOTE_OBJECTS], [])

    def _note(self, held: dict[str, int], replaces: Iterable[str] = ()) -> None:
        names = sorted(held)
        parts = [names[at : at + _NOTE_OBJECTS] for at in range(0, len(names), _NOTE_OBJECTS)]
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            self._write({name: held[name] for name in part}, [], replaces if last else ())

    def _write(self, held: dict[str, int], gone: Iterable[str], replaces: Iterable[str]) -> None:
        note = {"held": held, "gone": list(gone), "replaces": list(replaces)}
        self.store.put_if_absent(f"{FOLDER}{os.urandom(8).hex()}", record.pack(note))

    def _merged(self) -> dict[str, int]:
        """All that is noted, in few notes from now on: their last says which ones it replaces, until those are gone."""
        found = Notes(self.store)
        found.read()
        if _MERGED < len(found.names) <= _MOST_MERGED and found.held and not found.damaged:
            self._note(found.held, found.names)
            for name in found.names:
                self.store.delete(name)
        return found.held


class Notes:
    """All of them: what is `held`, and which are `damaged`, with what is wrong."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.held: dict[str, int] = {}
        self.names: list[str] = []
        self.damaged: dict[str, str] = {}

    def read(self) -> None:
        """Raises what the store raises."""
        names = [entry.name for entry in self.store.list(FOLDER)]
        with ThreadPoolExecutor(_ASKING, thread_name_prefix="inventory") as pool:
            notes = {name: note for name, note in zip(names, pool.map(self._load, names), strict=True) if note}
        replaced = {name for note in notes.values() for name in note["replaces"]}
        gone: set[str] = set()
        for name, note in notes.items():
            if name not in replaced:
                self.held |= note["held"]
                gone.update(note["gone"])
        for name in gone:
            self.held.pop(name, None)
        self.names = list(notes)

    def _load(self, name: str) -> dict[str, Any] | None:
        path = self.store.path(name)
        try:
            fields, _ = record.unpack(self.store.get(name, 0, record.MAX_BYTES).data, path)
            held, words = record.field(fields, "held", dict, path), (*fields["gone"], *fields["replaces"])
            if not all(type(size) is int for size in held.values()) or not all(type(word) is str for word in words):
                raise errors.Damaged("a note in it makes no sense", path=path)
            return fields
        except Absent:
            return None
        except errors.Damaged as error:
            self.damaged[name] = str(error)
        except (KeyError, TypeError):
            self.damaged[name] = f"{path}: a note in it makes no sense"
        return None
