"""The note of whoever protects a machine, in every kind of replica: durable, whole, fenced, and in nobody's way."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from remote.hosting import Site
from store.storekit import azure_store, numbers

from secondsite import engine
from secondsite.engine import errors, notes
from secondsite.engine.replica import record
from secondsite.engine.store.base import Changed

KINDS = [
    "undo", "log", "agent", "agent log",
    pytest.param("azure", marks=pytest.mark.needs("azurite")),
    pytest.param("sealed azure", marks=pytest.mark.needs("azurite")),
]  # fmt: skip


@dataclass
class Kept:
    """A replica of a small disk, and how to make its next point."""

    disk: Path
    url: str
    state: Path
    options: dict[str, Any]

    def cycle(self) -> int:
        self.disk.write_bytes(os.urandom(1 << 20))
        return engine.replicate(self.disk, self.url, state=self.state, tracker="scan", **self.options).generation

    def write(self, note: dict[str, Any], epoch: int | None = None) -> None:
        engine.write_note(self.url, note, epoch=epoch, state=self.state)

    @property
    def note(self) -> dict[str, Any] | None:
        return engine.read_note(self.url, state=self.state)


@pytest.fixture(params=KINDS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    kind, state, options, name = str(request.param), tmp_path / "state", dict[str, Any](), f"t{next(numbers)}"
    url = str(tmp_path / "replica")
    if kind.startswith("agent"):
        there: Site
        there, state = request.getfixturevalue("agent")
        url = there.url(name)
    if kind.endswith("azure"):
        azure_store(request.getfixturevalue("opens_azure"), name + "/").close()  # which makes the container
        url = f"azure://tests/{name}"
    if kind.endswith("log"):
        options = {"history": "log"}
    with ExitStack() as stack:
        if kind == "sealed azure":
            engine.new_key_file(tmp_path / "key")
            stack.enter_context(engine.using_key(engine.Key(file=tmp_path / "key")))
            options = {"encrypt": True}
        made = Kept(tmp_path / "disk.raw", url, state, options)
        made.cycle()
        yield made


def test_it_is_given_back_and_replaced(kept: Kept) -> None:
    assert kept.note is None
    kept.write({"machine": "büro", "points": [[1, None, True, 2.5]]})
    kept.cycle()
    assert kept.note == {"machine": "büro", "points": [[1, None, True, 2.5]]}
    kept.write({"second": 2})
    kept.write({"second": 2})
    assert kept.note == {"second": 2}
    assert [point.generation for point in engine.points(kept.url, state=kept.state)] == [1, 2]
    assert engine.verify(kept.url, state=kept.state).ok
    engine.prune(kept.url, keep=1, state=kept.state)
    assert kept.note == {"second": 2}


def test_it_is_fenced_and_bounded(kept: Kept) -> None:
    """D9: who was fenced off by a failover says nothing any more."""
    kept.write({"from": "before"}, epoch=1)
    engine.raise_epoch(kept.url, 3, state=kept.state)
    with pytest.raises(errors.Refused, match=r"epoch 3.*failover"):
        kept.write({"from": "the other side"}, epoch=1)
    assert kept.note == {"from": "before"}
    kept.write({"from": "the new side"}, epoch=3)
    assert kept.note == {"from": "the new side"}
    kept.write({"large": "x" * (notes.MAX_BYTES - 20)})
    for wrong in ({"large": "x" * notes.MAX_BYTES}, {"nan": float("nan")}, {"set": {1}}):
        with pytest.raises(errors.Usage):
            kept.write(wrong)
    assert kept.note == {"large": "x" * (notes.MAX_BYTES - 20)}


def test_it_is_written_while_cycles_run_and_points_are_read(kept: Kept) -> None:
    """Of two who write at once one comes last; nobody waits for a reader, and no reader sees half of one."""
    failed: list[BaseException] = []

    def write(name: str) -> None:
        for turn in range(5):
            try:
                kept.write({"name": name, "filler": name * 5000, "turn": turn})
            except (errors.Busy, Changed):
                pass  # the other one was faster
            except errors.Error as error:
                failed.append(error)

    with engine.open_point(kept.url, state=kept.state) as point:
        point.read(0, 4096)
        kept.write({"name": "r"})
    assert kept.note == {"name": "r"}
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(write, name)) for name in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    kept.cycle()
    for thread in threads:
        thread.join()
    found = kept.note
    assert not failed and found is not None
    assert found["filler"] == found["name"] * 5000


def test_it_goes_with_the_replica(kept: Kept) -> None:
    found = engine.info(kept.url, state=kept.state)
    kept.write({"a": 1})
    assert engine.delete_replica(kept.url, replica_id=getattr(found, "replica_id", ""), state=kept.state)
    if "://" not in kept.url:
        assert not Path(kept.url).exists()
    with pytest.raises((errors.Refused, errors.Unreachable)):
        _ = kept.note


def test_one_bad_byte_loses_nothing_and_two_are_told(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "disk.raw", str(tmp_path / "replica"), tmp_path / "state", {})
    kept.cycle()
    kept.write({"machine": "app1"})
    path = tmp_path / "replica" / "note.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert kept.note == {"machine": "app1"}, at
    half = len(whole) // 2
    path.write_bytes(whole[:9] + b"!" + whole[10 : half + 9] + b"!" + whole[half + 10 :])
    with pytest.raises(errors.Damaged, match=r"note\.json"):
        _ = kept.note
    kept.write({"machine": "app2"})
    assert kept.note == {"machine": "app2"}
    for odd in ({"note": []}, {"note": {}, "replica_id": "0" * 32}):
        path.write_bytes(record.pack({"replica_id": getattr(engine.info(kept.url), "replica_id", ""), **odd}))
        with pytest.raises(errors.Damaged):
            _ = kept.note
