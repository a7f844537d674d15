"""The monitor's client: a real QEMU, and peers that answer what they like."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qemukit import MIB, Daemon, Peer

from secondsite.engine import errors
from secondsite.engine.qemu.lines import parse_address
from secondsite.engine.qemu.qmp import CommandFailed, Monitor

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 1, "minor": 2, "major": 9}}, "capabilities": []}}\r\n'


@pytest.mark.needs("qemu-storage-daemon")
def test_a_real_qemu(daemon: Callable[..., Daemon]) -> None:
    made = daemon()
    with Monitor.connect(str(made.socket)) as monitor:
        assert monitor.version >= (5, 0)
        assert {node["node-name"] for node in monitor.listed("query-named-block-nodes")} >= {"disk0"}
        with pytest.raises(CommandFailed, match="refuses blockdev-del: Failed to find node") as caught:
            monitor.run("blockdev-del", {"node-name": "nothing"})
        assert caught.value.kind == "GenericError"
        assert caught.value.exit_code == errors.REFUSED
        assert not monitor.try_run("blockdev-del", {"node-name": "nothing"})
        heard: list[tuple[str, Any]] = []
        monitor.listen = lambda name, data: heard.append((name, data))
        monitor.run("block-export-del", {"id": "front0", "mode": "hard"})
        monitor.wait_until(lambda: not monitor.listed("query-block-exports"), "end the export")
        assert heard == [("BLOCK_EXPORT_DELETED", {"id": "front0"})]
        with pytest.raises(errors.Unreachable, match=r"did not do that within 0\.1 s"):
            monitor._timeout = 0.1
            monitor.wait_until(lambda: False, "do that")


@pytest.mark.needs("qemu-storage-daemon")
def test_a_monitor_that_another_client_has_is_busy(daemon: Callable[..., Daemon]) -> None:
    made = daemon()
    with Monitor.connect(str(made.socket)), pytest.raises(errors.Busy, match="another client has this monitor"):
        Monitor.connect(str(made.socket), 0.2)


def answers(*lines: bytes, greetings: int = 1) -> Callable[[socket.socket], None]:
    """Greet, agree on the capabilities, and send these for the next command."""

    def talk(sock: socket.socket) -> None:
        with sock.makefile("rb") as asked:
            sock.sendall(GREETING * greetings)
            number = json.loads(asked.readline())["id"]
            sock.sendall(b'{"return": {}, "id": %d}\n' % number)
            asked.readline()
            for line in lines:
                sock.sendall(line)
            sock.settimeout(20)
            sock.recv(1)

    return talk


WRONG = {
    "no JSON": (b"<html>\n", "no JSON object: b'<html>'"),
    "no object": (b"[1, 2]\n", "no JSON object"),
    "deep": (b"[" * 200_000 + b"\n", "no JSON object"),
    "no answer": (b'{"hello": 1}\n', "neither an answer nor an event"),
    "another's answer": (b'{"return": {}, "id": 77}\n', "answered another command"),
    "an answer without a number": (b'{"error": {"class": "GenericError", "desc": "?"}}\n', "answered another command"),
    "an event that is none": (b'{"event": 5}\n', "an event that makes no sense"),
    "an event's data": (b'{"event": "STOP", "data": []}\n', "an event that makes no sense"),
    "an error that is none": (b'{"error": "bad", "id": 2}\n', "an error that makes no sense"),
    "a list that is none": (b'{"return": {"a": 1}, "id": 2}\n', "no list of objects"),
    "not UTF-8": (b'{"return": "\xff\xfe"}\n', "no JSON object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_peer_that_breaks_the_protocol(tmp_path: Path, case: str) -> None:
    line, said = WRONG[case]
    peer = Peer(tmp_path / "peer.sock", answers(line))
    with Monitor.connect(str(peer.path), 10) as monitor:
        with pytest.raises(errors.Unreachable, match=re.escape(said)):
            monitor.listed("query-block")
        if case != "a list that is none":
            assert monitor.ended
            with pytest.raises(errors.Unreachable, match=re.escape(said)):  # and it stays dead
                monitor.run("query-block")
    peer.close()


def test_a_line_without_end_takes_a_bounded_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondsite.engine.qemu.lines.MAX_LINE", MIB)

    def flood(sock: socket.socket) -> None:
        sock.sendall(GREETING[:-2])
        for _ in range(64):
            sock.sendall(b" " * MIB)

    peer = Peer(tmp_path / "peer.sock", flood)
    with pytest.raises(errors.Unreachable, match="a line of more than 1048576 bytes"):
        Monitor.connect(str(peer.path), 20)
    peer.close()


@pytest.mark.parametrize("how", ["silent", "drip", "events"])
def test_an_answer_has_a_deadline(tmp_path: Path, how: str) -> None:
    ended = threading.Event()

    def slowly(sock: socket.socket) -> None:
        if how == "silent":
            return answers()(sock)
        with sock.makefile("rb") as asked:
            sock.sendall(GREETING)
            sock.sendall(b'{"return": {}, "id": %d}\n' % json.loads(asked.readline())["id"])
            while not ended.wait(0.02):
                sock.sendall(b" " if how == "drip" else b'{"event": "RTC_CHANGE", "data": {}}\n')

    peer = Peer(tmp_path / "peer.sock", slowly)
    with Monitor.connect(str(peer.path), 0.4) as monitor:
        began = time.monotonic()
        with pytest.raises(errors.Unreachable, match="did not answer in time"):
            monitor.run("query-block")
        assert time.monotonic() - began < 5
    ended.set()
    peer.close()


def test_one_that_greets_twice(tmp_path: Path) -> None:
    """As a QEMU does, seldom, that is connected to in the moment in which it starts."""
    peer = Peer(tmp_path / "peer.sock", answers(b'{"return": [{}], "id": 2}\n', greetings=2))
    with Monitor.connect(str(peer.path), 10) as monitor:
        assert monitor.version == (9, 2) and monitor.listed("query-block") == [{}]
    peer.close()


def test_a_peer_that_goes_away(tmp_path: Path) -> None:
    peer = Peer(tmp_path / "peer.sock", lambda sock: sock.sendall(GREETING[:20]))
    with pytest.raises(errors.Unreachable, match="closed the connection"):
        Monitor.connect(str(peer.path), 10)
    peer.close()
    with pytest.raises(errors.Unreachable, match="cannot connect: No such file"):
        Monitor.connect(str(tmp_path / "nothing.sock"))
    other = Peer(tmp_path / "other.sock", lambda sock: sock.sendall(b'{"hello": "you"}\n'))
    with pytest.raises(errors.Unreachable, match="does not greet like a QEMU monitor"):
        Monitor.connect(str(other.path), 10)
    other.close()


def test_addresses() -> None:
    assert parse_address("/run/vm.sock") == ("unix", "/run/vm.sock")
    assert parse_address("unix:vm.sock") == ("unix", "vm.sock")
    assert parse_address("vm.sock") == ("unix", "vm.sock")
    assert parse_address("localhost:4444") == ("tcp", "localhost:4444")
    assert parse_address("tcp:[::1]:4444") == ("tcp", "[::1]:4444")
    assert parse_address("./vm:1") == ("unix", "./vm:1")
    for wrong in ("tcp:host", "host:", "host:99999", "host:0", ":5", "host:1x"):
        with pytest.raises(errors.Usage, match="neither a socket's path nor HOST:PORT"):
            parse_address(wrong)
