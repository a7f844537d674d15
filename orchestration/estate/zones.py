"""The time zone of a host: what is said in local time (R5.2, R7.3) counts there. All else is UTC (D13, P25)."""

from __future__ import annotations

import datetime
import os
import zoneinfo
from functools import cache
from pathlib import Path

from secondsite.orchestration.estate.model import Host

_LOCAL = Path("/etc/localtime")


def of(host: Host | None) -> datetime.tzinfo:
    """A host that names none has that of this machine. Raises ValueError where there is no such zone."""
    return named(host.zone) if host is not None and host.zone is not None else here()


def named(name: str) -> datetime.tzinfo:
    """Raises ValueError."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error


def here() -> datetime.tzinfo:
    """With its rules, not only with its offset of today: both edges of summer time count."""
    return _local(os.environ.get("TZ", "").removeprefix(":"))


@cache
def _local(name: str) -> datetime.tzinfo:
    """Read once: a thousand machines are asked about at once."""
    try:
        if name:
            return named(name)
        with _LOCAL.open("rb") as file:
            return zoneinfo.ZoneInfo.from_file(file, "local")
    except (ValueError, OSError):
        return datetime.UTC


def moment(told: datetime.datetime, zone: datetime.tzinfo) -> float:
    """UTC seconds of a time that may say nothing of its zone."""
    return (told if told.tzinfo is not None else told.replace(tzinfo=zone)).timestamp()
