"""A store whose objects are sealed: the store below sees their names and sizes, and nothing of what they say.

Sizes that `stat` and `list` tell are computed from those below, and are the store's word; the bytes of a `get` prove
theirs. Metadata are sealed too. In the clear are the keys (keyring.py), what
there should be (inventory.py) and who holds a fence (leases.py).
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from secondsite.engine import errors
from secondsite.engine.store import sealing
from secondsite.engine.store.base import MAX_FENCE, Content, Entry, Fence, Store
from secondsite.engine.store.inventory import FOLDER, Inventory
from secondsite.engine.store.keyring import KEYS
from secondsite.engine.store.leases import SUFFIX
from secondsite.engine.store.locked import HEADER_BYTES, SALT_BYTES
from secondsite.engine.store.sealing import CHUNK, SEALED, Cipher

# The salt once more, so that a range needs no second question, and behind it the metadata.
_SEAL = "seal"
_Data = bytes | bytearray | memoryview


class SealedStore(Store):
    """Over a store whose calls are made again already: what is sent again is then what was sent before."""

    def __init__(self, store: Store, data_key: bytes) -> None:
        self.store, self.label, self._data_key = store, store.label, data_key
        self._inventory = Inventory(store)

    def _sealed(self, name: str, data: _Data, metadata: Mapping[str, str] | None) -> tuple[bytearray, dict[str, str]]:
        if not is_sealed(name):
            raise errors.Usage(f"{name!r} is not for others")
        cipher = Cipher.new(self._data_key, name, memoryview(data).nbytes, self.path(name))
        words = cipher.seal_words(json.dumps(dict(metadata)).encode()) if metadata else b""
        return sealing.seal(cipher, name, data), {_SEAL: (cipher.salt + words).hex()}

    def put_if_absent(self, name: str, data: _Data, metadata: Mapping[str, str] | None = None) -> str:
        sealed, seal = self._sealed(name, data, metadata)
        etag = self.store.put_if_absent(name, sealed, seal)
        self._inventory.add(name, len(sealed))
        return etag

    def replace(
        self, name: str, data: bytes, etag: str, metadata: Mapping[str, str] | None = None, fence: Fence | None = None
    ) -> str:
        sealed, seal = self._sealed(name, data, metadata)
        self._inventory.flush(but=name)
        return self.store.replace(name, bytes(sealed), etag, seal, fence)

    def get(self, name: str, start: int = 0, length: int | None = None) -> Content:
        if start or length is not None:
            return self._range(name, start, length)
        found = self.store.get(name)
        stored = memoryview(found.data)
        salt = sealing.check(name, stored, self.path(name))
        cipher = self._cipher(name, len(stored), salt)
        data = b"".join(cipher.open(stored[HEADER_BYTES:]))
        return Content(data, cipher.size, found.etag, _words(cipher, _seal(found)))

    def _range(self, name: str, start: int, length: int | None) -> Content:
        """The chunks alone that hold the range."""
        first = start // CHUNK
        count = None if length is None else max(-(-(start + length) // CHUNK) - first, 1)
        found = self._chunks(name, first, count)
        size = sealing.plain_size(found.size)
        if start >= size:  # that there is no more is proved by the last chunk
            first = max(size - 1, 0) // CHUNK
            found = self._chunks(name, first, 1)
        seal = _seal(found)
        cipher = self._cipher(name, found.size, seal[:SALT_BYTES] or self._salt(name))
        end = cipher.size if length is None else min(start + length, cipher.size)
        opened = enumerate(cipher.open(memoryview(found.data), first), first)
        parts = [memoryview(data)[max(start - at * CHUNK, 0) : max(end - at * CHUNK, 0)] for at, data in opened]
        data = b"".join(parts)
        if not parts or len(data) != max(end - start, 0):
            raise errors.Damaged("was cut", path=self.path(name), offset=found.size)
        return Content(data, cipher.size, found.etag, _words(cipher, seal))

    def _chunks(self, name: str, first: int, count: int | None) -> Content:
        return self.store.get(name, sealing.offset(first), None if count is None else count * SEALED)

    def _cipher(self, name: str, stored: int, salt: bytes) -> Cipher:
        return Cipher(self._data_key, salt, name, sealing.plain_size(stored), self.path(name))

    def _salt(self, name: str) -> bytes:
        """Where whoever copied the objects left their metadata behind."""
        return self.store.get(name, 0, HEADER_BYTES).data[-SALT_BYTES:]

    def stat(self, name: str) -> Entry | None:
        found = self.store.stat(name)
        return None if found is None else _entry(found)

    def list(self, folder: str = "") -> Iterator[Entry]:
        hidden = (KEYS, FOLDER)
        return (_entry(found) for found in self.store.list(folder) if not found.name.startswith(hidden))

    def remember(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._inventory.add(entry.name, sealing.stored_size(entry.size))

    def forget(self, names: Iterable[str]) -> None:
        self._inventory.forget(names)

    def removes(self) -> bool:
        return self.store.removes()

    def delete(self, name: str) -> None:
        self._inventory.forget([name])
        self.store.delete(name)

    def fence(self, name: str, seconds: int = MAX_FENCE, *, take: bool = False, holder: str | None = None) -> Fence:
        return self.store.fence(name, seconds, take=take, holder=holder)

    def close(self) -> None:
        self.store.close()


def is_sealed(name: str) -> bool:
    """Or it is one of the few that are in the clear."""
    return name != KEYS and not name.startswith(FOLDER) and not name.endswith(SUFFIX)


def _entry(found: Entry) -> Entry:
    return found if found.name.endswith(SUFFIX) else replace(found, size=sealing.plain_size(found.size))


def _seal(found: Content) -> bytes:
    """What lies beside an object: its salt and its sealed metadata, or nothing."""
    try:
        seal = binascii.unhexlify(found.metadata.get(_SEAL, ""))
    except ValueError:
        return b""
    return seal if len(seal) >= SALT_BYTES else b""


def salt_beside(found: Content) -> bytes:
    """What the metadata say that an object's salt is, or nothing."""
    return _seal(found)[:SALT_BYTES]


def _words(cipher: Cipher, seal: bytes) -> dict[str, str]:
    sealed = seal[SALT_BYTES:]
    return dict(json.loads(cipher.open_words(sealed))) if sealed else {}
