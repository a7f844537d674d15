"""Rows of the vault are of the types that its columns have: SQLite keeps whatever is written into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Table


def sound(table: Table, rows: Iterable[Any]) -> Sequence[Any]:
    """Some rows with all columns of a table. Raises msgspec.ValidationError."""
    found, kinds = list(rows), _kinds(table)
    for row in found:
        for (name, allowed), value in zip(kinds, row, strict=True):
            if not isinstance(value, allowed):
                raise msgspec.ValidationError(f"{table.name}.{name} is {str(value)[:40]!r}")
    return found


@cache
def _kinds(table: Table) -> Sequence[tuple[str, tuple[type, ...]]]:
    made = []
    for column in table.columns:
        kind = column.type.python_type
        allowed = {float: (int, float), object: (dict,)}.get(kind, (kind,))  # what is JSON are objects
        made.append((column.name, (*allowed, type(None)) if column.nullable else allowed))
    return made
