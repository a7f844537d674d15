"""Application-consistent points (R4) of machines on another host, whose guests are brought to rest there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "qemu"))

from qemukit import ScriptedAgent
from test_application import log, quiesce
from test_cycles import HOUR, Bench

from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.hosts.reaching import reach
from secondsite.orchestration.protection import elsewhere, report
from secondsite.orchestration.protection.application import MOST_TRIES
from secondsite.orchestration.vault.database import Database

Make = Callable[..., Bench]


@pytest.fixture
def there(short_path: Path, lite: Database, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A machine with a guest agent, on a host that is called as if it were another one."""
    monkeypatch.setattr(elsewhere.hosts, "reach", lambda host: reach(Host("here")))

    def make(machine: str = f'guest_agent = "{short_path}/agent"') -> Bench:
        return Bench(short_path, lite, hours=1, machine=machine, from_host='reach = ["there"]')

    return make


def cycles(bench: Bench, count: int) -> None:
    """Each five minutes."""
    for _ in range(count):
        bench.clock.now += 300
        bench.write()
        bench.cycle()


def freezes(agent: ScriptedAgent) -> int:
    return agent.log.count("freeze")


def agent(bench: Bench, **script: Any) -> ScriptedAgent:
    return ScriptedAgent(bench.folder / "agent", **script)


def test_one_an_hour_and_no_other_cycle_freezes_it(there: Make) -> None:
    bench = there()
    made = agent(bench)
    bench.cycle()  # which copies
    bench.to_span()
    cycles(bench, 2 * 12 - 1)
    assert freezes(made) == 2 and not made.is_frozen
    assert bench.item().application.made is not None and not bench.item().application.tries
    assert any(one.application for one in bench.points())
    made.close()


def test_one_that_fails_is_told_and_tried_again_so_often(there: Make) -> None:
    """R4.4. None of them costs the point."""
    bench = there()
    made = agent(bench, answers={"guest-fsfreeze-freeze": Exception("no room")})
    bench.cycle()
    bench.to_span()
    cycles(bench, MOST_TRIES + 2)
    assert freezes(made) == MOST_TRIES and bench.contents(bench.points()[-1]) == bench.source()
    (row,) = report.rows(bench.database, bench.clock.now)
    assert row.application_failed == MOST_TRIES
    assert any(one.rule == "R4.4" and "no room" in one.words for one in row.reasons), row.reasons
    made.close()


def test_its_users_commands_run_on_its_host(there: Make, short_path: Path) -> None:
    bench = there(quiesce(short_path, "true"))
    bench.cycle()
    bench.to_span()
    for count in (1, 2):
        cycles(bench, 3)
        assert log(short_path) == ["app1 before", "app1 after"] * count
        assert bench.item().application.made is not None and not bench.item().application.tries
        bench.clock.now += HOUR
