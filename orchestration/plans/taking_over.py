"""Runs of plans that were left behind, each gone on with by a process of its own: the library of workflows knows one
run a process (workflow.py). Such a process holds its run by itself, and goes on where the orchestrator that began it
is killed; where that is stopped, it stops too, and leaves the run to the next orchestrator.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

from secondsite.orchestration.plans import journal
from secondsite.orchestration.plans.journal import Run
from secondsite.orchestration.protection import leases
from secondsite.orchestration.vault.database import Database

# Runs at once. A run that waits for a confirmation needs a process too.
MOST = 8
# How often it is looked for runs, and how soon one is tried again that could not be gone on with twice for one reason.
_LOOK_SECONDS = 2.0
_AGAIN_SECONDS = 60.0
# More than a run takes to leave what it does just now (../commands/recovery.py).
_END_SECONDS = 20.0
_MOST_CHARACTERS = 2000
_PROGRAM = (sys.executable, "-c", "from secondsite.orchestration.entry import main; main()")
_VAULT = "SECONDSITE_VAULT"


@dataclass
class _Taken:
    """A process that is at a run, and what it says on standard error."""

    process: subprocess.Popen[bytes]
    said: IO[bytes]

    def words(self) -> str:
        with self.said:
            size = self.said.seek(0, os.SEEK_END)
            self.said.seek(max(size - _MOST_CHARACTERS, 0))
            lines = self.said.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("secondsite: ") if lines else f"it ended with {self.process.returncode}"


@dataclass
class Runs:
    """`url` is the vault as a command is told of it. `told` hears of each run that is taken (None), and of how it is
    when its process has ended: with the error where it could not be gone on with, once as long as that stays the same.
    """

    database: Database
    url: str
    told: Callable[[Run, str | None], object] = lambda run, error: None
    state: str | None = None
    program: Sequence[str] = _PROGRAM
    _taken: dict[str, _Taken] = field(default_factory=dict)
    _failed: dict[str, tuple[float, str]] = field(default_factory=dict)
    _looked: float = -_LOOK_SECONDS

    def look(self) -> None:
        """What there is to do now; nothing where that was done a moment ago. Raises Unreachable where the vault does
        not answer.
        """
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for run in [run for run, one in self._taken.items() if one.process.poll() is not None]:
            self._ended(run)
        for run in journal.left_behind(self.database, leases.now(self.database)):
            if run not in self._taken and len(self._taken) < MOST and self._due(run):
                self._take(run)

    def stop(self) -> None:
        """All of them stop after what they do just now, and leave their runs to others."""
        for one in self._taken.values():
            one.process.terminate()
        until = time.monotonic() + _END_SECONDS
        for one in self._taken.values():
            try:
                one.process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
            one.said.close()
        self._taken.clear()

    def _due(self, run: str) -> bool:
        return run not in self._failed or self._failed[run][0] < time.monotonic()

    def _take(self, run: str) -> None:
        """Who claims it first has it; where others are faster, the process ends by itself."""
        command = [*self.program, "recovery", "resume", run, "--left-behind", "--json"]
        command += ["--state", self.state] if self.state is not None else []
        said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with its process)
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
                env={**os.environ, _VAULT: self.url}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            said.close()
            self._fail(run, f"cannot go on with it: {error.strerror}")
            return
        self._taken[run] = _Taken(process, said)
        if run not in self._failed:
            self.told(journal.load(self.database, run), None)

    def _ended(self, run: str) -> None:
        one = self._taken.pop(run)
        words, found = one.words(), journal.load(self.database, run)
        if found.state in journal.ENDED or found.held(leases.now(self.database)):
            self._failed.pop(run, None)
            if found.state in journal.ENDED:
                self.told(found, None)
        else:
            self._fail(run, words)

    def _fail(self, run: str, words: str) -> None:
        before = self._failed.get(run, (0.0, ""))[1]
        self._failed[run] = (time.monotonic() + (_AGAIN_SECONDS if words == before else 0.0), words)
        if words != before:
            self.told(journal.load(self.database, run), words)
