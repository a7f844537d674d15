"""A recovery point: one generation that can be restored, and the digest that seals its block map."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from secondsite.engine import errors
from secondsite.engine.replica import record


@dataclass(frozen=True, slots=True)
class Point:
    """What `points/<generation>.json` holds. `seal` is BlockMap.seal() as hexadecimal."""

    generation: int
    time: str
    virtual_bytes: int
    seal: str
    kind: str
    tracker: str
    read_bytes: int
    changed_bytes: int
    sent_bytes: int
    epoch: int
    replica_id: str

    @property
    def name(self) -> str:
        """How people call it: the generation's number."""
        return str(self.generation)

    def fields(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, fields: dict[str, Any], path: str, replica_id: str, generation: int) -> Point:
        """From a record's fields. Raises Damaged where they are not those of this replica and generation."""
        values = {}
        for name, kind in cls.__annotations__.items():
            values[name] = record.field(fields, name, {"int": int, "str": str}[str(kind)], path)
        point = cls(**values)
        if point.replica_id != replica_id or point.generation != generation:
            raise errors.Damaged("it describes another replica's point", path=path, offset=0)
        if len(point.seal) != 64 or not set(point.seal) <= set("0123456789abcdef"):
            raise errors.Damaged("its seal is not a SHA-256 digest", path=path, offset=0)
        parse_time(point.time, path)
        return point


def format_time(moment: datetime.datetime) -> str:
    """UTC, ISO 8601, to the microsecond: `2026-11-22T09:14:00.123456Z`."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str, path: str | None = None) -> datetime.datetime:
    """ISO 8601; without a zone it is UTC. Raises Usage, or Damaged where it was read from `path`."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        if path is not None:
            raise errors.Damaged(f"{text!r} is not a time", path=path, offset=0) from None
        raise errors.Usage(f"{text!r} is neither a point, `latest` nor a time (2026-11-22T09:14:00)") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def data_time(told: str | None, now: datetime.datetime, path: str) -> str:
    """The time of a point that is made `now`: that of its data where it is `told`, as of a point that goes on to a
    third site. A time that has not come yet by the clock here is now. Raises Damaged for none.
    """
    try:
        return format_time(now if told is None else min(parse_time(told, path), now))
    except OverflowError:  # of the year 1, in a zone that is ahead
        raise errors.Damaged(f"{told!r} is not a time", path=path) from None


class Named(Protocol):
    """What a point is called by."""

    @property
    def generation(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def time(self) -> str: ...


P = TypeVar("P", bound=Named)


def choose(points: list[P], at: str, path: str) -> P:
    """The point that `at` names: a generation, `latest`, or a time (the newest point not after it)."""
    if not points:
        raise none_yet(path)
    wanted = parse_name(at)
    if wanted is None:
        return points[-1]
    if isinstance(wanted, int):
        for point in points:
            if point.generation == wanted:
                return point
        raise none_called(at, points[0].name, points[-1].name, path)
    earlier = [point for point in points if parse_time(point.time) <= wanted]
    if not earlier:
        raise none_as_old(at, points[0].time, path)
    return max(earlier, key=lambda point: point.generation)


def parse_name(at: str) -> int | datetime.datetime | None:
    """How people call a point: by its generation, by a time, or `latest`, which is None. Raises Usage."""
    if at == "latest":
        return None
    if at.isascii() and at.isdigit() and len(at) < 19 and not _is_date(at):
        return int(at)
    return parse_time(at)


def none_yet(path: str) -> errors.Refused:
    return errors.Refused("there is no recovery point yet", path=path)


def none_called(at: str, first: str, last: str, path: str) -> errors.Refused:
    """There are the points from `first` to `last`, and not this one."""
    there = f"there are {first} to {last}" if first != last else f"the only one is {first}"
    return errors.Refused(f"no point {at}; {there}", path=path)


def none_as_old(at: str, oldest: str, path: str) -> errors.Refused:
    return errors.Refused(f"no point is as old as {at}; the oldest is of {oldest}", path=path)


def _is_date(text: str) -> bool:
    """ISO 8601's basic form of a date, 20261122, is all digits too."""
    if len(text) != 8 or text[0] == "0":
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True
