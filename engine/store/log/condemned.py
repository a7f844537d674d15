"""Objects that nothing names any more, and since when: the head names lists of them (../FORMAT.md, section 8)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from secondsite.engine import errors, units
from secondsite.engine.replica import record
from secondsite.engine.replica.layout import MAX_GENERATION
from secondsite.engine.store.base import Store
from secondsite.engine.store.log import layout, named, rows

FOLDER = "condemned/"
# 100 bytes an object in two lines: 400 KB.
LIST_OBJECTS = 4096
MAX_LISTS = 1024
# A list is written anew for so long, and while it is no longer than so many times what is new: a cycle a second that
# drops a point begins one a minute and not sixty, and does not put what hundreds before it condemned.
_OPEN_SECONDS = 600
_JOINED = 64
_KINDS = (str, int, int, int, int, int)
_NAME = re.compile(r"(segments|maps|points|catalogue|condemned|clock)/[0-9a-z./-]{6,80}")


@dataclass(frozen=True, slots=True)
class Condemned:
    """A list as the head has it: of `count` objects with `bytes`, none made for a generation before `born`. By the
    store's clock it was begun at `opened`, and nothing names them `since` then, or 0: since some later time.
    """

    digest: str
    born: int
    count: int
    bytes: int
    opened: int
    since: int

    @property
    def name(self) -> str:
        return f"{FOLDER}{self.digest}.json"

    def timed(self, moved: float) -> Condemned:
        """With the time at which a head that named it was put, where it has none."""
        return self if self.since else replace(self, since=max(math.floor(moved), 1))


def pack(lists: tuple[Condemned, ...]) -> list[list[Any]]:
    """As the head has them."""
    return [[one.digest, one.born, one.count, one.bytes, one.opened, one.since] for one in lists]


def parse(said: list[Any], path: str) -> tuple[Condemned, ...]:
    """Raises Damaged for what makes no sense."""
    if len(said) > MAX_LISTS:
        raise errors.Damaged(f"it names more than {MAX_LISTS} lists of condemned objects", path=path)
    return tuple(_parsed(one, path) for one in said)


def _parsed(said: Any, path: str) -> Condemned:
    one = Condemned(*rows.fields(said, _KINDS, "a list of condemned objects", path))
    numbers = (one.born, one.count, one.bytes, one.opened, one.since)
    if min(numbers) < 0 or max(numbers) > units.MAX_NUMBER or not named.DIGEST.fullmatch(one.digest):
        raise errors.Damaged("a list of condemned objects in it makes no sense", path=path)
    return one


def more(
    store: Store, replica_id: str, lists: tuple[Condemned, ...], objects: dict[str, int], now: int
) -> tuple[Condemned, ...]:
    """The lists with these objects too, by name with their sizes: one that was begun just now is written anew."""
    if not objects:
        return lists
    opened = now
    most = min(LIST_OBJECTS, _JOINED * len(objects))
    if lists and lists[-1].count + len(objects) < most and abs(now - lists[-1].opened) <= _OPEN_SECONDS:
        try:
            objects = {**load(store, replica_id, lists[-1]), lists[-1].name: 0, **objects}
        except errors.NewerFormat:
            raise
        except errors.Damaged:
            pass
        else:
            opened, lists = lists[-1].opened, lists[:-1]
    items = sorted(objects.items())
    parts = [dict(items[at : at + LIST_OBJECTS]) for at in range(0, len(items), LIST_OBJECTS)]
    if len(lists) + len(parts) > MAX_LISTS:
        raise errors.Refused("too much is condemned and not removed yet", path=store.label)
    return (*lists, *(_save(store, replica_id, part, opened) for part in parts))


def _save(store: Store, replica_id: str, objects: dict[str, int], opened: int) -> Condemned:
    said = {"replica_id": replica_id, "objects": [[name, size] for name, size in objects.items()]}
    digest = named.save(store, lambda digest: f"{FOLDER}{digest}.json", said)
    born = min(_born(name) for name in objects)
    return Condemned(digest, born, len(objects), sum(objects.values()), opened, 0)


def _born(name: str) -> int:
    """The generation that an object was made for. Of what no reader needs for long: one that nobody reads."""
    kind, _, rest = name.partition("/")
    return int(rest[:12]) if kind in (layout.SEGMENTS, layout.MAPS, layout.POINTS) else MAX_GENERATION


def load(store: Store, replica_id: str, one: Condemned) -> dict[str, int]:
    """Its objects by name, with their sizes. Raises Damaged, where it is missing too, and NewerFormat."""
    path = store.path(one.name)
    fields = named.load(store, one.name, one.digest, "the list of condemned objects")
    said = record.field(fields, "objects", list, path)
    if record.field(fields, "replica_id", str, path) != replica_id or len(said) > LIST_OBJECTS:
        raise errors.Damaged("it is no list of this replica's objects", path=path)
    found = dict(rows.fields(each, (str, int), "an object", path) for each in said)
    if not all(_NAME.fullmatch(name) for name in found):
        raise errors.Damaged("it names what is no object of a replica", path=path)
    return found
