"""What becomes of a machine's points when its tripwire trips (M15): the last good ones are pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
from sqlalchemy import Connection, select, update

from secondsite.engine import errors
from secondsite.orchestration.health.tripwire import Seen, Tripwire
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.vault import audit, schema
from secondsite.orchestration.vault.database import Database

# So many, and the newest application-consistent one: the first cycle that saw it may have seen it late.
PINNED = 3
# What the reason of such a pin begins with.
TRIPWIRE = "tripwire: "
_ITEM, _POINT = schema.item, schema.point


@dataclass(frozen=True)
class Alarm:
    """Which points of an item are pinned, and why (None: it did not trip)."""

    item: Held
    who: str
    at: float
    why: str | None = None
    points: Sequence[int] = ()

    def pinned(self, held: Sequence[Made]) -> list[Made]:
        """The points as they are then, for the decision which ones go."""
        return [replace(one, pinned=one.pinned or self.why) if one.number in self.points else one for one in held]

    def write(self, connection: Connection) -> None:
        """In the transaction of the cycle that saw it."""
        if self.why is None:
            return
        chosen = update(_POINT).where(_POINT.c.item == self.item.id, _POINT.c.number.in_(self.points))
        connection.execute(chosen.where(_POINT.c.pinned.is_(None)).values(pinned=self.why))
        audit.note(connection, "tripwire", self.item.machine, who=self.who, at=self.at, detail=self.why)


def alarm(item: Held, now: Tripwire, held: Sequence[Made], made: Made, who: str, at: float) -> Alarm:
    """`made` is the point of the cycle that led to `now`, `held` are those before. Good are those of before it saw
    anything.
    """
    if now.tripped is None or item.tripwire.tripped is not None:
        return Alarm(item, who, at)
    good = [one for one in held if made.number - one.number >= now.tainted and one.direction == made.direction]
    chosen = {one.number for one in good[-PINNED:]}
    chosen |= {one.number for one in [one for one in good if one.application][-1:]}
    words = now.words if chosen else f"{now.words}; no point from before that is left"
    return Alarm(item, who, at, f"{TRIPWIRE}{words}", sorted(chosen))


def waiting(now: Tripwire, held: Sequence[Made], made: Made) -> set[int]:
    """The newest point of before something that may yet trip it: it does not go meanwhile, whatever the rules say."""
    since = now.uneasy
    return {one.number for one in [one for one in held if since and made.number - one.number >= since][-1:]}


def spared(now: Tripwire, held: Sequence[Made]) -> dict[int, int]:
    """Points that wait so behind the newest of `held`, and for how many more cycles if nothing else unsettles it."""
    found, cycles = waiting(now, held[:-1], held[-1]), 0
    while found and now.uneasy:
        now, cycles = now.after(Seen(0, 0), 0, 0.0), cycles + 1
    return dict.fromkeys(found, cycles)


def acknowledge(database: Database, machine: str) -> Tripwire:
    """A person looked: the tripwire watches on, and the points that it pinned are as all others. What it was. Raises
    Refused where it has not tripped.
    """
    with database.alone() as connection:
        found = connection.execute(select(_ITEM.c.id, _ITEM.c.tripwire).where(_ITEM.c.machine == machine)).first()
        if found is None:
            raise errors.Refused(f"no machine {machine!r} is protected")
        before = Tripwire.read(found.tripwire or {})
        if before.tripped is None:
            raise errors.Refused(f"M15: the tripwire of {machine!r} has not tripped")
        after = msgspec.to_builtins(before.acknowledged())
        connection.execute(update(_ITEM).where(_ITEM.c.id == found.id).values(tripwire=after))
        pinned = update(_POINT).where(_POINT.c.item == found.id, _POINT.c.pinned.startswith(TRIPWIRE))
        connection.execute(pinned.values(pinned=None))
        return before
