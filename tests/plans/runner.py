"""A process that goes on with a run, whose machines are lines in a file: `python runner.py VAULT RUN LOG`.

KILL=WORD:N has it die at the N-th line that begins with WORD, before the line is written; KILL=WORD:N:after, after it.
KILL_AT=N has it die at the N-th step: before or after a transaction of the vault or of the library of workflows, or
what is done with a machine.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbos._sys_db import SystemDatabase

from secondsite.engine import errors
from secondsite.orchestration.plans import journal, workflow
from secondsite.orchestration.plans.doing import Doing
from secondsite.orchestration.plans.order import Kind
from secondsite.orchestration.vault import database, holders


class Lines:
    """Machines of which nothing is there but what was done to them; one that is listed in FAIL fails."""

    def __init__(self, log: Path) -> None:
        self.log = log
        word, _, rest = os.environ.get("KILL", "").partition(":")
        number, _, when = rest.partition(":")
        self.word, self.left, self.after = word, int(number or 0), when == "after"

    def prepare(self, machine: str, kind: Kind, at: str) -> None:
        self._line(f"prepare {machine} {kind} {at}")

    def start(self, machine: str, kind: Kind) -> None:
        if f"start {machine} " in self.log.read_text():
            return  # it is up
        if machine in os.environ.get("FAIL", "").split(","):
            raise errors.Refused(f"{machine} does not start")
        self._line(f"start {machine} {kind}")

    def lost(self, machine: str, kind: Kind) -> str | None:
        """One that is listed in DOWN went down once it was started."""
        return "is down" if machine in os.environ.get("DOWN", "").split(",") else None

    def _line(self, text: str) -> None:
        last = bool(self.word) and text.startswith(self.word) and self._counted() == 0
        if last and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        with self.log.open("a") as file:
            file.write(text + "\n")
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _counted(self) -> int:
        self.left -= 1
        return self.left


def steps() -> None:
    """Die at one of them."""
    left = int(os.environ.get("KILL_AT", "0"))
    counting = threading.Lock()

    def step() -> None:
        nonlocal left
        with counting:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **more: Any) -> Any:
            step()
            found = call(*arguments, **more)
            step()
            return found

        return called

    for name in ("claim", "begin", "end", "finish"):
        setattr(journal, name, around(getattr(journal, name)))
    for name in ("prepare", "start"):
        setattr(Lines, name, around(getattr(Lines, name)))
    SystemDatabase.record_operation_result = around(SystemDatabase.record_operation_result)  # type: ignore[method-assign]


def main(url: str, run: str, log: str) -> None:
    with database.opened(url) as vault:
        holder = holders.this_process()
        taken = journal.claim(vault, run, holder, time.time())
        doing = Doing(vault, taken, Lines(Path(log)), {"source": (), "target": ()})
        with workflow.executing(doing) as execution:
            assert execution.ended.wait(60)
        if execution.error is not None:
            raise execution.error
        print(execution.state)


if __name__ == "__main__":
    steps()
    main(*sys.argv[1:])
