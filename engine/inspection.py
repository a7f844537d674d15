"""What a replica or an image is, without changing anything."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from secondsite.engine import errors
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.images import Image, is_blob, open_image
from secondsite.engine.images.formats import describe
from secondsite.engine.remote import reach, url
from secondsite.engine.replica import chain, comparison
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point
from secondsite.engine.results.listed import Finding, ImageInfo, MapExtent, PointInfo, ReplicaInfo
from secondsite.engine.seeding.waiting import Waiting
from secondsite.engine.source import place
from secondsite.engine.store.key import refuse_plain
from secondsite.engine.store.place import finding_logs, is_place
from secondsite.engine.trackers import clonefile
from secondsite.engine.units import format_size


@finding_logs
def points(
    replica: str | os.PathLike[str], *, files: Files | None = None, warnings: list[str] | None = None,
    state: str | os.PathLike[str] | None = None,
) -> list[PointInfo]:  # fmt: skip
    """Every point, oldest first; `damaged` from a look at sizes, headers and end markers, and from what the last
    `verify` found. It answers while a cycle runs; one that was cut short is taken back first.
    """
    if is_place(os.fspath(replica)):
        from secondsite.engine.store.log import calls

        return calls.points(os.fspath(replica), warnings, state)
    with reach.files_of(replica, files, state) as (root, files):
        return _points(Replica.open(root, files), warnings)


def _points(opened: Replica, warnings: list[str] | None) -> list[PointInfo]:
    _come_to_rest(opened)
    found = opened.points()
    if (begun := comparison.pending(opened)) is not None:
        opened.warn(f"{opened.layout.root}: {begun}: replicate --resync goes on, --resync-cancel drops it")
    problems = opened.known_damage() | chain.damage(opened)
    listed = [_describe(opened, point, problems.get(point.generation)) for point in found]
    listed += _waiting(opened)
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


def _waiting(replica: Replica) -> list[PointInfo]:
    """What is held for a seed, and the seed itself."""
    waits = Waiting.of(replica)
    if waits is None:
        return []
    kept = [(waits.seed, "seed"), *((point, "held") for point in waits.held())]
    return [
        PointInfo(point.name, point.generation, point.time, point.virtual_bytes, point.changed_bytes, how, False)
        for point, how in kept
    ]


def _history(replica: Replica, generation: int) -> str:
    if generation == replica.head_generation():
        return "head"
    return "clone" if replica.files.size(replica.layout.clone(generation)) >= 0 else "undo"


@finding_logs
def info(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    allow_parent_path: Sequence[str] = (),
    files: Files | None = None,
    state: str | os.PathLike[str] | None = None,
) -> ReplicaInfo | ImageInfo:
    """A replica's folder or URL, or an image (`format` where its name and bytes do not agree)."""
    if is_blob(path):
        return image_info(os.fspath(path), format=format, allow_parent_path=())
    if is_place(os.fspath(path)):
        from secondsite.engine.store.log import calls

        return calls.info(os.fspath(path), state)
    if url.is_remote(os.fspath(path)):
        with reach.files_of(path, files, state) as (root, found):
            return replica_info(Replica.open(root, found))
    name, files = os.fspath(path), files or LocalFiles()
    if files.exists(name) and files.size(f"{name}/replica.json") < 0 and not files.listdir(f"{name}/points"):
        try:
            return image_info(name, format=format, allow_parent_path=allow_parent_path)
        except errors.Usage as error:
            if "directory" not in error.message:
                raise
            raise errors.Refused("is neither a replica nor a disk image", path=name) from None
    refuse_plain(name)
    return replica_info(Replica.open(name, files))


def _come_to_rest(replica: Replica) -> None:
    """Take back what a crash left, since the head is between two points until then; where that cannot be, say so."""
    if not replica.interrupted():
        return
    try:
        with replica.reading():
            return
    except errors.Busy:
        replica.warn(f"{replica.layout.root}: a cycle is being applied; its head is between two points meanwhile")
    except errors.Error as error:
        replica.warn(
            f"{replica.layout.head}: a cycle was cut short and the head is between two points; "
            f"it could not be taken back ({error})"
        )


def replica_info(replica: Replica) -> ReplicaInfo:
    """What a replica says of itself."""
    _come_to_rest(replica)
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
    clones, waits, begun = _clones(identity), Waiting.of(replica), comparison.pending(replica)
    required = newest is not None and newest.generation in replica.known_damage()
    return ReplicaInfo(
        kind="replica",
        head=_whole(layout.head) if newest else None,
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
        clones=clones,
        clone_bytes=sum(map(clonefile.alone, clones)),
        waits=waits is not None,
        held=len(waits.generations()) if waits else 0,
        held_bytes=waits.bytes() if waits else 0,
        resync="pending" if begun is not None else "required" if required else None,
        compared=begun.fraction if begun is not None else None,
    )


def _whole(path: str) -> str:
    return path if url.is_remote(path) else os.path.abspath(path)


def _clones(identity: Identity) -> list[str]:
    """Clones of the source that the clone tracker keeps for this replica; none where it lies elsewhere."""
    path = identity.source.partition(":")[2]
    if identity.source != place(path):
        return []
    return clonefile.Spot.of(path, identity.replica_id.hex()).kept()


def _clone_notes(image: Image) -> list[str]:
    if image.stamps() is None:
        return []
    told = "that only it holds; remove it where its replica is gone"
    return [
        f"kept clone {path}: {format_size(clonefile.alone(path))} {told}"
        for path in clonefile.kept_of_all(image.path)
    ]


def image_info(
    path: str | os.PathLike[str], *, format: str | None = None, allow_parent_path: Sequence[str] = ()
) -> ImageInfo:
    """A disk image's format, sizes, parents and the state of its log."""
    with open_image(path, format=format, allow_parent_path=allow_parent_path) as image:
        facts = describe(image)
        return ImageInfo(
            "image", os.fspath(path), facts.format, facts.subformat, facts.virtual_bytes, facts.allocated_bytes,
            facts.block_size, facts.logical_sector, facts.log,
            [(parent.path, parent.identifier) for parent in facts.parents], dict(facts.identifiers),
            [*facts.notes, *_clone_notes(image)],
        )  # fmt: skip


def image_map(
    path: str | os.PathLike[str], *, format: str | None = None, allow_parent_path: Sequence[str] = (),
    state: str | os.PathLike[str] | None = None,
) -> Iterator[MapExtent]:  # fmt: skip
    """The disk as runs of data and zeros, and how deep in the chain of parents the data lies. Of a replica on
    another host or in a store it is its newest point's.
    """
    name = os.fspath(path)
    with _disk(name, format, allow_parent_path, state) as image:
        depths = {fd: depth for depth, fds in enumerate(image.descriptors()) for fd in fds}
        last: MapExtent | None = None
        for start, length, zero, depth in _runs(image, depths):
            if last is not None and (last.zero, last.depth) == (zero, depth):
                last = MapExtent(last.start, last.length + length, not zero, zero, depth)
                continue
            if last is not None:
                yield last
            last = MapExtent(start, length, not zero, zero, depth)
        if last is not None:
            yield last


@finding_logs
def _disk(
    name: str, format: str | None, allow_parent_path: Sequence[str], state: str | os.PathLike[str] | None
) -> AbstractContextManager[Image]:
    """An image, or the newest point of a replica elsewhere."""
    if is_place(name):
        from secondsite.engine.store.log import calls

        return calls.open_point(name, "latest", state)
    if url.is_remote(name):
        return reach.far_point(name, state)
    return open_image(name, format=format, allow_parent_path=allow_parent_path)


# A piece of a map is looked at in one call; a fragmented disk has 20 bytes for each of its pieces meanwhile.
_MAP_BYTES = 256 << 20


def _runs(image: Image, depths: dict[int, int]) -> Iterator[tuple[int, int, bool, int]]:
    for extent in image.extents(0, image.size):
        if extent.zero or len(depths) < 2:
            yield extent.start, extent.length, extent.zero, 0
            continue
        at, end = extent.start, extent.start + extent.length
        while at < end:
            found = image.segments(at, min(_MAP_BYTES, end - at))
            if found is None:
                yield at, end - at, False, 0
                break
            for fd, length in zip(found.fds, found.lengths, strict=True):
                yield at, length, fd < 0, depths.get(fd, 0) if fd >= 0 else 0
                at += length


def check_image(
    path: str | os.PathLike[str], *, format: str | None = None, allow_parent_path: Sequence[str] = ()
) -> list[Finding]:
    """Look at every structure of an image; what is wrong or odd. A file that cannot be opened raises, as elsewhere."""
    with open_image(path, format=format, allow_parent_path=allow_parent_path) as image:
        facts = describe(image)
        if facts.format == "vhdx":
            from secondsite.engine.images.vhdx import VhdxImage

            assert isinstance(image, VhdxImage)
            return [Finding(f.path, f.text, f.damaged, f.offset) for f in image.check()]
        found = [Finding(image.path, note, False) for note in facts.notes]
        try:
            for extent in image.extents(0, image.size):
                if not extent.zero:
                    image.segments(extent.start, extent.length)
        except errors.Damaged as error:
            found.append(Finding(error.path or image.path, error.bare, True, error.offset))
        return found
