"""What is believed of notes, and of which (D11, D12): no machine runs for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.health.states import State
from secondsite.orchestration.hosts.spec import MachineSpec
from secondsite.orchestration.protection.note import Disk, Note, Relation, Row
from secondsite.orchestration.rebuilding.deciding import Left, Restored, Wanted, decide
from secondsite.orchestration.rebuilding.looking import Seen

WANTED = Wanted("app1", "pair", {"/a": "/r/a", "/b": "/r/b"}, 300, frozenset({"/a", "/b"}))
NAMED = {"/r/a", "/r/b"}


def row(number: int, *generations: int | None, hour: int = 0) -> Row:
    time = f"2027-01-15T{hour + number:02}:00:00+00:00"
    return Row(number, time, number * 1000, False, None, 1, False, [*generations])


def note(*rows: Row, **more: Any) -> Note:
    disks = [Disk("/a", "/r/a", "a" * 32), Disk("/b", "/r/b", "b" * 32)]
    given = {
        "item": "1" * 32, "machine": "app1", "protection": "pair", "state": 3, "epoch": 1, "timeline": None,
        "disks": disks, "points": list(rows), **more,
    }  # fmt: skip
    return Note(**given)


def seen(place: str, name: str, generations: Sequence[int], said: Note | None, epoch: int = 1) -> Seen:
    return Seen(place, name * 32, epoch, dict.fromkeys(generations, "2027-01-15T00:00:00Z"), said)


def both(said: Note | None, other: Note | None = None, generations: Sequence[int] = (1, 2, 3)) -> list[Seen]:
    return [seen("/r/a", "a", generations, said), seen("/r/b", "b", generations, other or said)]


def restored(found: Restored | Left) -> Restored:
    assert isinstance(found, Restored), found
    return found


def test_the_newer_of_two_notes_counts_whatever_the_clock_said() -> None:
    """P25: a process was killed when it had told one replica, and the wall clock had been set back before."""
    older, newer = note(row(1, 1, 1, hour=9)), note(row(1, 1, 1, hour=9), row(2, 2, 1, hour=0))
    for said in ((older, newer), (newer, older)):
        assert [one.number for one in restored(decide(WANTED, both(*said), {}, NAMED)).points] == [1, 2]


def test_a_machine_that_was_protected_anew_is_the_newer_item() -> None:
    before, now = note(row(9, 1, 1)), note(row(1, 2, 2, hour=12), item="2" * 32)
    found = restored(decide(WANTED, both(before, now), {}, NAMED))
    assert found.item == "2" * 32 and [one.number for one in found.points] == [1]
    apart = note(row(1, 1, 1), item="3" * 32, disks=[Disk("/a", "/x/a", "c" * 32), Disk("/b", "/x/b", "d" * 32)])
    found_too = decide(WANTED, [*both(now), seen("/x/a", "c", [1], apart)], {}, NAMED)
    assert isinstance(found_too, Left) and "several items" in found_too.why


def test_a_note_names_no_source_that_the_estate_does_not() -> None:
    """Who keeps a replica could have any file of the source's host sent to him."""
    lie = note(row(1, 1, 1), disks=[Disk("/etc/shadow", "/r/a", "a" * 32), Disk("/b", "/r/b", "b" * 32)])
    found = restored(decide(WANTED, both(lie), {}, NAMED))
    assert {disk.path for disk in found.disks if not disk.left} == {"/a", "/b"}
    assert [disk.path for disk in found.disks if disk.left] == ["/etc/shadow"]
    everything = note(row(1, 1, 1), disks=[Disk("/etc/shadow", "/r/a", None), Disk("/etc/passwd", "/r/b", None)])
    assert isinstance(decide(WANTED, both(everything), {}, NAMED), Left)


def test_a_note_names_no_replica_that_neither_estate_nor_operator_do() -> None:
    lie = note(row(1, 1, 1), disks=[Disk("/a", "secondsite://other/a", "a" * 32), Disk("/b", "/r/b", "b" * 32)])
    replicas = [seen("secondsite://other/a", "a", [1], lie), seen("/r/b", "b", [1], lie)]
    found = decide(WANTED, replicas, {}, NAMED)
    assert isinstance(found, Left) and "name it if that is right" in found.why
    found = decide(WANTED, replicas, {}, {*NAMED, "secondsite://other/a"})
    assert restored(found).disks[0].replica == "secondsite://other/a"


def test_a_failed_over_machine_comes_back_as_it_ran_and_without_commands() -> None:
    """Nothing is run or written before an operator has looked; what is run is what the estate says."""
    spec = MachineSpec("app1", "/vm", options=("-hostile",), qmp="/tmp/x")
    away = Placed({"/a": "/vm/a.overlay"}, "h2", spec)
    said = note(row(1, 1, 1), state=int(State.FAILED_OVER), relation=Relation("target", "forward", away, True))
    found = restored(decide(WANTED, both(said), {}, NAMED))
    assert found.relation.active == "target" and found.state is State.FAILED_OVER and found.reason is not None
    assert found.relation.away is not None and found.relation.away.spec is not None
    assert (found.relation.away.spec.options, found.relation.away.spec.qmp) == ((), None)
    assert any("failover was under way" in line for line in found.told)
    packed = msgspec.to_builtins(said)
    assert msgspec.convert(packed, Note) == said


def test_of_the_way_back_points_are_in_its_replicas() -> None:
    disks = [Disk(f"/{one}", f"/r/{one}", one * 32, f"/h/{one}", None) for one in "ab"]
    back = msgspec.structs.replace(row(3, 1, 1), direction="reverse")
    said = note(row(1, 1, 1), row(2, 2, 2), back, disks=disks, relation=Relation("target", "reverse"))
    replicas = [*both(said, generations=[1]), seen("/h/a", "c", [1], said), seen("/h/b", "d", [1], said)]
    found = restored(decide(WANTED, replicas, {}, {*NAMED, "/h/a", "/h/b"}))
    assert [(one.number, one.direction) for one in found.points] == [(1, "forward"), (3, "reverse")]
    assert found.lost == (2,) and [disk.back_id for disk in found.disks] == ["c" * 32, "d" * 32]
    gone = decide(WANTED, replicas[:2], {"/h/a": "/h/a: the host does not answer"}, NAMED)
    assert gone == Left("app1", "/h/a: the host does not answer")


@pytest.mark.parametrize("state", [*State, 99])
def test_every_state_that_a_note_may_say(state: int) -> None:
    found = restored(decide(WANTED, both(note(row(1, 1, 1), state=state)), {}, NAMED))
    assert found.state in (state, State.ERROR, State.REPLICATING)
