"""A plan of six machines in three groups with a manual step, over real failovers: killed, and gone on with by
`secondsite run`; of two of them by one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import end_servers
from test_whole import bench

from secondsite.orchestration.plans import journal
from secondsite.orchestration.vault import database

WAIT_SECONDS = 90
STEPS = """before = [{{ name = "look", manual = "is the storage there?" }}]
after = [{{ name = "dns", script = ["sh", "-c", "echo dns >> {folder}/log"] }}]
"""


class Shop:
    """Its commands are processes; `begin` those that are not waited for."""

    def __init__(self, folder: Path, url: str) -> None:
        self.bench, self.folder, self.url = bench(), folder, url
        self.begun: list[subprocess.Popen[str]] = []
        self.bench.STUB = self.bench.STUB.replace("start) :", 'start) echo "start $name" >>"{folder}.log"; :')
        self.bench.site(folder, 6, 3, url)
        first, second, rest = (folder / "estate.toml").read_text().split("[[recovery.group]]\n", 2)
        steps = STEPS.format(folder=folder)
        (folder / "estate.toml").write_text(f"{first}[[recovery.group]]\n{second}[[recovery.group]]\n{steps}{rest}")
        self.do("apply", str(folder / "estate.toml"))

    def do(self, *words: str) -> str:
        process = self.begin(*words)
        out, error = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0, (words, error)
        return out

    def begin(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*self.bench.CLI, *words, "--vault", self.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.begun.append(process)
        return process

    def until(self, done: Callable[[journal.Run], bool]) -> journal.Run:
        until = time.monotonic() + WAIT_SECONDS
        with database.opened(self.url) as vault:
            while True:
                found = journal.newest(vault)
                if found and done(found[0]):
                    return found[0]
                assert time.monotonic() < until, found
                time.sleep(0.02)

    @property
    def up(self) -> set[str]:
        return {path.name for path in (self.folder / "up").iterdir()}

    def end(self) -> None:
        for process in self.begun:
            if process.poll() is None:
                process.kill()
            process.communicate()
        end_servers(self.folder)


@pytest.fixture
def shop(folder: Path, url: str) -> Iterator[Shop]:
    made = Shop(folder, url)
    yield made
    made.end()


@pytest.fixture
def folder(short_path: Path) -> Path:
    """Sockets of machines lie below it."""
    return short_path


def killed(run: journal.Run) -> None:
    """Who is at it, as it says itself."""
    os.kill(int(str(run.holder).split(" ")[2]), signal.SIGKILL)


def killed_again_and_again_it_ends_once(shop: Shop) -> None:
    first = shop.begin("recovery", "run", "all", "--kind", "unplanned")
    shop.until(lambda run: bool(shop.up))
    first.send_signal(signal.SIGKILL)
    one, two = shop.begin("run", "--json"), shop.begin("run", "--json")
    waits = shop.until(lambda run: bool(run.waiting) and run.held(time.time()))
    assert shop.up == {"m0", "m3"} and waits.attempt == 1
    killed(waits)  # the process that had taken it
    shop.until(lambda run: run.held(time.time()) and run.holder != waits.holder)
    for orchestrator in (one, two):
        orchestrator.terminate()
        assert orchestrator.wait(WAIT_SECONDS) == 0
    left = shop.until(lambda run: run.until == 0)
    assert left.state == "running" and left.holder is not None, "the next orchestrator goes on with it"
    three = shop.begin("run", "--json")
    shop.until(lambda run: run.held(time.time()))
    shop.do("recovery", "confirm", left.id)
    done = shop.until(lambda run: run.ended is not None)
    assert (done.state, done.attempt) == ("done", 1), done.begun
    log = (shop.folder / "log").read_text().splitlines()
    assert log == ["dns"], "a script that ended is not run once more"
    # One whose caller was killed before it had said which machine has no name.
    lines = (shop.folder / "up.log").read_text().splitlines()
    starts = [line.split()[1] for line in lines if len(line.split()) > 1]
    assert sorted(starts) == [f"m{number}" for number in range(6)] and set(starts[:2]) == {"m0", "m3"}
    three.terminate()
    told = [json.loads(line) for line in three.communicate(timeout=WAIT_SECONDS)[0].splitlines()]
    assert [one["state"] for one in told if one.get("what") == "recovery"] in (["running", "done"], ["running"])


def what_its_operator_stopped_waits_for_its_operator(shop: Shop) -> None:
    first = shop.begin("recovery", "run", "all", "--kind", "unplanned")
    shop.until(lambda run: bool(run.waiting))
    first.send_signal(signal.SIGINT)
    assert first.wait(WAIT_SECONDS) == 128 + signal.SIGINT
    orchestrator = shop.begin("run", "--json")
    time.sleep(4)
    found = shop.until(lambda run: True)
    assert found.state == "running" and found.holder is None
    orchestrator.terminate()
    assert '"what": "recovery"' not in orchestrator.communicate(timeout=WAIT_SECONDS)[0]


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("way", [
    killed_again_and_again_it_ends_once, what_its_operator_stopped_waits_for_its_operator,
])  # fmt: skip
def test_a_run_that_was_left(shop: Shop, way: Callable[[Shop], None]) -> None:
    way(shop)
