"""Attempts of one cycle until it is there: which errors are tried again, and when (R6.3, R6.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from secondsite.engine import errors

T = TypeVar("T")

# 1, 2, 4, 8 and 10 minutes, then every 30 (R6.4).
DELAYS = (60.0, 120.0, 240.0, 480.0, 600.0, 1800.0)
_LOOK_SECONDS = 0.25


def delays(told: Sequence[float] = DELAYS) -> Iterator[float]:
    """Seconds before each further attempt; the last of them for ever."""
    yield from told
    while True:
        yield told[-1]


def run(
    attempt: Callable[[], T],
    *,
    sleep: Callable[[float], None],
    cancel: Callable[[], bool] = lambda: False,
    say: Callable[[errors.Error, float], None] = lambda error, seconds: None,
    told: Sequence[float] = DELAYS,
    attempts: int | None = None,
    progressed: Callable[[], object] = lambda: None,
    waits_for: Callable[[errors.Error], bool] = lambda error: False,
    ends: Callable[[errors.Error], bool] = lambda error: False,
    at_once: Callable[[errors.Error], bool] = lambda error: False,
) -> T:
    """`attempt` until it succeeds, raises what another attempt would not mend (authentication, a broken chain, a rule
    that forbids it), was made `attempts` times in a row, or `cancel` says so. An attempt that got further, which is one
    after which `progressed` returns another value, begins delays and count anew; one that ends with what somebody is
    waited for to mend (`waits_for`) is not the last one, and one that `ends` it is. The first that ends with what no
    waiting mends, but another plan may (`at_once`), is followed by the next without a wait. `say` is told before each.
    """
    waits, before, made, anew = delays(told), progressed(), 0, True
    while True:
        made += 1
        try:
            return attempt()
        except errors.Error as error:
            now = progressed()
            if now != before:
                waits, before, made = delays(told), now, 1
            last = attempts is not None and made >= attempts and not waits_for(error)
            if not error.retryable or last or ends(error):
                raise
            soon = anew and at_once(error)
            anew = anew and not soon
            seconds = 0.0 if soon else next(waits)
            say(error, seconds)
        _wait(seconds, sleep, cancel)


def _wait(seconds: float, sleep: Callable[[float], None], cancel: Callable[[], bool]) -> None:
    while seconds > 0:
        if cancel():
            raise errors.Cancelled("stopped on request while it waited to try again")
        step = min(seconds, _LOOK_SECONDS)
        sleep(step)
        seconds -= step


def parse_delays(text: str) -> tuple[float, ...]:
    """Seconds, separated by commas. Raises Usage."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len(found) > 100 or not all(0 <= seconds <= 86400 for seconds in found):
        raise errors.Usage(f"{text!r} are no delays; some are `60,120,1800`, in seconds up to a day")
    return found
