"""Reports of drills, and which machines are due."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest

from secondsite.engine import errors
from secondsite.orchestration.drills import drill
from secondsite.orchestration.drills.report import Report, Stage, from_json, to_html, to_json

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nnot really").decode()
REPORT = Report(
    "abc", "app1", "12", "2026-11-26T08:00:00+00:00", 1_800_000_000.0, "its port 80",
    (Stage("start it", 1.25, True), Stage("wait for its port 80", 20.5, True)), 21.75, 90.0,
    {"/vm/app1.vhdx": 3 << 30}, "0.1.0", "me@here", "after the upgrade", PNG,
)  # fmt: skip


def test_a_report_says_what_was_measured() -> None:
    page = to_html(REPORT)
    assert "Drill of app1, 2027-01-15 08:00 UTC: <span class=\"ok\">ok</span>" in page
    assert "21.8 s, until its port 80" in page and "90 s" in page and "3.0 GiB" in page and "after the upgrade" in page
    assert f'src="data:image/png;base64,{PNG}"' in page
    said = json.loads(to_json(REPORT))
    assert said["ok"] is True and said["up_seconds"] == 21.75 and said["stages"][1]["seconds"] == 20.5
    assert from_json(to_json(REPORT)) == REPORT


def test_one_that_did_not_come_up_is_not_ok() -> None:
    stages = (Stage("start it", 1, False, "no"),)
    failed = msgspec.structs.replace(REPORT, up_seconds=None, screenshot=None, stages=stages)
    page = to_html(failed)
    assert not failed.ok and "it did not come up" in page and '<td class="failed"><pre>no</pre>' in page
    assert "<img" not in page
    dirty = msgspec.structs.replace(REPORT, stages=(*REPORT.stages, Stage("clean up", 1, False, "busy")))
    assert not dirty.ok, "something was left behind"


def test_nothing_that_comes_from_elsewhere_is_markup() -> None:
    evil = "<script>alert('1')</script>"
    page = to_html(msgspec.structs.replace(
        REPORT, machine=evil, notes=evil, signal=evil, disks={evil: 1}, by=evil, stages=(Stage(evil, 1, True, evil),),
    ))  # fmt: skip
    assert "<script" not in page and page.count("&lt;script&gt;") == 9


def test_what_is_no_report_is_said_to_be_none() -> None:
    with pytest.raises(errors.Damaged, match="is no report of a drill"):
        from_json(b'{"id": 1}', "x.json")


def test_machines_are_due_by_their_policy_the_longest_overdue_first() -> None:
    day = 86400.0
    last = {"a": 100 * day, "b": 90 * day, "c": 99.5 * day}
    every = {"a": day, "b": 7 * day, "c": day, "new": 30 * day}
    assert drill.due(last, every, 100.5 * day) == ["new", "b", "c"]
