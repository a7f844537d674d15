"""How much room a failover needs on a host, asked before anything is stopped for it.

Each is the least that is needed for sure, so that nothing is refused that would have gone; what the machine writes
besides nobody knows. A disk that fills up later takes nothing away: what was begun goes on once there is room.
"""

from __future__ import annotations

import os

from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.images.formats import named_format, settle
from secondsite.engine.images.raw import real_path
from secondsite.engine.inspection import info
from secondsite.engine.remote import url
from secondsite.engine.results.listed import ImageInfo
from secondsite.engine.store.place import is_place
from secondsite.engine.units import MIB

# Of each disk, for what a machine writes while it comes up: chosen, not measured. No more than the disk has.
RUN_BYTES = 64 * MIB
_HEAD_BYTES = MIB


def room_to_run(size: int) -> int:
    """What an overlay over a disk of `size` bytes needs at least, in bytes."""
    return _HEAD_BYTES + min(size, RUN_BYTES)


def room_to_adopt(copy: str | os.PathLike[str], replica: str | os.PathLike[str], *, format: str | None = None) -> int:
    """What the disk image `copy` needs in the folder `replica` to become its first point, in bytes: nothing where the
    file system clones it there. Raises what opening it does.
    """
    path = real_path(copy)
    found = _image(path, format)
    clones = found.format == "raw" and os.path.isfile(path) and _clones(path, os.fspath(replica))
    return 0 if clones else found.allocated_bytes


def room_to_place(
    replica: str | os.PathLike[str], path: str | os.PathLike[str], *, format: str | None = None, data: int = 0,
    changed: int = 0,
) -> int:  # fmt: skip
    """What `place` needs beside `path`, in bytes. The point has `data` bytes, of which `changed` differ from the disk
    that lies there. The replica need not be there yet. Raises what opening the disk does.
    """
    spot, root, there = real_path(path), os.fspath(replica), os.path.exists(path)
    kind = settle(spot, format) if there else format or named_format(spot) or "raw"
    plain = kind == "raw" and not is_place(root) and not url.is_remote(root)
    if plain and _clones(f"{root}/head", spot):
        return 0
    if there and _clones(spot, spot):
        return changed
    if plain or not there:
        return data
    return _image(spot, kind).allocated_bytes + changed


def _image(path: str, format: str | None) -> ImageInfo:
    found = info(path, format=format)
    if not isinstance(found, ImageInfo):
        raise errors.Refused("is no disk image", path=path)
    return found


def _clones(source: str, target: str) -> bool:
    """By the folders that are there, of where two files are or will be."""
    return LocalFiles().clones(nearest(source), nearest(target))


def nearest(path: str) -> str:
    """The folder that is there, in which a file is or will be."""
    found = os.path.dirname(real_path(path))
    while not os.path.isdir(found) and found != os.path.dirname(found):
        found = os.path.dirname(found)
    return found
