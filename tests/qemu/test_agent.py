"""Freezing a guest around a cut: what fails costs the point its mark, not the cut, and leaves no guest frozen."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
from qemukit import ScriptedAgent

from secondsite.engine import errors
from secondsite.engine.qemu import agent as agents
from secondsite.engine.qemu.agent import AgentFailed, GuestAgent, guest_frozen

Make = Callable[..., ScriptedAgent]
FREEZE, THAW, STATUS = "guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits, shorter; an agent of ours answers at once."""
    monkeypatch.setattr(agents, "SYNC_SECONDS", 1.0)
    monkeypatch.setattr(agents, "THAW_SECONDS", 1.0)
    monkeypatch.setattr(agents, "_RETRY_SECONDS", 0.01)


def cut(agent: ScriptedAgent, limit: float = 5) -> tuple[agents.Freeze, bool]:
    """Freeze, cut, thaw; and whether the guest was frozen at the cut."""
    with guest_frozen(str(agent.path), limit) as freeze:
        at_cut = agent.is_frozen
        agent.log.append("cut")
    return freeze, at_cut


def test_frozen_at_the_cut_and_thawed_after_it(agent: Make) -> None:
    made = agent()
    freeze, at_cut = cut(made)
    assert at_cut
    assert freeze == agents.Freeze(2, True, [])
    assert made.log == ["sync-delimited", "freeze", "cut", "status", "sync-delimited", "thaw"]


def test_without_an_agent_nothing_happens() -> None:
    with guest_frozen(None) as freeze:
        pass
    assert freeze == agents.Freeze()


def test_an_agent_that_is_not_there(agent: Make) -> None:
    made = agent()
    made.path.unlink()
    freeze, _ = cut(made)
    assert not freeze.held
    assert "were not frozen" in freeze.warnings[0]
    assert "No such file" in freeze.warnings[0]


def test_a_refused_freeze_still_gives_a_cut(agent: Make) -> None:
    made = agent(answers={FREEZE: Exception("failed to freeze /:\n Input/output error")})
    freeze, _ = cut(made)
    assert not freeze.held
    assert freeze.warnings[0].endswith(
        "the guest refuses guest-fsfreeze-freeze: failed to freeze /: Input/output error"
    )
    assert made.log[-1] == "thaw"


def test_an_agent_that_may_neither_freeze_nor_thaw_is_asked_once(agent: Make) -> None:
    made = agent(answers={FREEZE: Exception("disabled"), THAW: Exception("disabled")})
    freeze, _ = cut(made)
    assert len(freeze.warnings) == 1
    assert made.log.count("thaw") == 1


def test_a_freeze_that_takes_too_long_is_thawed_all_the_same(agent: Make) -> None:
    made = agent(answers={FREEZE: lambda sock: time.sleep(0.5)})
    freeze, _ = cut(made, limit=0.1)
    assert not freeze.held
    assert "did not answer in time" in freeze.warnings[0]
    assert made.log[-1] == "thaw"
    assert not made.is_frozen


def test_a_connection_that_breaks_in_the_freeze(agent: Make) -> None:
    made = agent(answers={FREEZE: lambda sock: sock.shutdown(socket.SHUT_RDWR)})
    freeze, at_cut = cut(made)
    assert at_cut  # the guest froze, and could not say so
    assert not freeze.held
    assert made.log[-1] == "thaw"
    assert not made.is_frozen


def test_a_guest_that_thawed_too_early_makes_no_such_point(agent: Make) -> None:
    made = agent(answers={STATUS: "thawed"})
    freeze, _ = cut(made)
    assert not freeze.held
    assert freeze.warnings == ["the guest thawed its file systems before the cut was made"]
    assert made.log[-1] == "thaw"


def test_a_guest_without_file_systems_is_not_called_frozen(agent: Make) -> None:
    freeze, _ = cut(agent(answers={FREEZE: 0}))
    assert not freeze.held
    assert not cut(agent(answers={FREEZE: "many"}))[0].held


def test_a_cut_that_fails_is_thawed(agent: Make) -> None:
    made = agent()
    with pytest.raises(errors.Refused, match="no cut"), guest_frozen(str(made.path)):
        raise errors.Refused("no cut")
    assert made.log[-1] == "thaw"
    assert not made.is_frozen


def test_a_thaw_is_tried_again_and_its_failure_is_told(agent: Make) -> None:
    tries: list[int] = []

    def second_time(sock: socket.socket) -> None:
        tries.append(1)
        sock.sendall(b'{"return": 2}\n' if len(tries) > 1 else b'{"error": {"desc": "later"}}\n')

    freeze, _ = cut(agent(answers={THAW: second_time}))
    assert freeze.held
    assert not freeze.warnings
    assert len(tries) == 2
    freeze, _ = cut(agent(answers={THAW: Exception("never")}))
    assert "THE GUEST MAY STAND STILL" in freeze.warnings[0]
    assert "refuses guest-fsfreeze-thaw: never" in freeze.warnings[0]


def test_what_an_earlier_client_left_is_dropped(agent: Make) -> None:
    made = agent(left_over=b'{"return": 7}\nhalf of a li' + b'\xff{"return": 12345}\n')
    connected = GuestAgent.connect(str(made.path))
    assert connected.run(STATUS) == "thawed"
    with pytest.raises(AgentFailed, match="no"):
        GuestAgent.connect(str(agent(answers={STATUS: Exception("no")}).path)).run(STATUS)
    connected.close()


def test_a_flood_without_the_mark_ends_at_the_deadline(agent: Make) -> None:
    stop = threading.Event()

    def flood(sock: socket.socket) -> None:
        while not stop.is_set():
            sock.sendall(b"x" * 4096)

    made = agent(answers={"guest-sync-delimited": flood})
    began = time.monotonic()
    with pytest.raises(errors.Unreachable, match="did not answer in time"):
        GuestAgent.connect(str(made.path), 0.3)
    stop.set()
    assert time.monotonic() - began < 5
