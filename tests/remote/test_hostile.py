"""A paired peer that turns against the agent: wild requests, floods, and memory that it would like to fill."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosting import Site, site, soon

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.remote import dial, talk
from secondsite.engine.remote import questions as q
from secondsite.engine.remote.agent import operations, service
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import protocol, tls
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.trust import access, agents, identity

pytestmark = pytest.mark.timeout(60)
MIB = 1 << 20


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        source = tmp_path / "disk.raw"
        source.write_bytes(random.Random(1).randbytes(MIB))
        engine.replicate(source, made.root / "disk", source_id="disk")
        yield made


def wild(chance: random.Random) -> Any:
    """A value of any kind, sometimes a plausible one."""
    kinds = [
        None, True, -1, 1 << 63, 2.5, "disk", "../disk", "\0", "points", "head.raw", "x" * 10000, b"\xff", [], {},
        ["points"] * 300, {"name": "disk"}, [[[[]]]],
    ]  # fmt: skip
    return chance.choice(kinds)


def test_wild_requests_of_a_paired_peer_do_no_harm(there: Site, sweep: bool) -> None:
    """Any operation, any arguments: the connection or the request ends with an error of ours, the replica stays."""
    state = there.host("wild", "disk", allow="send,read,administer")
    before = (there.root / "disk" / "head.raw").read_bytes()
    chance = random.Random(11)
    fields = ["name", "path", "paths", "kind", "at", "keep", "drop", "epoch", "proving", "source", "size", "extra"]
    connection, answered = there.connect(state), 0
    for _ in range(2000 if sweep else 90):
        if connection.failed is not None:
            connection.join()
            connection = there.connect(state)
        operation = chance.choice([*operations.OPERATIONS, "other", ""])
        if operation in ("prune", "raise-epoch", "replicate"):
            arguments: Any = {chance.choice(fields): wild(chance) for _ in range(3)}
        else:
            wrong = chance.choice((0, 0, 1, 2))
            arguments = {"name": "disk"} | {chance.choice(fields): wild(chance) for _ in range(wrong)}
        try:
            with connection.call(operation, arguments) as call:
                call.receive(5)
                answered += 1
                call.send(q.Read(chance.choice([0, -1, 1 << 62]), chance.choice([0, 1, 1 << 40])))
                call.receive(0.2)
        except (errors.Error, ValueError):
            pass
    connection.join()
    assert answered > 10  # some of them were quite right
    assert (there.root / "disk" / "head.raw").read_bytes() == before and engine.verify(there.root / "disk").ok
    assert sorted(path.name for path in there.root.iterdir()) == ["disk"]


def test_what_waits_for_many_requests_is_bounded(there: Site) -> None:
    """Every call has a window, but not all of them at once: who fills more is cut."""
    state = there.host("flood", "disk", allow="read")
    with there.connect(state) as connection:
        calls = [connection.call("hold", q.Hold("disk")) for _ in range(8)]
        for call in calls:
            call.receive(10)
        with pytest.raises(errors.Error):
            # `hold` looks at nothing more; the first message ends it, the rest waits or is dropped.
            for _ in range(20):
                for call in calls:
                    call.send(None, bytes(4 * MIB))
    assert soon(lambda: not there.agent._sessions)


def test_a_connections_messages_that_wait_have_a_bound() -> None:
    near, far = socket.socketpair()
    failed: list[errors.Error] = []

    def serve() -> None:
        with Connection(far, "peer", client=False, most=24 * MIB) as connection:
            try:
                while True:
                    connection.accept(20)  # and nothing is ever received of what came
            except errors.Error as error:
                failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with Connection(near, "agent", client=True) as connection, pytest.raises(errors.Error):
        calls = [connection.call("x", talk.Answered()) for _ in range(4)]
        for _ in range(3):
            for call in calls:
                call.send(None, bytes(4 * MIB))
        calls[0].receive(10)
    thread.join(20)
    assert failed and isinstance(failed[0], protocol.Garbled) and "wait here" in str(failed[0])


def test_messages_that_were_taken_or_dropped_weigh_nothing() -> None:
    near, far = socket.socketpair()
    weights: list[int] = []

    def serve() -> None:
        with Connection(far, "peer", client=False, most=24 * MIB) as connection:
            for number in range(6):
                call = connection.accept(20)
                assert call is not None
                with call:
                    for _ in range(5 if number % 2 else 2):  # every other call drops the rest
                        call.receive(20)
                weights.append(connection._weight)

    thread = threading.Thread(target=serve)
    thread.start()
    with Connection(near, "agent", client=True) as connection:
        for _ in range(6):
            call = connection.call("x", talk.Answered())
            for _ in range(5):
                try:
                    call.send(None, bytes(2 * MIB))
                except errors.Error:
                    break
            call.close()
        thread.join(20)
        assert not thread.is_alive()
    assert len(weights) == 6 and weights[-1] < 12 * MIB


def test_one_peer_leaves_room_for_others(there: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_OF_ONE", 2)
    greedy, other = there.host("greedy", "disk", allow="read"), there.host("other", "disk", allow="read")
    held = [there.connect(greedy) for _ in range(2)]
    with there.connect(greedy) as third, pytest.raises(errors.Busy, match="try again later"):
        third.ask("look", q.Look("disk", ""), q.Seen)
    with there.connect(other) as fine:
        assert fine.ask("look", q.Look("disk", ""), q.Seen).exists
    for connection in held:
        connection.join()


def test_who_has_shown_a_key_is_not_cut_for_a_crowd_or_a_slow_hello(there: Site) -> None:
    there.agent.lobby.places, there.agent.lobby.seconds = 2, 0.2
    home = Home.of(there.host("slow", "disk", allow="read"))
    pinned = agents.find(home.agents, "127.0.0.1", there.port)
    ours = identity.load(home.identity)
    secure, _ = tls.shake(dial.reach("127.0.0.1", there.port), ours, pinned, "agent", server=False)
    assert soon(lambda: bool(there.agent.lobby._known))
    flood = [socket.create_connection(("127.0.0.1", there.port), 10) for _ in range(8)]
    time.sleep(1.2)  # the lobby was swept
    with Connection(secure, "agent", client=True) as connection:
        assert connection.ask("look", q.Look("disk", ""), q.Seen).exists
    for sock in flood:
        sock.close()
    assert soon(lambda: not there.agent._places and not there.agent.lobby._known)


def test_a_connection_that_a_crowd_cost_is_made_again(there: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    state, cut = there.host("r", "disk", allow="read"), [2]
    monkeypatch.setattr(dial, "_PAUSE_SECONDS", 0.05)
    reach = dial.reach

    def unlucky(host: str, port: int) -> socket.socket:
        sock = reach(host, port)
        if cut[0]:
            cut[0] -= 1
            sock.shutdown(socket.SHUT_RDWR)  # as the lobby does, seen from here
        return sock

    monkeypatch.setattr(dial, "reach", unlucky)
    assert engine.points(there.url(), state=state) and not cut[0]
    cut[0] = 100
    with pytest.raises(errors.Unreachable, match="crowded, or being stopped"):
        engine.points(there.url(), state=state)
    assert cut[0] > 90


def test_a_flood_of_strangers_is_taken_in_measure(there: Site) -> None:
    there.agent.lobby.places, before = 4, threading.active_count()  # what other tests left counts as well
    flood = [socket.create_connection(("127.0.0.1", there.port), 10) for _ in range(100)]
    try:
        assert engine.points(there.url(), state=there.host("r", "disk", allow="read"))
        assert threading.active_count() - before < 70
    finally:
        for sock in flood:
            sock.close()
    assert soon(lambda: len(there.agent.lobby) == 0)


@pytest.mark.parametrize("actions", [[], ["everything"], ["send", "x"]])
def test_a_key_for_what_there_is_not_is_not_given_out(tmp_path: Path, actions: list[str]) -> None:
    with pytest.raises(errors.Usage):
        access.give_key(tmp_path / "peers.json", ["disk"], actions)  # type: ignore[arg-type]
    assert access.load(tmp_path / "peers.json").keys == []
