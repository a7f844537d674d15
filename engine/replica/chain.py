"""From a point to the bytes that make it: its own clone or the head, seen through undo deltas."""

from __future__ import annotations

from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.layout import generations


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


class History:
    """The links between a replica's generations, from one look at its folder; undo headers are read once each."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        names = replica.files.listdir(replica.layout.points)
        self.head = replica.head_generation()
        self._undos = set(generations(names, "undo"))
        self._clones = set(generations(names, replica.layout.kind))
        self._bases: dict[int, int] = {}

    def above(self, generation: int) -> int | None:
        """The generation that this one's undo delta starts from; None where it has a whole image of its own."""
        if generation == self.head or generation in self._clones:
            return None
        if generation not in self._bases:
            self._bases[generation] = self._read(generation)
        return self._bases[generation]

    def _read(self, generation: int) -> int:
        path = self.replica.layout.undo(generation)
        if generation not in self._undos:
            raise errors.Damaged("the undo delta is missing", path=path)
        reader = self.replica.open_undo(generation)
        reader.close()
        base = reader.header.base_generation
        if base > self.head:
            raise errors.Damaged(f"it starts from generation {base}; the head is {self.head}", path=path, offset=40)
        return base

    def image(self, generation: int) -> tuple[str, str]:
        """Paths of the whole image of a generation that has one, and of its block map."""
        layout = self.replica.layout
        if generation == self.head:
            return layout.head, layout.head_map
        return layout.clone(generation), layout.clone_map(generation)

    def find(self, generation: int) -> Chain:
        """The chain of a generation. Raises Damaged where a link is missing or leads elsewhere."""
        undos: list[int] = []
        at = generation
        while (base := self.above(at)) is not None:
            undos.append(at)
            at = base
        return Chain(generation, tuple(undos), at, *self.image(at))


def find(replica: Replica, generation: int) -> Chain:
    """The chain of one generation; see History.find."""
    return History(replica).find(generation)


def damage(replica: Replica) -> dict[int, str]:
    """What a look at sizes, headers and end markers (not at every byte) finds wrong, by point.

    Each file is looked at once, from the head downwards, so thousands of points take a moment.
    """
    history = History(replica)
    found: dict[int, str] = {}
    for point in reversed(replica.points()):
        try:
            base = history.above(point.generation)
            if base is None:
                # A cycle may be changing the head's size at this moment; a clone stays what it is.
                plain = point.generation != history.head and replica.layout.kind == "raw"
                size = point.virtual_bytes if plain else None
                _look_image(replica, history.image(point.generation)[0], size=size)
            else:
                _look_undo(replica, point.generation)
                if base in found:
                    raise errors.Damaged(f"it needs point {base}, which is damaged: {found[base]}")
        except errors.Error as error:
            found[point.generation] = str(error)
    return found | replica.unreadable


def _look_image(replica: Replica, image: str, *, size: int | None) -> None:
    """The image alone: a map that is missing or damaged is made anew from it."""
    held = replica.files.size(image)
    if held < 0 or size not in (None, held):
        what = f"{held} bytes, {size} were expected" if held >= 0 else "the image is missing"
        raise errors.Damaged(what, path=image)


def _look_undo(replica: Replica, generation: int) -> None:
    reader = replica.open_undo(generation)
    try:
        reader.end()
    finally:
        reader.close()
