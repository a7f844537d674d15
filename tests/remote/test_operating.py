"""An agent as its operator has it: the commands, SIGTERM, logs, metrics, many replicas at once."""

from __future__ import annotations

import configparser
import json
import os
import random
import re
import shlex
import signal
import socket
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from commands import SECONDSITE, Service, paired, run, service
from exposition import parsed
from hosting import site, soon

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.exporter import Server
from secondsite.engine.remote import talk
from secondsite.engine.remote.link import protocol

pytestmark = pytest.mark.timeout(120)
MIB = 1 << 20
UNITS = Path(__file__).parents[2] / "orchestration" / "systemd"


def image(folder: Path, size: int = 4 * MIB, seed: int = 1) -> Path:
    path = folder / "disk.raw"
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


# -- five commands ------------------------------------------------------------------------------------------------


def test_the_commands_from_an_identity_to_a_restore_and_a_revocation(tmp_path: Path) -> None:
    source = image(tmp_path)
    with service(tmp_path, "--metrics", "127.0.0.1:0", "--log", "json") as agent:
        state = paired(tmp_path, agent, "vm")
        here, there = ("--state", state), ("--state", tmp_path / "there")
        assert "initial: point 1" in run("replicate", source, agent.url("vm"), *here)
        with source.open("r+b") as file:
            file.write(b"changed")
        assert json.loads(run("replicate", source, agent.url("vm"), *here, "--json"))["generation"] == 2
        assert len(json.loads(run("points", agent.url("vm"), *here, "--json"))["points"]) == 2
        assert f"{agent.url('vm')}/head.raw" in run("info", agent.url("vm"), *here)
        assert "ok: point 2" in run("verify", agent.url("vm"), *here)
        run("restore", agent.url("vm"), tmp_path / "out.raw", *here)
        assert (tmp_path / "out.raw").read_bytes() == source.read_bytes()
        assert "1 point dropped" in run("prune", agent.url("vm"), "--keep", "1", *here)
        assert "START" in run("map", agent.url("vm"), *here)
        assert "east" in run("peers", *there)
        figures = urllib.request.urlopen(f"http://{agent.facts['metrics']}/metrics", timeout=10).read().decode()
        assert 'secondsite_cycles_total{replica="vm"} 2' in figures
        run("peers", "--revoke", "east", *there)
        assert "does not take this host's certificate" in run("points", agent.url("vm"), *here, status=errors.REFUSED)
        assert agent.stop() == 0
    told = [json.loads(line) for line in agent.said]  # every line is an object
    cycles = [one for one in told if one["message"] == "done" and one.get("operation") == "replicate"]
    assert [(one["peer"], one["replica"], one["level"]) for one in cycles] == [("east", "vm", "info")] * 2
    assert any(one["level"] == "warning" and "not paired" in one["message"] for one in told)


@pytest.mark.parametrize("arguments, said", [
    (("agent", "--token"), "--replica NAME"), (("agent",), "--root DIR --listen ADDR"),
    (("agent", "--root", "x", "--listen", "127.0.0.1:0", "--replica", "y"), "go with --token"),
    (("agent", "--token", "--replica", "vm", "--allow", "everything"), "--allow takes"),
    (("agent", "--root", "x", "--listen", "127.0.0.1:x"), "ADDR:PORT"),
    (("pair", "host:0", "--token", "x"), "no port"), (("pair", "h", "--token", "x"), "no registration key"),
    (("identity", "show", "--name", "x"), "--name is for init"), (("points", "secondsite://host"), "names no replica"),
])  # fmt: skip
def test_what_makes_no_sense_is_a_usage_error(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    run("identity", "init", "--state", tmp_path)
    assert said in run(*arguments, "--state", tmp_path, status=errors.USAGE)


def test_a_folder_or_an_address_that_is_not_there(tmp_path: Path) -> None:
    run("identity", "init", "--state", tmp_path)
    agent = ("agent", "--state", tmp_path, "--listen")
    assert "No such file" in run(*agent, "127.0.0.1:0", "--root", tmp_path / "no", status=errors.UNREACHABLE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "already in use" in run(*agent, where, "--root", tmp_path, status=errors.UNREACHABLE)
        told = ("--metrics", where, "--root", tmp_path)
        assert "already in use" in run(*agent, "127.0.0.1:0", *told, status=errors.UNREACHABLE)
    assert "has no identity" in run(
        "agent", "--root", tmp_path, "--listen", "127.0.0.1:0", "--state", tmp_path / "new", status=errors.REFUSED
    )


# -- its end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_in_a_transfer_parks_it_and_the_next_goes_on(tmp_path: Path, number: int) -> None:
    source = image(tmp_path, 96 * MIB)
    with service(tmp_path) as agent:
        state = paired(tmp_path, agent, "vm")
        options = ("--state", str(state), "--json", "--codec", "none", "--retries", "0")
        sender = subprocess.Popen(
            (*SECONDSITE, "replicate", str(source), agent.url("vm"), *options),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        spool = tmp_path / "root" / "vm" / "incoming.spool"
        # The table of something that is durable is there: then it is in the midst of it, or further.
        assert soon(lambda: spool.exists() and spool.stat().st_size > 1000, 30)
        began = time.monotonic()
        status = agent.stop(number)
        took = time.monotonic() - began
        _, why = sender.communicate(timeout=60)
        assert status == 0 and took < 8
        done = (tmp_path / "root" / "vm" / "points" / "000000000001.json").exists()
        assert sender.returncode == (0 if done else errors.UNREACHABLE), why
    with service(tmp_path) as agent:
        book = json.loads((state / "agents.json").read_text())
        book["agents"] = {f"127.0.0.1:{agent.port}": next(iter(book["agents"].values()))}
        (state / "agents.json").write_text(json.dumps(book))
        again = engine.replicate(source, agent.url("vm"), state=state)
        assert again.generation == 1 and (done or again.kind == "initial")
        assert (tmp_path / "root" / "vm" / "head.raw").read_bytes() == source.read_bytes()


def test_a_transfer_that_is_being_applied_is_taken_back_in_time(tmp_path: Path) -> None:
    """All is spooled and the head is being written: what was spooled is there afterwards, the head is as before."""
    source = image(tmp_path, 32 * MIB)
    with site(tmp_path) as there:
        state = there.host()
        engine.replicate(source, there.url(), state=state)
        before = source.read_bytes()
        source.write_bytes(random.Random(2).randbytes(32 * MIB))
        outcome: list[BaseException] = []

        def send() -> None:
            try:
                engine.replicate(source, there.url(), state=state)
            except errors.Error as error:
                outcome.append(error)

        sender = threading.Thread(target=send)
        sender.start()
        points = there.root / "disk" / "points"
        undo = points / "000000000001.undo"
        following = there.root / "disk" / "next-000000000002.raw"
        assert soon(lambda: undo.exists() or following.exists() or (points / "000000000002.json").exists(), 30)
        began = time.monotonic()
        there.agent.close()
        assert time.monotonic() - began < 8
        sender.join(30)
    assert engine.verify(there.root / "disk").ok
    if not (points / "000000000002.json").exists():
        assert outcome and outcome[0].retryable  # type: ignore[attr-defined]
        assert (there.root / "disk" / "head.raw").read_bytes() == before
        assert (there.root / "disk" / "incoming.spool").stat().st_size > 16 * MIB


# -- figures ------------------------------------------------------------------------------------------------------

def test_figures_tell_what_came_and_how_old_the_replicas_are(tmp_path: Path) -> None:
    source = image(tmp_path)
    with site(tmp_path) as there:
        (there.root / "not-a-replica").mkdir()
        (there.root / 'odd"name').mkdir()
        state = there.host("source", "disk", "other")
        assert parsed(there.agent.figures())["secondsite_connections"] == 0
        engine.replicate(source, there.url(), codec="none", state=state)
        time.sleep(0.3)
        first = parsed(there.agent.figures())
        assert 0.2 < first['secondsite_last_good_age_seconds{replica="disk"}'] < 30
        assert 4 * MIB <= first['secondsite_received_bytes_total{replica="disk"}'] < 4.1 * MIB
        assert first['secondsite_received_twice_bytes_total{replica="disk"}'] == 0
        assert 0 < first['secondsite_cycle_seconds{replica="disk"}'] < 30
        engine.replicate(source, there.url(), state=state)  # nothing changed, and yet it is known to be good again
        second = parsed(there.agent.figures())
        assert second['secondsite_last_good_age_seconds{replica="disk"}'] < 0.3
        assert second['secondsite_cycles_total{replica="disk"}'] == 2
        with pytest.raises(errors.Refused):
            engine.replicate(source, there.url("nobodys"), state=state)
        assert parsed(there.agent.figures())['secondsite_errors_total{kind="Refused",replica=""}'] == 1
        assert not any("nobodys" in series or "odd" in series for series in parsed(there.agent.figures()))
        days = {name: value for name, value in parsed(there.agent.figures()).items() if "certificate" in name}
        assert list(days) == ['secondsite_certificate_days{peer=""}', 'secondsite_certificate_days{peer="source"}']
        assert all(3649 < value <= 3650 for value in days.values())


def test_who_is_gone_after_its_requests_is_no_error(tmp_path: Path) -> None:
    source = image(tmp_path, MIB)
    with site(tmp_path) as there:
        state = there.host("source", "disk", allow="send,read,administer")
        for turn in range(3):
            engine.replicate(source, there.url(), state=state)
            engine.points(there.url(), state=state)
            engine.info(there.url(), state=state)
            list(engine.image_map(there.url(), state=state))
            assert engine.verify(there.url(), state=state).ok
            assert engine.verify(there.url(), source=source, state=state).ok
            engine.restore(there.url(), tmp_path / f"out{turn}.raw", state=state)
        engine.prune(there.url(), keep=1, state=state)
        assert soon(lambda: parsed(there.agent.figures())["secondsite_connections"] == 0)
        assert not [name for name in parsed(there.agent.figures()) if "errors_total" in name]


def test_what_was_lost_and_comes_again_is_counted(tmp_path: Path) -> None:
    with site(tmp_path) as there:
        counts = there.agent.meter.of("disk")
        counts.begun(100)
        counts.add(50)
        counts.ended()
        counts.begun(120)  # 30 of the 50 were not durable
        assert (counts.twice, counts.running, counts.received) == (30, 1, 50)


def test_who_asks_for_figures_and_says_nothing_keeps_nobody_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondsite.engine.exporter._ASK_SECONDS", 1.0)
    told = Server("127.0.0.1", 0, lambda: "figures\n")
    host, _, port = told.address.rpartition(":")
    try:
        with socket.create_connection((host, int(port))):
            asked = urllib.request.urlopen(f"http://{told.address}/metrics", timeout=20)
            assert asked.read() == b"figures\n"
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://{told.address}/etc/passwd", timeout=20)
    finally:
        told.close()


# -- many at once -------------------------------------------------------------------------------------------------


def jain(shares: list[float]) -> float:
    """Jain's index of fairness: 1 where all have the same, 1/n where one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def received(agent: Service) -> list[float]:
    """Bytes of each replica that the agent has now."""
    told = parsed(urllib.request.urlopen(f"http://{agent.facts['metrics']}/metrics", timeout=30).read().decode())
    return [value for series, value in told.items() if series.startswith("secondsite_received_bytes_total")]


def test_fifty_replicas_come_in_at_once_within_memory_and_fairly(tmp_path: Path) -> None:
    """50 senders over one agent, all connected before the first byte: in bounded memory, and when the first of them is
    done the others have had their share.
    """
    count, size = 50, 3 * MIB
    names = [f"vm{number}" for number in range(count)]
    with service(tmp_path, "--metrics", "127.0.0.1:0") as agent:
        state = paired(tmp_path, agent, *names)
        sources, content = [tmp_path / f"{name}.raw" for name in names], random.Random(1).randbytes(size)
        for number, source in enumerate(sources):
            source.write_bytes(content[number:] + content[:number])
        took: list[float] = []
        shares: list[float] = []
        wrong: list[BaseException] = []
        gate, lock = threading.Barrier(count), threading.Lock()

        def send(number: int) -> None:
            began: list[float] = []

            def start(now: engine.Progress) -> None:
                if not began:
                    gate.wait(60)
                    began.append(time.monotonic())

            try:
                engine.replicate(
                    sources[number], agent.url(names[number]), state=state, workers=1, codec="none", progress=start
                )  # fmt: skip
                took.append(time.monotonic() - began[0])
                with lock:
                    shares.extend(received(agent) if not shares else [])
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert not wrong and len(took) == count, [line for line in agent.said if not line.startswith("info")]
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None and int(match[1]) << 10 < (64 + 32 * count) * MIB
        print(f"index {jain(shares):.3f}, {sum(not share for share in shares)} without any; "
              f"{min(took):.2f} to {max(took):.2f} s, half in {statistics.median(took):.2f} s")  # fmt: skip
        assert len(shares) == count and jain(shares) > 0.8 and max(took) < 2.5 * statistics.median(took)
        for name, source in zip(names, sources, strict=True):
            assert (tmp_path / "root" / name / "head.raw").read_bytes() == source.read_bytes()
        assert agent.stop() == 0


def test_one_stream_stays_within_its_memory(tmp_path: Path) -> None:
    source = image(tmp_path, 128 * MIB)
    with service(tmp_path) as agent:
        state = paired(tmp_path, agent, "vm")
        engine.replicate(source, agent.url("vm"), state=state, codec="none")
        with source.open("r+b") as file:
            file.write(random.Random(7).randbytes(64 * MIB))
        engine.replicate(source, agent.url("vm"), state=state, codec="none")
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None and int(match[1]) << 10 < (64 + 32) * MIB


def test_more_connections_than_there_may_be_are_refused_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secondsite.engine.remote.agent import service as services

    monkeypatch.setattr(services, "MAX_CONNECTIONS", 3)
    with site(tmp_path) as there:
        state = there.host()
        held = [there.connect(state) for _ in range(3)]
        begin = talk.Begin(name="disk", source="x", source_format="raw", size=MIB)
        with there.connect(state) as fourth, pytest.raises(errors.Busy, match="try again later"):
            fourth.call(talk.OPERATION, begin).receive(10)
        call = held[0].call(talk.OPERATION, begin)
        assert protocol.decode(call.receive(10).control, talk.State, "it").generation == 0
        for connection in held:
            connection.join()
        assert soon(lambda: "secondsite_connections 0" in there.agent.figures())


# -- systemd ------------------------------------------------------------------------------------------------------


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((UNITS / name).read_text())
    return parser


@pytest.mark.parametrize("name", ["secondsite-agent.service", "secondsite-replicate@.service"])
def test_the_units_run_commands_that_there_are(name: str) -> None:
    words = shlex.split(unit(name)["Service"]["ExecStart"])
    assert words[0] == "/usr/bin/secondsite"
    usage = run(words[1], "--help")
    assert all(word in usage for word in words if word.startswith("--"))


def test_the_agents_unit_is_of_an_unprivileged_user_with_nothing_to_spare() -> None:
    made = unit("secondsite-agent.service")["Service"]
    assert made["User"] == "secondsite" and made["CapabilityBoundingSet"] == ""
    assert made["ProtectSystem"] == "strict" and made["NoNewPrivileges"] == "yes"
    assert int(made["TimeoutStopSec"]) > 10 and os.path.isabs(made["ExecStart"].split()[0])


@pytest.mark.needs("systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name in ("secondsite-agent.service", "secondsite-replicate@.service", "secondsite-replicate@.timer"):
        text = (UNITS / name).read_text().replace("/usr/bin/secondsite", "/bin/true")
        (tmp_path / name).write_text(text)
    units = [tmp_path / "secondsite-agent.service", tmp_path / "secondsite-replicate@.timer"]
    done = subprocess.run(("systemd-analyze", "verify", *units), capture_output=True, text=True, check=False)
    assert not [line for line in done.stderr.splitlines() if str(tmp_path) in line]
