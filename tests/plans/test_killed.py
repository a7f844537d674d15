"""A plan of six machines in three groups with a manual step and a script, killed at every step and resumed: it goes on
where it was, and nothing is done twice that must not be.
"""

from __future__ import annotations

import time

import pytest
from plankit import Site, in_order, starts

from secondsite.orchestration.estate.model import Step
from secondsite.orchestration.plans import journal, workflow
from secondsite.orchestration.plans.journal import Run
from secondsite.orchestration.vault.database import Database

# More than there are: the last cases are not killed at all.
STEPS = 72
MANUAL = 3


@pytest.fixture
def site(vault: Database, url: str, tmp_path: object) -> Site:
    return Site(vault, url, tmp_path)  # type: ignore[arg-type]


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("at", range(1, STEPS + 1))
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_killed_at_any_step(site: Site, at: int) -> None:
    killed_at(site, at)


@pytest.mark.sweep(sample=1)
@pytest.mark.needs("postgresql")
@pytest.mark.parametrize("at", range(1, STEPS + 1))
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_killed_at_any_step_beside_postgresql(site: Site, at: int) -> None:
    """A case of each database by default."""
    killed_at(site, at)


def killed_at(site: Site, at: int) -> None:
    look, script = Step(name="look", manual="is the storage there?"), site.script("dns")
    run = site.new(before=(look,), after=(script,))
    killed = through(site, run, KILL_AT=str(at))
    if killed and journal.load(site.vault, run).state == "running":
        through(site, run)
    found = journal.load(site.vault, run)
    if found.state == "stopped":  # a script that was interrupted is no one's to run again but its operator's
        assert [task.name for task in found.failed] == ["dns"] and killed
        assert "was interrupted" in str(found.begun[found.failed[0].number].detail)
        through(site, run)
        found = journal.load(site.vault, run)
    assert found.state == "done" and found.holder is None
    in_order(site.said())
    assert {line for line in site.said() if line.startswith("prepare")} == {
        f"prepare {name} planned latest" for name in starts(site.said())
    }  # fmt: skip
    assert site.said().count("dns planned 2") in ((1, 2) if killed else (1,))
    assert found.begun[MANUAL].detail == "confirmed by me"
    assert killed or at > STEPS - 4, "every step is a case"


def through(site: Site, run: str, **environment: str) -> bool:
    """A process at it, whose manual step is confirmed once: it waits for that, whatever was killed. Was it killed?"""
    process = site.begin(run, **environment)
    while process.poll() is None and not waits(found := journal.load(site.vault, run)):
        assert found.state in ("running", "stopped", "done")
        time.sleep(0.02)
    if process.poll() is None:
        assert len(starts(site.said())) == 2, "only the first group is up"
        journal.confirm(site.vault, run, MANUAL, "me", "", time.time())
        workflow.confirmed(site.vault, run, journal.load(site.vault, run).attempt, MANUAL)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (0, -9), error
    return process.returncode == -9


def waits(run: Run) -> bool:
    return bool(run.waiting)
