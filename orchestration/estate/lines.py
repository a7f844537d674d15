"""Where in a TOML file each table and key stands, for errors that name a line. The file has been parsed already.

tomllib keeps no positions; what is looked for here is only headers, keys and the multi-line strings that may hide some.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Where = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\"' -]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([\w.\"'-]+(?:\s*\.\s*[\w\"'-]+)*)\s*=")
_QUOTES = ('"""', "'''")


def positions(text: str) -> dict[Where, int]:
    """The line, from 1, of each table and of each key, by its path: ("host", 0, "name"). What lies inside an inline
    table or an array has no entry of its own; `find` gives the line of what is around it.
    """
    found: dict[Where, int] = {}
    counts: dict[Where, int] = {}
    here: Where = ()
    for number, line in _lines(text):
        header = _HEADER.match(line)
        key = _KEY.match(line)
        if header:
            here = _enter(_names(header[2]), header[1] == "[[", counts)
            found.setdefault(here, number)
        elif key:
            found.setdefault((*here, *_names(key[1])), number)
    return found


def find(found: dict[Where, int], where: Where) -> int | None:
    """The line of a path, or of the nearest thing around it."""
    while where:
        if where in found:
            return found[where]
        where = where[:-1]
    return None


def _enter(names: list[str], array: bool, counts: dict[Where, int]) -> Where:
    """The path of a header: each array on the way means its last table."""
    here: Where = ()
    for place, name in enumerate(names):
        here = (*here, name)
        last = place == len(names) - 1
        if last and array:
            counts[here] = counts.get(here, -1) + 1
        if here in counts:
            here = (*here, counts[here])
    return here


def _names(dotted: str) -> list[str]:
    return [name.strip().strip("\"'") for name in dotted.split(".")]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that may hold a header or a key: not those inside a string or an array of several lines."""
    closing, depth = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if closing:
            closing = "" if closing in line else closing
            continue
        if depth == 0:
            yield number, line
        for quotes in _QUOTES:
            if line.count(quotes) % 2:
                closing = quotes
        plain = re.sub(r"\"[^\"]*\"|'[^']*'|#.*", "", line)
        if depth or not _HEADER.match(line):
            depth = max(depth + plain.count("[") + plain.count("{") - plain.count("]") - plain.count("}"), 0)
