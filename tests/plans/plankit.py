"""A plan of six machines in three groups, and processes that run it (runner.py)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from secondsite.orchestration.estate.model import PlanGroup, RecoveryPlan, Step
from secondsite.orchestration.plans import journal
from secondsite.orchestration.plans.order import Kind
from secondsite.orchestration.vault.database import Database

RUNNER = Path(__file__).with_name("runner.py")
MACHINES = (("db1", "db2"), ("app1", "app2"), ("web1", "web2"))


class Site:
    """A plan of six machines in three groups, on one vault; each `go` is a process."""

    def __init__(self, vault: Database, url: str, folder: Path) -> None:
        self.vault, self.url, self.log = vault, url, folder / "log"
        self.log.touch()

    def plan(self, *, after: tuple[Step, ...] = (), before: tuple[Step, ...] = ()) -> RecoveryPlan:
        """`before` and `after` stand around its second group."""
        groups = [PlanGroup(machines=names) for names in MACHINES]
        groups[1] = PlanGroup(machines=MACHINES[1], before=before, after=after)
        return RecoveryPlan(name="all", group=tuple(groups))

    def new(self, kind: Kind = "planned", **steps: tuple[Step, ...]) -> str:
        return journal.new(self.vault, self.plan(**steps), kind, "latest", "me", time.time())

    def begin(self, run: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, RUNNER, self.url, run, self.log], env={**os.environ, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def go(self, run: str, **environment: str) -> tuple[int, str]:
        process = self.begin(run, **environment)
        out, err = process.communicate(timeout=60)
        assert process.returncode in (0, -9), err
        return process.returncode, out.strip()

    def said(self) -> list[str]:
        return self.log.read_text().splitlines()

    def script(self, name: str, **more: object) -> Step:
        text = f"echo {name} $SECONDSITE_KIND $SECONDSITE_GROUP >> {self.log}"
        return Step(name=name, script=("sh", "-c", text), **more)  # type: ignore[arg-type]

    def until(self, run: str, done: Callable[[journal.Run], bool]) -> journal.Run:
        for _ in range(600):
            found = journal.load(self.vault, run)
            if done(found):
                return found
            time.sleep(0.05)
        raise AssertionError(journal.load(self.vault, run))


def starts(lines: list[str]) -> list[str]:
    return [line.split()[1] for line in lines if line.startswith("start ")]


def in_order(lines: list[str]) -> None:
    """Each machine once, a group after the other (R12.5)."""
    names = starts(lines)
    assert len(names) == 6 and [set(names[at : at + 2]) for at in (0, 2, 4)] == [set(group) for group in MACHINES]
