"""Overlays that stand on points of a log: a point that is claimed is not dropped (../FORMAT.md, section 8).

A claim stays until it is released, unlike what a reader writes down (readers.py), which ends with him.
"""

from __future__ import annotations

from collections.abc import Iterable

from secondsite.engine import errors
from secondsite.engine.replica import record
from secondsite.engine.replica.claims import Claim, check_id
from secondsite.engine.store.base import Absent, Exists, Store
from secondsite.engine.store.log import named
from secondsite.engine.store.log.layout import CLAIMS


def add(store: Store, wanted: Claim) -> None:
    """Write a claim down. Raises Refused where that is not allowed."""
    fields = {"generation": wanted.generation, "by": wanted.by, "turn": named.turn()}
    try:
        store.put_if_absent(name(wanted.id), record.pack(fields))
    except Exists:
        pass  # an answer was lost


def every(store: Store) -> list[Claim]:
    """All that are written down. What cannot be read claims every point, by the generation 0."""
    return [claim for entry in list(store.list(CLAIMS)) if (claim := _read(store, entry.name)) is not None]


def refuse(store: Store, unwanted: Iterable[int]) -> None:
    """Raises Refused where one of these generations is claimed."""
    found = {claim.generation: claim.by for claim in every(store)}
    for generation in unwanted:
        by = found.get(generation) or found.get(0)
        if by is not None:
            raise errors.Refused(f"point {generation} stays: an overlay stands on it ({by})", path=store.label)


def _read(store: Store, called: str) -> Claim | None:
    path, id = store.path(called), called.removeprefix(CLAIMS)
    try:
        fields, _ = record.unpack(named.fetch(store, called), path)
        return Claim(id, record.field(fields, "generation", int, path), record.field(fields, "by", str, path))
    except Absent:
        return None  # it was released just now
    except errors.Damaged:
        return Claim(id, 0, f"its claim is damaged: {called}")


def name(id: str) -> str:
    """Of a claim's object."""
    return f"{CLAIMS}{check_id(id)}"
