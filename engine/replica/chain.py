"""From a point to the bytes that make it: its own clone or the head, seen through undo deltas."""

from __future__ import annotations

from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.engine.replica.directory import Replica


@dataclass(frozen=True, slots=True)
class Chain:
    """`undos`: generations whose undo deltas apply, the point's own first, each winning over those after it.
    `base`: the generation whose whole image lies below them, in `base_path` with its map in `base_map`.
    """

    generation: int
    undos: tuple[int, ...]
    base: int
    base_path: str
    base_map: str


def find(replica: Replica, generation: int) -> Chain:
    """The chain of a generation. Reads headers only. Raises Damaged where a link is missing or leads elsewhere."""
    head = replica.head_generation()
    undos: list[int] = []
    at = generation
    while at != head:
        if replica.files.size(replica.layout.clone(at)) >= 0:
            paths = replica.layout.clone(at), replica.layout.clone_map(at)
            return Chain(generation, tuple(undos), at, *paths)
        if replica.files.size(replica.layout.undo(at)) < 0:
            raise errors.Damaged("the undo delta is missing", path=replica.layout.undo(at))
        reader = replica.open_undo(at)
        reader.close()
        undos.append(at)
        at = reader.header.base_generation
        if at > head:
            raise errors.Damaged(
                f"it starts from generation {at}; the head is {head}", path=reader.path, offset=40
            )
    return Chain(generation, tuple(undos), head, replica.layout.head, replica.layout.head_map)


def damage(replica: Replica) -> dict[int, str]:
    """What a look at sizes, headers and end markers (not at every byte) finds wrong, by point."""
    found: dict[int, str] = dict(replica.unreadable)
    checked: dict[int, str | None] = {}
    for point in replica.points():
        try:
            chain = find(replica, point.generation)
            for undo in chain.undos:
                if undo not in checked:
                    checked[undo] = _look(replica, undo)
                if (wrong := checked[undo]) is not None:
                    raise errors.Damaged(wrong)
            if replica.files.size(chain.base_path) < 0 or replica.files.size(chain.base_map) < 0:
                raise errors.Damaged("the image or its block map is missing", path=chain.base_path)
        except errors.Error as error:
            found[point.generation] = str(error)
    return found | replica.unreadable


def _look(replica: Replica, undo: int) -> str | None:
    try:
        reader = replica.open_undo(undo)
        try:
            reader.end()
        finally:
            reader.close()
    except errors.Error as error:
        return str(error)
    return None
