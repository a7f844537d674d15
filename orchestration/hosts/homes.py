"""Operations on the place of a machine's own disk: a recovery point goes there at a failback, and what lay there stays
until that is committed (M12, R12.11).
"""

from __future__ import annotations

from dataclasses import asdict

from secondsite import engine
from secondsite.orchestration.estate.model import Table
from secondsite.orchestration.hosts.operations import Cancel, Json
from secondsite.orchestration.hosts.spec import unpacked


class Place(Table, frozen=True):
    """`disk.place`: the point `at` of a replica of this host, in the format of what lies at `path`, or in `format`."""

    replica: str
    path: str
    at: str = "latest"
    format: str | None = None
    state: str | None = None


class Disk(Table, frozen=True):
    """`disk.keep`, `disk.put-back`."""

    path: str


def place(arguments: Json, cancel: Cancel) -> Json:
    """What engine.place returns."""
    said = unpacked(Place, arguments)
    return asdict(
        engine.place(said.replica, said.path, said.at, format=said.format, state=said.state, cancel=cancel)
    )


def keep(arguments: Json, cancel: Cancel) -> Json:
    """The disk that lay there goes. Was there one?"""
    return {"kept": engine.place_commit(unpacked(Disk, arguments).path)}


def put_back(arguments: Json, cancel: Cancel) -> Json:
    """The disk that lay there is there again. Was there one?"""
    return {"back": engine.place_undo(unpacked(Disk, arguments).path)}
