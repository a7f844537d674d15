"""A source that is compared with a point, from a frozen view of it where one can be had.

A comparison with data that moves gives false alarms, and then nobody trusts the true ones (P29). So the clone that was
kept of the very point is taken, else a clone of now, else the image itself; and of that no difference is told where it
was written meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from secondsite.engine import errors, scan
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images import Image, RawImage, open_image
from secondsite.engine.progress import Monitor
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point
from secondsite.engine.scan import Range
from secondsite.engine.source import place
from secondsite.engine.trackers import clonefile
from secondsite.engine.trackers.base import Have

Compare = Callable[[Image], list[Range]]


def compare_source(
    identity: Identity,
    point: Point,
    source: str | os.PathLike[str] | Image,
    format: str | None,
    allow_parent_path: Sequence[str],
    compare: Compare,
) -> tuple[str, list[Range]]:
    """What stood for the source, and the ranges in which it differs from the point, as `compare` finds them. Raises
    SourceChanged, and what `open_image` raises.
    """
    if isinstance(source, Image):
        return "image", compare(source)
    if format is None and place(source) == identity.source:
        format = identity.source_format
    against, image = _open(identity, point, os.fspath(source), format, allow_parent_path)
    with image:
        before = image.stamps()
        found = compare(image)
        if found and against == "image" and image.stamps() != before:
            raise errors.SourceChanged("it was written while it was compared", path=image.path)
        return against, found


def _open(
    identity: Identity, point: Point, source: str, format: str | None, allow: Sequence[str]
) -> tuple[str, Image]:
    image = open_image(source, format=format, allow_parent_path=allow)
    if not isinstance(image, RawImage) or image.device:
        return "image", image
    kept = _kept(identity, point, source)
    found = kept or clonefile.frozen(source)
    if found is None:
        return "image", image
    image.close()
    return "kept clone" if kept else "clone", found


def _kept(identity: Identity, point: Point, source: str) -> RawImage | None:
    """The source as it was when the point was made, where the clone tracker kept that."""
    known = Have(identity.replica_id.hex(), point.generation, point.seal)
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


def differing(
    stage: str, image: Image, block_map: BlockMap, seed: int, temporary: Callable[[], Image], *, workers: int,
    monitor: Monitor,
) -> list[Range]:  # fmt: skip
    """Where an image is not what a map says. Of another size: whole blocks that both have, and from the block in which
    one of them ends all that is left.
    """

    def against(want: BlockMap) -> list[Range]:
        monitor.begin(stage, want.image_size)
        return scan.differing(image, want, seed, workers=workers, monitor=monitor)

    held, size = block_map.image_size, image.size
    if size == held:
        return against(block_map)
    common = min(size, held) // block_map.block_size * block_map.block_size
    with block_map.copy_to(temporary(), block_map.path) as cut:
        cut.resize(common)
        found = against(cut)
    return scan.join([*found, Range(common, max(size, held) - common)])
