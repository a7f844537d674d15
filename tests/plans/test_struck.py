"""A plan of three machines in two groups over real failovers of QEMUs, which are struck on their way: what the run
says is so, its rule for errors is kept, it goes on or is taken back, and no machine runs on both sides.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import end_servers

from secondsite.orchestration.bench.protection.estates import PAIR
from secondsite.orchestration.estate.loading import parse
from secondsite.orchestration.failover import running, seeing
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.hypervisors.qemu import process
from secondsite.orchestration.plans import journal
from secondsite.orchestration.plans.doing import Doing, stops
from secondsite.orchestration.plans.machines import Failing
from secondsite.orchestration.plans.order import Kind
from secondsite.orchestration.protection import leases, lookup, said
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import database, holders, inventory

pytestmark = [pytest.mark.needs("qemu-system-x86_64"), pytest.mark.timeout(300)]
GROUPS = (("m0", "m1"), ("m2",))
NAMES = [name for group in GROUPS for name in group]
ESTATE = PAIR + """
[[host]]
name = "h1"
cloud = "c1"
run = "{folder}/run1"
[[host]]
name = "h2"
cloud = "c2"
path = "{folder}/replicas"
run = "{folder}/run2"
[[policy]]
name = "p"
copy_frequency = 900
[[recovery]]
name = "all"
"""
MACHINE = """
[[machine]]
name = "{name}"
host = "h1"
memory = 32
options = ["-accel", "tcg"]
disks = [{{ path = "{folder}/{name}.raw", os = true }}]
[[item]]
machine = "{name}"
protection = "pair"
"""


class Shop:
    """Its machines have no operating system: none of them ever follows its power button."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("replicas", "run1", "run2"):
            (folder / name).mkdir()
        text = ESTATE.format(folder=folder)
        text += "".join(f"[[recovery.group]]\nmachines = {json.dumps(group)}\n" for group in GROUPS)
        for name in NAMES:
            (folder / f"{name}.raw").write_bytes(os.urandom(1 << 20))
            text += MACHINE.format(folder=folder, name=name)
        self.vault = database.create(str(folder / "vault.db"))
        loaded = parse(text.encode())
        self.estate = loaded.estate
        inventory.apply(self.vault, loaded, "me", time.time())
        cycles = Cycles(self.vault, holders.new(), EngineWorker())
        for item in leases.claim(self.vault, cycles.holder, time.time() + 1e6, len(NAMES)):
            assert cycles.run(item, said.protected(self.estate)[item.machine]) is None

    def failovers(self) -> Failovers:
        return Failovers(self.vault, "me", holders.new(), EngineWorker())

    def new(self, kind: Kind) -> str:
        return journal.new(self.vault, self.estate.recovery[0], kind, "latest", "me", time.time())

    def go(self, run: str, strike: Callable[[int], None] = lambda number: None) -> str:
        """As a process does it, one task after the other; `strike` is called before each."""
        holder = holders.this_process()
        taken = journal.claim(self.vault, run, holder, time.time())
        machines = Failing(self.failovers(), NAMES, run)
        doing, state = Doing(self.vault, taken, machines, {"source": (), "target": ()}), "done"
        for task in taken.tasks:
            strike(task.number)
            if doing.do(task.number) == "failed":
                state = "stopped" if stops(taken.kind) else "failed"
            self.sides()
            if state == "stopped":
                break
        if doing.look_back(len(taken.tasks) + 1) and state == "done":
            state = "stopped" if stops(taken.kind) else "failed"
        journal.finish(self.vault, run, holder, state, time.time())
        return state

    def why(self, run: str) -> dict[str, str]:
        """What failed in it, by its task."""
        found = journal.load(self.vault, run)
        return {task.name.partition(":")[0]: str(found.begun[task.number].detail) for task in found.failed}

    def sides(self) -> dict[str, dict[str, str]]:
        """Where each machine is seen: never on both."""
        found = seeing.seen(self.failovers(), lookup.load(self.vault))
        assert not [name for name, sides in found.items() if sum("running" in word for word in sides.values()) > 1]
        return found

    def up(self) -> dict[str, str]:
        """The side at which each machine runs, of those that run."""
        return {
            name: side for name, sides in self.sides().items() for side, word in sides.items() if word == "running"
        }  # fmt: skip

    def pid(self, machine: str, run: str) -> int | None:
        """Of its QEMU, as soon as that is one."""
        for file in self.folder.glob(f"{run}/**/{machine}/qemu.pid"):
            text = file.read_text().strip()
            if text and b"qemu-system" in Path(f"/proc/{text}/cmdline").read_bytes():
                return int(text)
        return None

    def kill(self, machine: str, run: str = "run2", number: int = signal.SIGKILL) -> None:
        pid = self.pid(machine, run)
        assert pid is not None
        os.kill(pid, number)

    def soon(self, call: Callable[[], object], after: float = 0.0) -> None:
        def later() -> None:
            time.sleep(after)
            call()

        threading.Thread(target=later, daemon=True).start()

    def struck(self, machine: str, number: int) -> None:
        """As it comes up, before its monitor answers."""
        until = time.monotonic() + 60
        while (pid := self.pid(machine, "run2")) is None and time.monotonic() < until:
            time.sleep(0.001)
        assert pid is not None
        os.kill(pid, number)

    def start_home(self) -> None:
        for name in NAMES:
            known = self.failovers().known(name)
            known.ask(known.home(), "start")


@pytest.fixture
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("q")
    made = Shop(folder)
    yield made
    end_servers(folder)
    made.vault.__exit__()


THERE = dict.fromkeys(NAMES, "target")


def killed_once_its_group_was_started(shop: Shop) -> None:
    """R9.11: the others are started; the run does not tell that it is up, and starts it again when it is resumed."""
    run = shop.new("unplanned")
    assert shop.go(run, lambda number: shop.kill("m0") if number == 3 else None) == "failed"
    assert shop.why(run) == {"start group 1": "m0: was started, and does not run any more"}
    assert shop.up() == {"m1": "target", "m2": "target"}
    assert shop.go(run) == "done" and shop.up() == THERE


def killed_as_it_comes_up(shop: Shop) -> None:
    """The same, before its monitor ever answered."""
    run = shop.new("unplanned")
    strike = lambda number: shop.soon(lambda: shop.struck("m0", signal.SIGKILL)) if number == 2 else None  # noqa: E731
    assert shop.go(run, strike) == "failed"
    assert shop.why(run)["start group 1"].startswith("m0: ")
    assert shop.up() == {"m1": "target", "m2": "target"}
    assert shop.go(run) == "done" and shop.up() == THERE


def hanging_as_it_comes_up(shop: Shop) -> None:
    """Its failover is taken back without its answer, and the others stay."""
    run = shop.new("unplanned")
    strike = lambda number: shop.soon(lambda: shop.struck("m2", signal.SIGSTOP)) if number == 3 else None  # noqa: E731
    assert shop.go(run, strike) == "failed"
    assert "m2: machine 'm2' runs, and its monitor does not answer" in shop.why(run)["start group 2"]
    assert shop.sides()["m2"]["target"] == "running, but its monitor does not answer"
    item = shop.failovers().act("m2", "cancel")
    assert item.state.words == "replicating" and shop.up() == {"m0": "target", "m1": "target"}


def hanging_once_its_group_was_started(shop: Shop) -> None:
    """It runs, and is of no use to anybody; awake again it is as it was, and is not started anew."""
    run = shop.new("unplanned")
    pids = []

    def strike(number: int) -> None:
        if number == 3:
            pids.append(shop.pid("m0", "run2"))
            shop.kill("m0", number=signal.SIGSTOP)

    assert shop.go(run, strike) == "failed"
    assert shop.why(run) == {"start group 1": "m0: runs, but its monitor does not answer"}
    shop.kill("m0", number=signal.SIGCONT)
    assert shop.go(run) == "done" and shop.up() == THERE and pids == [shop.pid("m0", "run2")]


def a_source_that_hangs_and_two_that_die_while_they_are_to_shut_down(shop: Shop) -> None:
    """R9.6, R9.7: nothing is started before all are over; only its operator ends it, and then the run goes on."""
    shop.start_home()
    shop.kill("m0", "run1", signal.SIGSTOP)
    for name in ("m1", "m2"):
        shop.soon(lambda name=name: shop.kill(name, "run1"), after=3.0)  # type: ignore[misc]
    run = shop.new("planned")
    assert shop.go(run) == "stopped"
    assert shop.why(run)["make 3 machines ready"].startswith("m0: machine 'm0' runs, and its monitor")
    assert shop.up() == {} and shop.sides()["m0"]["source"] == "running, but its monitor does not answer"
    shop.kill("m0", "run1")
    assert shop.go(run) == "done" and shop.up() == THERE


def killed_at_home_and_the_plan_is_cancelled(shop: Shop) -> None:
    """R9.7: a planned run stops before the next group; its machines are home again once each failover is cancelled."""
    shop.start_home()
    for name in NAMES:
        shop.soon(lambda name=name: shop.kill(name, "run1"), after=3.0)  # type: ignore[misc]
    run = shop.new("planned")
    assert shop.go(run, lambda number: shop.kill("m1") if number == 3 else None) == "stopped"
    assert shop.why(run) == {
        "start group 1": "m1: was started, and does not run any more",
        "start group 2": "not begun: a machine of an earlier group does not run any more",
    }  # fmt: skip
    assert shop.up() == {"m0": "target"}
    journal.cancel(shop.vault, run, time.time())
    for name in NAMES:
        assert shop.failovers().act(name, "cancel").state.words == "replicating"
    assert shop.up() == dict.fromkeys(NAMES, "source")


def killed_where_it_was_brought_before(shop: Shop) -> None:
    """R12.8: one that is up is passed over, and one that went down is not. What it wrote there is never left out."""
    shop.failovers().fail_over("m0", "unplanned")
    shop.failovers().act("m0", "commit")
    run = shop.new("unplanned")
    shop.kill("m0")
    assert shop.go(run) == "done" and shop.up() == THERE
    for name in ("m0", "m1"):
        shop.kill(name)
        next(shop.folder.glob(f"run2/*/{name}/*.overlay")).rename(shop.folder / f"{name}.overlay")
    run = shop.new("unplanned")
    assert shop.go(run) == "failed" and shop.up() == {"m2": "target"}
    first, second = shop.why(run)["start group 1"].splitlines()
    assert first.startswith("m0: ") and second.startswith("m1: ")
    assert first.endswith(told := "the disk that it wrote on is gone; nothing was started") and second.endswith(told)


@pytest.mark.sweep(sample=0)
@pytest.mark.parametrize("story", [
    killed_once_its_group_was_started, killed_as_it_comes_up, hanging_as_it_comes_up,
    hanging_once_its_group_was_started, a_source_that_hangs_and_two_that_die_while_they_are_to_shut_down,
    killed_at_home_and_the_plan_is_cancelled, killed_where_it_was_brought_before,
])  # fmt: skip
def test_struck_on_their_way(shop: Shop, story: Callable[[Shop], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STOP_SECONDS", 60)
    monkeypatch.setattr(process, "_START_SECONDS", 8.0)
    monkeypatch.setattr(process, "ANSWER_SECONDS", 2.0)
    story(shop)
