"""Runs of plans: in order, killed and gone on with, stopped at errors or not, confirmed by hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from plankit import MACHINES, Site, in_order, starts

from secondsite.engine import errors
from secondsite.orchestration.estate.model import Step
from secondsite.orchestration.plans import journal, workflow
from secondsite.orchestration.plans.order import Kind
from secondsite.orchestration.vault import holders
from secondsite.orchestration.vault.database import Database

# On one of the two databases by default, for each a process or two has to start.
pytestmark = pytest.mark.sweep(sample=1)


@pytest.fixture
def site(vault: Database, url: str, tmp_path: Path) -> Site:
    return Site(vault, url, tmp_path)


def test_all_is_made_ready_first_and_groups_start_in_their_order(site: Site) -> None:
    run = site.new(before=(site.script("dns"),), after=(site.script("check"), site.script("drill", kinds=("test",))))
    assert site.go(run) == (0, "done")
    lines = site.said()
    assert {line.split()[0] for line in lines[:6]} == {"prepare"} and lines[0].endswith("planned latest")
    in_order(lines)
    assert lines[8] == "dns planned 2" and lines[11] == "check planned 2" and len(lines) == 14
    with pytest.raises(errors.Refused, match=f"run {run} is done"):
        journal.claim(site.vault, run, holders.this_process(), time.time())


@pytest.mark.sweep(sample=2)
@pytest.mark.parametrize("at", ["prepare:4", "start:1", "start:3:after", "start:6:after"])
def test_a_killed_run_goes_on_where_it_was(site: Site, at: str) -> None:
    run = site.new(before=(site.script("dns"),))
    assert site.go(run, KILL=at)[0] == -9
    assert journal.load(site.vault, run).state == "running"
    assert site.go(run) == (0, "done")
    in_order(site.said())
    assert site.said().count("dns planned 2") == 1


def test_a_manual_step_waits_also_over_a_kill_until_it_is_confirmed(site: Site) -> None:
    run = site.new(before=(Step(name="look", manual="is the storage there?"),))
    waiting = site.begin(run)
    site.until(run, lambda found: bool(found.waiting))
    waiting.kill()
    waiting.communicate()
    assert starts(site.said()) == ["db1", "db2"] or starts(site.said()) == ["db2", "db1"]
    again = site.begin(run)
    number = journal.load(site.vault, run).waiting[0].number
    with pytest.raises(errors.Refused, match="does not wait"):
        journal.confirm(site.vault, run, number + 1, "me", "", time.time())
    time.sleep(0.5)
    assert again.poll() is None
    journal.confirm(site.vault, run, number, "me@here", "it is", time.time())
    workflow.confirmed(site.vault, run, 1, number)
    assert again.communicate(timeout=30)[0].strip() == "done"
    in_order(site.said())
    assert journal.load(site.vault, run).begun[number].detail == "confirmed by me@here: it is"


def test_a_planned_run_stops_at_an_error_and_is_started_again(site: Site) -> None:
    """R9.7; the other machine of the group had begun beside it."""
    run = site.new()
    assert site.go(run, FAIL="app1") == (0, "stopped")
    found = journal.load(site.vault, run)
    assert [task.name for task in found.failed] == ["start group 2: app1, app2"]
    assert found.begun[3].detail == "app1: app1 does not start"
    assert set(starts(site.said())) == {"db1", "db2", "app2"}
    assert site.go(run) == (0, "done")
    assert sorted(starts(site.said())) == sorted(name for group in MACHINES for name in group)


@pytest.mark.parametrize(("kind", "down", "ended", "started", "failed"), [
    ("planned", "db2", "stopped", 2, ["start group 1: db1, db2", "start group 2: app1, app2"]),
    ("unplanned", "db2,web1", "failed", 6, ["start group 1: db1, db2", "start group 3: web1, web2"]),
])  # fmt: skip
def test_a_machine_that_went_down_after_its_start_is_not_told_to_be_up(
    site: Site, kind: Kind, down: str, ended: str, started: int, failed: list[str]
) -> None:
    """R9.7, R9.11: seen before the next group where errors stop the run, else at its end; `resume` begins it anew."""
    run = site.new(kind)
    assert site.go(run, DOWN=down) == (0, ended)
    found = journal.load(site.vault, run)
    assert [task.name for task in found.failed] == failed and len(starts(site.said())) == started
    assert found.begun[2].detail == "db2: is down"
    assert site.go(run) == (0, "done")
    in_order(site.said())


def test_a_plan_has_one_run_at_a_time(site: Site) -> None:
    run = site.new("test")
    with pytest.raises(errors.Refused, match=f"run {run} of plan 'all' has not ended"):
        site.new("test")
    journal.cancel(site.vault, run, time.time())
    site.new("test")


def test_an_unplanned_run_goes_on_to_its_end_despite_errors(site: Site) -> None:
    """R9.11; what failed alone is begun anew."""
    wrong = Step(name="wrong", script=("sh", "-c", "echo no >&2"))
    run = site.new("unplanned", before=(wrong,))
    assert site.go(run, FAIL="db2,web1") == (0, "failed")
    found = journal.load(site.vault, run)
    assert [task.name for task in found.failed] == ["start group 1: db1, db2", "wrong", "start group 3: web1, web2"]
    assert "standard error (R12.7): no" in str(found.begun[3].detail)
    assert sorted(starts(site.said())) == ["app1", "app2", "db1", "web2"]
    assert site.go(run) == (0, "failed")
    assert sorted(starts(site.said())) == sorted(name for group in MACHINES for name in group)
    assert [task.name for task in journal.load(site.vault, run).failed] == ["wrong"]


def test_a_script_that_was_interrupted_is_not_run_again_by_itself(site: Site) -> None:
    slow = Step(name="slow", script=("sh", "-c", f"echo slow >> {site.log}; sleep 60"))
    run = site.new(before=(slow,))
    process = site.begin(run)
    site.until(run, lambda found: "slow" in site.said())
    process.kill()
    process.communicate()
    assert site.go(run) == (0, "stopped")
    assert site.said().count("slow") == 1
    assert "was interrupted" in str(journal.load(site.vault, run).begun[3].detail)


def test_two_processes_are_never_at_one_run(site: Site) -> None:
    run = site.new(before=(Step(name="look", manual="?"),))
    process = site.begin(run)
    site.until(run, lambda found: bool(found.waiting))
    with pytest.raises(errors.Busy, match="being worked on by"):
        journal.claim(site.vault, run, "another", time.time())
    with pytest.raises(errors.Busy, match="stop that first"):
        journal.cancel(site.vault, run, time.time())
    process.kill()
    process.communicate()
    journal.cancel(site.vault, run, time.time())
    with pytest.raises(errors.Refused, match="is cancelled"):
        journal.claim(site.vault, run, "another", time.time())
