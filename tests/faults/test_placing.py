"""A point is put in the place of a disk: at each call with an effect the process ends, or the disk or the power fails.

Whatever happens, a whole disk lies under the name, the old one or the point; the old one is there until the commit; and
the same call again completes it (M12).
"""

from __future__ import annotations

import random

import pytest
from rig import MemoryPlace, Place, build, open_files, parent
from scenarios import CONTENTS
from sweep import CRASH, KINDS, Fault

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files import Files
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.failing import Crash, Faults

pytestmark = pytest.mark.usefixtures("small_pieces")

POINTS = ("first", "changed", "grown")
OLD, WANTED = CONTENTS["shrunk"], CONTENTS["changed"]
each_place = pytest.mark.parametrize("name", ["memory_undo", "memory_clones", "disk_undo"])


def put(place: Place, files: Files) -> engine.Placed:
    return engine.place(place.root, place.out, "2", files=files, workers=1)


def undo(place: Place, files: Files) -> bool:
    return engine.place_undo(place.out, files=files)


def commit(place: Place, files: Files) -> bool:
    return engine.place_commit(place.out, files=files)


def prepared(place: Place, act: object) -> Files:
    """Three points and the disk; with the second in its place where that is what is undone or committed."""
    files = place.load({**place.dump(build(place, map(CONTENTS.__getitem__, POINTS))), place.out: OLD})
    if act is not put:
        put(place, files)
    return files


def read(files: Files, path: str) -> bytes | None:
    return files.read_bytes(path, 1 << 30) if files.size(path) >= 0 else None


def judge(place: Place, files: Files, act: object, label: str) -> None:
    """Before anything is repaired, and after the same call again."""
    now, before = read(files, place.out), read(files, f"{place.out}.before-2")
    assert now in (OLD, WANTED), f"{label}: no whole disk"
    if act is not commit:
        assert OLD in (now, before), f"{label}: the old disk is gone"
    act(place, files)  # type: ignore[operator]
    names = [name for name in files.listdir(parent(place.out)) if name.startswith((".", "disk"))]
    if act is put:
        assert (read(files, place.out), read(files, f"{place.out}.before-2")) == (WANTED, OLD), label
        assert names == ["disk", "disk.before-2"], label
        assert undo(place, files) and read(files, place.out) == OLD, label
    else:
        assert read(files, place.out) == (OLD if act is undo else WANTED), label
        assert names == ["disk"], label


def run(place: Place, act: object, fault: Fault, all_of_them: bool, most: int = 6) -> int:
    files = prepared(place, act)
    counting = Faults()
    act(place, FailingFiles(files, counting))  # type: ignore[operator]
    chosen = list(range(1, counting.count + 1))
    if not all_of_them and len(chosen) > most:
        chosen = sorted({*random.Random(fault.name).sample(chosen, most), *chosen[-5:]})
    for n in chosen:
        files, faults, opened = prepared(place, act), fault.at(n), open_files()
        label = f"{act.__name__}, {fault.name} at call {n}"  # type: ignore[attr-defined]
        try:
            act(place, FailingFiles(files, faults))  # type: ignore[operator]
        except (Crash, errors.Error) as error:
            label += f" {faults.log[n - 1]}, ended by {error!r}"
        assert open_files() <= opened, label
        judge(place, files, act, label)
    return len(chosen)


@each_place
@pytest.mark.parametrize("fault", KINDS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("act", [put, undo, commit])
def test_a_fault_at_each_call(
    name: str, fault: Fault, act: object, request: pytest.FixtureRequest, sweep_all: bool
) -> None:
    place: Place = request.getfixturevalue(name)
    assert run(place, act, fault, sweep_all or (fault is CRASH and name != "disk_undo")) > 1


@pytest.mark.parametrize("clones", [False, True], ids=["undo", "clones"])
@pytest.mark.parametrize("act", [put, undo, commit])
def test_power_lost_at_each_call(clones: bool, act: object, sweep_all: bool) -> None:
    place = MemoryPlace(clones=clones)
    counting = Faults()
    act(place, FailingFiles(prepared(place, act), counting))  # type: ignore[operator]
    for n in range(1, counting.count + 1):
        for seed in range(8 if sweep_all else 1):
            files = prepared(place, act)
            assert isinstance(files, MemoryFiles)
            try:
                act(place, FailingFiles(files, CRASH.at(n)))  # type: ignore[operator]
            except Crash:
                pass
            files.power_loss(random.Random(f"{n} {seed}"))
            judge(place, files, act, f"{act.__name__}, power lost at call {n}, seed {seed}")  # type: ignore[attr-defined]
