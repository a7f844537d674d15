"""After damage `resync` leads to a replica that works: the newest point is whole, and what is lost says so."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from secondsite import engine

ROOT = "/vault/r"
RECORD = "points/000000000004.json"
UNFINISHED = "points/000000000004.undo"
CASES = [("undo", "head.raw"), ("undo", "head.map"), ("undo", RECORD)]
CASES += [("clone", "head.raw"), ("clone", "head.map"), ("clone", RECORD)]
CASES += [(sort, name) for sort in ("early", "late") for name in (UNFINISHED, "head.raw", "head.map")]


def mend_twice(one: Any) -> None:
    """A resync mends; a second finds nothing to do, and an ordinary cycle goes on from there."""
    assert one.judge_cycle(resync=True), one.label
    again = one.attempt(lambda: engine.points(ROOT, files=one.files))[-1]
    assert one.judge_cycle(resync=True), one.label
    newest = engine.points(ROOT, files=one.files)[-1]
    assert (newest.generation, newest.damaged) == (again.generation, False), one.label


@pytest.mark.parametrize(("sort", "name"), CASES)
def test_resync_after_damage(
    specimens: dict[str, Any],
    trial: Callable[..., Any],
    ways: Callable[..., Any],
    sweep: bool,
    sort: str,
    name: str,
) -> None:
    specimen, victim = specimens[sort], f"{ROOT}/{name}"
    chance = random.Random(f"resync {sort} {name}")
    for label, data in ways(specimen.names[victim], chance, 100 if sweep else 5, specimen.foreign.get(victim)):
        if name == RECORD and data is None:
            continue  # then there is no such point: see test_every_file.py
        mend_twice(trial(specimen, victim, data, f"{sort}: {label}"))


@pytest.mark.parametrize("name", ["head.raw", "head.map"])
def test_an_unchanged_source_mends_every_point(
    specimens: dict[str, Any], trial: Callable[..., Any], in_memory: Callable[..., Any], name: str
) -> None:
    """Where the source still is what the newest point was, nothing is lost at all, not even an older point."""
    specimen, victim = specimens["undo"], f"{ROOT}/{name}"
    data = bytearray(specimen.names[victim])
    data[len(data) // 2] ^= 0xFF
    for damaged in (bytes(data), data[: len(data) // 2], None):
        one = trial(specimen, victim, damaged, "then the same source")
        result = in_memory(one.files, specimen.contents[4], resync=True)
        assert (result.kind, result.generation) == ("resync", 4)
        assert one.read_everything() == {1, 2, 3, 4}
        assert one.verify().ok


def test_a_cycle_without_resync_says_what_to_do(specimens: dict[str, Any], trial: Callable[..., Any]) -> None:
    specimen = specimens["undo"]
    one = trial(specimen, f"{ROOT}/head.raw", specimen.names[f"{ROOT}/head.raw"][:-5000], "cut")
    error = one.attempt(lambda: one.judge_cycle())
    assert error is False
    one.put_back()


def test_lost_frames_of_an_unfinished_cycle_do_not_block_what_is_whole(
    specimens: dict[str, Any], trial: Callable[..., Any], in_memory: Callable[..., Any]
) -> None:
    """Without its source a replica whose unfinished cycle cannot be taken back still gives what it has, and no more."""
    specimen, victim = specimens["late"], f"{ROOT}/{UNFINISHED}"
    one = trial(specimen, victim, specimen.names[victim][:104], "only its header is left")
    whole = one.read_everything()
    assert 4 not in whole
    error = one.attempt(lambda: in_memory(one.files, specimen.source))
    assert victim in str(error) and "--resync" in str(error)
    one.put_back()
