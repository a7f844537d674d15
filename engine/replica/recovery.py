"""After a crash: finish what was committed, take back what was not. The head is then generation N or N+1.

The commit of a cycle is the rename of its point's record into `points/`. Before it an undo delta that no newer
record follows leads back to N; after it a `next-…` head is put in its place. Every step may be repeated.
"""

from __future__ import annotations

from secondsite.engine import errors, kernel
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta.reader import DeltaReader, Frame
from secondsite.engine.images import Image
from secondsite.engine.replica.container import create_container
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.layout import generations, newest, next_generation
from secondsite.engine.replica.point import Point
from secondsite.engine.workers import default_workers


def recover(replica: Replica, *, force: bool = False) -> None:
    """Bring a replica to rest; the caller holds it as the writer.

    Raises Damaged where the way back is damaged; nothing is changed then. `force` goes back as far as it can (the
    caller compares everything afterwards), and the points behind the damage show that they do not restore.
    """
    files, layout = replica.files, replica.layout
    names: list[str] | None = files.listdir(layout.points)
    head, undone = newest(names or [], "json"), newest(names or [], "undo")
    for name in files.listdir(layout.root):
        generation = next_generation(name)
        if generation is not None and generation > head:
            files.unlink(f"{layout.root}/{name}")
    if files.size(layout.next_head(head)) >= 0 or files.size(layout.next_map(head)) >= 0:
        promote(replica, head)
        names = None
    if head and undone == head:
        roll_back(replica, head, force=force)
        names = None
    # Of thousands of points one look at their names is enough where they are at rest.
    _sweep(replica, files.listdir(layout.points) if names is None else names)


def promote(replica: Replica, generation: int) -> None:
    """Put a committed next head in place of the old one, which stays as the point before it."""
    files, layout = replica.files, replica.layout
    names = files.listdir(layout.points)
    if files.size(layout.next_head(generation)) >= 0:
        older = [g for g in generations(names, "json") if g < generation]
        if older:
            files.link(layout.head, layout.clone(older[-1]))
            files.link(layout.head_map, layout.clone_map(older[-1]))
            files.flush_dir(layout.points)
        files.replace(layout.next_head(generation), layout.head)
    if files.size(layout.next_map(generation)) >= 0:
        files.replace(layout.next_map(generation), layout.head_map)
    files.flush_dir(layout.root)


def roll_back(replica: Replica, generation: int, *, force: bool) -> None:
    """Undo a cycle that was not committed: write the old contents back, prove it, drop the undo delta."""
    point = replica.point(generation)
    path = replica.layout.undo(generation)
    with _open_head(replica, point, force=force) as head:
        block_map = _open_map(replica, point, force=force)
        try:
            complaint = _apply(replica, point, head, block_map, force=force)
            if complaint and not force:
                raise errors.Damaged(
                    f"{complaint}; the unfinished cycle cannot be taken back "
                    "(replicate --resync compares everything and goes forward)",
                    path=path,
                )
            head.flush()
            block_map.file.flush()
        finally:
            block_map.close()
    if complaint:
        replica.warn(f"{path}: {complaint}; going forward, older points will not restore whole")
    replica.files.unlink(path)
    replica.files.flush_dir(replica.layout.points)


def _open_head(replica: Replica, point: Point, *, force: bool) -> Image:
    """The head; `force` begins with an empty one where it is gone, for what the undo delta still has of it."""
    path = replica.layout.head
    if force and replica.files.size(path) < 0:
        return create_container(replica.files, path, point.virtual_bytes, replica.layout.kind)
    return replica.open_head("rw")


def _open_map(replica: Replica, point: Point, *, force: bool) -> BlockMap:
    """The head's map as the crash left it; `force` puts an empty one in the place of one that cannot be read."""
    path = replica.layout.head_map
    try:
        return replica.open_map(path, "rw", unchecked=True)
    except errors.Damaged:
        if not force:
            raise
        identity, file = replica.identity, replica.files.open(path, "create")
        return BlockMap.create(file, path, identity.replica_id, identity.block_size, point.virtual_bytes)


def _apply(replica: Replica, point: Point, head: Image, block_map: BlockMap, *, force: bool) -> str | None:
    """Write back what the undo delta holds; what is wrong with the result, or None where it is proved right."""
    try:
        reader = replica.open_undo(point.generation)
    except errors.NewerFormat:
        raise
    except errors.Damaged as error:
        # A cycle that died before its first durable byte has not touched the head: the proof below shows it.
        return _prove(replica, point, head, block_map, error.message)
    try:
        if reader.header.target_size != point.virtual_bytes:
            wrong = f"it leads to {reader.header.target_size} bytes, {point.virtual_bytes} were expected"
            return _prove(replica, point, head, block_map, wrong)
        # Between the two: a power loss can take a part of what a resize and the writes after it did.
        least, most = sorted((reader.header.base_size, reader.header.target_size))
        if not least <= head.size <= most and not force:
            return _prove(replica, point, head, block_map, "it is intact")
        head.resize(point.virtual_bytes)
        block_map.resize(point.virtual_bytes)
        _write_back(reader, head, block_map)
        return _prove(replica, point, head, block_map, "what it holds was written back")
    except errors.Damaged as error:
        if error.path != reader.path:
            raise
        return _prove(replica, point, head, block_map, error.message)
    finally:
        reader.close()


def _write_back(reader: DeltaReader, head: Image, block_map: BlockMap) -> None:
    decoder = kernel.codec.Decoder()
    size, block_size = reader.header.target_size, reader.header.block_size
    for frame in reader.written():
        for start, count in zip(frame.runs[0::2], frame.runs[1::2], strict=True):
            head.zero(start * block_size, min(count * block_size, size - start * block_size))
        if frame.blocks:
            head.write_blocks(
                frame.blocks, frame.lengths, len(frame.blocks), block_size, size, frame.decode(decoder)
            )
        store_frame(block_map, frame)


def store_frame(block_map: BlockMap, frame: Frame) -> None:
    """Set a map's entries to what a frame says of its blocks."""
    if frame.blocks:
        block_map.store(frame.blocks, frame.hashes, len(frame.blocks))
    for start, count in zip(frame.runs[0::2], frame.runs[1::2], strict=True):
        block_map.clear(start, count)


def _prove(replica: Replica, point: Point, head: Image, block_map: BlockMap, state: str) -> str | None:
    """The map must have the point's seal, and the head must be what the map says. What is wrong, after `state`, or
    None. An open end is what a crash leaves of an undo delta, but a delta that was cut looks the same: the head tells.
    """
    from secondsite.engine import scan

    block_map.trust()
    if head.size != point.virtual_bytes or block_map.image_size != point.virtual_bytes:
        return f"{state}, and the head has {head.size} bytes, {point.virtual_bytes} were expected"
    if block_map.seal().hex() != point.seal:
        return f"{state}, and the block map does not have the seal of point {point.name}"
    bad = scan.differing(head, block_map, replica.identity.seed, workers=default_workers())
    return f"{state}, and the head differs from its block map at byte {bad[0].offset}" if bad else None


def _sweep(replica: Replica, names: list[str]) -> None:
    """Remove what nobody names: temporary files, and the content of points that were dropped. `names` of `points/`."""
    files, layout = replica.files, replica.layout
    for folder, found in ((layout.root, files.listdir(layout.root)), (layout.points, names)):
        for name in found:
            if name.endswith((".tmp", ".merge")):
                files.unlink(f"{folder}/{name}")
    _sweep_points(replica, names)


def _sweep_points(replica: Replica, names: list[str]) -> None:
    """What a crash left of dropped points: contents without a record that no listed point leads through."""
    files, layout = replica.files, replica.layout
    recorded = set(generations(names, "json"))
    held = {kind: generations(names, kind) for kind in ("undo", layout.kind, "map")}
    orphans = {generation for found in held.values() for generation in found} - recorded
    orphans = {generation for generation in orphans if recorded and generation < max(recorded)}
    if not orphans:
        return
    needed = set(recorded)
    for generation in held["undo"]:  # ascending, and each starts from a newer one
        if generation in needed:
            try:
                reader = replica.open_undo(generation)
            except errors.Error:
                return  # where it leads is not known: rather keep too much
            needed.add(reader.header.base_generation)
            reader.close()
    for kind, path in (("undo", layout.undo), (layout.kind, layout.clone), ("map", layout.clone_map)):
        for generation in held[kind]:
            if generation in orphans - needed:
                files.unlink(path(generation))
