"""Operations in this process and through a command: the same answers, the same errors, and none that hangs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.hosts import reaching
from secondsite.orchestration.hosts.operations import OPERATIONS

MIB = 1 << 20
PROGRAM = Path(sysconfig.get_path("scripts"), "secondsite")


def host(*reach: str) -> hosts.Calls:
    return hosts.reach(Host(name="lds1", site="second", reach=reach))


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host has the program in its PATH."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(PROGRAM.parent), os.environ["PATH"]]))


@pytest.fixture(params=["here", "there"])
def calls(request: pytest.FixtureRequest) -> hosts.Calls:
    return host() if request.param == "here" else host("env", "SOMETHING=a b; c")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "a disk.raw"
    path.write_bytes(os.urandom(MIB))
    return path


def test_a_replica_from_its_first_cycle_to_its_end(calls: hosts.Calls, disk: Path, tmp_path: Path) -> None:
    replica = str(tmp_path / "replica")
    pair = {"source": str(disk), "replica": replica}
    arguments = {"disks": [pair], "at": "2026-11-26T12:00:00Z", "options": {"epoch": 0}}
    assert calls.call("replica.replicate", arguments)["results"][0]["kind"] == "initial"
    disk.write_bytes(os.urandom(MIB))
    calls.call("replica.replicate", {"disks": [pair]})
    found = calls.call("replica.points", {"replica": replica})
    assert [one["point"] for one in found["points"]] == ["1", "2"] and not found["warnings"]
    assert found["points"][0]["time"].startswith("2026-11-26T12:00:00")
    assert calls.call("replica.fence", {"replica": replica, "epoch": 3}) == {"epoch": 3}
    assert calls.call("replica.fence", {"replica": replica, "epoch": 2}) == {"epoch": 3}
    with pytest.raises(errors.Refused):
        calls.call("replica.replicate", arguments)
    for points in (1, 0):
        assert calls.call("replica.prune", {"replica": replica, "drop": ["1"]})["points"] == points
    known = found["info"]["replica_id"]
    for deleted in (True, False):
        assert calls.call("replica.delete", {"replica": replica, "replica_id": known})["deleted"] == deleted


def test_a_disk_is_adopted_once(calls: hosts.Calls, disk: Path, tmp_path: Path) -> None:
    arguments = {"copy": str(disk), "replica": str(tmp_path / "replica")}
    first, second = (calls.call("replica.adopt", arguments) for _ in range(2))
    assert first["replica_id"] == second["replica_id"] and second["method"] == "there"
    assert engine.verify(tmp_path / "replica").ok and disk.exists()


@pytest.mark.parametrize(
    ("operation", "arguments", "kind", "said"),
    [
        ("replica.points", {"replica": "/nowhere"}, errors.Refused, "/nowhere"),
        ("replica.points", {"replica": 5}, errors.Usage, r"Expected `str`, got `int` - at `\$.replica`"),
        ("replica.points", {"replica": "/a", "more": 1}, errors.Usage, "more"),
        ("replica.fence", {"replica": "/nowhere", "epoch": -1}, errors.Usage, "epoch -1"),
        ("replica.replicate", {"disks": [], "options": {"files": 1}}, errors.Usage, "no option 'files'"),
        ("host.describe", {"a": 1}, errors.Usage, "no arguments"),
    ],
)
def test_errors_are_of_their_kind(
    calls: hosts.Calls, operation: str, arguments: dict[str, Any], kind: type[errors.Error], said: str
) -> None:
    with pytest.raises(errors.Error, match=said) as caught:
        calls.call(operation, arguments)
    if not isinstance(caught.value, errors.Unreachable | kind) or kind is errors.Usage:
        assert isinstance(caught.value, kind)
    assert caught.value.exit_code in (2, 3, 5)
    if isinstance(calls, reaching.There):
        assert str(caught.value).startswith("lds1")


def test_an_operation_that_is_not_known_runs_nothing(calls: hosts.Calls) -> None:
    with pytest.raises(errors.Usage, match=r"no operation 'replica\.eat'"):
        calls.call("replica.eat", {})


def test_every_operation_is_there() -> None:
    for name, operation in OPERATIONS.items():
        assert callable(operation.load()), name


def test_a_host_describes_itself(calls: hosts.Calls) -> None:
    found = calls.call("host.describe", {})
    assert found["operations"] == list(OPERATIONS) and abs(found["time"] - time.time()) < 60


def script(text: str) -> hosts.Calls:
    return host("sh", "-c", text, "sh")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo no such host >&2; exit 255", "ended with 255: no such host"),
        ("echo hello", "gave no answer; sh ended with 0"),
        ("echo '{}'", "gave no answer"),
        ("""echo '{"return": 5}'""", "gave no answer"),
        ("""echo '{"return": {}}'; exit 1""", "gave no answer; sh ended with 1"),
        ("""echo '{"error": {"kind": "Busy", "message": "x"}}'""", "gave no answer; sh ended with 0"),
        ("""printf '{"return": {"a": "'; yes | head -c 40000000; echo '"}}'""", "gave no answer"),
        ("printf '%0100000d' 0 | tr 0 '['", "gave no answer"),
    ],
)
def test_what_is_no_answer_is_a_host_that_cannot_be_reached(text: str, said: str) -> None:
    with pytest.raises(errors.Unreachable, match=said) as caught:
        script(text).call("host.describe", {})
    assert caught.value.retryable and str(caught.value).startswith("lds1: ")


def test_a_host_that_is_not_there() -> None:
    with pytest.raises(errors.Unreachable, match="cannot run it"):
        host("/nowhere/ssh").call("host.describe", {})


def test_what_a_login_prints_comes_before_the_answer() -> None:
    assert script("""echo Welcome; echo '{"return": {"a": 1}}'""").call("host.describe", {}) == {"a": 1}


def test_an_error_of_a_later_version_keeps_its_exit_status() -> None:
    said = """{"error": {"kind": "Melted", "message": "a\\\\nb", "exit_code": 9, "retryable": true, "path": "/x"}}"""
    with pytest.raises(errors.Error, match="lds1:/x: a b") as caught:
        script(f"""printf '%b\\n' '{said}'; exit 9""").call("host.describe", {})
    assert (type(caught.value), caught.value.exit_code, caught.value.retryable) == (errors.Error, 9, True)


def test_a_call_has_a_limit() -> None:
    began = time.monotonic()
    with pytest.raises(errors.Unreachable, match=r"host.describe did not end within 0 s"):
        script("sleep 60").call("host.describe", {}, seconds=0.4)
    assert time.monotonic() - began < 20


CALLER = """
import sys
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
calls = hosts.reach(Host(name="lds1", site="second", reach=("env",)))
print("calling", flush=True)
pair = {"source": sys.argv[1], "replica": sys.argv[2]}
calls.call("replica.replicate", {"disks": [pair], "options": {"limit": 65536}})
"""


@pytest.fixture
def caller(disk: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """An orchestrator whose call copies a disk for sixteen seconds."""
    began: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CALLER, str(disk), str(tmp_path / "replica")]
        began.append(subprocess.Popen(command))
        return began[0]

    yield start
    for one in began:
        one.kill()
        one.wait()


def test_an_operation_is_cancelled_where_its_caller_is_killed(
    caller: Callable[[], subprocess.Popen[bytes]], disk: Path, tmp_path: Path
) -> None:
    """Or the next orchestrator would find the replica busy for as long as the copy takes."""
    process, replica = caller(), tmp_path / "replica"
    until = time.monotonic() + 20
    while not busy(replica):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while busy(replica):
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.05)
    done = host().call("replica.replicate", {"disks": [{"source": str(disk), "replica": str(replica)}]})
    assert done["results"][0]["kind"] == "initial"


def busy(replica: Path) -> bool:
    """Does a process have one of its files open?"""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink().is_relative_to(replica):
                return True
        except OSError:
            continue
    return False


@pytest.mark.needs("root", "namespaces")
def test_through_a_network_namespace(disk: Path) -> None:
    name = f"secondsite-{os.getpid()}-reach"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        assert shutil.which("ip") is not None
        found = host("ip", "netns", "exec", name).call("host.describe", {})
        assert found["root"]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
