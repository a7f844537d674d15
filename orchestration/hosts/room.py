"""Operations on the room of a host: what a failover would need there, and how much there is (R5.8)."""

from __future__ import annotations

import os
import shutil

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.model import Table
from secondsite.orchestration.hosts.operations import Cancel, Json
from secondsite.orchestration.hosts.replicas import old_disk
from secondsite.orchestration.hosts.spec import unpacked


class Run(Table, frozen=True):
    """An overlay over a point of a replica, in a folder."""

    folder: str
    replica: str


class Write(Table, frozen=True):
    """So many bytes more in a folder."""

    folder: str
    bytes: int


class Adopt(Table, frozen=True):
    """A disk that becomes a replica."""

    copy: str
    replica: str


class Place(Table, frozen=True):
    """A point of `data` bytes in the place of a disk, of which `changed` differ from that."""

    path: str
    replica: str
    format: str | None = None
    data: int = 0
    changed: int = 0


class Room(Table, frozen=True):
    """`host.room`."""

    run: tuple[Run, ...] = ()
    write: tuple[Write, ...] = ()
    adopt: tuple[Adopt, ...] = ()
    place: tuple[Place, ...] = ()


class Data(Table, frozen=True):
    """`host.data`: of images, and of replicas by their heads."""

    paths: tuple[str, ...]


def room(arguments: Json, cancel: Cancel) -> Json:
    """`rooms`: of each file system of which something is needed, a folder (`path`), what is `needed` and `free`."""
    said = unpacked(Room, arguments)
    wanted = [(one.folder, engine.room_to_run(_size(one.replica))) for one in said.run]
    wanted += [(one.folder, one.bytes) for one in said.write]
    wanted += [(one.replica, engine.room_to_adopt(old_disk(one.copy), one.replica)) for one in said.adopt]
    for one in said.place:
        needed = engine.room_to_place(one.replica, one.path, format=one.format, data=one.data, changed=one.changed)
        wanted.append((os.path.dirname(one.path), needed))
    found: dict[int, tuple[str, int]] = {}
    for path, needed in wanted:
        folder = nearest(path)
        system = os.stat(folder).st_dev
        first, before = found.get(system, (folder, 0))
        found[system] = first, before + needed
    return {
        "rooms": [
            {"path": path, "needed": needed, "free": shutil.disk_usage(path).free} for path, needed in found.values()
        ]
    }


def data(arguments: Json, cancel: Cancel) -> Json:
    """`bytes` of data in each, 0 where that cannot be told."""
    return {"bytes": [_data(path) for path in unpacked(Data, arguments).paths]}


def _data(path: str) -> int:
    try:
        found = engine.info(path)
        if isinstance(found, engine.ReplicaInfo):
            return _data(found.head) if found.head is not None and found.head != path else 0
        return found.allocated_bytes
    except errors.Error:
        return 0


def _size(replica: str) -> int:
    """Of the disk; of one that cannot be asked, none."""
    try:
        return engine.info(replica).virtual_bytes
    except errors.Error:
        return 0


def nearest(path: str) -> str:
    """The folder that is there: the path itself, or one that it lies in, or will lie in."""
    found = os.path.abspath(path)
    while not os.path.isdir(found) and found != os.path.dirname(found):
        found = os.path.dirname(found)
    return found
