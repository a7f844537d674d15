"""A sealed object (FORMAT.md, section 6): chunks under AES-256-GCM, each bound to its object's name, size and place.

The key of an object comes from the replica's data key and a salt that is random each time, so that its nonces may
count chunks. The last chunk has another nonce than one in the middle, as in STREAM: an object that was cut is noticed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secondsite.engine import errors, kernel
from secondsite.engine.store.locked import HEADER, HEADER_BYTES, MAGIC, SALT_BYTES, VERSION

# With 16, 64 and 256 KiB sealing a GiB takes 0.38, 0.31 and 0.31 s of processor time in all, and to read 66,000 bytes
# somewhere 41, 38 and 64 us. The interpreter is free while a chunk is sealed.
CHUNK = 64 * 1024
TAG = 16
SEALED = CHUNK + TAG
# XXH3-128 for who has no key. It finds accidents, as any sum without a key; SHA-256 takes 0.6 s/GiB, the cipher 0.16.
DIGEST_BYTES = 16
_NONCE = struct.Struct(">Q3xB")
_BOUND = struct.Struct("<8sIQ")
_MIDDLE, _LAST, _METADATA = 0, 1, 2


def stored_size(size: int) -> int:
    """Of an object of `size` bytes; an empty one has an empty chunk."""
    return HEADER_BYTES + size + TAG * max(-(-size // CHUNK), 1) + DIGEST_BYTES


def plain_size(stored: int) -> int:
    """The other way; what no sealed object has as its size gives some number, and its chunks do not open."""
    chunks = max(stored - HEADER_BYTES - DIGEST_BYTES, 0)
    return max(chunks - TAG * -(-chunks // SEALED), 0)


def offset(chunk: int) -> int:
    """Where a chunk lies in what is stored."""
    return HEADER_BYTES + chunk * SEALED


class Cipher:
    """Of one object. `path` is how errors call it."""

    def __init__(self, data_key: bytes, salt: bytes, name: str, size: int, path: str) -> None:
        self.size, self.path, self.salt = size, path, salt
        self.chunks = max(-(-size // CHUNK), 1)
        self._bound = _BOUND.pack(MAGIC, VERSION, size) + name.encode()
        self._key = AESGCM(HKDF(hashes.SHA256(), 32, salt, b"secondsite object 1").derive(data_key))

    @classmethod
    def new(cls, data_key: bytes, name: str, size: int, path: str) -> Cipher:
        """Of an object that is about to be written."""
        return cls(data_key, os.urandom(SALT_BYTES), name, size, path)

    def seal(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """All chunks."""
        view = memoryview(data).cast("B")
        for chunk in range(self.chunks):
            part = view[chunk * CHUNK : (chunk + 1) * CHUNK]
            yield self._key.encrypt(self._nonce(chunk), part, self._bound)

    def open(self, sealed: memoryview, first: int = 0) -> Iterator[bytes]:
        """The chunks from number `first` on, as far as there are any. Raises Damaged."""
        for chunk in range(first, min(self.chunks, first + -(-len(sealed) // SEALED))):
            at = (chunk - first) * SEALED
            length = min(CHUNK, self.size - chunk * CHUNK) + TAG
            try:
                yield self._key.decrypt(self._nonce(chunk), sealed[at : at + length], self._bound)
            except (InvalidTag, ValueError):
                raise errors.Damaged("a chunk does not open", path=self.path, offset=offset(chunk)) from None

    def _nonce(self, chunk: int) -> bytes:
        return _NONCE.pack(chunk, _LAST if chunk == self.chunks - 1 else _MIDDLE)

    def seal_words(self, words: bytes) -> bytes:
        """What is stored beside the object instead of these words."""
        return self._key.encrypt(_NONCE.pack(0, _METADATA), words, self._bound)

    def open_words(self, sealed: bytes) -> bytes:
        """Raises Damaged."""
        try:
            return self._key.decrypt(_NONCE.pack(0, _METADATA), sealed, self._bound)
        except (InvalidTag, ValueError):
            raise errors.Damaged("its metadata do not open", path=self.path) from None


def seal(cipher: Cipher, name: str, data: bytes | bytearray | memoryview) -> bytearray:
    """The object as it is stored, in one buffer."""
    made = bytearray(stored_size(cipher.size))
    made[:HEADER_BYTES] = HEADER.pack(MAGIC, VERSION, cipher.salt)
    at = HEADER_BYTES
    for chunk in cipher.seal(data):
        made[at : at + len(chunk)] = chunk
        at += len(chunk)
    made[at:] = digest(name, memoryview(made)[:at])
    return made


def digest(name: str, stored: memoryview) -> bytes:
    """What an object ends with: of all bytes before, seeded with its name."""
    seed = int.from_bytes(kernel.scan.hash_block(name.encode(), 0)[:8], "big")
    return bytes(kernel.scan.hash_block(stored, seed))


def check(name: str, stored: memoryview, path: str) -> bytes:
    """The salt of an object that is what was once stored under this name, for which no key is needed. Raises Damaged,
    NewerFormat.
    """
    if len(stored) < stored_size(0) or stored[: len(MAGIC)] != MAGIC:
        raise errors.Damaged("is not sealed as the others are", path=path, offset=0)
    _, version, salt = HEADER.unpack_from(stored)
    if digest(name, stored[:-DIGEST_BYTES]) != stored[-DIGEST_BYTES:]:
        raise errors.Damaged("its bytes are not those that were stored", path=path)
    if version != VERSION:
        raise errors.NewerFormat(f"sealed in version {version}; this program knows {VERSION}", path=path)
    return bytes(salt)
