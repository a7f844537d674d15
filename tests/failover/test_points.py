"""Points that a machine does not run from, or only in part: of disks that were shrunk or added since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import SIZE, Bench, plain
from secondsite.engine import errors
from secondsite.orchestration.health.states import State


def test_r3_8_from_before_a_disk_was_shrunk_nothing_runs(bench: Bench) -> None:
    first = bench.cycle()
    os.truncate(bench.folder / "data.raw", SIZE // 2)
    second = bench.cycle()
    with pytest.raises(errors.Refused, match=rf"R3\.8: point {first.number} is from before .*data\.raw was shrunk"):
        bench.failovers().fail_over("app1", "unplanned", point=first.number)
    assert not bench.runs("target")
    item = bench.failovers().fail_over("app1", "unplanned", point=second.number)
    assert item.state is State.FAIL_OVER_WAITING_COMPLETION and bench.runs("target")


def test_r3_8_older_points_of_a_disk_that_grew_are_good(bench: Bench) -> None:
    first = bench.cycle()
    os.truncate(bench.folder / "data.raw", 2 * SIZE)
    bench.cycle()
    before = bench.contents(first)
    bench.failovers().fail_over("app1", "unplanned", point=first.number)
    assert {path: plain(data) for path, data in bench.away().items()} == {
        path: plain(data) for path, data in before.items()
    }


def test_p3_without_an_added_disk_it_runs_once_the_estate_says_so(bench: Bench) -> None:
    """A point that has no copy of a disk is not run from by mistake; who wants that takes the disk out."""
    bench.cycle()
    added = bench.folder / "added.raw"
    text = bench.text
    bench.text = lambda text: text.replace('data.raw" }}]', 'data.raw" }}, {{ path = "{folder}/added.raw" }}]')
    bench.apply()
    assert str(added) in bench.item.homes and not added.exists()
    point = bench.cycle()
    with pytest.raises(errors.Refused, match=r"point 2 does not have disk .*added\.raw"):
        bench.failovers().fail_over("app1", "unplanned", point=point.number)
    bench.text = text
    bench.apply()
    item = bench.failovers().fail_over("app1", "unplanned", point=point.number)
    assert item.state is State.FAIL_OVER_WAITING_COMPLETION and bench.runs("target")
    assert {Path(path).name for path in item.homes} == {"system.raw", "data.raw"}
