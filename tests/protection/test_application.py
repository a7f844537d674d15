"""Application-consistent points at their own frequency (R4), with commands of a user: when, how often, what fails."""

from __future__ import annotations

import datetime
import random
import zlib
from collections import Counter
from pathlib import Path

import pytest
from test_cycles import HOUR, Bench

from secondsite.orchestration.health.rules import Level
from secondsite.orchestration.protection import leases, report
from secondsite.orchestration.protection.application import MOST_TRIES, Application
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.freezing import go_on
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault.database import Database

US = 1_000_000


def quiesce(folder: Path, before: str, after: str = "true", seconds: int = 10) -> str:
    """A machine's commands: each notes that it ran, and goes on as told."""
    step = 'echo "$SECONDSITE_MACHINE $SECONDSITE_STEP" >> {}; {}'
    commands = [step.format(folder / "log", one) for one in (before, after)]
    before, after = (f'["sh", "-c", \'\'\'{one}\'\'\']' for one in commands)
    return f"quiesce = {{ before = {before}, after = {after}, seconds = {seconds} }}"


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines() if (folder / "log").exists() else []


def bench(folder: Path, vault: Database, before: str = "true", **more: str) -> Bench:
    """Its span has just begun, and its monitoring interval has not long (R8.5)."""
    made = Bench(folder, vault, additional=3, hours=1, machine=quiesce(folder, before, **more))
    made.to_span()
    return made


def test_one_an_hour_whatever_the_clock_does_and_whoever_runs_it(tmp_path: Path, vault: Database) -> None:
    """R4.1: cycles each 20 minutes for three hours, each by a program that was started anew; the clock is set."""
    made = bench(tmp_path, vault)
    for number in range(10):
        made.clock.now += 1200
        made.clock.skew = {4: 7200.0, 6: -7200.0, 8: 0.0}.get(number, made.clock.skew)
        made.cycles = Cycles(vault, made.holder, EngineWorker(), made.clock.clocks())
        made.write()
        made.cycle()
    item, count = made.item(), len(log(tmp_path)) // 2
    assert count in (3, 4) and log(tmp_path) == ["app1 before", "app1 after"] * count
    # Those of the monitoring interval alone (R8.5), which began meanwhile.
    assert 0 < item.statistics.application <= count and not item.statistics.application_failed
    assert item.at_rest is None and item.application.made is not None
    kept = [point for point in made.points() if point.application]
    assert kept, "R3.2: retention prefers them"
    row = report.rows(vault, made.clock.now)[0]
    assert row.application_age is not None and row.application_age <= HOUR
    assert "R4.4" not in {reason.rule for reason in row.reasons}


def test_retention_knows_of_the_next_one(tmp_path: Path, vault: Database) -> None:
    """M9: it takes the place of the point that its hour has had so far, and that dies when it was said to."""
    made = bench(tmp_path, vault)
    made.every = 900
    made.apply()
    made.cycle()
    told: dict[int, datetime.datetime | None] = {}
    for _ in range(9):
        item, held, said = made.item(), made.points(), made.protected()
        told = {one.made.number: one.dies for one in report.retention(item, held, said)} | told
        made.clock.now += 900
        now = datetime.datetime.fromtimestamp(made.clock.now, datetime.UTC)
        then = {one.made.number for one in report.retention(item, held, said, now) if one.kept.votes}
        made.cycle()
        left = {one.number for one in made.points()}
        assert then == left - {held[-1].number + 1}
        gone = {one.number for one in held} - left
        assert {told.pop(number) for number in gone} <= {now}


def test_a_failed_one_is_a_plain_point_and_tried_again_so_often(tmp_path: Path, vault: Database) -> None:
    """R4.4."""
    made = bench(tmp_path, vault, "echo no room >&2; exit 5")
    for _ in range(MOST_TRIES + 3):
        made.clock.now += 60
        made.write()
        made.cycle()
    assert log(tmp_path) == ["app1 before", "app1 after"] * MOST_TRIES, "what may have begun is ended"
    assert made.contents(made.points()[-1]) == made.source() and not any(one.application for one in made.points())
    row = report.rows(vault, made.clock.now)[0]
    assert (row.level, row.application_failed, row.application_age) == (Level.WARNING, MOST_TRIES, None)
    assert "R4.4" in row.reasons[0].rule and "no room" in row.reasons[0].words
    made.clock.now += HOUR
    made.cycle()
    assert len(log(tmp_path)) == 2 * (MOST_TRIES + 1)


def test_a_command_that_hangs_is_ended_with_what_it_began(tmp_path: Path, vault: Database) -> None:
    made = bench(tmp_path, vault, f"sleep 600 & echo $! > {tmp_path}/child; yes", seconds=1)
    made.cycle()
    made.cycle()
    assert log(tmp_path) == ["app1 before", "app1 after"] and len(made.points()) == 2
    child = int((tmp_path / "child").read_text())
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    assert "took more than 1 s" in report.rows(vault, made.clock.now)[0].reasons[0].words


def test_a_machine_that_could_not_be_let_go_on_is_told_and_tried_again(tmp_path: Path, vault: Database) -> None:
    made = bench(tmp_path, vault, "true", after=f"test -e {tmp_path}/good")
    made.cycle()
    made.cycle()
    row = report.rows(vault, made.clock.now)[0]
    assert (row.level, row.reasons[0].rule) == (Level.CRITICAL, "R4.4") and "may stand still" in row.reasons[0].words
    (tmp_path / "good").touch()
    made.clock.now += 300
    item = leases.claim(vault, made.holder, made.clock.now + 1e9, 1)[0]
    assert item.at_rest is not None
    go_on(vault, made.holder, item, made.clock.now)
    leases.give_back(vault, made.holder, [item.id])
    assert made.item().at_rest is None and log(tmp_path) == ["app1 before", "app1 after", "app1 after"]


def test_a_machine_that_nothing_can_bring_to_rest_says_so(tmp_path: Path, vault: Database) -> None:
    made = Bench(tmp_path, vault, hours=1)
    made.cycle()
    made.cycle()
    row = report.rows(vault, made.clock.now)[0]
    assert row.level is Level.WARNING and "neither guest_agent nor quiesce" in row.reasons[0].words
    assert row.application_failed == 0


@pytest.mark.parametrize("hours", [1, 4, 12])
@pytest.mark.parametrize("name", ["a", "some-machine"])
def test_each_span_has_one_success_at_most_and_few_tries(hours: int, name: str) -> None:
    """Against a count by span: cycles at random times for four days, of which many fail."""
    chance, span = random.Random(hours), hours * 3600 * US
    state, at = Application(), 1_800_000_000 * US
    cycles, tries, successes = Counter[int](), Counter[int](), Counter[int]()
    while at < (1_800_000_000 + 96 * 3600) * US:
        number = (at + int(span * (zlib.crc32(name.encode()) / 2**32))) // span
        cycles[number] += 1
        if state.due(name, hours, at):
            tries[number] += 1
            good = chance.random() < 0.3
            successes[number] += good
            state = state.done(at) if good else state.failed(name, hours, at, "no")
        at += chance.randint(30, 1200) * US
    for number, count in cycles.items():
        assert successes[number] <= 1
        assert tries[number] == min(count, MOST_TRIES) or (0 < tries[number] <= MOST_TRIES and successes[number])
    assert 0 < sum(successes.values()) < len(cycles)
    assert not Application().due(name, 0, at)
