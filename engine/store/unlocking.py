"""Whether a store is sealed, and the key to it: asked where a store is opened, before anything of it is read."""

from __future__ import annotations

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.store import key as keys
from secondsite.engine.store.base import Store
from secondsite.engine.store.key import Key, Secret
from secondsite.engine.store.locked import MAGIC, VERSION, Locked
from secondsite.engine.store.retry import Retrying

# The log's first object; it is sealed like the others, so a replica that is not costs no question more.
IDENTITY = "replica.json"


def unlocked(store: Retrying, *, encrypt: bool = False) -> Store:
    """The store that its callers may read: itself, or a SealedStore over it. With `encrypt` a replica that is not there
    yet gets a key. Closed where it raises: Locked without a key, Refused for a wrong one, for a replica that is not
    encrypted where a key was given, and for one that `encrypt` comes too late for.
    """
    try:
        key, found = keys.current_key(), store.peek(IDENTITY, record.MAX_BYTES)
        if found is not None and not found.data.startswith(MAGIC):
            _refuse_plain(store, encrypt)
            return store
        if found is not None:
            _check_version(found.data, store.path(IDENTITY))
        return _opened(store, key, encrypt, there=found is not None)
    except BaseException:
        store.close()
        raise


def _refuse_plain(store: Store, encrypt: bool) -> None:
    if encrypt:
        raise errors.Refused("is there and not encrypted; --encrypt makes a new replica", path=store.label)
    keys.refuse_plain(store.label, seen=True)


def _check_version(stored: bytes, path: str) -> None:
    version = int.from_bytes(stored[len(MAGIC) : len(MAGIC) + 4], "little")
    if version > VERSION:
        raise errors.NewerFormat(f"sealed in version {version}; this program knows {VERSION}", path=path)


def _opened(store: Retrying, key: Key, encrypt: bool, *, there: bool) -> Store:
    from secondsite.engine.store import keyring
    from secondsite.engine.store.sealed import SealedStore

    ring = keyring.load(store)
    if ring is not None:
        return SealedStore(store, ring.open(secret_of(key, store.label), store.label))
    if there:
        raise keyring.lost(store)
    if encrypt:
        if any(store.list()):
            raise errors.Refused("is not empty; --encrypt makes a new replica", path=store.label)
        return SealedStore(store, keyring.create(store, secret_of(key, store.label, new=True)))
    if key.given and not key.plain:
        raise errors.Refused("holds no replica; with a key --encrypt makes one", path=store.label)
    return store


def secret_of(key: Key, label: str, *, new: bool = False) -> Secret:
    """What the user gave, or is asked for now. Raises Locked where there is none, Usage, Refused, Unreachable."""
    found = key.secret(new=new)
    if found is None:
        what = "a new replica needs a key" if new else "is encrypted, and no key was given"
        raise Locked(f"{what}: --key-file, --passphrase-file or SECONDSITE_PASSPHRASE", path=label)
    return found
