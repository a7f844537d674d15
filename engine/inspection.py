"""What a replica or an image is, without changing anything."""

from __future__ import annotations

import os

from secondsite.engine import errors
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.images import open_image
from secondsite.engine.replica import chain
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point
from secondsite.engine.results import ImageInfo, PointInfo, ReplicaInfo


def points(
    replica: str | os.PathLike[str], *, files: Files | None = None, warnings: list[str] | None = None
) -> list[PointInfo]:
    """Every point, oldest first; `damaged` from a look at sizes, headers and end markers, and from what the last
    `verify` found. Takes no lock, so it answers while a cycle runs.
    """
    opened = Replica.open(os.fspath(replica), files)
    found = opened.points()
    problems = opened.known_damage() | chain.damage(opened)
    listed = [_describe(opened, point, problems.get(point.generation)) for point in found]
    for generation, problem in opened.unreadable.items():
        listed.append(PointInfo(str(generation), generation, "", 0, 0, "", True, problem))
    if warnings is not None:
        warnings += opened.warnings
    return sorted(listed, key=lambda point: point.generation)


def _describe(replica: Replica, point: Point, problem: str | None) -> PointInfo:
    return PointInfo(
        point.name, point.generation, point.time, point.virtual_bytes, point.changed_bytes,
        _history(replica, point.generation), problem is not None, problem,
    )  # fmt: skip


def _history(replica: Replica, generation: int) -> str:
    if generation == replica.head_generation():
        return "head"
    return "clone" if replica.files.size(replica.layout.clone(generation)) >= 0 else "undo"


def info(path: str | os.PathLike[str], *, files: Files | None = None) -> ReplicaInfo | ImageInfo:
    """A replica's folder, or an image."""
    name, files = os.fspath(path), files or LocalFiles()
    if files.exists(name) and files.size(f"{name}/replica.json") < 0 and not files.listdir(f"{name}/points"):
        try:
            return image_info(name)
        except errors.Usage:
            raise errors.Refused("is neither a replica nor a disk image", path=name) from None
    return replica_info(Replica.open(name, files))


def replica_info(replica: Replica) -> ReplicaInfo:
    """What a replica says of itself."""
    found = replica.points()
    newest = found[-1] if found else None
    files, layout, identity = replica.files, replica.layout, replica.identity
    older = [_history(replica, point.generation) for point in found[:-1]]
    stored = sum(
        max(files.size(f"{folder}/{name}"), 0)
        for folder in (layout.root, layout.points)
        for name in files.listdir(folder)
        if name.endswith((".undo", ".json", ".map"))
    )
    return ReplicaInfo(
        kind="replica",
        head=os.path.abspath(layout.head) if newest else None,
        generation=newest.generation if newest else 0,
        epoch=identity.epoch,
        block_size=identity.block_size,
        virtual_bytes=newest.virtual_bytes if newest else 0,
        history=older[-1] if older else identity.history,
        replica_id=identity.replica_id.hex(),
        source=identity.source.partition(":")[2],
        points=len(found) + len(replica.unreadable),
        time=newest.time if newest else None,
        stored_bytes=stored,
        warnings=[*replica.warnings, *replica.unreadable.values()],
    )


def image_info(path: str) -> ImageInfo:
    """A disk image's format and sizes."""
    with open_image(path) as image:
        size = image.size
        allocated = sum(extent.length for extent in image.extents(0, size) if not extent.zero)
        return ImageInfo("image", path, "raw", size, allocated)
