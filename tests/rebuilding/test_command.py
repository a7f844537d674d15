"""`secondsite vault rebuild`, as an operator uses it at three in the morning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from operators import Shell
from rebuildkit import ON_SQLITE, differences, estate, snapshot
from test_cycles import Bench

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.protection import note as notes
from secondsite.orchestration.vault import audit, database
from secondsite.orchestration.vault.database import Database


@pytest.fixture
def bench(tmp_path: Path, vault: Database) -> Bench:
    made = Bench(tmp_path, vault)
    for _ in range(2):
        made.clock.now += 4000
        made.write()
        made.cycle()
    (tmp_path / "estate.toml").write_text(estate(made).text)
    return made


@pytest.fixture
def shell(bench: Bench, fresh: Callable[[], Database], url: str, capsys: pytest.CaptureFixture[str]) -> Rebuilder:
    if "://" in url:
        with fresh() as made:
            place = made.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    else:
        place = str(bench.folder / "new.db")
    return Rebuilder(place, str(bench.folder / "estate.toml"), capsys)


class Rebuilder(Shell):
    """On a new vault, which the first command makes."""

    def __init__(self, place: str, estate: str, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(capsys, place)
        self.estate = estate

    def rebuild(self, *arguments: str, status: int = 0) -> str:
        return self("vault", "rebuild", self.estate, *arguments, status=status)


def test_one_command_and_everything_is_there(bench: Bench, shell: Rebuilder) -> None:
    told = shell.rebuild()
    assert "app1" in told and "replicating" in told and "restored: 1" in told
    assert "no replica holds statistics, the audit log" in told
    assert "nothing would change" in shell("plan", shell.estate)
    assert "nothing is missing" in shell.rebuild()
    assert "app1" in shell("retention", "app1") or "R3" in shell("retention", "app1")
    with database.opened(shell.vault) as made:
        assert differences(snapshot(bench.database), snapshot(made)) == []
        told_too = [(one.what, one.subject, one.detail) for one in audit.newest(made, 10) if one.subject == "app1"]
        assert told_too == [("rebuild", "app1", "2 points, epoch 1")]


@ON_SQLITE
def test_what_cannot_be_restored_is_said_and_nothing_is_written(bench: Bench, shell: Rebuilder) -> None:
    away = bench.folder / "replicas" / "app1" / "data"
    assert away.is_dir()
    away.rename(bench.folder / "copy")
    told = shell.rebuild(status=3)
    assert f"FAIL  app1: {away}" in told and "nothing was written" in told
    found = json.loads(shell.rebuild("--json", status=3).splitlines()[0])
    assert (found["written"], found["machines"], found["left"][0]["machine"]) == (False, [], "app1")
    assert "nothing is protected" in shell("status")
    assert "no such folder" in shell.rebuild(str(bench.folder / "nothing"), status=5)
    (bench.folder / "empty").mkdir()
    assert "no replica lies here" in shell.rebuild(str(bench.folder / "empty"), status=3)
    moved = json.loads(shell.rebuild(str(bench.folder / "copy"), "--json").splitlines()[0])
    assert moved["machines"][0]["disks"][str(bench.folder / "data.raw")] == str(bench.folder / "copy")
    assert moved["machines"][0]["points"] == 2 and "taken from" in moved["machines"][0]["told"][0]


@ON_SQLITE
def test_replicas_of_others_stay_what_they_are(bench: Bench, shell: Rebuilder) -> None:
    """A folder of replicas has one whose machine left the estate."""
    other = bench.folder / "replicas" / "app9"
    engine.replicate(bench.folder / "system.raw", other, source_id="other")
    note = engine.read_note(bench.item().disks[str(bench.folder / "system.raw")])
    assert note is not None
    engine.write_note(other, {**note, "machine": "app9", "item": "9" * 32})
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    assert f"{other} is of machine 'app9', which the estate does not protect" in shell.rebuild(
        str(bench.folder / "replicas")
    )
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before


@ON_SQLITE
def test_notes_that_lie_or_rot_cost_no_more_than_themselves(bench: Bench, shell: Rebuilder) -> None:
    """D11: a note is input like any other. Another disk's says the same."""
    system, data = (bench.item().disks[str(bench.folder / f"{name}.raw")] for name in ("system", "data"))
    note = engine.read_note(system)
    assert note is not None
    point = note["points"][0]
    lies = [
        {**note, "points": [*note["points"], point]}, {**note, "disks": []}, {**note, "epoch": -1},
        {**note, "points": [[1, "noon", *point[2:]]]}, {**note, "version": 2}, {"kind": "other"}, {},
        {**note, "points": [[1 << 70, *point[1:]]]}, {**note, "machine": 7}, {**note, "item": "x" * 99},
        {**note, "points": [[*point[:7], [1]]]}, {**note, "points": [[*point[:7], [1, -1]]]},
        {**note, "relation": {"active": "both"}}, {**note, "disks": [note["disks"][0]] * 2},
    ]  # fmt: skip
    for lie in lies:
        with pytest.raises((errors.Damaged, errors.NewerFormat), match=r"^data: its note"):
            notes.parse(lie, "data")
    engine.write_note(data, lies[0])
    found = json.loads(shell.rebuild("--json").splitlines()[0])
    assert found["machines"][0]["points"] == 2
    with database.opened(shell.vault) as made:
        assert differences(snapshot(bench.database), snapshot(made)) == []
    shutil.copy(Path(system) / "note.json", Path(data) / "note.json")  # of another replica: it is not believed
    with pytest.raises(errors.Damaged, match="another replica"):
        engine.read_note(data)


@ON_SQLITE
def test_without_any_good_note_it_is_said_why(bench: Bench, shell: Rebuilder) -> None:
    """What a later version noted is not guessed; what is damaged everywhere is made up for by the points' times."""
    for replica in bench.item().disks.values():
        engine.write_note(replica, {"kind": "secondsite item", "version": 2})
    assert "this program knows 1" in shell.rebuild(status=3)
    for replica in bench.item().disks.values():
        engine.write_note(replica, {"kind": "no"})
    told = shell.rebuild()
    assert "is none of a protected machine" in told and "hold no note" in told
