"""Where a replica in a store is: `azure://CONTAINER/PREFIX`, `s3://BUCKET/PREFIX`, or a folder with a log in it. Never
with what opens it.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from secondsite.engine import errors
from secondsite.engine.store.base import check_name

P = ParamSpec("P")
T = TypeVar("T")
SCHEMES = ("azure", "s3")
# What a store in a folder needs for itself lies here: no object's name has such a character.
OWN = "store~"
_MARKS = {OWN, "head.json"}
MAX_PREFIX = 200
# Of Azure, and of S3 without the dots that certificates do not cover.
_CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True)
class Place:
    """Objects below `prefix` of a container (or bucket)."""

    scheme: str
    container: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.container}/{self.prefix}"


def is_place(text: str) -> bool:
    """Whether a replica on the command line is the log of a store: by its URL, or by what the folder holds."""
    return is_url(text) or (text != "" and is_log(text)) or text == _found.get()


def is_url(text: str) -> bool:
    """Whether it is a URL of an object store."""
    return text.lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def is_log(folder: str) -> bool:
    """Whether a folder is a store, or a copy of one. No other replica has either name."""
    return any(os.path.lexists(os.path.join(folder, name)) for name in _MARKS)


# The URL of an agent's replica that is known to be a log while a call is made again.
_found: ContextVar[str | None] = ContextVar("found", default=None)


@contextmanager
def noting(replica: str) -> Iterator[None]:
    """What an agent is asked about this replica: where it says that it is a log, the error tells of which."""
    try:
        yield
    except errors.IsLog as error:
        error.url = replica
        raise


def finding_logs(call: Callable[P, T]) -> Callable[P, T]:
    """For calls that take a replica at an agent: only the agent knows what it is, and to ask first would cost the
    others a connection. Where it says that it is a log the call is made again, knowing it.
    """

    @functools.wraps(call)
    def twice(*args: P.args, **more: P.kwargs) -> T:
        try:
            return call(*args, **more)
        except errors.IsLog as error:
            if not error.url or error.url == _found.get():
                raise
            token = _found.set(error.url)
        try:
            return call(*args, **more)
        finally:
            _found.reset(token)

    return twice


def becomes_log(replica: str, history: str) -> bool:
    """Whether a cycle goes into a log. Raises Refused for a folder that holds something else, Usage for no name."""
    if history != "log" or is_place(replica):
        return is_place(replica)
    if not replica:
        raise errors.Usage("a replica is a folder, and this is no name of one", path="(no name)")
    names = os.listdir(replica) if os.path.isdir(replica) else []  # noqa: PTH208
    if names and not _MARKS & set(names):  # it may have become one just now
        raise errors.Refused("holds something else than a log, which is to have a folder of its own", path=replica)
    return True


def parse(text: str) -> Place:
    """Raises Usage with what is wrong; a signature that somebody put behind it is not repeated."""
    scheme, _, rest = text.partition("://")
    shown = re.split(r"[?#]", text)[0][:200]
    if "?" in text or "#" in text or "@" in text or "=" in text:
        raise errors.Usage(
            f"{shown.split('@')[0].split('=')[0]!r}… holds more than a place; what opens it is not for the command "
            "line, where everybody sees it: use the environment or the configuration"
        )
    container, _, prefix = rest.partition("/")
    if scheme.lower() not in SCHEMES or not prefix.strip("/"):
        raise errors.Usage(f"{shown!r} is no place in a store; the form is azure://CONTAINER/PREFIX")
    if not _CONTAINER.fullmatch(container):
        raise errors.Usage(f"{container[:80]!r} is no name of a container: 3 to 63 of a-z, 0-9 and single hyphens")
    prefix = check_name(prefix.rstrip("/"))
    if len(prefix) > MAX_PREFIX:
        raise errors.Usage(f"a prefix has at most {MAX_PREFIX} characters")
    return Place(scheme.lower(), container, prefix)
