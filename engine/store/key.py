"""What a user opens encrypted replicas with: a passphrase or a key file, never on a command line.

A call takes the key of the block it runs in (`using_key`), else that of the environment: SECONDSITE_PASSPHRASE,
SECONDSITE_PASSPHRASE_FILE or SECONDSITE_KEY_FILE. No error, log line or repr holds a secret; `packed` does, for who
hands it to another process.
"""

from __future__ import annotations

import base64
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from secondsite.engine import errors
from secondsite.engine.remote.url import is_remote

PASSPHRASE, FILE = "passphrase", "key file"
KEY_BYTES = 32
_MAX_PASSPHRASE = 1024
_PREFIX = "SECONDSITE_"


@dataclass(frozen=True, slots=True)
class Secret:
    """What was given, read and checked."""

    kind: str
    value: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"the {self.kind}"


@dataclass(frozen=True, slots=True)
class Key:
    """One of these, or none; then `ask` is called for a passphrase where one is needed, with whether it is a new one.
    Files are to be readable by their owner alone: 32 bytes of `new_key_file`, or a passphrase in the first line. With
    `plain` a replica need not be encrypted. `held` is one that was unpacked; one of the `environment` is for whatever
    needs a key.
    """

    file: str | os.PathLike[str] | None = None
    passphrase_file: str | os.PathLike[str] | None = None
    passphrase: str | None = field(default=None, repr=False)
    ask: Callable[[bool], str] | None = field(default=None, repr=False)
    plain: bool = False
    held: Secret | None = field(default=None, repr=False)
    environment: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str], prefix: str = _PREFIX) -> Key:
        """What the variables of this prefix say."""
        file, passphrase_file, passphrase = (
            environment.get(prefix + name) or None for name in ("KEY_FILE", "PASSPHRASE_FILE", "PASSPHRASE")
        )
        return cls(file, passphrase_file, passphrase, environment=True)

    @property
    def given(self) -> bool:
        """Whether there is one, without asking."""
        return any(value is not None for value in (self.file, self.passphrase_file, self.passphrase, self.held))

    def packed(self) -> dict[str, Any] | None:
        """The secret itself, as JSON has it, for another process; None where there is none. It may be asked for. Raises
        as `secret`.
        """
        found = self.secret()
        if found is None:
            return None
        return {"kind": found.kind, "value": base64.b64encode(found.value).decode(), "plain": self.plain}

    @classmethod
    def unpacked(cls, said: Any) -> Key:
        """What `packed` gave. Raises Usage."""
        try:
            kind, value, plain = said["kind"], base64.b64decode(said["value"], validate=True), bool(said["plain"])
        except (TypeError, KeyError, ValueError):
            raise errors.Usage("what was sent as a key is none") from None
        if kind not in (PASSPHRASE, FILE) or not 0 < len(value) <= _MAX_PASSPHRASE:
            raise errors.Usage("what was sent as a key is none")
        return cls(held=Secret(kind, value), plain=plain)

    def secret(self, *, new: bool = False) -> Secret | None:
        """None where there is none. Raises Usage, Refused, Unreachable."""
        if self.held is not None:
            return self.held
        if sum(value is not None for value in (self.file, self.passphrase_file, self.passphrase)) > 1:
            raise errors.Usage("several keys were given (a key file, a passphrase in a file or as it is); name one")
        if self.file is not None:
            return _from_key_file(Path(self.file))
        if self.passphrase_file is not None:
            return _from_passphrase_file(Path(self.passphrase_file))
        text = self.passphrase if self.passphrase is not None else self.ask(new) if self.ask is not None else None
        return None if text is None else _passphrase(text, "the passphrase")


def _read(place: Path) -> bytes:
    from secondsite.engine.store.credentials import read_private

    found = read_private(place)
    if found is None:
        raise errors.Unreachable("there is no such file", path=str(place))
    return found


def _from_key_file(place: Path) -> Secret:
    found = _read(place)
    if len(found) != KEY_BYTES:
        raise errors.Usage(f"is no key file: those have {KEY_BYTES} bytes (`secondsite key new`)", path=str(place))
    return Secret(FILE, found)


def _from_passphrase_file(place: Path) -> Secret:
    try:
        text = _read(place).partition(b"\n")[0].removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise errors.Usage("holds no text; a key file is given with --key-file", path=str(place)) from None
    return _passphrase(text, str(place))


def _passphrase(text: str, where: str) -> Secret:
    """The same bytes however a keyboard composes its letters."""
    value = unicodedata.normalize("NFC", text).encode(errors="surrogateescape")
    if not value or len(value) > _MAX_PASSPHRASE:
        raise errors.Usage(f"{where}: a passphrase has 1 to {_MAX_PASSPHRASE} bytes")
    return Secret(PASSPHRASE, value)


def new_key_file(path: str | os.PathLike[str]) -> None:
    """Make a key file: random, durable, readable by its owner alone. Raises Refused where there is something."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise errors.Refused("is there already; it may be some replica's key", path=os.fspath(path)) from None
    except OSError as error:
        raise errors.from_os(error, path, "make a key file") from None


_used: ContextVar[Key | None] = ContextVar("key", default=None)


@contextmanager
def using_key(key: Key) -> Iterator[None]:
    """The engine's calls in this block, of this thread, open encrypted replicas with it. One that names nothing has
    what the block around it has.
    """
    around = _used.get()
    if around is not None and not key.given:
        key = replace(around, ask=key.ask or around.ask, plain=key.plain)
    token = _used.set(key)
    try:
        yield
    finally:
        _used.reset(token)


def current_key() -> Key:
    """The key of the block, with what the environment says where it names nothing itself."""
    used = _used.get() or Key()
    if used.given:
        return used
    found = Key.of(os.environ)
    return replace(found, ask=used.ask, plain=used.plain)


def refuse_plain(replica: str | os.PathLike[str], *, seen: bool = False) -> None:
    """Raises Refused for a replica that is not encrypted where a key was given: who can write there could have put it
    in the place of one that is. Raises IsLog for one at an agent that was not `seen` yet: what is meant is a log.
    """
    if (key := current_key()).given and not key.plain:
        if not seen and is_remote(os.fspath(replica)):
            found = errors.IsLog("a key was given", path=os.fspath(replica))
            found.url = os.fspath(replica)
            raise found
        told = "is not encrypted, and a key was given: it is not the replica you mean"
        raise errors.Refused(told, path=os.fspath(replica))
