"""Does the tasks of a run, one at a time, and writes down what each came to.

A task may be begun again after a kill. What was done is not done twice: starting a machine that is up changes nothing,
and a script or a call that was interrupted counts as failed, since nobody knows what it did; resuming the run begins it
anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from secondsite.engine import errors
from secondsite.orchestration.plans import journal, steps
from secondsite.orchestration.plans.journal import Run
from secondsite.orchestration.plans.order import Kind, Task
from secondsite.orchestration.plans.steps import Outcome, Told
from secondsite.orchestration.vault.database import Database

# Machines of a task that are worked on at once (R12.5).
PARALLEL = 8


class Machines(Protocol):
    """What a plan does with machines. Each call may be made again for what is done already, which changes nothing."""

    def prepare(self, machine: str, kind: Kind, at: str) -> None:
        """Until it only has to be started: source off, last delta, fenced, disks there, as its kind wants. Raises what
        the failover of a machine raises.
        """

    def start(self, machine: str, kind: Kind) -> None:
        """Start a machine that was prepared. One that is up already stays as it is (R12.8)."""

    def lost(self, machine: str, kind: Kind) -> str | None:
        """Why one that was started does not do its work any more; None where it does, or nobody can tell."""


@dataclass
class Doing:
    """One process's work on one run. `reach` is the command that runs scripts of a side; `told` hears of each task as
    it begins (None) and ends.
    """

    database: Database
    run: Run
    machines: Machines
    reach: Mapping[str, Sequence[str]]
    told: Callable[[Task, Outcome | None], object] = lambda task, outcome: None
    clock: Callable[[], float] = time.time
    stopping: threading.Event = field(default_factory=threading.Event)
    working: bool = False
    """Whether a task is being done just now."""

    @property
    def holder(self) -> str:
        """Who claimed it."""
        assert self.run.holder is not None, "only what was claimed is worked on"
        return self.run.holder

    def do(self, number: int) -> str:
        """The state that a task ends in, at once where it had ended before. A manual one is `waiting` until it is
        confirmed. Raises Cancelled where this process is to stop.
        """
        self.working = True
        try:
            return self._do(number)
        finally:
            self.working = False

    def _do(self, number: int) -> str:
        task = self.run.tasks[number - 1]
        before = journal.begin(
            self.database, self.run.id, self.holder, number, "waiting" if task.manual else "running", self.clock()
        )  # fmt: skip
        if before is not None and before.state in ("done", "failed"):
            return before.state
        if task.manual:
            if before is None:
                self.told(task, None)
            return "waiting"
        self.told(task, None)
        if task.what == "start" and stops(self.run.kind) and self.look_back(number):
            outcome = Outcome(False, "not begun: a machine of an earlier group does not run any more")
        else:
            outcome = self._outcome(task, interrupted=before is not None)
        state = "done" if outcome.ok else "failed"
        journal.end(self.database, self.run.id, self.holder, number, state, self.clock(), outcome.detail or None)
        self.told(task, outcome)
        return state

    def look_back(self, number: int) -> bool:
        """Machines that were started by tasks before this one, and went down since: their task failed after all, so
        that the run does not tell that they are up, and begins it anew when it is resumed. Was there one?
        """
        begun, found = journal.load(self.database, self.run.id).begun, False
        for task in self.run.tasks[: number - 1]:
            done = begun.get(task.number)
            if task.what != "start" or done is None or done.state != "done":
                continue
            outcome = self._each(task, self.machines.lost)
            if not outcome.ok:
                found = True
                journal.end(
                    self.database, self.run.id, self.holder, task.number, "failed", self.clock(), outcome.detail
                )  # fmt: skip
                self.told(task, outcome)
        return found

    def _outcome(self, task: Task, *, interrupted: bool) -> Outcome:
        if task.step is None:
            return self._each(task, partial(self._machine, task))
        if interrupted:
            return Outcome(False, "was interrupted; whether it did its work is not known")
        key = f"{self.run.id}-{task.number}"
        told = Told(self.run.id, self.run.plan, self.run.kind, task.group, task.machines, key)
        if task.step.http is not None:
            return steps.call(task.step, told, self.stopping.is_set)
        return steps.script(task.step, self.reach[task.step.side], told, self.stopping.is_set)

    def _each(self, task: Task, call: Callable[[str, Kind], str | None]) -> Outcome:
        """All of its machines at once; each is tried, whatever became of the others."""
        with ThreadPoolExecutor(min(PARALLEL, len(task.machines)), "machine") as pool:
            found = list(pool.map(lambda name: call(name, self.run.kind), task.machines))
        wrong = [f"{name}: {why}" for name, why in zip(task.machines, found, strict=True) if why is not None]
        return Outcome(not wrong, "\n".join(wrong))

    def _machine(self, task: Task, name: str, kind: Kind) -> str | None:
        """Why it failed."""
        if self.stopping.is_set():
            raise errors.Cancelled("the run was stopped")
        try:
            if task.what == "prepare":
                self.machines.prepare(name, kind, self.run.at)
            else:
                self.machines.start(name, kind)
        except errors.Cancelled:
            raise
        except errors.Error as error:
            return str(error)
        return None


def stops(kind: Kind) -> bool:
    """Whether an error ends a run there (R9.7, R12.7); an unplanned one goes on to its end (R9.11), and so does a test,
    which is to find all that is wrong.
    """
    return kind in ("planned", "failback")
