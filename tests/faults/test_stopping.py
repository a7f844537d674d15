"""Cancelled at any moment: generation N stays, nothing is left over, and the next cycle works."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import rig
from rig import Place
from scenarios import CONTENTS, CYCLES, Scenario

from secondsite import engine
from secondsite.engine import errors, scan
from secondsite.engine.progress import Progress
from secondsite.engine.replica.directory import Replica

pytestmark = pytest.mark.usefixtures("small_pieces")

PLACES = ["memory_undo", "memory_clones", "disk_undo"]
SCENARIOS = [scenario for scenario in CYCLES if scenario.new]


@pytest.fixture(autouse=True)
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller is asked between spans: let there be many."""
    monkeypatch.setattr(scan, "SPAN_BYTES", 32 * 1024)


def nth(n: int) -> tuple[Callable[[], bool], list[int]]:
    """A `cancel` that says yes from its n-th call on, and how often it was asked."""
    asked: list[int] = []

    def cancel() -> bool:
        asked.append(1)
        return len(asked) >= n

    return cancel, asked


def stays(place: Place, files: object, scenario: Scenario, label: str) -> None:
    """Generation N, at rest, without a repair."""
    expected = scenario.expected(label)
    expected.heads, expected.points = expected.heads[:1], {name: expected.points[name] for name in expected.must}
    if expected.must:
        assert not Replica.open(place.root, files).interrupted(), f"{label}: left to repair"  # type: ignore[arg-type]
    rig.check(place, files, expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", PLACES)
def test_cancel_at_each_question(name: str, workers: int, request: pytest.FixtureRequest, sweep_all: bool) -> None:
    place: Place = request.getfixturevalue(name)
    chance = random.Random(name)
    for scenario in SCENARIOS:
        kept = "keep" not in scenario.name
        snapshot = place.dump(rig.build(place, scenario.states())) if scenario.before else {}
        n = 0
        while kept:
            n += 1 if sweep_all else chance.randrange(1, 8)
            files = place.load(snapshot) if snapshot else place.empty()
            files.mkdir(rig.parent(place.out))
            cancel, asked = nth(n)
            try:
                rig.replicate(
                    place, files, CONTENTS[scenario.new or ""], cancel=cancel, workers=workers,
                    resync=scenario.name == "resync",
                )  # fmt: skip
            except errors.Cancelled:
                stays(place, files, scenario, f"{scenario.name}, cancelled at question {n}")
                continue
            assert len(asked) < n
            break


@pytest.mark.parametrize("name", PLACES)
def test_cancel_from_progress_calls(name: str, request: pytest.FixtureRequest) -> None:
    """As a user interface does it: a progress call decides, the next question says so."""
    place: Place = request.getfixturevalue(name)
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "grown")
    snapshot = place.dump(rig.build(place, scenario.states()))
    for seed in range(12):
        chance = random.Random(seed)
        files, heard = place.load(snapshot), []  # type: tuple[object, list[Progress]]

        def hear(progress: Progress, heard: list[Progress] = heard, chance: random.Random = chance) -> None:
            if heard or chance.random() < 0.3:
                heard.append(progress)

        try:
            rig.replicate(
                place, files, CONTENTS["grown"], progress=hear, cancel=lambda heard=heard: bool(heard), workers=2
            )  # type: ignore[arg-type]
        except errors.Cancelled:
            stays(place, files, scenario, f"seed {seed}, {heard[:1]}")


def test_a_progress_call_that_raises(memory_undo: Place) -> None:
    """The caller's own error comes back to it, after the cycle was taken back."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "changed")
    files = rig.build(memory_undo, scenario.states())
    files.mkdir(rig.parent(memory_undo.out))

    def fail(progress: Progress) -> None:
        if progress.done:
            raise ZeroDivisionError

    for workers in (1, 2):
        with pytest.raises(ZeroDivisionError):
            rig.replicate(memory_undo, files, CONTENTS["changed"], progress=fail, workers=workers)
    stays(memory_undo, files, scenario, "raised")


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("in_place", [False, True])
def test_cancelled_restores(name: str, in_place: bool, request: pytest.FixtureRequest) -> None:
    """A new file does not appear; one that is rewritten is made good by the next call."""
    place: Place = request.getfixturevalue(name)
    files = rig.build(place, [CONTENTS["first"], CONTENTS["changed"]])
    files.mkdir(rig.parent(place.out))
    n = 0
    while True:
        n += 1
        if in_place:
            with files.open(place.out, "create") as image:
                image.write(0, CONTENTS["grown"])
        cancel, _ = nth(n)
        try:
            engine.restore(place.root, place.out, at="1", in_place=in_place, files=files, cancel=cancel, workers=1)
            break
        except errors.Cancelled:
            assert files.listdir(rig.parent(place.out)) == (["disk"] if in_place else [])
    assert n > 2
    assert files.read_bytes(place.out, 1 << 30) == CONTENTS["first"]
