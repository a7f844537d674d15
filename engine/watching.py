"""Cycles for ever: one every so many seconds, never two at once, and what is known of them at any moment.

The schedule is a grid of monotonic time. A cycle that is due while another runs begins when that one ends, and counts
as missed (R6.2); of several that were due meanwhile one begins and all count. So a source that outruns its replica
has cycles back to back, and points as far apart as cycles take: `degraded`, until a cycle ends before the next is due.
"""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from secondsite.engine import errors, vitals
from secondsite.engine.between import Between, between
from secondsite.engine.images import Image
from secondsite.engine.progress import Progress
from secondsite.engine.remote import url
from secondsite.engine.replica.point import format_time, parse_time
from secondsite.engine.replication import replicate, utc_now
from secondsite.engine.results.cycle import Replicated
from secondsite.engine.store.place import becomes_log

if TYPE_CHECKING:
    from secondsite.engine.remote.sending.outbound import Link

EVERY_SECONDS = 30.0
LEAST_SECONDS, MOST_SECONDS = 1.0, 86400.0
# R6.4: 1, 2, 4, 8, 10 minutes, then every 30. Shorter intervals begin with themselves and end at 60 of them.
RETRY_SECONDS = (60.0, 120.0, 240.0, 480.0, 600.0, 1800.0)
RETRY_INTERVALS = 60
# R8.3, R8.5: more than a fifth of the cycles missed is worth a warning; counted anew every 12 hours.
MISSED_SHARE, INTERVAL_SECONDS = 0.2, 12 * 3600.0
# Fewer cycles than this say nothing about a share.
_FEWEST = 10
# How soon a wait sees that it is to end, and how often whoever watches is told of the age meanwhile.
_STEP_SECONDS, _TELL_SECONDS = 0.1, 0.5


@dataclass(frozen=True, slots=True)
class Status:
    """What is known now. `state`: initial (the first copy), replicating, degraded (cycles take longer than the
    interval), `resync required` (the tracker lost its cut, the next cycle begins at once), retrying, waiting.

    `cycles` ended well, `failed` did not, `missed` were due while another ran or failed; `missing` where that was more
    than a fifth of late (R8.3). `age` is how far behind the replica is, in seconds: the RPO, None before the first
    cycle. `pending` bytes are not looked at yet by the running cycle; between cycles those that a tracking server
    marked since. `rate` is in bytes a second, of the last cycle. `error` with `retry` seconds until the next try;
    `error_kind` is its class. `warning` is what was seen between cycles, once. `last` is set when a cycle has just
    ended well. `metrics` is where figures are told to Prometheus.
    """

    state: str
    time: str
    every: float
    cycles: int = 0
    failed: int = 0
    missed: int = 0
    missing: bool = False
    point: str | None = None
    age: float | None = None
    rate: float | None = None
    pending: int | None = None
    tracker: str | None = None
    stall_seconds: float | None = None
    error: str | None = None
    retry: float | None = None
    warning: str | None = None
    last: Replicated | None = None
    error_kind: str | None = None
    metrics: str | None = None


@dataclass
class Schedule:
    """The grid, as a pure account: `now` is monotonic seconds, given by whoever asks."""

    began: float
    every: float
    slot: int = -1
    missed: int = 0
    due: int = 0
    _counted: float = 0.0
    _due: int = 0
    _missed: int = 0

    def begin(self, now: float, *, late: bool) -> None:
        """A cycle begins. `late`: it did not wait for its time."""
        slot = max(int((now - self.began) / self.every), self.slot + (not late))
        missed = max(slot - self.slot - 1, 0) + (late and slot > self.slot)
        self.due += max(slot - self.slot, 0)
        self.missed += missed
        self.slot = slot
        if now - self.began >= self._counted + INTERVAL_SECONDS:
            self._counted, self._due, self._missed = now - self.began, self.due, self.missed

    def wait(self, now: float) -> float:
        """Seconds until the next cycle is due; 0 or less where it was due already."""
        return self.began + (self.slot + 1) * self.every - now

    @property
    def missing(self) -> bool:
        """Was more than a fifth missed, in the present 12 hours?"""
        due = self.due - self._due
        return due >= _FEWEST and self.missed - self._missed > MISSED_SHARE * due


def retry_seconds(attempt: int, every: float) -> float:
    """How long to wait after so many failures in a row (from 1) before the next try."""
    told = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS)) - 1]
    return min(told, every * 2.0 ** min(attempt - 1, 20), every * RETRY_INTERVALS)


def check_every(every: float) -> None:
    """Raises Usage for an interval that cannot be kept."""
    if not LEAST_SECONDS <= every <= MOST_SECONDS:
        raise errors.Usage(f"a cycle every {every:g} s: from {LEAST_SECONDS:g} s to a day was expected")


class Watch:
    """Repeats cycles; see `watch`. `run` is called once."""

    def __init__(
        self,
        cycle: Callable[[Callable[[Progress], None]], Replicated],
        every: float,
        observe: Callable[[Status], None],
        cancel: Callable[[], bool],
        clock: Callable[[], datetime.datetime],
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        aside: Between | None = None,
        metrics: str | None = None,
    ) -> None:
        self._cycle, self._observe, self._cancel = cycle, observe, cancel
        self._clock, self._monotonic, self._sleep = clock, monotonic, sleep
        self._aside = aside
        self._schedule = Schedule(monotonic(), every)
        self._held: float | None = None
        self._failures = 0
        self._known = Status("initial", format_time(clock()), every, metrics=metrics)
        self._lock = threading.Lock()

    def run(self) -> None:
        """Until `cancel` says so (Cancelled), or an error that no retry mends."""
        late = False
        while True:
            self._check()
            self._schedule.begin(self._monotonic(), late=late)
            late = not self._wait_after(self._attempt())

    def _check(self) -> None:
        if self._cancel():
            raise self._stopped()

    def _stopped(self) -> errors.Cancelled:
        newest = f"; point {self._known.point} is the newest" if self._known.point else ""
        return errors.Cancelled(f"stopped on request{newest}")

    def _attempt(self) -> float | None:
        """One cycle; None where it ended well, else how long to wait for the next try."""
        began = self._monotonic()
        self._tell(state=self._running(), last=None, retry=None, pending=None)
        try:
            done = self._cycle(self._progress)
        except errors.Cancelled as error:
            # What was begun was taken back: the point before stands.
            raise (self._stopped() if self._known.point else error) from None
        except errors.Error as error:
            if not error.retryable:
                raise
            return self._failed(error)
        self._failures, self._held = 0, began if done.moment is None else self._of(done.moment)
        # The first copy reads everything: that it takes longer than a cycle says nothing of cycles.
        overdue = done.kind != "initial" and self._schedule.wait(self._monotonic()) <= 0
        self._tell(
            state="degraded" if overdue else "waiting", cycles=self._known.cycles + 1, point=done.point,
            rate=done.read_bytes / done.seconds if done.seconds else None, tracker=done.tracker,
            stall_seconds=done.stall_seconds, error=None, error_kind=None, pending=self._pending(done.tracker),
            last=done,
        )  # fmt: skip
        self._tell(last=None, quiet=True)
        return None

    def _of(self, moment: str) -> float:
        """A wall clock's time by the monotonic one."""
        return self._monotonic() - max((self._clock() - parse_time(moment)).total_seconds(), 0.0)

    def _running(self) -> str:
        if self._known.state in ("degraded", "resync required"):
            return self._known.state
        return "initial" if self._held is None and self._known.point is None else "replicating"

    def _failed(self, error: errors.Error) -> float:
        self._failures += 1
        lost = isinstance(error, errors.CutLost)
        # What a cut lost is read again at once: every further second of it is a second without a point.
        pause = 0.0 if lost and self._failures == 1 else retry_seconds(self._failures, self._schedule.every)
        self._tell(
            state="resync required" if lost else "retrying", failed=self._known.failed + 1, error=str(error),
            error_kind=error.class_name, retry=pause, pending=None,
        )  # fmt: skip
        return pause

    def _wait_after(self, retry: float | None) -> bool:
        """Wait for the next cycle; was it in time?"""
        now = self._monotonic()
        if retry is not None:
            self._wait(now + retry)
            return False
        wait = self._schedule.wait(now)
        if wait <= 0:
            return False
        self._wait(now + wait)
        return True

    def _wait(self, end: float) -> None:
        told = self._monotonic()
        while (left := end - self._monotonic()) > 0:
            self._check()
            self._sleep(min(left, _STEP_SECONDS))
            if self._monotonic() - told >= _TELL_SECONDS:
                told = self._monotonic()
                retry = end - told if self._known.retry is not None else None
                self._tell(
                    retry=max(retry, 0.0) if retry is not None else None, pending=self._pending(self._known.tracker)
                )
                if told_now := self._aside.trim(self._known.tracker) if self._aside else None:
                    self._tell(warning=told_now)
                    self._tell(warning=None, quiet=True)

    def _pending(self, tracker: str | None) -> int | None:
        return self._aside.pending(tracker) if self._aside else None

    def _progress(self, now: Progress) -> None:
        self._tell(pending=now.total - now.done)

    def _tell(self, *, quiet: bool = False, **news: Any) -> None:
        with self._lock:
            now = self._monotonic()
            self._known = replace(
                self._known, time=format_time(self._clock()), missed=self._schedule.missed,
                missing=self._schedule.missing, age=None if self._held is None else max(now - self._held, 0.0), **news,
            )  # fmt: skip
            if not quiet:
                self._observe(self._known)


def watch(
    source: str | os.PathLike[str] | Image,
    replica: str | os.PathLike[str],
    *,
    every: float = EVERY_SECONDS,
    observe: Callable[[Status], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    clock: Callable[[], datetime.datetime] = utc_now,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    metrics: tuple[str, int] | None = None,
    **options: Any,
) -> None:
    """`replicate(source, replica, **options)` every so many seconds (1 s to a day), until `cancel` returns True.

    `observe` is called with each Status, also from worker threads, one at a time: when a cycle begins, ten times a
    second while it runs, when it ended (`last` is set then alone), and twice a second in between. An error that may
    pass is told and tried again, after 1, 2, 4, 8, 10 and then every 30 minutes (R6.4), sooner where the interval is
    shorter (retry_seconds). `resync` is for the first cycle alone, and so are `accept_source` and `take_over`.
    `metrics` is an address and port where figures are told to Prometheus meanwhile.

    Raises Cancelled in the end, Usage, and what no retry mends: Refused, Damaged. The source and the tracker are opened
    by each cycle, so that one which comes or goes is noticed; a Tracker that is given stays open, and is the caller's.
    """
    check_every(every)
    if options.get("keep") is not None and options["keep"] < 1:
        raise errors.Usage("keep must be at least 1: the newest point is the head")
    firsts = ("resync", "accept_source", "take_over", "trust_mtime")
    once = {name: options.pop(name) for name in firsts if name in options}
    mtime = {"trust_mtime": once.pop("trust_mtime")} if "trust_mtime" in once else {}

    history, made = "log" if options.get("encrypt") else options.get("history", "auto"), False
    log = becomes_log(os.fspath(replica), history)
    elsewhere = log or url.is_remote(os.fspath(replica))
    local, stack = options.get("files") is None and not elsewhere, ExitStack()
    if elsewhere:
        options = _far(options)
    if log:
        options["link"] = _staying_open(options, os.fspath(replica), cancel, stack)

    def cycle(progress: Callable[[Progress], None]) -> Replicated:
        nonlocal made, log
        # An empty mount point is no reason for a first copy into it.
        if made and local and not os.path.lexists(os.path.join(replica, "replica.json")):
            raise errors.Unreachable("the replica is not there any more", path=os.fspath(replica))
        done = replicate(
            source, replica, progress=progress if observe or metrics else None, cancel=cancel, clock=clock,
            **mtime, **once, **options,
        )  # fmt: skip
        once.clear()
        made = True
        if done.history == "log" and not log:  # only the agent knew
            log, options["history"] = True, "log"
            options["link"] = _staying_open(options, os.fspath(replica), cancel, stack)
        return done

    aside = between(source, replica, local=local, elsewhere=elsewhere)
    with stack, vitals.told(metrics, replica, options, observe or (lambda _: None)) as (telling, where):
        Watch(
            cycle, every, telling, cancel or (lambda: False), clock, monotonic, sleep, aside, where
        ).run()


def _staying_open(
    options: dict[str, Any], replica: str, cancel: Callable[[], bool] | None, stack: ExitStack
) -> Link:
    """For a log: what a cycle learned of it and its connections are the next one's."""
    from secondsite.engine.store.log import session

    route = session.staying_open(
        options["link"], replica, cancel, options.get("state"), encrypt=options.get("encrypt", False)
    )
    stack.enter_context(route.opened)
    return route


def _far(options: dict[str, Any]) -> dict[str, Any]:
    """For another host's replica, or a log: this module tries again, and one bucket and count are for all cycles."""
    from secondsite.engine.remote import pace
    from secondsite.engine.remote.sending import outbound

    given = options.pop("link", None) or outbound.Link()
    made = pace.throttle(options.pop("limit", None), options.pop("schedule", None))
    return {**options, "link": replace(given, retries=0, pace=made or given.pace)}
