"""Who is paired with this host, what each may do, and the keys that let one pair: one file, changed as a whole.

Readers take what the file says now: who was revoked is gone with the next connection or request. The file holds no
secret: of a registration key only its SHA-256 is kept, until it is used or five days old.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, get_args

import msgspec

from secondsite.engine import errors
from secondsite.engine.remote import url
from secondsite.engine.remote.trust import book
from secondsite.engine.remote.trust import certificate as cert

Action = Literal["send", "read", "administer"]
KEY_SECONDS = 5 * 24 * 3600
MAX_PEERS, MAX_KEYS, MAX_REPLICAS = 1000, 100, 1000
_MAX_FILE, _WHAT = 32 << 20, "who is paired"


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`replicas` are the names that it may touch; an empty list is none."""

    name: str
    certificate: str
    replicas: list[str]
    actions: list[Action]


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A registration key that was given out: its digest, when it ends, and what its user will be allowed."""

    digest: str
    ends: float
    replicas: list[str]
    actions: list[Action]


class Book(msgspec.Struct, forbid_unknown_fields=True):
    """The file: peers by pin."""

    version: Literal[1] = 1
    peers: dict[str, Peer] = {}
    keys: list[Key] = []


def load(path: Path) -> Book:
    """An empty book where there is no file. Raises Damaged, Unreachable; never lets in more for a damaged file."""
    return book.load(path, Book, _MAX_FILE, _WHAT)


class Reader:
    """The book as it is now, read again only when another file has taken its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._book = Book()

    def now(self) -> Book:
        """Not to be changed. Raises as `load`."""
        with self._lock:
            seen = self._stamp()
            if seen is None or seen != self._seen:
                # A change in between shows as another stamp next time.
                self._book, self._seen = load(self.path), seen
            return self._book

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def changing(path: Path) -> AbstractContextManager[Book]:
    """The book, to be changed; written durably at the end unless an error leaves. One at a time."""
    return book.changing(path, Book, _MAX_FILE, _WHAT)


def require(book: Book, pin: str, action: Action | None, replica: str) -> None:
    """Raises Refused where the peer is not paired, or may not do this to that replica, or None: nothing at all."""
    peer = book.peers.get(pin)
    if peer is None:
        raise errors.Refused("this host is not paired with you, or not any more")
    if url.check_name(replica) not in peer.replicas or action not in (peer.actions if action else (None,)):
        raise errors.Refused(f"{peer.name} may not {action or 'touch'} {replica}")


def give_key(path: Path, replicas: list[str], actions: Sequence[Action] = ("send",), now: float | None = None) -> str:
    """A registration key for one peer, once, for five days. Raises Refused."""
    now = time.time() if now is None else now
    _check(replicas)
    if not actions or not set(actions) <= set(get_args(Action)):
        raise errors.Usage(f"a peer may {', '.join(get_args(Action))}, or some of them, not {', '.join(actions)!r}")
    secret = secrets.token_urlsafe(32)
    with changing(path) as book:
        book.keys = [key for key in book.keys if key.ends > now]
        if len(book.keys) >= MAX_KEYS:
            raise errors.Refused(f"{MAX_KEYS} registration keys are not used yet", path=str(path))
        book.keys.append(Key(_digest(secret), now + KEY_SECONDS, replicas, list(actions)))
    return secret


def register(path: Path, secret: str, name: str, certificate: str, now: float | None = None) -> Peer:
    """Use up a registration key: its user is paired from now on. Raises Refused for a wrong, used or old key."""
    now = time.time() if now is None else now
    pin = cert.pin(certificate, "the peer's certificate")
    digest = _digest(secret)
    with changing(path) as book:
        found = next((key for key in book.keys if hmac.compare_digest(key.digest, digest)), None)
        if found is None or not now < found.ends:
            raise errors.Refused("the registration key is wrong, was used, or is older than five days")
        book.keys.remove(found)
        if pin in book.peers:
            raise errors.Refused("this host is paired already; revoke it first")
        made = Peer(url.check_name(name, "host"), certificate, found.replicas, found.actions)
        _admit(book, pin, made)
    return made


def _admit(book: Book, pin: str, peer: Peer) -> None:
    if len(book.peers) >= MAX_PEERS:
        raise errors.Refused(f"{MAX_PEERS} hosts are paired already")
    if any(other.name == peer.name for other in book.peers.values()):
        raise errors.Refused(f"another host is paired as {peer.name}")
    book.peers[pin] = peer


def renewed(path: Path, pin: str, certificate: str) -> None:
    """A paired host has shown another certificate of its key. Raises Unreachable."""
    with changing(path) as book:
        if pin in book.peers:
            book.peers[pin] = msgspec.structs.replace(book.peers[pin], certificate=certificate)


def revoke(path: Path, name: str) -> None:
    """By name or by pin. Raises Refused where nobody is called so."""
    with changing(path) as book:
        pins = [pin for pin, peer in book.peers.items() if name in (pin, peer.name)]
        if not pins:
            raise errors.Refused(f"{name!r} is not paired with this host", path=str(path))
        for pin in pins:
            del book.peers[pin]


def _check(replicas: list[str]) -> None:
    if not 0 < len(replicas) <= MAX_REPLICAS:
        raise errors.Usage(f"a peer is allowed 1 to {MAX_REPLICAS} named replicas")
    for name in replicas:
        url.check_name(name)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
