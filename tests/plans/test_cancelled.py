"""What a run leaves behind that is cancelled: no task that runs, a line for each machine that something is kept of, and
one command that takes the tests of all of them away.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from killing import end_servers
from operators import Shell
from test_whole import Shop

SLOW = """before = [{{ name = "slow", script = ["sh", "-c", "touch {folder}/at && sleep 30"] }}]
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Of four machines in two groups; before the second one a script runs that does not end."""
    folder = tmp_path_factory.mktemp("c")
    made = Shop(folder, 4)
    head, second = (folder / "estate.toml").read_text().rsplit("[[recovery.group]]\n", 1)
    text = f"{head}[[recovery.group]]\n{SLOW.format(folder=folder)}{second}"
    (folder / "estate.toml").write_text(text)
    made.run("apply", str(folder / "estate.toml"))
    yield made
    end_servers(folder)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], shop: Shop) -> Shell:
    return Shell(capsys, shop.folder / "vault.db")


def killed(shop: Shop, shell: Shell, kind: str) -> str:
    """A run whose process was killed while its script ran."""
    (shop.folder / "at").unlink(missing_ok=True)
    process = shop.begin("recovery", "run", "all", "--kind", kind)
    until = time.monotonic() + 60
    while not (shop.folder / "at").exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run: str = shell.json("recovery", "status")["runs"][0]["run"]
    return run


def test_tests_of_a_run_that_was_cancelled_go_at_once(shop: Shop, shell: Shell) -> None:
    """R9.3; what cannot be cleaned up is named, and keeps nobody else's from it."""
    run = killed(shop, shell, "test")
    assert shop.up == {"m0 - Test", "m2 - Test"}
    refused = shell("recovery", "test-cleanup", "all", status=3)
    assert f"run {run} of plan 'all' has not ended: resume or cancel it" in refused
    said = shell("recovery", "cancel", run).splitlines()
    assert said[0] == f"run {run} is cancelled"
    assert said[1:] == [
        "  4 machines keep a test failover: m0, m2, m1, m3",
        "  take them away with: secondsite recovery test-cleanup all",
    ]
    (found,) = shell.json("recovery", "status", run)["runs"]
    assert [task["state"] for task in found["tasks"]] == ["done", "done", "cancelled", "pending"]
    assert found["tasks"][2]["ended"] is not None and "cancelled" in found["tasks"][2]["detail"]

    stub = (shop.folder / "stub").read_text()
    (shop.folder / "stub").write_text(stub.replace("stop) ", 'stop) [ "$name" != "m2 - Test" ] || exit 1; '))
    *gone, last = shell("recovery", "test-cleanup", "all", "--notes", "mail works", status=1).splitlines()
    assert shop.up == {"m2 - Test"}, last
    assert [line for line in gone if "FAILED" not in line] == [
        f"{name}: its test failover is gone" for name in ("m0", "m1", "m3")
    ]
    assert any(line.startswith("m2: FAILED: ") for line in gone) and "of 1 machine is still there: m2" in last
    (shop.folder / "stub").write_text(stub)
    assert shell.json("recovery", "test-cleanup", "all") == {"plan": "all", "cleaned": ["m2"], "failed": {}}
    assert shop.up == set() and not list(shop.folder.glob("run2/*"))
    assert shell.json("failover", "status", "m1")["machines"][0]["tests"][0]["notes"] == "mail works"
    assert "no machine of plan 'all' has a test failover" in shell("recovery", "test-cleanup", "all")
    refused = shell("recovery", "test-cleanup", "none", status=3)
    assert refused == "secondsite: the estate has no recovery plan 'none'\n"


def test_failovers_of_a_run_that_was_cancelled_are_told_one_by_one(shop: Shop, shell: Shell) -> None:
    """R9.12: those that wait for their commit, and those that were only prepared."""
    run = killed(shop, shell, "unplanned")
    told = shell.json("recovery", "cancel", run)
    assert [(one["machine"], one["failover"]) for one in told["left"]] == [
        ("m0", "running"), ("m2", "running"), ("m1", "prepared"), ("m3", "prepared")
    ]  # fmt: skip
    assert "secondsite failover commit m0" in told["left"][0]["onward"]
    assert "secondsite failover start m1" in told["left"][2]["onward"]
    assert all(f"secondsite failover cancel {one['machine']}" in one["onward"] for one in told["left"])
