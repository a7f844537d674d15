"""A drill, from the order to the clean-up: a test failover that is waited for, looked at and taken away again."""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import msgspec

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.drills.report import Report, Stage
from secondsite.orchestration.estate.model import Signal
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.failover.trying import Tests
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.vault import holders

# What a console or an error adds to a report.
_MOST_CHARACTERS = 2000


@dataclass
class Drills:
    """`told` hears of each stage as it begins. `notes` go into the report and stay with the test (R9.3)."""

    failovers: Failovers
    told: Callable[[str], object] = lambda stage: None
    network: Literal["none", "isolated"] = "isolated"
    verify: bool = False
    notes: str = ""
    clock: Callable[[], float] = time.monotonic
    holder: str = field(default_factory=holders.new)
    _stages: list[Stage] = field(default_factory=list)

    def drill(self, machine: str, *, point: str | None = None, signal: Signal | None = None) -> Report:
        """Drill one machine. What goes wrong is in the report. Raises Refused and what else keeps a drill from being
        begun: no such machine, no point, nothing that says that it is up, a test that is there already (R9.1).
        """
        known, chosen = self.failovers.known(machine), self.failovers.chosen(machine, point)
        awaited = signal or known.machine.signal
        if chosen is None:
            raise errors.Refused(f"R5.7: {machine!r} has no recovery point yet")
        if awaited is None or not _words(awaited):
            raise errors.Refused(f"nothing says when {machine!r} is up: give a signal here, or to it in the estate")
        self._clear(machine)
        return self._drill(machine, chosen, awaited)

    def _clear(self, machine: str) -> None:
        """What a drill left that was killed. Raises Refused where the test is somebody else's (R9.1)."""
        test = self._item(machine).test
        if test is None:
            return
        if test.drill is None or not holders.gone(test.drill):
            raise errors.Refused(f"R9.1: {machine!r}: its test failover is there; clean that up first")
        Tests(self.failovers).cleanup(machine, notes="the drill was killed")

    def _drill(self, machine: str, point: Made, signal: Signal) -> Report:
        began, self._stages = self.failovers.clocks.utc(), []
        tests, item = Tests(self.failovers), self._item(machine)
        disks = self._sizes(item, point)
        if self.verify:
            self._stage("prove the point by its hashes", lambda: self._proved(item, point))
        start, up = self.clock(), None
        if self._stage("make its disks and networks",
                       lambda: tests.test(machine, point=point.number, network=self.network, wait=True,
                                          drill=self.holder)):  # fmt: skip
            up = self._boot(tests, machine, signal, start)
        shown = self._screenshot(machine) if self._ours(machine) else None
        notes = self.notes or f"drill: {'came up' if up is not None else 'did not come up'}"
        self._stage("clean up", lambda: self._cleaned(tests, machine, notes))
        at = datetime.datetime.fromisoformat(point.time)
        return Report(
            uuid.uuid4().hex[:12], machine, str(point.number), point.time, began, _words(signal),
            tuple(self._stages), up, max(began - at.timestamp(), 0.0), disks, version("secondsite"),
            self.failovers.who, self.notes, shown,
        )  # fmt: skip

    def _boot(self, tests: Tests, machine: str, signal: Signal, start: float) -> float | None:
        """Seconds from `start` until it was up; None where it did not come up."""
        if not self._stage("start it", lambda: tests.start(machine)):
            return None
        said = {"signal": msgspec.to_builtins(signal), "seconds": signal.seconds}
        if self._stage(f"wait for {_words(signal)}", lambda: self._call(machine, "wait", said)):
            return self.clock() - start
        return None

    def _stage(self, name: str, do: Callable[[], object]) -> bool:
        """Did it work? What it says, if it is words, is noted with it."""
        self.told(name)
        began, ok, detail = self.clock(), True, ""
        try:
            found = do()
            detail = found if isinstance(found, str) else ""
        except errors.Cancelled as error:
            # An operator who stops a drill wants all of it to go; the clean-up must not be stopped with it.
            self.failovers.stops = lambda: False
            ok, detail = False, str(error)
        except errors.Error as error:
            ok, detail = False, str(error)
        self._stages.append(Stage(name, self.clock() - began, ok, detail[-_MOST_CHARACTERS:]))
        return ok

    def _proved(self, item: Held, point: Made) -> str:
        for path, replica in _places(item, point).items():
            done = engine.verify(
                replica, at=str(point.generations[path]), state=self.failovers.state, cancel=self.failovers.stops
            )  # fmt: skip
            if not done.ok:
                raise errors.Damaged(f"point {point.number} is not what it should be", path=replica)
        return f"{len(point.generations)} disks"

    def _sizes(self, item: Held, point: Made) -> dict[str, int]:
        """Of those that can be asked from here."""
        found = {}
        for path, replica in _places(item, point).items():
            with suppress(errors.Error, KeyError):
                points = engine.points(replica, state=self.failovers.state)
                found[path] = {one.generation: one.virtual_bytes for one in points}[point.generations[path]]
        return found

    def _screenshot(self, machine: str) -> str | None:
        """What its screen shows, where it has one; that it has none is no failure."""
        self.told("look at its screen")
        try:
            return str(self._call(machine, "screenshot", {})["png"])
        except errors.Error as error:
            self._stages.append(Stage("look at its screen", 0.0, True, f"no picture: {error}"))
            return None

    def _cleaned(self, tests: Tests, machine: str, notes: str) -> None:
        if self._ours(machine):
            tests.cleanup(machine, notes=notes)

    def _ours(self, machine: str) -> bool:
        """Is there a test, and is it this drill's? Another may have begun one between our look and ours."""
        test = self._item(machine).test
        return test is not None and test.drill == self.holder

    def _call(self, machine: str, operation: str, more: Mapping[str, Any]) -> dict[str, Any]:
        test = self._item(machine).test
        if test is None or test.there is None or test.there.spec is None or test.there.host is None:
            raise errors.Refused("R9: it is tested in Azure, where nothing of ours starts it")
        return self.failovers.known(machine).ask(test.there, operation, cancel=self.failovers.stops, **more)

    def _item(self, machine: str) -> Held:
        found = lookup.load(self.failovers.database, machine)
        if not found:
            raise errors.Refused(f"no machine {machine!r} is protected")
        return found[0]


def _places(item: Held, point: Made) -> dict[str, str]:
    """The replicas that hold a point, by path of the disk."""
    places = item.homes if point.direction == "forward" else item.backs
    return {path: replica for path, replica in places.items() if replica is not None and path in point.generations}


def _words(signal: Signal) -> str:
    """What is waited for, in words; empty where that is nothing."""
    found = [
        f"{signal.serial!r} on its serial line" if signal.serial is not None else "",
        "its guest agent" if signal.agent else "",
        f"its port {signal.tcp}" if signal.tcp is not None else "",
        signal.url or "",
    ]
    return " and ".join(one for one in found if one)


def due(last: Mapping[str, float], every: Mapping[str, float], now: float) -> list[str]:
    """Machines whose last drill began longer ago than they are to be drilled (seconds by machine), the longest overdue
    first; a machine that was never drilled is due at once.
    """
    late = {name: now - last.get(name, 0.0) - seconds for name, seconds in every.items()}
    return sorted((name for name, by in late.items() if by >= 0), key=lambda name: -late[name])
