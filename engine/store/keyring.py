"""The keys that open an encrypted replica: `key.json`, the one object that is not sealed (FORMAT.md, section 7).

Each slot holds the replica's data key, wrapped by what comes from a passphrase or from a key file. So a passphrase is
changed, or another key added, without touching anything else.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.replica.point import format_time, parse_time
from secondsite.engine.store.base import Absent, Content, Exists, Store
from secondsite.engine.store.key import FILE, KEY_BYTES, PASSPHRASE, Secret

KEYS = "key.json"
CIPHER = "AES-256-GCM"
MAX_SLOTS = 16
_SALT_BYTES, _WRAPPED_BYTES = 32, KEY_BYTES + 16
# 0.4 s and 128 MiB for each guess. Of what is read no slot may ask for more than 4 times that.
_SCRYPT = (1 << 17, 8, 1)
_MOST = 4 * (1 << 17) * 8


@dataclass(frozen=True, slots=True)
class Slot:
    """`scrypt`: n, r and p, or None where a key file opens it."""

    number: int
    kind: str
    made: str
    salt: bytes
    wrapped: bytes
    scrypt: tuple[int, int, int] | None

    @classmethod
    def new(cls, number: int, secret: Secret, data_key: bytes) -> Slot:
        """Wrap the data key."""
        scrypt, now = _SCRYPT if secret.kind == PASSPHRASE else None, datetime.datetime.now(datetime.UTC)
        made = cls(number, secret.kind, format_time(now), os.urandom(_SALT_BYTES), b"", scrypt)
        return replace(made, wrapped=made._wrapping(secret).encrypt(bytes(12), data_key, None))

    def open(self, secret: Secret) -> bytes | None:
        """The data key, or None where this secret is not the one."""
        if secret.kind != self.kind:
            return None
        try:
            return self._wrapping(secret).decrypt(bytes(12), self.wrapped, None)
        except InvalidTag:
            return None

    def _wrapping(self, secret: Secret) -> AESGCM:
        """Each salt makes a key of its own, which wraps once: the nonce may be zeros."""
        if self.scrypt is not None:
            n, r, p = self.scrypt
            return AESGCM(Scrypt(salt=self.salt, length=KEY_BYTES, n=n, r=r, p=p).derive(secret.value))
        return AESGCM(HKDF(hashes.SHA256(), KEY_BYTES, self.salt, b"secondsite key file 1").derive(secret.value))

    def fields(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "slot": self.number, "kind": self.kind, "made": self.made, "salt": self.salt.hex(),
            "wrapped": self.wrapped.hex(),
        }  # fmt: skip
        return told if self.scrypt is None else told | dict(zip("nrp", self.scrypt, strict=True))

    @classmethod
    def parse(cls, said: Any, path: str) -> Slot:
        """Raises Damaged."""
        if not isinstance(said, dict):
            raise errors.Damaged("a slot in it does not parse", path=path)
        number, kind = record.field(said, "slot", int, path), record.field(said, "kind", str, path)
        if kind not in (PASSPHRASE, FILE):
            raise errors.Damaged("a slot in it is of no known kind", path=path)
        made = record.field(said, "made", str, path)
        parse_time(made, path)
        salt, wrapped = _hex(said, "salt", _SALT_BYTES, path), _hex(said, "wrapped", _WRAPPED_BYTES, path)
        return cls(number, kind, made, salt, wrapped, _scrypt(said, path) if kind == PASSPHRASE else None)


def _hex(said: dict[str, Any], name: str, length: int, path: str) -> bytes:
    try:
        found = bytes.fromhex(record.field(said, name, str, path))
    except ValueError:
        found = b""
    if len(found) != length:
        raise errors.Damaged(f"{name!r} of a slot is not {length} bytes", path=path)
    return found


def _scrypt(said: dict[str, Any], path: str) -> tuple[int, int, int]:
    n, r, p = (record.field(said, name, int, path) for name in "nrp")
    if n < 2 or n & (n - 1) or not 1 <= r <= 32 or not 1 <= p <= 4 or n * r * p > _MOST:
        raise errors.Damaged("a slot in it asks for more work than any of ours", path=path)
    return n, r, p


@dataclass(frozen=True, slots=True)
class Keyring:
    """`etag` is what the next one replaces."""

    slots: tuple[Slot, ...]
    etag: str = ""

    def pack(self) -> bytes:
        """Unlike every one before: a store's etag may be a digest of this."""
        slots = [slot.fields() for slot in self.slots]
        return record.pack({"cipher": CIPHER, "turn": os.urandom(8).hex(), "slots": slots})

    def open(self, secret: Secret, label: str) -> bytes:
        """The data key. Raises Refused for a secret that opens none of the slots."""
        for slot in self.slots:
            if (data_key := slot.open(secret)) is not None:
                return data_key
        if not any(slot.kind == secret.kind for slot in self.slots):
            other = "a key file" if secret.kind == PASSPHRASE else "a passphrase"
            raise errors.Refused(f"is opened by {other}, and {secret} was given", path=label)
        raise errors.Refused(f"wrong key: {secret} does not open it", path=label)

    def with_secret(self, secret: Secret, data_key: bytes, label: str) -> Keyring:
        """One slot more. Raises Refused where there are too many."""
        if len(self.slots) >= MAX_SLOTS:
            raise errors.Refused(f"a replica has at most {MAX_SLOTS} keys; remove one first", path=label)
        number = max((slot.number for slot in self.slots), default=0) + 1
        return replace(self, slots=(*self.slots, Slot.new(number, secret, data_key)))

    def without(self, number: int, label: str) -> Keyring:
        """Raises Refused for the last one and for one that is not there."""
        left = tuple(slot for slot in self.slots if slot.number != number)
        if len(left) == len(self.slots):
            raise errors.Refused(f"has no key {number}", path=label)
        if not left:
            raise errors.Refused("this is its only key, without which nobody opens it", path=label)
        return replace(self, slots=left)


def parse(found: Content, path: str) -> Keyring:
    """Raises Damaged, NewerFormat."""
    fields, _ = record.unpack(found.data, path)
    if record.field(fields, "cipher", str, path) != CIPHER:
        raise errors.NewerFormat("is of another cipher than this program knows", path=path)
    slots = tuple(Slot.parse(said, path) for said in record.field(fields, "slots", list, path)[: MAX_SLOTS + 1])
    if not 0 < len(slots) <= MAX_SLOTS or len({slot.number for slot in slots}) != len(slots):
        raise errors.Damaged("its slots make no sense", path=path)
    return Keyring(slots, found.etag)


def load(store: Store) -> Keyring | None:
    """None where there is none. Raises Damaged, NewerFormat."""
    try:
        return parse(store.get(KEYS, 0, record.MAX_BYTES), store.path(KEYS))
    except Absent:
        return None


def lost(store: Store) -> errors.Damaged:
    """What is to be said of an encrypted replica without keys."""
    return errors.Damaged("is missing; without it nothing opens the replica", path=store.path(KEYS))


def create(store: Store, secret: Secret) -> bytes:
    """A new data key, which this secret opens. Raises Refused where somebody else was faster with another one."""
    data_key = os.urandom(KEY_BYTES)
    try:
        store.put_if_absent(KEYS, Keyring(()).with_secret(secret, data_key, store.label).pack())
    except Exists:
        found = load(store)
        assert found is not None
        return found.open(secret, store.label)
    return data_key


def save(store: Store, keyring: Keyring) -> None:
    """In the place of the one that it was made of. Raises Changed."""
    store.replace(KEYS, keyring.pack(), keyring.etag)

