"""The point of a machine that an operator means."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from secondsite.engine import errors
from secondsite.orchestration.protection.item import Made


def chosen(points: Sequence[Made], at: str | int | None) -> Made | None:
    """The point that is meant: a number, `latest`, `application` (the newest consistent one), or a time, which means
    the newest point that is not after it. None where there is none at all. Raises Refused, Usage.
    """
    if not points or at in (None, "latest"):
        return points[-1] if points else None
    if at == "application":
        found = [one for one in points if one.application]
    elif isinstance(at, int) or (at.isascii() and at.isdigit()):
        found = [one for one in points if one.number == int(at)]
    else:
        moment = _moment(str(at))
        found = [one for one in points if datetime.datetime.fromisoformat(one.time) <= moment]
    if not found:
        raise errors.Refused(f"there is no point {at}; `secondsite retention` lists them")
    return found[-1]


def _moment(text: str) -> datetime.datetime:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise errors.Usage(f"{text!r} is no number of a point, no time, and neither latest nor application") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)
