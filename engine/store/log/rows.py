"""What the head and the pages of the catalogue say of points (../FORMAT.md, section 2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from secondsite.engine import errors, units
from secondsite.engine.replica.layout import MAX_GENERATION
from secondsite.engine.replica.point import parse_time
from secondsite.engine.store.log.named import DIGEST

_KINDS = (int, str, int, int, str, str)


@dataclass(frozen=True, slots=True)
class Row:
    """A point in one line; `digest` names its manifest."""

    generation: int
    time: str
    virtual_bytes: int
    changed_bytes: int
    kind: str
    digest: str

    @property
    def name(self) -> str:
        """How people call it: the generation's number."""
        return str(self.generation)


def pack(rows: Iterable[Row]) -> list[list[Any]]:
    """As a record has them."""
    return [
        [row.generation, row.time, row.virtual_bytes, row.changed_bytes, row.kind, row.digest] for row in rows
    ]


def parse(said: list[Any], path: str) -> tuple[Row, ...]:
    """Raises Damaged for what makes no sense."""
    rows = tuple(_row(row, path) for row in said)
    if any(one.generation >= two.generation for one, two in pairwise(rows)):
        raise errors.Damaged("its points do not ascend", path=path)
    return rows


def _row(said: Any, path: str) -> Row:
    row = Row(*fields(said, _KINDS, "a point", path))
    numbers = (row.generation - 1, row.virtual_bytes, row.changed_bytes, MAX_GENERATION - row.generation)
    if min(numbers) < 0 or max(numbers) > units.MAX_NUMBER or not DIGEST.fullmatch(row.digest):
        raise errors.Damaged("a point in it makes no sense", path=path)
    parse_time(row.time, path)
    return row


def fields(said: Any, kinds: tuple[type, ...], what: str, path: str) -> list[Any]:
    """A list with values of these kinds. Raises Damaged."""
    whole = isinstance(said, list) and len(said) == len(kinds)
    if not whole or not all(type(value) is kind for value, kind in zip(said, kinds, strict=True)):
        raise errors.Damaged(f"{what} in it does not parse", path=path)
    found: list[Any] = said
    return found
