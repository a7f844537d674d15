"""The store interface: objects by name, whole or by range, and what every implementation promises.

Each sentence below is tested for every implementation by tests/store/test_conformance.py.

* An object is written whole: nobody sees half of it, and what a call returned from is there for every later call.
* `put_if_absent` makes an object or raises Exists; of several callers at once exactly one succeeds.
* `replace` changes an object whose `etag` is still the one given, or raises Changed. In S3 an etag says what an object
  holds, not when it was written: an object that is replaced must never hold again what it held before.
* `get` gives as many bytes of a range as there are; what is not there is Absent.
* `list` gives every object below a folder, by name, ascending. `delete` of what is not there is fine.
* `fence` is held by one holder at a time and runs out by the store's clock unless it is renewed. A `replace` under a
  fence that was lost raises Fenced. Not every store holds up what is not done under a fence: etags say more.
* Errors of the service are `Denied` (credentials, no such container), `Failed` (worth another try), `Rejected` and what
  the sentences above say. They name the object, and never a key.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from secondsite.engine import errors

# A lease of Azure lasts 15 to 60 seconds or for ever; the others keep to the same.
MIN_FENCE, MAX_FENCE = 15, 60


class Absent(errors.Error):
    """There is no such object. Whoever expected one says what that means."""

    exit_code = errors.DAMAGED


class Exists(errors.Refused):
    """An object of this name is there already."""


class Changed(errors.Refused):
    """The object is not what it was when its etag was read."""


class Denied(errors.Refused):
    """The store does not let us: wrong or expired credentials, no permission, no such container."""


class Rejected(errors.Unreachable):
    """The store answers, and will answer the same again: it does not do what was asked."""

    retryable = False


class Failed(errors.Unreachable):
    """No answer, or one that says to come again. `busy`: the store has too much to do, or did not answer in time;
    `after` seconds are how long it wants to be left alone, where it said so. What was asked may have been done.
    """

    def __init__(self, message: str, *, path: str, busy: bool = False, after: float | None = None) -> None:
        super().__init__(message, path=path)
        self.busy, self.after = busy, after


class Held(errors.Busy):
    """Another holder has the fence."""


class Fenced(errors.Refused):
    """Our fence was lost: it ran out, or another holder took it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a store says of an object. `modified` is in seconds since 1970 by the store's clock."""

    name: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of an object, and of which: `size` and `etag` are the whole object's."""

    data: bytes
    size: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class Fence(ABC):
    """A held fence. It is renewed by whoever holds it, more often than every `seconds`."""

    name: str
    seconds: int

    @abstractmethod
    def renew(self) -> None:
        """Hold it for `seconds` from now. Raises Fenced where it was lost."""

    @abstractmethod
    def release(self) -> None:
        """Let others have it; of a lost one nothing is said."""


class Store(ABC):
    """Objects of one container below one prefix. Calls may be made from several threads at once.

    `label` is how errors call the place, and holds no secret. Metadata are a few short words by names in lower case.
    """

    label: str

    @abstractmethod
    def put_if_absent(
        self, name: str, data: bytes | bytearray | memoryview, metadata: Mapping[str, str] | None = None
    ) -> str:
        """Make an object and return its etag. Raises Exists."""

    @abstractmethod
    def replace(
        self, name: str, data: bytes, etag: str, metadata: Mapping[str, str] | None = None, fence: Fence | None = None
    ) -> str:
        """Replace the object that has this etag, and return the new one. Raises Changed, or Fenced."""

    @abstractmethod
    def get(self, name: str, start: int = 0, length: int | None = None) -> Content:
        """An object, or a range of it. Raises Absent."""

    @abstractmethod
    def stat(self, name: str) -> Entry | None:
        """An object without its bytes, or None."""

    @abstractmethod
    def list(self, folder: str = "") -> Iterator[Entry]:
        """The objects below a folder, which ends with a slash; without one all of them."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object."""

    def removes(self) -> bool:
        """Whether it is any use to delete: an agent lets only those who may administer."""
        return True

    def remember(self, entries: Iterable[Entry]) -> None:
        """Objects that another caller put here, and that count from the next `replace` on. A store that keeps a list of
        what there should be adds them; others do nothing.
        """
        return None

    def forget(self, names: Iterable[str]) -> None:
        """Objects that are about to be deleted: told together, they cost such a store one note."""
        return None

    @abstractmethod
    def fence(self, name: str, seconds: int = MAX_FENCE, *, take: bool = False, holder: str | None = None) -> Fence:
        """The fence of an existing object, for `seconds` unless it is renewed; `take` takes it from whoever holds it.
        The same `holder` (of `new_holder`) gets it again. Raises Held, or Absent.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""

    def path(self, name: str) -> str:
        """How errors call an object."""
        return f"{self.label}/{name}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def new_holder() -> str:
    """A name for one who holds a fence, unlike any other."""
    return str(uuid.uuid4())


def check_name(name: str) -> str:
    """Names are ASCII words between slashes, none with a dot at its end; nothing that a URL would read as something
    else. Raises Usage.
    """
    words = name.split("/")
    plain = all(word and word[-1] != "." and word.replace(".", "").replace("-", "").replace("_", "").isalnum()
                for word in words)  # fmt: skip
    if not plain or not name.isascii() or len(name) > 512:
        raise errors.Usage(f"{name!r} is no name of an object")
    return name


def check_seconds(seconds: int) -> int:
    """A fence lasts as long as every store can. Raises Usage."""
    if not MIN_FENCE <= seconds <= MAX_FENCE:
        raise errors.Usage(f"a fence lasts {MIN_FENCE} to {MAX_FENCE} seconds, not {seconds}")
    return seconds
