"""How fast a transfer may go, as an operator says it: a rate, a calendar, or a file with a calendar that may change."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.remote.link import schedule

log = logging.getLogger("secondsite.pace")

# How soon a change of the file counts.
LOOK_SECONDS = 0.5
MAX_BYTES = 64 * 1024


def read(path: str) -> list[schedule.Rule]:
    """The rules in a file: as schedule.parse has them, on one line or several; `#` begins a comment. Raises Usage."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise errors.from_os(error, path, "read the calendar") from None
    if len(data) > MAX_BYTES:
        raise errors.Usage("is too long for a calendar", path=path)
    lines = data.decode("utf-8", "replace").splitlines()
    try:
        return schedule.parse(";".join(line.partition("#")[0] for line in lines))
    except errors.Usage as error:
        raise errors.Usage(error.message, path=path) from None


class FollowedFile(schedule.Throttle):
    """A bucket whose rules are a file's. One that cannot be read any more leaves the rules as they were."""

    def __init__(self, path: str, limit: int | None = None) -> None:
        self._path, self._looked, self._stamp = path, 0.0, self._look(path)
        super().__init__(limit, read(path))

    @staticmethod
    def _look(path: str) -> tuple[int, int, int] | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    @property
    def rate(self) -> int | None:
        """As the file says now."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            stamp = self._look(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._read()
        return super().rate

    def _read(self) -> None:
        try:
            self.rules = read(self._path)
        except errors.Error as error:
            log.warning("the calendar stays as it was: %s", error)


def throttle(limit: int | None, calendar: str | None) -> schedule.Throttle | None:
    """Of a rate in bytes a second and a calendar: its rules, or `@FILE`. Raises Usage, Unreachable."""
    if limit is not None and limit < 1:
        raise errors.Usage("the limit must be at least one byte a second")
    if calendar is None:
        return schedule.Throttle(limit) if limit is not None else None
    if calendar.startswith("@"):
        return FollowedFile(calendar[1:], limit)
    return schedule.Throttle(limit, schedule.parse(calendar))
