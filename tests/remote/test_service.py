"""An agent, over real TLS on the loopback: who gets in, what each may do, and everybody who is to be kept out."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from hosting import Site, site, soon

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.remote import hosts, talk
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import protocol, tls
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.link.wire import Closed, Wire
from secondsite.engine.remote.trust import access, agents, identity, pairing

pytestmark = pytest.mark.timeout(60)
MIB = 1 << 20


def image(folder: Path, size: int = 4 * MIB, seed: int = 1) -> Path:
    path = folder / "disk.raw"
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


# -- the way it is meant ------------------------------------------------------------------------------------------


def test_a_paired_host_sends_a_disk_and_then_what_changed(there: Site, tmp_path: Path) -> None:
    state, source = there.host(), image(tmp_path)
    first = engine.replicate(source, there.url(), state=state)
    assert (first.kind, first.generation) == ("initial", 1)
    with source.open("r+b") as file:
        file.seek(MIB)
        file.write(b"changed")
    second = engine.replicate(source, there.url(), state=state)
    assert (second.kind, second.generation, second.changed_bytes) == ("delta", 2, 64 << 10)
    assert engine.replicate(source, there.url(), state=state).kind == "unchanged"
    assert (there.root / "disk" / "head.raw").read_bytes() == source.read_bytes()
    assert engine.verify(there.root / "disk").ok


def test_a_key_pairs_both_ways_and_the_private_keys_stay(there: Site) -> None:
    state = there.host("east", "one", "two", allow="send,read")
    ours, theirs = hosts.host_identity(state=state), hosts.host_identity(state=there.there)
    (peer,) = hosts.peers(state=there.there)
    assert (peer.name, peer.pin, peer.replicas, peer.actions) == ("east", ours.pin, ["one", "two"], ["send", "read"])
    assert list(agents.find(Home.of(state).agents, "127.0.0.1", there.port)) == [theirs.pin]
    for folder in (state, there.there):
        for path in folder.rglob("*"):
            assert path.is_dir() or path.name in ("key.pem",) or b"PRIVATE" not in path.read_bytes()


# -- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_is_taken_once(there: Site) -> None:
    key = there.key()
    for name in ("first", "second"):
        hosts.init_identity(state=there.folder / name)
    there.key()  # another one is still out, so that strangers are let in at all
    hosts.pair(there.address, key, name="first", state=there.folder / "first")
    with pytest.raises(errors.Refused, match="wrong, was used") as caught:
        hosts.pair(there.address, key, name="second", state=there.folder / "second")
    assert not caught.value.retryable and [peer.name for peer in hosts.peers(state=there.there)] == ["first"]
    with pytest.raises(errors.Refused):
        there.connect(there.folder / "second").ask("nothing", talk.Answered(), talk.Answered)


def test_without_a_key_that_is_out_no_stranger_comes_past_the_handshake(there: Site) -> None:
    key = there.key()
    hosts.init_identity(state=there.folder / "late")
    with access.changing(there.there / "peers.json") as book:
        book.keys.clear()
    with pytest.raises(errors.Refused, match="was used, or is older"):
        hosts.pair(there.address, key, name="late", state=there.folder / "late")


def test_a_key_of_five_days_ago_is_refused(there: Site) -> None:
    home = Home.of(there.there)
    secret = access.give_key(home.peers, ["disk"], now=time.time() - access.KEY_SECONDS)
    there.key()
    hosts.init_identity(state=there.folder / "late")
    key = pairing.format_key(identity.load(home.identity).pin, secret)
    with pytest.raises(errors.Refused, match="older than five days"):
        hosts.pair(there.address, key, name="late", state=there.folder / "late")


def test_a_key_of_another_agent_is_refused_before_anything_is_told(there: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with site(tmp_path / "other") as other:
        there.key()
        hosts.init_identity(state=there.folder / "late")
        with pytest.raises(tls.Untrusted, match="not the agent that gave this key out"):
            hosts.pair(there.address, other.key(), name="late", state=there.folder / "late")
        assert agents.load(Home.of(there.folder / "late").agents).agents == {}
        assert len(access.load(Home.of(other.there).peers).keys) == 1  # it can still be used with the right one


@pytest.mark.parametrize("text", ["", "2ss1", "2ss1.x.y", "2ss1." + "A" * 43 + "." + "B" * 42, "A" * 500, "2ss1.\0"])
def test_what_is_no_key_is_a_usage_error(text: str) -> None:
    with pytest.raises(errors.Usage):
        pairing.parse_key(text)


def test_a_stranger_may_only_pair(there: Site) -> None:
    there.key()
    pin = hosts.host_identity(state=there.there).pin
    sock = socket.create_connection(("127.0.0.1", there.port))
    secure, _ = tls.shake_to_pair(sock, pin, "agent")
    begin = talk.Begin(name="disk", source="x", source_format="raw", size=0)
    with Connection(secure, "agent", client=True) as connection:
        call = connection.call(talk.OPERATION, begin)
        with pytest.raises(errors.Refused, match="not paired"):
            call.receive(10)
    assert not (there.root / "disk").exists()


# -- who is kept out ----------------------------------------------------------------------------------------------


def test_who_is_not_paired_is_told_what_to_do(there: Site, tmp_path: Path) -> None:
    with pytest.raises(errors.Refused, match="identity init"):
        engine.replicate(image(tmp_path), there.url(), state=tmp_path / "nobody")
    hosts.init_identity(state=tmp_path / "nobody")
    with pytest.raises(errors.Refused, match="secondsite pair 127"):
        engine.replicate(image(tmp_path), there.url(), state=tmp_path / "nobody")


def test_a_host_that_the_agent_does_not_know_is_refused_for_good(there: Site, tmp_path: Path) -> None:
    state = there.host()
    stranger = tmp_path / "stranger"
    hosts.init_identity(state=stranger)
    (stranger / "agents.json").write_bytes((state / "agents.json").read_bytes())
    with pytest.raises(tls.Untrusted) as caught:
        engine.replicate(image(tmp_path), there.url(), state=stranger)
    assert not caught.value.retryable and not (there.root / "disk").exists()


def test_another_agent_at_a_known_address_is_refused(there: Site, tmp_path: Path) -> None:
    state = there.host()
    (tmp_path / "other").mkdir()
    with site(tmp_path / "other") as other:
        book = agents.load(state / "agents.json").agents
        agents.keep(state / "agents.json", "127.0.0.1", other.port, next(iter(book.values())))
        with pytest.raises(tls.Untrusted):
            engine.replicate(image(tmp_path), other.url(), state=state)


def test_a_revoked_host_is_refused_and_what_it_does_ends(there: Site, tmp_path: Path) -> None:
    state = there.host()
    connection = there.connect(state)
    begin = talk.Begin(name="disk", source="x", source_format="raw", size=MIB)
    call = connection.call(talk.OPERATION, begin)
    protocol.decode(call.receive(10).control, talk.State, "agent")
    began = time.monotonic()
    hosts.revoke("source", state=there.there)
    with pytest.raises(errors.Refused, match="not paired with you any more"):
        call.receive(10)
    assert time.monotonic() - began < 2
    assert soon(lambda: connection.failed is not None, 2)
    connection.join()
    with pytest.raises(tls.Untrusted):
        engine.replicate(image(tmp_path), there.url(), state=state)


def test_a_book_that_cannot_be_read_lets_nobody_in(there: Site, tmp_path: Path) -> None:
    state = there.host()
    connection = there.connect(state)
    (there.there / "peers.json").write_text("{")
    assert soon(lambda: connection.failed is not None)
    connection.join()
    with pytest.raises(errors.Error):
        there.connect(state)


# -- permissions --------------------------------------------------------------------------------------------------


def test_only_the_named_replicas_and_actions_are_allowed(there: Site, tmp_path: Path) -> None:
    sender = there.host("sender")
    with pytest.raises(errors.Refused, match="may not send other") as caught:
        engine.replicate(image(tmp_path), there.url("other"), state=sender)
    assert not caught.value.retryable
    reader = there.host("reader", allow="read")
    with pytest.raises(errors.Refused, match="may not send disk"):
        engine.replicate(image(tmp_path), there.url(), state=reader)
    assert sorted(path.name for path in there.root.iterdir()) == []


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../x", "/etc", "a\0b", ".hidden", "x" * 300, "\u00e9", "a\n"])
def test_a_name_that_is_none_is_refused_by_the_agent(there: Site, name: str) -> None:
    with there.connect(there.host()) as connection:
        begin = talk.Begin(name=name, source="x", source_format="raw", size=0)
        with connection.call(talk.OPERATION, begin) as call, pytest.raises(errors.Refused, match="no name"):
            call.receive(10)
    assert list(there.root.iterdir()) == []


@pytest.mark.parametrize("what", ["disk", "disk/points", "disk/head.raw", "disk/replica.json", "disk/incoming.spool"])
def test_a_link_below_the_root_is_not_followed(there: Site, tmp_path: Path, what: str) -> None:
    state, source = there.host(), image(tmp_path)
    engine.replicate(source, there.url(), state=state)
    place, outside = there.root / what, tmp_path / "outside"
    if place.exists():
        place.rename(outside)
    else:
        outside.write_bytes(b"")
    place.symlink_to(outside)
    before = outside.read_bytes() if outside.is_file() else None
    source.write_bytes(random.Random(2).randbytes(4 * MIB))
    with pytest.raises(errors.Refused, match="is a link"):
        engine.replicate(source, there.url(), state=state)
    assert before is None or outside.read_bytes() == before


def test_a_root_that_was_moved_away_takes_nothing(there: Site, tmp_path: Path) -> None:
    state = there.host()
    there.root.rename(tmp_path / "moved")
    there.root.mkdir()
    with pytest.raises(errors.Unreachable, match="another folder"):
        engine.replicate(image(tmp_path), there.url(), state=state)
    assert list(there.root.iterdir()) == []


def test_an_operation_that_is_not_known_is_refused_and_the_connection_goes_on(there: Site) -> None:
    with there.connect(there.host()) as connection:
        for _ in range(2):
            with pytest.raises(errors.Refused, match="knows no"):
                connection.ask("format-disk", talk.Answered(), talk.Answered)
        with pytest.raises(errors.Damaged):
            connection.ask(talk.OPERATION, talk.Answered(7), talk.Answered)
        assert connection.failed is None


# -- what is no peer at all ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(70000), bytes(100)])
def test_garbage_before_tls_is_dropped(there: Site, tmp_path: Path, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", there.port), 5) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
        except OSError:  # it may have hung up on the first bytes already: reset, or not connected any more
            pass
    assert soon(lambda: len(there.agent.lobby) == 0)
    assert engine.replicate(image(tmp_path), there.url(), state=there.host()).generation == 1


def test_an_older_tls_is_refused(there: Site) -> None:
    state = there.host()
    made = tls.context(identity.load(state / "identity"), {}, server=False)
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", there.port), 5) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
        made.wrap_socket(sock).recv(1)


def test_garbage_inside_tls_ends_that_connection_alone(there: Site, tmp_path: Path) -> None:
    state = there.host()
    ours = identity.load(state / "identity")
    sock = socket.create_connection(("127.0.0.1", there.port), 5)
    secure, _ = tls.shake(sock, ours, agents.find(state / "agents.json", "127.0.0.1", there.port), "it", server=False)
    wire = Wire(secure, "it", 10)
    wire.send(bytes(4096))
    with pytest.raises(Closed):
        wire.read_into(memoryview(bytearray(4096)))
    wire.release()
    assert engine.replicate(image(tmp_path), there.url(), state=state).generation == 1


def test_who_says_nothing_loses_his_place_in_time_and_keeps_nobody_out(there: Site, tmp_path: Path) -> None:
    there.agent.lobby.seconds, there.agent.lobby.places = 1.0, 8
    state, source = there.host(), image(tmp_path)
    silent = [socket.create_connection(("127.0.0.1", there.port), 5) for _ in range(40)]
    try:
        assert engine.replicate(source, there.url(), state=state).generation == 1
        for sock in silent:
            sock.settimeout(8)
            assert sock.recv(1) == b""  # cut: some at once since they were too many, the others in time
        assert soon(lambda: len(there.agent.lobby) == 0)
    finally:
        for sock in silent:
            sock.close()


def test_a_stranger_who_pairs_slowly_is_cut(there: Site) -> None:
    there.agent.lobby.seconds = 0.5
    there.key()
    pin = hosts.host_identity(state=there.there).pin
    secure, _ = tls.shake_to_pair(socket.create_connection(("127.0.0.1", there.port)), pin, "agent")
    with Connection(secure, "agent", client=True) as connection:
        assert soon(lambda: connection.failed is not None, 4)


# -- its end ------------------------------------------------------------------------------------------------------


def test_an_agent_that_stops_says_so_and_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with site(tmp_path) as there:
        connection = there.connect(there.host())
        call = connection.call(talk.OPERATION, talk.Begin(name="disk", source="x", source_format="raw", size=MIB))
        call.receive(10)
        began = time.monotonic()
        there.agent.close()
        assert time.monotonic() - began < 3
        with pytest.raises(errors.Unreachable, match="being stopped") as caught:
            call.receive(5)
        assert caught.value.retryable
        connection.join()
    assert soon(lambda: threading.active_count() <= before)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", there.port), 2)
