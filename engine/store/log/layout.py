"""Names of a replica's objects, and places in them. ../FORMAT.md, sections 1 and 3, is the specification."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

IDENTITY = "replica.json"
HEAD = "head.json"
NOTE = "note.json"
SEGMENTS, MAPS, POINTS, CATALOGUE = "segments", "maps", "points", "catalogue"
CLAIMS = "claims/"
_OBJECT = re.compile(r"(segments|maps)/(\d{12})/([0-9a-f]{6})")
_RANDOM_BITS = 24
RANDOM = 1 << _RANDOM_BITS

PLACE = struct.Struct("<QII")
NOWHERE = bytes(PLACE.size)


class Place(NamedTuple):
    """A frame: the number of its object, its offset there, and its length with its header."""

    number: int
    offset: int
    length: int


def manifest(generation: int, digest: str) -> str:
    return f"{folder(POINTS, generation)}{digest}.json"


def page(generation: int, digest: str) -> str:
    """Of the catalogue, whose first point was of this generation."""
    return f"{CATALOGUE}/{generation:012}-{digest}.json"


def folder(kind: str, generation: int) -> str:
    """Where the objects of a kind lie that were made for a generation."""
    return f"{kind}/{generation:012}/"


def number(generation: int, chance: int) -> int:
    """What an object is called by; `chance` is below RANDOM."""
    return generation << _RANDOM_BITS | chance


def generation_of(number: int) -> int:
    """Which generation an object was made for."""
    return number >> _RANDOM_BITS


def name(kind: str, number: int) -> str:
    return f"{folder(kind, generation_of(number))}{number % RANDOM:06x}"


def number_of(name: str) -> int | None:
    """The number of an object, or None for a name that is none."""
    found = _OBJECT.fullmatch(name)
    return int(found[2]) << _RANDOM_BITS | int(found[3], 16) if found else None
