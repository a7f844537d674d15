"""Machines of a consistency group, whose cycles meet at one cut (M13).

Each machine's cycle goes its own way in a thread of its own, before and after the cut. There the last one to come cuts
the disks of all of them at one instant, which is then the time of a point of each. Who ends before, or is late, is not
waited for any longer; and where the cut of all fails, each is cut alone, so that one machine's trouble is not that of
the others. Both are told with the point.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.model import Machine, Policy
from secondsite.orchestration.protection.worker import Cut, Part, Quiesce, Worker

# How long the first one to come waits for the others.
WAIT_SECONDS = 30.0
_LOOK_SECONDS = 0.1


@dataclass
class _Came:
    """What a machine came with, and what it goes with."""

    part: Part
    cut: Cut | None = None
    error: BaseException | None = None


class Meeting:
    """Of the machines of these names. `worker` does the cut, whose time `clock` tells."""

    def __init__(self, worker: Worker, names: Sequence[str], clock: Callable[[], datetime.datetime]) -> None:
        self._worker, self._clock = worker, clock
        self._expected = set(names)
        self._came: dict[str, _Came] = {}
        self._missing: list[str] = []
        self._changed = threading.Condition()
        self._state = "open"  # then cutting, then over

    def worker(self, name: str) -> Worker:
        """For the cycle of one of them: as the worker itself, but that its cut is the common one."""
        return _Attending(self._worker, self, name)

    def leave(self, name: str) -> None:
        """Its cycle has ended, or will not come."""
        with self._changed:
            if self._state == "open" and name in self._expected and name not in self._came:
                self._expected.discard(name)
                self._missing.append(name)
            self._changed.notify_all()

    def cut(self, name: str, part: Part, cancel: Callable[[], bool]) -> Cut:
        """The cut of this machine, at the instant of all. Raises what its own cycle would raise, Cancelled."""
        if not self._attend(name, part, cancel):
            return self._alone(part, cancel, f"the group was cut without {name!r}, which came late")
        me = self._came[name]
        if me.error is not None:
            if isinstance(me.error, errors.Cancelled) or not isinstance(me.error, errors.Error):
                raise me.error
            return self._alone(part, cancel, f"the group was not cut at one instant: {me.error}")
        assert me.cut is not None
        missing = ", ".join(sorted(self._missing))
        told = (f"M13: cut without {missing}, whose cycle ended before",) if missing else ()
        return replace(me.cut, warnings=(*me.cut.warnings, *told))

    def _alone(self, part: Part, cancel: Callable[[], bool], why: str) -> Cut:
        cut = self._worker.replicate_machines([part], clock=self._clock, cancel=cancel)[0]
        return replace(cut, warnings=(*cut.warnings, f"M13: {why}"))

    def _attend(self, name: str, part: Part, cancel: Callable[[], bool]) -> bool:
        """Until the cut of all is over. False: it was before this one came."""
        with self._changed:
            if self._state != "open" or name not in self._expected:
                return False
            self._came[name] = _Came(part)
            self._changed.notify_all()
            until = time.monotonic() + WAIT_SECONDS
            while self._state == "open" and self._came.keys() < self._expected and time.monotonic() < until:
                if cancel():
                    break  # the cut finds it out, and each of the others too
                self._changed.wait(_LOOK_SECONDS)
            if self._state == "open":
                self._state = "cutting"
                self._missing += sorted(self._expected - self._came.keys())
                self._expected = set(self._came)
            else:
                while self._state != "over":
                    self._changed.wait(_LOOK_SECONDS)
                return True
        self._cut_all(cancel)
        return True

    def _cut_all(self, cancel: Callable[[], bool]) -> None:
        """By the last one to come, for all who came."""
        came = list(self._came.values())
        try:
            parts = [one.part for one in came]
            for one, cut in zip(came, self._worker.replicate_machines(
                parts, clock=self._clock, cancel=cancel), strict=True):  # fmt: skip
                one.cut = cut
        except BaseException as error:
            for one in came:
                one.error = error
        with self._changed:
            self._state = "over"
            self._changed.notify_all()


class _Attending:
    """The worker of one machine's cycle."""

    def __init__(self, worker: Worker, meeting: Meeting, name: str) -> None:
        self._worker, self._meeting, self._name = worker, meeting, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    def replicate(
        self, machine: Machine, disks: Mapping[str, str], policy: Policy, *, epoch: int, resync: bool,
        clock: Callable[[], datetime.datetime], cancel: Callable[[], bool], quiesce: Quiesce | None = None,
        ids: Mapping[str, str | None] = {},
    ) -> Cut:  # fmt: skip
        return self._meeting.cut(self._name, Part(machine, disks, policy, epoch, resync, quiesce, ids), cancel)


def all_at_rest(wanted: Sequence[Quiesce | None]) -> Quiesce | None:
    """One that brings all of them to rest, and is held where each of them is; None where nobody wants it."""
    asked = [one for one in wanted if one is not None]
    return (lambda: _all_at_rest(asked)) if asked else None


@contextmanager
def _all_at_rest(asked: Sequence[Callable[[], AbstractContextManager[engine.Freeze]]]) -> Any:
    whole, each = engine.Freeze(), list[engine.Freeze]()
    try:
        with ExitStack() as stack:
            for one in asked:
                each.append(stack.enter_context(one()))
            yield whole
    finally:
        whole.file_systems = sum(one.file_systems for one in each)
        whole.held = len(each) == len(asked) and all(one.held for one in each)
        whole.thawed = all(one.thawed for one in each)
        whole.warnings += [warning for one in each for warning in one.warnings]
