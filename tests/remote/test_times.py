"""The time of a point that an agent keeps: when its source was cut (R2.1), by the agent's clock."""

from __future__ import annotations

import datetime
import random
import time
from pathlib import Path

import msgspec
import pytest
from hosting import site

from secondsite import engine
from secondsite.engine.progress import Progress
from secondsite.engine.remote import talk
from secondsite.engine.remote.link import protocol

SLOW = 0.8


def slowly(tmp_path: Path, **more: object) -> tuple[float, float]:
    """A transfer that takes so long: how many seconds the point's time at the agent is after that of the cut here, and
    how old the agent then tells that the replica is.
    """
    disk = tmp_path / "disk.img"
    disk.write_bytes(random.Random(1).randbytes(1 << 20))
    slept: list[str] = []

    def progress(now: Progress) -> None:
        if not slept:
            slept.append(now.stage)
            time.sleep(SLOW)

    with site(tmp_path) as there:
        done = engine.replicate(disk, there.url(), state=there.host(), progress=progress, **more)  # type: ignore[arg-type]
        (point,) = engine.points(there.root / "disk")
        assert slept and done.cut_at is not None and (there.root / "disk/head.raw").read_bytes() == disk.read_bytes()
        name = 'secondsite_last_good_age_seconds{replica="disk"} '
        (line,) = [line for line in there.agent.figures().splitlines() if line.startswith(name)]
        late = datetime.datetime.fromisoformat(point.time) - datetime.datetime.fromisoformat(done.cut_at)
        return late.total_seconds(), float(line.removeprefix(name))


def test_it_is_of_the_cut_and_not_of_the_end_of_the_transfer(tmp_path: Path) -> None:
    late, age = slowly(tmp_path)
    assert abs(late) < SLOW / 2 and age >= SLOW


def test_the_clock_of_the_source_does_not_count(tmp_path: Path) -> None:
    """It is a day ahead."""
    ahead = datetime.timedelta(days=1)
    late, _ = slowly(tmp_path, clock=lambda: datetime.datetime.now(datetime.UTC) + ahead)
    assert abs(late + ahead.total_seconds()) < SLOW / 2


def test_with_an_older_agent_it_is_of_its_end_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "NEWEST", 3)
    assert slowly(tmp_path)[0] >= SLOW


@pytest.mark.parametrize("age", [-1, talk.MAX_AGE + 1, 1 << 62, 0.5])
def test_an_age_that_is_none_is_refused(age: float) -> None:
    said = {"type": "finish", "seal": "", "tracker": "", "read_bytes": 0, "changed_bytes": 0, "sent_bytes": 0}
    assert isinstance(talk.from_source(msgspec.msgpack.encode({**said, "age": 0}), "them"), talk.Finish)
    with pytest.raises(protocol.Garbled):
        talk.from_source(msgspec.msgpack.encode({**said, "age": age}), "them")
