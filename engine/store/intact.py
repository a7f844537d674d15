"""Whether sealed objects are what was once stored, for who has no key: each ends with a digest of all its bytes.

It finds accidents. Who means to deceive can make a digest that fits; only the key proves what objects say.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from secondsite.engine import errors
from secondsite.engine.progress import Monitor
from secondsite.engine.replica import record
from secondsite.engine.results.proof import Verified
from secondsite.engine.store import keyring, sealing
from secondsite.engine.store.again import Again
from secondsite.engine.store.base import Absent, Entry, Store
from secondsite.engine.store.inventory import Notes
from secondsite.engine.store.keyring import KEYS
from secondsite.engine.store.locked import MAGIC
from secondsite.engine.store.log.layout import HEAD, IDENTITY
from secondsite.engine.store.opening import open_store
from secondsite.engine.store.sealed import is_sealed, salt_beside

# Each asks for a whole object, of 8 MiB mostly.
_ASKING = 4


def verify(replica: str, monitor: Monitor, state: str | os.PathLike[str] | None = None) -> Verified:
    """Read every object of an encrypted replica. Raises Refused where it is not encrypted."""
    began, told = time.monotonic(), Again()
    with open_store(replica, told=told.told, cancel=monitor.cancel or (lambda: False), state=state) as store:
        found = store.peek(IDENTITY, record.MAX_BYTES)
        if keyring.load(store) is None and (found is None or not found.data.startswith(MAGIC)):
            raise errors.Refused("holds no encrypted replica", path=store.label)
        reading = Reading(store, monitor)
        reading.run()
    return Verified(
        not reading.damaged, "", 0, [], reading.damaged, time.monotonic() - began, told.warnings,
        objects=reading.objects, stored_bytes=reading.bytes,
    )  # fmt: skip


class Reading:
    """What was found so far: `damaged` has what is wrong by the name of the object."""

    def __init__(self, store: Store, monitor: Monitor) -> None:
        self.store, self.monitor = store, monitor
        self.objects = self.bytes = 0
        self.damaged: dict[str, str] = {}
        self._expected: dict[str, int | None] = {KEYS: None, IDENTITY: None, HEAD: None}

    def run(self) -> None:
        """Read all of them, and look for what is not there."""
        notes = Notes(self.store)
        notes.read()
        self._expected |= notes.held
        self.damaged |= notes.damaged
        self.monitor.begin("verify", sum(entry.size for entry in self.store.list()))
        entries = iter(self.store.list())
        with ThreadPoolExecutor(_ASKING, thread_name_prefix="verify") as pool:
            while part := list(islice(entries, _ASKING)):
                self.monitor.check()
                for entry, problem in zip(part, pool.map(self._check, part), strict=True):
                    self._note(entry, problem)
        self._look_again()

    def _look_again(self) -> None:
        """What was not in the list is missing, unless it was dropped meanwhile."""
        if not self._expected:
            return
        notes = Notes(self.store)
        notes.read()
        for name, size in sorted(self._expected.items()):
            if (size is None or name in notes.held) and self.store.stat(name) is None:
                self.damaged[name] = f"{self.store.path(name)}: is missing"

    def _note(self, entry: Entry, problem: str | None) -> None:
        self.objects, self.bytes = self.objects + 1, self.bytes + entry.size
        self.monitor.advance(entry.size)
        size = self._expected.pop(entry.name, None)
        if size not in (None, entry.size):
            problem = problem or f"{self.store.path(entry.name)}: has {entry.size} bytes, and had {size}"
        if problem:
            self.damaged[entry.name] = problem

    def _check(self, entry: Entry) -> str | None:
        try:
            if entry.name == KEYS:
                keyring.load(self.store)
            elif is_sealed(entry.name):
                self._check_sealed(entry.name)
        except Absent:
            pass  # a point was dropped meanwhile
        except errors.Damaged as error:
            return str(error)
        return None

    def _check_sealed(self, name: str) -> None:
        found = self.store.get(name)
        salt = sealing.check(name, memoryview(found.data), self.store.path(name))
        if salt_beside(found) not in (b"", salt):
            raise errors.Damaged("its metadata are not those that were stored", path=self.store.path(name))
