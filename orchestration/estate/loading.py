"""An estate file as an Estate, or one line for the first thing that is not of its form."""

from __future__ import annotations

import difflib
import os
import re
import select
import stat
import time
import tomllib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.estate import lines
from secondsite.orchestration.estate.lines import Where
from secondsite.orchestration.estate.model import Estate

# An estate of 100,000 machines has 30 MB.
MAX_BYTES = 64 << 20
# How long the writer of a pipe may take, as of `secondsite plan <(generate)`.
_SECONDS = 30.0
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$?(?P<path>[^`]*)`)?$", re.S)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")


@dataclass(frozen=True)
class Loaded:
    """An estate and where in its file everything stands."""

    estate: Estate
    path: str
    text: str

    @cached_property
    def lines(self) -> dict[Where, int]:
        """Found when the first one is asked for: an estate without errors needs none."""
        return lines.positions(self.text)

    def line(self, where: Where) -> int | None:
        return lines.find(self.lines, where)


def load(path: str | os.PathLike[str]) -> Loaded:
    """Raises Unreachable, or Usage that names the line."""
    name = os.fspath(path)
    try:
        data = _read(name)
    except OSError as error:
        raise errors.Unreachable(f"cannot read the estate: {error.strerror}", path=name) from None
    except ValueError:
        raise errors.Usage(f"{name!r} is no name of a file") from None
    if len(data) > MAX_BYTES:
        raise errors.Usage(f"{name}: an estate has at most {MAX_BYTES >> 20} MiB")
    return parse(data, name)


def _read(name: str) -> bytes:
    """As much as an estate may have and one byte more, of a file or a pipe; no writer is waited for without end."""
    until, data = time.monotonic() + _SECONDS, bytearray()
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISCHR(kind := os.fstat(fd).st_mode) or stat.S_ISBLK(kind):
            raise errors.Usage(f"{name}: is a device, and no estate")
        while len(data) <= MAX_BYTES:
            if not select.select([fd], [], [], max(until - time.monotonic(), 0))[0]:
                raise errors.Usage(f"{name}: is a pipe, and no whole estate came out of it in {_SECONDS:.0f} s")
            if not (more := os.read(fd, 1 << 20)):
                break
            data += more
        return bytes(data)
    finally:
        os.close(fd)


def parse(data: bytes, name: str = "estate.toml") -> Loaded:
    """Raises Usage that names the line."""
    try:
        text = data.decode("utf-8-sig")  # editors of Windows put a mark at the beginning
        said = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise errors.Usage(f"{name}: is no TOML: {error}") from None
    except RecursionError:
        raise errors.Usage(f"{name}: is no TOML: nested too deep") from None
    try:
        return Loaded(msgspec.convert(said, Estate), name, text)
    except msgspec.ValidationError as error:
        raise errors.Usage(f"{name}: {_explain(str(error), lines.positions(text))}") from None


def _explain(message: str, found: dict[Where, int]) -> str:
    """One line with the number of the line and, for an unknown key, the name that may have been meant."""
    match = _AT.match(message)
    assert match
    where = _path(match["path"] or "")
    what = match["what"]
    unknown = _UNKNOWN.match(what)
    if unknown:
        where = (*where, unknown["name"])
        near = difflib.get_close_matches(unknown["name"], _fields(where[:-1]), 1, 0.5)
        what = f"there is no key {unknown['name']!r} here" + (f"; did you mean {near[0]!r}?" if near else "")
    line = lines.find(found, where)
    table = ".".join(str(part) for part in where if isinstance(part, str))
    what = what.replace("Object missing", "misses").replace("`", "'")
    return f"line {line}: {table}: {what}" if line else f"{table + ': ' if table else ''}{what}"


def _path(text: str) -> Where:
    """`.host[0].disks[1]` as ("host", 0, "disks", 1)."""
    parts = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", text)
    return tuple(name if name else int(index) for name, index in parts)


def _fields(where: Where) -> list[str]:
    """The keys that the table at a path may have."""
    kind: Any = Estate
    for part in where:
        if isinstance(part, str):
            kind = get_type_hints(kind)[part]
            while get_origin(kind) is not None or not isinstance(kind, type):
                kind = next(one for one in get_args(kind) if one is not type(None))
    return [field.name for field in msgspec.structs.fields(kind)]
