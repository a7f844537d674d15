"""Two hosts whose clocks are a day apart, with all of a process's clock wrong: OpenSSL's too."""

from __future__ import annotations

import datetime
import json
import random
import time
from pathlib import Path

import pytest
import skew
from commands import paired, run, service
from hosting import site

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.units import MIB

pytestmark = [pytest.mark.needs("gcc"), pytest.mark.timeout(120)]
DAY = 24 * 3600


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return skew.library(tmp_path_factory.mktemp("clock"))


def image(folder: Path, seed: int) -> Path:
    path = folder / "disk.raw"
    path.write_bytes(random.Random(seed).randbytes(MIB))
    return path


def off(text: str) -> float:
    """How many days a point's time is ahead."""
    return (datetime.datetime.fromisoformat(text) - datetime.datetime.now(datetime.UTC)).total_seconds() / DAY


@pytest.mark.parametrize("days", [-1, 1])
def test_an_agent_whose_clock_is_a_day_off_until_somebody_sets_it(tmp_path: Path, clock: Path, days: int) -> None:
    """Its certificate, its keys and its points are of its clock; afterwards all of them still hold."""
    wrong = skew.within(clock, days * DAY)
    source, states = image(tmp_path, 1), list[bytes]()
    run("identity", "init", "--state", tmp_path / "there", within=wrong)
    with service(tmp_path, within=wrong) as agent:
        state = paired(tmp_path, agent, "vm", there=wrong)
        for seed in (1, 2):
            states.append(image(tmp_path, seed).read_bytes())
            run("replicate", source, agent.url("vm"), "--state", state)
        assert "against point 2" in run("verify", agent.url("vm"), "--source", source, "--state", state)
        agent.stop()
    points = engine.points(tmp_path / "root" / "vm")
    assert all(abs(off(point.time) - days) < 0.1 for point in points)
    with service(tmp_path) as agent:
        move(state, agent.port)
        states.append(image(tmp_path, 3).read_bytes())
        assert "delta: point 3" in run("replicate", source, agent.url("vm"), "--state", state)
        listed = json.loads(run("points", agent.url("vm"), "--state", state, "--json"))["points"]
        assert [point["generation"] for point in listed] == [1, 2, 3]
    assert abs(off(engine.points(tmp_path / "root" / "vm")[-1].time)) < 0.1
    for number, data in enumerate(states, 1):
        out = tmp_path / f"{number}.raw"
        run("restore", tmp_path / "root" / "vm", out, "--at", str(number))
        assert out.read_bytes() == data


@pytest.mark.parametrize("days", [-1, 1])
def test_a_sender_whose_clock_is_a_day_off(tmp_path: Path, clock: Path, days: int) -> None:
    wrong = skew.within(clock, days * DAY)
    with service(tmp_path) as agent:
        state = paired(tmp_path, agent, "vm", within=wrong)
        source = image(tmp_path, 1)
        run("replicate", source, agent.url("vm"), "--trust-mtime", "--state", state, within=wrong)
        image(tmp_path, 2)
        said = run("replicate", source, agent.url("vm"), "--trust-mtime", "--state", state, within=wrong)
        assert "delta: point 2" in said
        assert "ok: point 2" in run("verify", agent.url("vm"), "--state", state, within=wrong)
    assert all(abs(off(point.time)) < 0.1 for point in engine.points(tmp_path / "root" / "vm"))
    assert (tmp_path / "root" / "vm" / "head.raw").read_bytes() == source.read_bytes()


def test_clocks_that_are_a_month_apart_are_told_of(tmp_path: Path, clock: Path) -> None:
    """A new certificate does not hold yet, and the one line says to compare the clocks."""
    late = skew.within(clock, 30 * DAY)
    with service(tmp_path) as agent:
        state = tmp_path / "here"
        run("identity", "init", "--state", state, within=late)
        key = run("agent", "--token", "--replica", "vm", "--state", tmp_path / "there").strip()
        where = f"127.0.0.1:{agent.port}"
        words = ("pair", where, "--token", "-", "--state", state)
        why = run(*words, text=key + "\n", within=late, status=errors.REFUSED)
        assert "compare the clocks" in why
        assert engine.peers(state=tmp_path / "there") == []


def test_a_point_of_a_time_to_come_hides_no_silence(tmp_path: Path) -> None:
    """A clock that was ahead was set: what the agent tells of the point's age still grows."""
    (tmp_path / "root").mkdir()
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    engine.replicate(image(tmp_path, 1), tmp_path / "root" / "vm", clock=lambda: tomorrow)
    with site(tmp_path) as there:
        time.sleep(0.3)
        name = 'secondsite_last_good_age_seconds{replica="vm"} '
        (line,) = [line for line in there.agent.figures().splitlines() if line.startswith(name)]
        assert 0.2 < float(line.removeprefix(name)) < 30


def move(state: Path, port: int) -> None:
    """The agent listens at another port now."""
    book = json.loads((state / "agents.json").read_text())
    book["agents"] = {f"127.0.0.1:{port}": next(iter(book["agents"].values()))}
    (state / "agents.json").write_text(json.dumps(book))
