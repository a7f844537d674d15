"""A source that is compared with a point, from a frozen view of it where one can be had.

A comparison with data that moves gives false alarms, and then nobody trusts the true ones (P29). So the clone that was
kept of the very point is taken, else a clone of now, else the image itself; and of that no difference is told where it
was written meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from secondsite.engine import errors
from secondsite.engine.attempts import have
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images import Image, RawImage, open_image
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point
from secondsite.engine.replica.view import point_map
from secondsite.engine.scan import Range
from secondsite.engine.source import place
from secondsite.engine.trackers import clonefile

Compare = Callable[[str, Image, BlockMap], list[Range]]


def compare_source(
    replica: Replica,
    point: Point,
    source: str | os.PathLike[str] | Image,
    format: str | None,
    allow_parent_path: Sequence[str],
    compare: Compare,
) -> tuple[str, list[Range]]:
    """What stood for the source, and the ranges in which it differs from the point; what one has and the other not
    counts too. Raises SourceChanged, and what `open_image` raises.
    """
    if isinstance(source, Image):
        return "image", _compare(replica, point, source, compare)
    if format is None and place(source) == replica.identity.source:
        format = replica.identity.source_format
    against, image = _open(replica, point, os.fspath(source), format, allow_parent_path)
    with image:
        before = image.stamps()
        found = _compare(replica, point, image, compare)
        if found and against == "image" and image.stamps() != before:
            raise errors.SourceChanged("it was written while it was compared", path=image.path)
        return against, found


def _compare(replica: Replica, point: Point, image: Image, compare: Compare) -> list[Range]:
    with point_map(replica, point) as block_map:
        return compare("source", image, block_map)


def _open(
    replica: Replica, point: Point, source: str, format: str | None, allow: Sequence[str]
) -> tuple[str, Image]:
    image = open_image(source, format=format, allow_parent_path=allow)
    if not isinstance(image, RawImage) or image.device:
        return "image", image
    kept = _kept(replica, point, source)
    found = kept or clonefile.frozen(source)
    if found is None:
        return "image", image
    image.close()
    return "kept clone" if kept else "clone", found


def _kept(replica: Replica, point: Point, source: str) -> RawImage | None:
    """The source as it was when the point was made, where the clone tracker kept that."""
    known = have(replica, point)
    path = clonefile.Spot.of(source, known.replica_id).at(known.generation)
    fd = clonefile.open_kept(path, known)
    if fd < 0:
        return None
    try:
        return RawImage(f"/proc/self/fd/{fd}")
    except errors.Unreachable:
        return None
    finally:
        os.close(fd)
