"""Application-consistent points (R4) of machines on another host, whose guests are brought to rest there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "qemu"))

from qemukit import ScriptedAgent
from test_application import log, quiesce
from test_cycles import HOUR, Bench

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.health.rules import Level
from secondsite.orchestration.health.states import State
from secondsite.orchestration.hosts.reaching import reach
from secondsite.orchestration.protection import elsewhere, leases, report
from secondsite.orchestration.protection.application import MOST_TRIES
from secondsite.orchestration.protection.freezing import due, go_on
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.vault.database import Database

Make = Callable[..., Bench]
Begun = Callable[..., tuple[Bench, ScriptedAgent]]


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


@pytest.fixture
def begun(there: Make) -> Iterator[Begun]:
    """One whose agent answers as it is told to, that was copied, at the beginning of a span."""
    agents = list[ScriptedAgent]()

    def make(**script: Any) -> tuple[Bench, ScriptedAgent]:
        bench = there()
        agents.append(ScriptedAgent(bench.folder / "agent", **script))
        bench.cycle()
        bench.to_span()
        return bench, agents[-1]

    yield make
    for one in agents:
        one.close()


def test_one_an_hour_and_no_other_cycle_freezes_it(begun: Begun) -> None:
    bench, made = begun()
    cycles(bench, 2 * 12 - 1)
    assert freezes(made) == 2 and not made.is_frozen
    assert bench.item().application.made is not None and not bench.item().application.tries
    assert any(one.application for one in bench.points())


def test_one_that_fails_is_told_and_tried_again_so_often(begun: Begun) -> None:
    """R4.4. None of them costs the point."""
    bench, made = begun(answers={"guest-fsfreeze-freeze": Exception("no room")})
    cycles(bench, MOST_TRIES + 2)
    assert freezes(made) == MOST_TRIES and bench.contents(bench.points()[-1]) == bench.source()
    (row,) = report.rows(bench.database, bench.clock.now)
    assert row.application_failed == MOST_TRIES
    assert any(one.rule == "R4.4" and "no room" in one.words for one in row.reasons), row.reasons


def test_its_users_commands_run_on_its_host(there: Make, short_path: Path) -> None:
    bench = there(quiesce(short_path, "true"))
    bench.cycle()
    bench.to_span()
    for count in (1, 2):
        cycles(bench, 3)
        assert log(short_path) == ["app1 before", "app1 after"] * count
        assert bench.item().application.made is not None and not bench.item().application.tries
        bench.clock.now += HOUR


def lost(calls: Any, *gone: str) -> Callable[..., Any]:
    """The host, whose answers to these operations are lost: they are done."""

    class Losing:
        def call(self, operation: str, arguments: Any, **more: Any) -> Any:
            answer = calls.call(operation, arguments, **more)
            if operation in gone:
                raise errors.Unreachable("no answer")
            return answer

    return lambda host: Losing()


def test_a_guest_that_may_stand_still_there_is_told_and_let_go(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call ended without an answer, as where its keeper was killed with it; then its agent refuses to thaw."""
    bench, made = begun()
    with monkeypatch.context() as patch:
        patch.setattr(elsewhere.hosts, "reach", lost(reach(Host("here")), "replica.replicate"))
        cycles(bench, 1)
    assert bench.item().at_rest is not None and freezes(made) == 1
    made.is_frozen = True
    monkeypatch.setitem(made._answers, "guest-fsfreeze-thaw", Exception("not now"))
    go_on(bench.database, bench.holder, hold(bench), bench.clock.now)
    assert (found := bench.item().at_rest) is not None and found.tries == 1
    (row,) = report.rows(bench.database, bench.clock.now + 3e9)  # nobody has it any more
    assert row.level is Level.CRITICAL and any("may stand still" in one.words for one in row.reasons)
    del made._answers["guest-fsfreeze-thaw"]
    go_on(bench.database, bench.holder, hold(bench), bench.clock.now)
    assert bench.item().at_rest is None and not made.is_frozen


def hold(bench: Bench) -> Held:
    """The item, with its lease."""
    leases.give_back(bench.database, bench.holder, [bench.item().id])
    return leases.claim(bench.database, bench.holder, bench.clock.now + 1e9, 1)[0]


def test_cycles_that_fail_behind_the_freeze_freeze_it_so_often(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, made = begun()
    monkeypatch.setattr(elsewhere.hosts, "reach", lost(reach(Host("here")), "replica.replicate"))
    for _ in range(MOST_TRIES + 2):
        cycles(bench, 1)
        go_on(bench.database, bench.holder, hold(bench), bench.clock.now)
        leases.give_back(bench.database, bench.holder, [bench.item().id])
    assert freezes(made) == MOST_TRIES


def test_one_that_may_stand_still_is_not_frozen_again(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would refuse that, and a refused thaw behind it is no word that it goes on. Somebody looks again soon."""
    bench, made = begun()
    with monkeypatch.context() as patch:
        patch.setattr(elsewhere.hosts, "reach", lost(reach(Host("here")), "replica.replicate"))
        cycles(bench, 1)
    cycles(bench, 1)
    assert freezes(made) == 1 and bench.item().at_rest is not None and len(bench.points()) == 2
    assert due(bench.item(), leases.NEVER, 100.0) == 160.0


def test_a_host_that_answers_has_let_it_go_on(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, made = begun()
    monkeypatch.setattr(engine, "replicate_together", refused)
    cycles(bench, 1)
    assert bench.item().state is State.ERROR and bench.item().at_rest is None and not freezes(made)
    assert due(bench.item(), leases.NEVER, 100.0) == leases.NEVER


def refused(*_: object, **__: object) -> None:
    raise errors.Refused("no")
