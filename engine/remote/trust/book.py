"""A small file of what this host knows of others, read whole and changed as a whole, one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from secondsite.engine import errors
from secondsite.engine.remote.trust import identity

Book = TypeVar("Book", bound=msgspec.Struct)
# What msgspec knows of a type is made at its first use; two threads at it at once ended a process (msgspec 0.22.0).
_ONE = threading.Lock()


def load(path: Path, kind: type[Book], limit: int, what: str) -> Book:
    """The file's JSON, of at most `limit` bytes, as `kind`; an empty one where there is no file. `what` is what it
    tells, for errors. Raises Damaged, Unreachable.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise errors.from_os(error, path, f"read {what}") from None
    try:
        if len(data) > limit:
            raise msgspec.ValidationError("too long")
        with _ONE:
            return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise errors.Damaged(f"does not say {what}: {error}", path=str(path)) from None


@contextlib.contextmanager
def changing(path: Path, kind: type[Book], limit: int, what: str) -> Iterator[Book]:
    """The book, to be changed; written durably at the end unless an error leaves."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("ab") as lock:
            identity.give_to_owner(lock.fileno(), path.parent)
            fcntl.flock(lock, fcntl.LOCK_EX)  # held for the few milliseconds of a write
            held = load(path, kind, limit, what)
            yield held
            identity.write(path, msgspec.json.format(msgspec.json.encode(held)), 0o600)
    except OSError as error:
        raise errors.from_os(error, path, f"change {what}") from None
