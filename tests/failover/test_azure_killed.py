"""An orchestrator is killed at any step of a failover to Azure: the next one completes it, or takes it back, and leaves
no disk there that nobody knows of. What it held there is held for a minute yet, and is taken.
"""

from __future__ import annotations

from collections.abc import Callable

import killing
import pytest
from cloudkit import Cloud
from killing import Killed

from bench import plainly
from secondsite.engine.store import azure, pageblob
from secondsite.orchestration.failover import going_on
from secondsite.orchestration.hosts import reaching
from secondsite.orchestration.protection import leases
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.vault.database import Database

pytestmark = pytest.mark.needs("azurite")
# More than there are in any of them: the last cases are not killed at all.
STEPS = 46
Has = dict[int, dict[str, bytes]]


class Steps(killing.Steps):
    """Of transactions, calls of hosts, and writes to page blobs. Who is killed lets go of nothing."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.dead, release = False, azure._Lease.release
        patch.setattr(Database, "begin", killing.stepping(self.step))
        patch.setattr(azure._Lease, "release", lambda lease: None if self.dead else release(lease))
        patch.setattr(reaching.Here, "call", self.around(reaching.Here.call))
        for name in ("create", "mark", "put_last", "delete"):
            patch.setattr(pageblob.PageBlob, name, self.around(getattr(pageblob.PageBlob, name)))

    def step(self) -> None:
        if self.left == 1:
            self.dead = True
        super().step()

    def kill(self, at: int, call: Callable[[], object]) -> bool:
        """Was it killed? Otherwise it took less than STEPS."""
        self.left, self.taken, self.dead = at, 0, False
        try:
            call()
        except Killed:
            return True
        finally:
            self.left, self.dead = 0, False
        assert self.taken < STEPS, "every step is a case"
        return False


class Life:
    def __init__(self, cloud: Cloud, steps: Steps, at: int) -> None:
        self.cloud, self.steps, self.at = cloud, steps, at

    def act(self, call: Callable[[], object], done: Callable[[Held], bool]) -> None:
        """Killed, somebody else goes on with it: who runs cycles, or whoever makes the same call again."""
        if self.steps.kill(self.at, call):
            self.cloud.clock.now += leases.LEASE_SECONDS + 1
            if self.at % 2:
                failovers = self.cloud.failovers()
                for machine in failovers.waiting():
                    going_on.failover(failovers, machine)
                going_on.tests(failovers, lambda item, error: pytest.fail(str(error)))
            if not done(self.cloud.item):
                call()
        assert done(self.cloud.item), self.cloud.item.failover


def runs_from(number: int) -> Callable[[Held], bool]:
    return lambda item: (way := item.failover) is not None and (way.phase, way.point) == ("running", number)


def in_test(item: Held) -> bool:
    return item.test is not None and item.test.phase == "running"


def running(item: Held) -> bool:
    return item.failover is not None and item.failover.phase == "running"


def there(life: Life, first: Made, second: Made, has: Has) -> None:
    """A test and its clean-up; unplanned, another point, and cancelled."""
    cloud, failovers = life.cloud, life.cloud.failovers
    life.act(lambda: cloud.tests().test("app1", point=first.number), in_test)
    placed = cloud.item.test.there if cloud.item.test else None
    assert placed is not None and plainly(cloud.images(placed)) == has[first.number]
    life.act(lambda: cloud.tests().cleanup("app1"), lambda item: item.test is None)
    assert cloud.machines() == []
    life.act(lambda: failovers().fail_over("app1", "unplanned", point=first.number), runs_from(first.number))
    life.act(lambda: failovers().act("app1", "change-point", point=second.number), runs_from(second.number))
    assert plainly(cloud.away()) == has[second.number] and len(cloud.machines()) == 2
    life.act(lambda: failovers().act("app1", "cancel"), lambda item: item.failover is None)
    assert cloud.machines() == []


def and_home(life: Life, first: Made, second: Made, has: Has) -> None:
    """Unplanned and committed; home, and committed."""
    cloud, commit = life.cloud, lambda: life.cloud.failovers().act("app1", "commit")
    over = lambda: cloud.failovers().fail_over("app1", "unplanned", point=first.number)  # noqa: E731
    life.act(over, runs_from(first.number))
    life.act(commit, lambda item: item.failover is None)
    assert plainly(cloud.away()) == has[first.number] and len(cloud.machines()) == 2
    life.act(lambda: cloud.failovers().fail_over("app1", "failback"), running)
    assert plainly(cloud.source()) == has[first.number]
    life.act(commit, lambda item: item.failover is None)
    assert cloud.machines() == [], "R10.6"


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("at", range(1, STEPS + 1))
@pytest.mark.parametrize("whole", [there, and_home])
def test_killed_at_any_step(
    whole: Callable[[Life, Made, Made, Has], None], at: int, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every action of a life is killed at its step `at`."""
    first, second = cloud.cycle(), cloud.cycle()
    has = {one.number: plainly(cloud.contents(one)) for one in (first, second)}
    whole(Life(cloud, Steps(monkeypatch), at), first, second, has)
