"""Drop recovery points. What stays restores the same bytes: an undo delta in the middle is merged into the older one.

Every step leaves a replica in which each listed point restores; a crash in between leaves one point more.
"""

from __future__ import annotations

from contextlib import closing, suppress

from secondsite.engine import errors
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.merge import merge
from secondsite.engine.delta.reader import DeltaReader
from secondsite.engine.replica import chain, claims
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.layout import generations
from secondsite.engine.replica.lease import lowest


def keep_newest(replica: Replica, keep: int) -> int:
    """Drop all but the newest `keep` points; how many went. The caller holds the replica as the writer."""
    listed = generations(replica.files.listdir(replica.layout.points), "json")
    unwanted = listed[:-keep] if keep < len(listed) else []
    needed = lowest(replica.layout.root) if unwanted else None
    if needed is not None and unwanted[-1] >= needed:
        replica.warn(f"points from {needed} on are being served, and stay until that ends")
        unwanted = [generation for generation in unwanted if generation < needed]
    return drop(replica, _unclaimed(replica, unwanted))


def _unclaimed(replica: Replica, unwanted: list[int]) -> list[int]:
    """Without those that overlays stand on, and the clones through which these lead."""
    held = claims.claimed(replica) if unwanted else {}
    stays = {generation for generation in unwanted if generation in held or 0 in held}
    for generation in sorted(stays):
        replica.warn(f"point {generation} stays: an overlay stands on it ({held.get(generation) or held[0]})")
        with suppress(errors.Damaged):
            stays.add(chain.find(replica, generation).base)
    return [generation for generation in unwanted if generation not in stays]


def drop(replica: Replica, unwanted: list[int]) -> int:
    """Drop these generations' points, oldest first; how many went. The newest cannot be dropped (Refused).

    A point that an older one needs is merged into it. Raises Damaged where a delta to merge is damaged: then that
    point and those after it stay. Refused where an older point leads through an unwanted one that is a clone; then
    all of them stay; and for a point that an overlay stands on.
    """
    if not unwanted:
        return 0
    needed = lowest(replica.layout.root)
    if needed is not None and max(unwanted) >= needed:
        raise errors.Refused(f"points from {needed} on are being served", path=replica.layout.root)
    claims.refuse(replica, unwanted)
    for generation in unwanted:
        try:
            replica.point(generation)
        except errors.NewerFormat:
            raise
        except errors.Damaged:
            continue  # what cannot be read may go, what a later version wrote may not
    if replica.head_generation() in unwanted:
        raise errors.Refused("the newest point is the head and stays", path=replica.layout.root)
    bases = _bases(replica, max(unwanted))
    _refuse_clones(replica, dict(bases), sorted(unwanted))
    for generation in sorted(unwanted):
        for older in sorted(g for g, base in bases.items() if base == generation):
            bases[older] = _merge(replica, generation, older)
        bases.pop(generation, None)
        _forget(replica, generation)
    return len(unwanted)


def _bases(replica: Replica, last: int) -> dict[int, int]:
    """For each generation up to `last` with an undo delta, the one that it starts from.

    An undo delta starts from a newer generation, so those behind `last` lead through nothing that goes: of thousands of
    points the one that becomes too old is looked at alone.
    """
    found = {}
    for generation in generations(replica.files.listdir(replica.layout.points), "undo"):
        if generation > last:
            break
        try:
            reader = replica.open_undo(generation)
        except errors.Damaged:
            continue  # it leads nowhere, so nothing can be merged into it
        found[generation] = reader.header.base_generation
        reader.close()
    return found


def _refuse_clones(replica: Replica, bases: dict[int, int], unwanted: list[int]) -> None:
    """All or nothing: a clone holds no delta that an older point's could be merged with. Raises Refused."""
    for generation in unwanted:
        above = bases.pop(generation, None)
        for older in [g for g, base in bases.items() if base == generation]:
            if above is None and replica.files.size(replica.layout.undo(generation)) < 0:
                raise errors.Refused(
                    f"point {older} leads through the clone of point {generation}; drop {older} first",
                    path=replica.layout.root,
                )
            bases[older] = above or generation


def _merge(replica: Replica, dropped: int, older: int) -> int:
    """Make the older point's undo delta start where the dropped point's does; that generation."""
    files, layout = replica.files, replica.layout
    temporary = layout.undo(older) + ".merge"
    try:
        with (
            closing(replica.open_undo(dropped)) as first,
            closing(replica.open_undo(older)) as second,
            files.open(temporary, "create") as output,
        ):
            header = merge(first, second, output, _codec_of(second))
        files.replace(temporary, layout.undo(older))
    except errors.Error:
        # Where there was no room for it, half of it must not take the room that there was.
        with suppress(errors.Error):
            files.unlink(temporary)
        raise
    files.flush_dir(layout.points)
    return header.base_generation


def _codec_of(reader: DeltaReader) -> tuple[int, int]:
    """The codec of a delta's first data frame, at its fastest level: blocks packed anew stay of one kind."""
    for frame in reader.tables():
        if frame.head.kind == fmt.DATA and frame.head.codec != fmt.NONE:
            return frame.head.codec, 1
    return fmt.LZ4, 1


def _forget(replica: Replica, generation: int) -> None:
    """Remove a point that nothing needs: its record first, so that it is never listed without its contents."""
    files, layout = replica.files, replica.layout
    files.unlink(layout.record(generation))
    files.flush_dir(layout.points)
    for path in (layout.undo(generation), layout.clone(generation), layout.clone_map(generation)):
        files.unlink(path)
    files.flush_dir(layout.points)
