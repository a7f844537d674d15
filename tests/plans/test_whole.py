"""A plan of the estate over real failovers, by the command line: machines are files that a host's own commands make."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from killing import end_servers

BENCH = Path(__file__).parents[2] / "bench" / "recovery.py"


def bench() -> ModuleType:
    """The benchmark's site is the test's."""
    spec = importlib.util.spec_from_file_location("bench_recovery", BENCH)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


class Shop:
    def __init__(self, folder: Path, machines: int = 3) -> None:
        self.bench, self.folder = bench(), folder
        self.bench.site(folder, machines, 2)

    def run(self, *words: str) -> dict[str, Any]:
        """The last object that a command prints."""
        found: dict[str, Any] = json.loads(self.bench.command(*words, "--json", folder=self.folder).splitlines()[-1])
        return found

    def begin(self, *words: str) -> subprocess.Popen[str]:
        vault = ("--vault", str(self.folder / "vault.db"))
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*self.bench.CLI, *words, *vault], text=True, **pipes)

    @property
    def up(self) -> set[str]:
        return {path.name for path in (self.folder / "up").iterdir()}

    def state(self, machine: str) -> dict[str, Any]:
        found: dict[str, Any] = self.run("failover", "status", machine)["machines"][0]
        return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    yield Shop(folder)
    end_servers(folder)


def test_a_plan_is_tested_beside_the_machines(shop: Shop) -> None:
    done = shop.run("recovery", "run", "all", "--kind", "test")
    assert done["state"] == "done" and [task["state"] for task in done["tasks"]] == ["done"] * 3
    assert shop.up == {f"m{number} - Test" for number in range(3)}
    for number in range(3):
        assert shop.state(f"m{number}")["test"]["phase"] == "running"
        shop.run("failover", "test-cleanup", f"m{number}")
    assert shop.up == set()


def test_a_killed_run_is_completed_and_a_second_plan_finds_them_up(shop: Shop) -> None:
    """R12.8; nothing is started twice, and nothing is left half way."""
    process = shop.begin("recovery", "run", "all", "--kind", "unplanned")
    until = time.monotonic() + 60
    while not shop.up and time.monotonic() < until and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (run,) = [one["run"] for one in shop.run("recovery", "status")["runs"] if one["state"] == "running"]
    done = shop.run("recovery", "resume", run)
    assert done["state"] == "done" and shop.up == {"m0", "m1", "m2"}
    for number in range(3):
        found = shop.state(f"m{number}")
        assert (found["active"], found["failover"]["phase"]) == ("target", "running")
    again = shop.run("recovery", "run", "all", "--kind", "unplanned")
    assert again["state"] == "done" and shop.up == {"m0", "m1", "m2"}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("none", "--kind", "test"), 3, "the estate has no recovery plan 'none'"),
        # M13: each of these machines was cut by itself.
        (("all", "--kind", "unplanned", "--at", "consistent"), 3, "M13: the machines of the plan have no instant"),
        (("all", "--kind", "planned", "--key-file", "/nowhere"), 5, "/nowhere: there is no such file"),
        (("all", "--kind", "planned", "--at", "1"), 2, "R9.6: a planned run goes to the last point of each machine"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_one_line_and_no_run(shop: Shop, words: tuple[str, ...], status: int, said: str) -> None:
    before = shop.run("recovery", "status")
    process = shop.begin("recovery", "run", *words)
    told = process.communicate(timeout=60)[1]
    assert told.startswith(f"secondsite: {said}") and told.count("\n") == 1
    assert process.returncode == status and shop.run("recovery", "status") == before
