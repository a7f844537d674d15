"""Every file of a replica, damaged in every way: the right bytes or one error, and nothing lost by trying."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

ROOT = "/vault/r"
NEWEST = f"{ROOT}/points/000000000004.json"
AT_REST = ("replica.json", "checked.json", "damage.json", "head.raw", "head.map")
RECORDS = tuple(f"points/00000000000{generation}.json" for generation in (1, 3, 4))
UNDOS = tuple(f"points/00000000000{generation}.undo" for generation in (1, 2, 3))
CLONES = tuple(f"points/00000000000{generation}.{kind}" for generation in (1, 3) for kind in ("raw", "map"))
UNFINISHED = "points/000000000004.undo"
CASES = (
    [("undo", name) for name in AT_REST + RECORDS + UNDOS]
    + [("clone", name) for name in AT_REST + RECORDS + CLONES]
    + [
        ("early", name)
        for name in ("head.raw", "head.map", UNFINISHED, "points/000000000003.undo", RECORDS[2])
    ]
    + [
        ("late", name)
        for name in ("head.raw", "head.map", UNFINISHED, "points/000000000003.undo", RECORDS[2])
    ]
)
# Cuts and flipped bits of each file. A trial of everything that reads takes 15 ms.
SAMPLE = 8
# All of a record, and enough of the larger files.
SWEEP = 800


def prepared(specimens: dict[str, Any], sort: str, victim: str) -> Any:
    """The specimen; with a note of damage where that is what the test damages."""
    specimen = specimens[sort]
    note = f"{ROOT}/damage.json"
    if victim == note:
        specimen = type(specimen)(
            {**specimen.names, note: b'{\n "2": "a finding"\n}'}, specimen.contents, specimen.source, specimen.clones,
            {**specimen.foreign, note: b'{\n "3": "their finding"\n}'},
        )  # fmt: skip
    return specimen


def is_advice(victim: str) -> bool:
    return victim.endswith(("checked.json", "damage.json"))


@pytest.mark.parametrize(("sort", "name"), CASES)
def test_reading(
    specimens: dict[str, Any],
    trial: Callable[..., Any],
    ways: Callable[..., Any],
    sweep: bool,
    sort: str,
    name: str,
) -> None:
    """Readers; then the file is put back, and all is as before."""
    victim = f"{ROOT}/{name}"
    specimen = prepared(specimens, sort, victim)
    chance = random.Random(f"{sort} {name}")
    for label, data in ways(
        specimen.names[victim], chance, SWEEP if sweep else SAMPLE, specimen.foreign.get(victim)
    ):
        if victim == NEWEST and data is None:
            continue  # see test_without_its_record_the_newest_generation_was_never_committed
        one = trial(specimen, victim, data, f"{sort}: {label}")
        if is_advice(victim):
            one.put_back = lambda: None  # its loss is nobody's: reading is the whole test
            note = one.files.names.pop(f"{ROOT}/damage.json", None)
            if note is not None and victim.endswith("damage.json"):
                one.files.names[victim] = note
                one.attempt(lambda: None)
                assert one.verify().ok, label
            assert one.read_everything() == set(specimen.contents), label
        else:
            one.read_everything()
        one.put_back()


@pytest.mark.parametrize(("sort", "name"), CASES)
def test_replicating(
    specimens: dict[str, Any],
    trial: Callable[..., Any],
    ways: Callable[..., Any],
    sweep: bool,
    sort: str,
    name: str,
) -> None:
    """A cycle over the damage either ends with the source as the newest point, or changes nothing."""
    victim = f"{ROOT}/{name}"
    specimen = prepared(specimens, sort, victim)
    chance = random.Random(f"cycle {sort} {name}")
    count = SWEEP // 4 if sweep else SAMPLE // 2
    for label, data in ways(specimen.names[victim], chance, count, specimen.foreign.get(victim)):
        if victim == NEWEST and data is None:
            continue
        one = trial(specimen, victim, data, f"{sort}: {label}")
        if not one.judge_cycle():
            one.put_back()


def test_a_point_newer_than_a_damaged_undo_delta_restores(
    specimens: dict[str, Any], trial: Callable[..., Any]
) -> None:
    """R3.5: damage costs only the points at or behind it."""
    specimen = specimens["undo"]
    for generation in (1, 2, 3):
        victim = f"{ROOT}/points/00000000000{generation}.undo"
        whole = bytearray(specimen.names[victim])
        whole[len(whole) // 2] ^= 0x10
        one = trial(specimen, victim, bytes(whole), "a bit in the middle")
        assert one.read_everything() == set(range(generation + 1, 5))


def test_without_its_record_the_newest_generation_was_never_committed(
    specimens: dict[str, Any], trial: Callable[..., Any]
) -> None:
    """The rename of the record is the commit. A replica without it is one whose cycle died just before: it goes back
    to the point before, whole; nothing older is lost."""
    one = trial(specimens["undo"], NEWEST, None, "gone")
    for generation in (1, 2, 3):
        assert one.restored(str(generation), one.specimen.contents[generation])
    assert one.restored("latest", one.specimen.contents[3])
    assert one.verify().ok


def test_the_head_as_a_whole_replaced_by_another_point(
    specimens: dict[str, Any], trial: Callable[..., Any]
) -> None:
    """A plausible head of the right kind is still not the one that was sealed."""
    specimen = specimens["undo"]
    one = trial(specimen, f"{ROOT}/head.raw", specimen.contents[3], "an older head")
    assert 4 not in one.read_everything()
    one.put_back()
