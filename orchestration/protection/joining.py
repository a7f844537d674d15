"""The first copies of disks that were added to a protected machine (P3, M11): beside the cycles of the others, which go
on. The machine's points are without such a disk, and say so, until its first copy is whole; the next cycle has it too.

What is under way lies in the replica alone: an orchestrator that is killed, or another one, begins the copy again where
the engine finds it. Where two try at once the engine lets one of them write.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from secondsite.engine import errors
from secondsite.orchestration.protection import grid, turns
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.said import Protected
from secondsite.orchestration.protection.worker import Worker
from secondsite.orchestration.vault.database import Database

# Of one orchestrator; another disk begins with a later cycle.
MOST = 2
# So often the vault is asked whether the disk is wanted yet.
_LOOK_SECONDS = 2.0
_Key = tuple[str, str]


def missing(point: Made, disks: Held) -> tuple[str, ...]:
    """Disks of the machine that a point is without."""
    return tuple(path for path in disks.disks if path not in point.generations)


def added(item: Held, newest: Made | None, said: Protected) -> list[str]:
    """Disks without a first copy, of a machine that has points. A QEMU lets one client at a time read its disks: there
    the new disk is copied in a cycle, for which the others wait.
    """
    if newest is None or said.machine.qmp is not None or item.active != "source":
        return []
    found = [path for path in missing(newest, item) if item.ids.get(path) is None]
    return found if len(found) < len(item.disks) else []


def without(item: Held, paths: list[str]) -> Held:
    """The item with its other disks."""
    return replace(
        item, disks={path: replica for path, replica in item.disks.items() if path not in paths},
        ids={path: known for path, known in item.ids.items() if path not in paths},
    )  # fmt: skip


@dataclass
class _Copy:
    """One that runs, or ended badly."""

    thread: threading.Thread | None = None
    failures: int = 0
    due: float = 0.0
    problem: str = ""


@dataclass
class Joining:
    """First copies of added disks that this process makes."""

    database: Database
    worker: Worker
    utc: Callable[[], float] = time.time
    _copies: dict[_Key, _Copy] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def begin(self, item: Held, said: Protected, paths: list[str]) -> list[str]:
        """Go on with the copies of these disks; what an operator is told of each."""
        return [self._begin(item, said, path) for path in paths]

    def _begin(self, item: Held, said: Protected, path: str) -> str:
        copy = self._copies.setdefault((item.id, path), _Copy())
        running = copy.thread is not None and copy.thread.is_alive()
        others = sum(one.thread is not None and one.thread.is_alive() for one in self._copies.values())
        if not running and others < MOST and self.utc() >= copy.due and not self._stop.is_set():
            copy.thread = threading.Thread(target=self._copy, args=(copy, item, said, path), name="first copy")
            copy.thread.start()
        failed = f" (failed, and is tried again: {copy.problem})" if copy.problem else ""
        return f"P3: this point is without {path}, whose first copy is not complete{failed}."

    def _copy(self, copy: _Copy, item: Held, said: Protected, path: str) -> None:
        replica = item.disks[path]
        try:
            self.worker.replicate(
                said.machine, {path: replica}, said.policy, epoch=item.epoch, resync=False, clock=self._now,
                cancel=self._unwanted(item.id, path),
            )  # fmt: skip
            turns.join(self.database, item.id, path, self.worker.identify(replica))
            copy.failures, copy.problem = 0, ""
        except errors.Cancelled:
            pass
        except errors.Error as error:
            copy.failures, copy.problem = copy.failures + 1, str(error)
            copy.due = grid.after_failure(copy.failures, said.every, self.utc())

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.utc(), datetime.UTC)

    def _unwanted(self, item: str, path: str) -> Callable[[], bool]:
        """Asks whether to stop: the process ends, or the item was paused, or the disk or all of it left the estate."""
        asked = [time.monotonic()]

        def look() -> bool:
            if not self._stop.is_set() and time.monotonic() - asked[0] > _LOOK_SECONDS:
                asked[0] = time.monotonic()
                return not turns.wanted(self.database, item, path)
            return self._stop.is_set()

        return look

    def wait(self) -> None:
        """For all that run."""
        for copy in list(self._copies.values()):
            if copy.thread is not None:
                copy.thread.join()

    def stop(self) -> None:
        """End what runs; it is gone on with later."""
        self._stop.set()
        self.wait()
