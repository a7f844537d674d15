"""Dropping points: the newest stay, and what stays restores the same bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files.memory import MemoryFiles

BLOCK = 4096


@pytest.fixture(params=[False, True], ids=["undo", "clone"])
def ten(request: pytest.FixtureRequest, make_lab: Any, disk: Callable[..., Callable[[], bytes]]) -> Any:
    """A replica with ten points."""
    lab, step = make_lab(MemoryFiles(clones=request.param)), disk(7)
    for _ in range(10):
        lab.cycle(step(), history="auto" if request.param else "undo")
    return lab


def test_keep_n_keeps_the_newest_n(ten: Any) -> None:
    """In this order; the one mistake that must not be made."""
    assert engine.prune("/r", keep=4, files=ten.files) == 6
    assert ten.points() == ["7", "8", "9", "10"]
    ten.check()
    assert engine.prune("/r", keep=4, files=ten.files) == 0
    assert engine.prune("/r", keep=100, files=ten.files) == 0
    assert engine.prune("/r", keep=1, files=ten.files) == 3
    assert ten.points() == ["10"]
    ten.check()


def test_what_is_dropped_leaves_no_file(ten: Any) -> None:
    engine.prune("/r", keep=1, files=ten.files)
    assert ten.files.listdir("/r/points") == ["000000000010.json"]


@pytest.mark.parametrize("seed", range(8))
def test_any_points_may_be_dropped(ten: Any, seed: int) -> None:
    chance = random.Random(seed)
    chosen = chance.sample(range(1, 10), chance.randrange(1, 9))
    assert engine.prune("/r", drop=[str(n) for n in chosen], files=ten.files) == len(chosen)
    assert ten.points() == [str(n) for n in range(1, 11) if n not in chosen]
    ten.check()
    ten.cycle(b"and it goes on")
    ten.check()


def test_a_point_dropped_by_its_time_and_twice_by_name(ten: Any) -> None:
    # The replica was born at 9:01 and point 1 cut at 9:03, as each cycle looks at the clock twice.
    assert engine.prune("/r", drop=["2026-11-22T09:07", "3", "3"], files=ten.files) == 1
    assert "3" not in ten.points()
    ten.check()


def test_the_newest_stays(ten: Any) -> None:
    for drop in (["10"], ["latest"], ["1", "10"]):
        with pytest.raises(errors.Refused, match="the newest point is the head"):
            engine.prune("/r", drop=drop, files=ten.files)
    assert len(ten.points()) == 10


@pytest.mark.parametrize("options", [{}, {"keep": 0}, {"keep": -1}, {"keep": 1, "drop": ["1"]}])
def test_what_makes_no_sense(ten: Any, options: dict[str, Any]) -> None:
    with pytest.raises(errors.Usage, match="give either"):
        engine.prune("/r", files=ten.files, **options)
    assert len(ten.points()) == 10


def test_a_point_that_is_not_there(ten: Any) -> None:
    with pytest.raises(errors.Refused, match="no point 11"):
        engine.prune("/r", drop=["1", "11"], files=ten.files)
    assert len(ten.points()) == 10


def test_damage_in_the_way_loses_no_other_point(
    make_lab: Any, disk: Callable[..., Callable[[], bytes]]
) -> None:
    """A delta that cannot be merged keeps its point; those newer than it go on restoring."""
    lab, step = make_lab(), disk(7)
    for _ in range(6):
        lab.cycle(step())
    path = "/r/points/000000000003.undo"
    with lab.files.open(path, "rw") as file:
        byte = file.read(file.size // 2, 1)[0]
        file.write(file.size // 2, bytes([byte ^ 1]))
    with pytest.raises(errors.Damaged, match=r"000000000003\.undo"):
        engine.prune("/r", drop=["3"], files=lab.files)
    assert lab.points() == ["1", "2", "3", "4", "5", "6"]
    for name in ("4", "5", "6"):
        assert lab.restore(name) == lab.contents[name]
    # Dropping everything up to it needs no merge, and rids the replica of the damage.
    assert engine.prune("/r", keep=3, files=lab.files) == 3
    lab.check()
