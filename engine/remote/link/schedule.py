"""How fast a transfer may go, and when: one rate, or a calendar of them (R12.15), both changeable while it runs.

A calendar is written as rules, the first that holds now counts, and without one nothing is limited:

    mon-fri 08:00-18:00 10M; sat,sun 50M; 22:00-06:00 none; 12:00-13:00 0

A rule has days (or none for all of them), hours (or none for all of them; over midnight they belong to the day on which
they begin) and a rate in bytes a second: `none` for no limit, `0` to wait until another rule holds.
"""

from __future__ import annotations

import datetime
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from secondsite.engine import errors, units

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)", re.ASCII)
_MINUTES = 24 * 60
MAX_RULES = 100
# A bucket holds a quarter of a second (P17); a change is noticed within the second number.
_BURST_SECONDS = 0.25
_LOOK_SECONDS = 0.1
# A wait so short that a clock does not see it would never end.
_TICK_SECONDS = 0.001
_MAX_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rule:
    """`days` of 0 to 6 from Monday, minutes of the day from `start` to `end`, and a rate; None is no limit."""

    days: frozenset[int]
    start: int
    end: int
    rate: int | None

    def holds(self, day: int, minute: int) -> bool:
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)


def parse(text: str) -> list[Rule]:
    """Raises Usage, naming the rule."""
    rules = [_rule(part.strip()) for part in text.split(";") if part.strip()]
    if not rules or len(rules) > MAX_RULES:
        raise errors.Usage(f"a calendar has 1 to {MAX_RULES} rules, not {len(rules)}")
    return rules


def _rule(text: str) -> Rule:
    words = text.lower().split()
    days, start, end = frozenset(range(7)), 0, _MINUTES
    try:
        rate = _rate(words.pop())
        if words and not words[0][0].isdigit():
            days = _days(words.pop(0))
        if words:
            start, end = _hours(words.pop(0))
    except (ValueError, errors.Usage):
        words = [text]
    if words:
        raise errors.Usage(f"{text!r} is no rule of a calendar; one is `mon-fri 08:00-18:00 10M`")
    return Rule(days, start, end, rate)


def _rate(word: str) -> int | None:
    if word == "none":
        return None
    return 0 if word == "0" else units.parse_size(word)


def _days(word: str) -> frozenset[int]:
    found: set[int] = set()
    for part in word.split(","):
        first, _, last = part.partition("-")
        start, end = DAYS.index(first), DAYS.index(last or first)
        found |= {(start + step) % 7 for step in range((end - start) % 7 + 1)}
    return frozenset(found)


def _hours(word: str) -> tuple[int, int]:
    match = _HOURS.fullmatch(word)
    if match is None:
        raise ValueError(word)
    start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if start == end or start >= _MINUTES or end > _MINUTES:
        raise ValueError(word)
    return start, end


def rate_at(rules: list[Rule], moment: datetime.datetime) -> int | None:
    """The rate of the first rule that holds at a local time; None for no limit."""
    day, minute = moment.weekday(), moment.hour * 60 + moment.minute
    return next((rule.rate for rule in rules if rule.holds(day, minute)), None)


class Throttle:
    """A token bucket of which the rate may change at any time; for a Connection's `limiter`.

    `limit` and `rules` may be set while others wait: they notice at once. The lower of the two counts.
    """

    def __init__(
        self,
        limit: int | None = None,
        rules: list[Rule] | None = None,
        *,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now().astimezone(),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.limit, self.rules = limit, rules or []
        self._now, self._clock, self._sleep = now, clock, sleep
        self._level, self._at = 0.0, clock()
        self._lock = threading.Lock()

    @property
    def rate(self) -> int | None:
        """Bytes a second now: None without a limit, 0 where nothing may go."""
        told = rate_at(self.rules, self._now()) if self.rules else None
        rates = [rate for rate in (told, self.limit) if rate is not None]
        return min(rates) if rates else None

    @property
    def piece(self) -> int:
        """Bytes that should be taken at a time."""
        rate = self.rate
        return _MAX_PIECE if rate is None else max(int(rate * _BURST_SECONDS), 1)

    def take(self, count: int, check: Callable[[], None]) -> None:
        """Take `count` tokens, waiting as long as that needs; `check` may end the wait by raising."""
        with self._lock:
            self._refill()
            self._level -= count
        while True:
            check()
            with self._lock:
                rate = self._refill()
                if rate is None or self._level >= 0:
                    return
                wait = math.inf if rate == 0 else -self._level / rate
            self._sleep(max(min(wait, _LOOK_SECONDS), _TICK_SECONDS))

    def _refill(self) -> int | None:
        rate, now = self.rate, self._clock()
        if rate is None:
            self._level = 0.0
        else:
            self._level = min(rate * _BURST_SECONDS, self._level + (now - self._at) * rate)
        self._at = now
        return rate
