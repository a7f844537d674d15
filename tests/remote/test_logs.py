"""A log at an agent: every command, who may do what, peers that turn against it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import SECONDSITE, paired, service
from exposition import parsed
from hosting import Site, soon
from logsite import digest, disk, restored, store, write
from test_flipped_bytes import through

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.remote import hosts, objects
from secondsite.engine.remote.agent import operations, stored
from secondsite.engine.remote.link import protocol
from secondsite.engine.store.base import Exists, Failed
from secondsite.engine.store.folder import FolderStore
from secondsite.engine.store.log import layout, prune, segment
from secondsite.engine.store.place import OWN
from secondsite.engine.units import KIB, MIB

pytestmark = pytest.mark.timeout(120)


def test_every_call_knows_it(there: Site, tmp_path: Path) -> None:
    """The first cycle says that it is to be a log; from then on nobody need say it."""
    state, source, replica = there.host(allow="send,read"), disk(tmp_path), there.url()
    first = digest(source)
    done = engine.replicate(source, replica, history="log", state=state)
    assert (done.kind, done.history, done.warnings) == ("initial", "log", [])
    write(source, MIB, b"changed")
    done = engine.replicate(source, replica, state=state)
    assert (done.kind, done.point, done.changed_bytes) == ("delta", "2", 64 * KIB)
    assert engine.replicate(source, replica, state=state).kind == "unchanged"
    assert [(one.point, one.history) for one in engine.points(replica, state=state)] == [("1", "log"), ("2", "log")]
    told = engine.info(replica, state=state)
    assert isinstance(told, engine.ReplicaInfo) and (told.points, told.history) == (2, "log")
    assert engine.verify(replica, state=state).ok
    assert restored(tmp_path, replica, state) == digest(source)
    assert restored(tmp_path, replica, state, "1") == first
    assert sum(run.length for run in engine.image_map(replica, state=state) if run.data) == 3 * MIB
    with engine.open_point(replica, at="1", state=state) as point:
        assert hashlib.sha256(point.read(0, point.size)).hexdigest() == first
    assert engine.verify(replica, source=source, state=state).ok
    output = tmp_path / "placed.raw"
    output.write_bytes(bytes(4 * MIB))
    engine.restore(replica, output, at="1", in_place=True, state=state)
    assert digest(output) == first
    # It is the same log for who has the folder.
    assert engine.verify(there.root / "disk").ok and not (there.root / "disk" / "head.raw").exists()
    assert len(engine.points(there.root / "disk")) == 2


def test_a_point_is_served(there: Site, tmp_path: Path) -> None:
    pytest.importorskip("secondsite.engine._nbd", reason="the native kernels are not built")
    state, source = there.host(allow="send,read"), disk(tmp_path)
    engine.replicate(source, there.url(), history="log", state=state)
    with (
        engine.serve(there.url(), socket=str(tmp_path / "s"), state=state) as served,
        engine.open_image(served.urls[0]) as image,
    ):
        assert image.read(0, image.size) == source.read_bytes()


def test_other_replicas_stay_what_they_are(there: Site, tmp_path: Path) -> None:
    state, source = there.host("host", "disk", "new", allow="send,read,administer"), disk(tmp_path)
    engine.replicate(source, there.url(), state=state)
    before = sorted(path.name for path in (there.root / "disk").iterdir())
    with pytest.raises(errors.Refused, match="folder of its own"):
        engine.replicate(source, there.url(), history="log", state=state)
    with store(there, state) as made, pytest.raises(errors.Refused, match="folder of its own"):
        made.delete("head.raw")
    assert sorted(path.name for path in (there.root / "disk").iterdir()) == before
    engine.replicate(source, there.url("new"), history="log", state=state)
    with pytest.raises(errors.IsLog):
        engine.adopt(source, there.root / "new")


def test_its_epoch_is_raised_from_elsewhere(there: Site, tmp_path: Path) -> None:
    """M14: who comes from before a failover is refused, in a log as in a folder."""
    state, source = there.host("host", allow="send,read,administer"), disk(tmp_path)
    engine.replicate(source, there.url(), history="log", epoch=1, state=state)
    assert engine.raise_epoch(there.url(), 4, state=state) == 4
    assert engine.raise_epoch(there.url(), 2, state=state) == 4
    write(source, 0, b"other")
    with pytest.raises(errors.Refused, match="epoch 4"):
        engine.replicate(source, there.url(), epoch=1, state=state)
    assert engine.replicate(source, there.url(), epoch=4, state=state).kind == "delta"


# -- who may do what -------------------------------------------------------------------------------------------


def test_who_may_only_send_goes_on_and_reads_nothing_of_the_disk(there: Site, tmp_path: Path) -> None:
    state, source = there.host(allow="send"), disk(tmp_path)
    engine.replicate(source, there.url(), history="log", state=state)
    write(source, 0, b"other")
    other = there.folder / "other"  # the same host, without what it knew: the map is read anew
    shutil.copytree(state, other)
    shutil.rmtree(other / "maps")
    done = engine.replicate(source, there.url(), history="log", state=other)
    assert (done.kind, done.changed_bytes) == ("delta", 64 * KIB)
    with store(there, state) as made:
        entries = list(made.list())
        name = max((one for one in entries if one.name.startswith("segments/")), key=lambda one: one.size).name
        whole = FolderStore(str(there.root / "disk")).get(name).data
        seen = made.get(name).data
        end = segment.payload_end(whole, len(whole))
        assert end is not None and seen[end:] == whole[end:] and not any(seen[4096:end])
        assert segment.table(made, name, len(whole)).frames
        with pytest.raises(errors.Refused, match="may not"):
            made.get(name, 100_000, 1000)
        with pytest.raises(errors.Refused):
            made.delete(name)
        with pytest.raises(errors.Refused):
            made.replace(name, b"", next(one.etag for one in entries if one.name == name))
        with pytest.raises(Exists):
            made.put_if_absent(name, b"")
    with pytest.raises(errors.Refused, match="may not"):
        engine.restore(there.url(), tmp_path / "out.raw", state=state)
    assert engine.verify(there.root / "disk").ok


def test_who_may_only_read_writes_nothing(there: Site, tmp_path: Path) -> None:
    sender, reader, source = there.host("a", allow="send"), there.host("b", allow="read"), disk(tmp_path)
    engine.replicate(source, there.url(), history="log", state=sender)
    assert restored(tmp_path, there.url(), reader) == digest(source)
    with pytest.raises(errors.Refused, match="may not"):
        engine.replicate(source, there.url(), history="log", state=reader, accept_source=True)
    with store(there, reader) as made:
        for call in (
            lambda: made.put_if_absent("a", b""), lambda: made.delete(layout.HEAD),
            lambda: made.replace(layout.HEAD, b"", made.get(layout.HEAD).etag),
        ):  # fmt: skip
            with pytest.raises(errors.Refused, match="may not"):
                call()
    assert engine.verify(there.root / "disk").ok


def test_who_reads_may_say_so(there: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And hold back nobody else: names of such notes are told to who administers alone."""
    reader, other = there.host("a", allow="read"), there.host("b", allow="send")
    admin = there.host("c", allow="administer")
    with store(there, reader) as made, store(there, other) as second, store(there, admin) as third:
        etag = made.put_if_absent("readers/0123", b"5")
        assert made.replace("readers/0123", b"6", etag) == third.get("readers/0123").etag
        assert list(second.list()) == list(second.list("readers/")) == []
        assert [entry.name for entry in third.list()] == ["readers/0123"]
        made.delete("readers/0123")
        second.put_if_absent("clock/1", b"")
        second.delete("clock/1")
        assert list(third.list()) == []
        for name, size in (("readers/1", 100_000), ("readersx", 0), ("readers/../x", 0)):
            with pytest.raises(errors.Error):
                made.put_if_absent(name, bytes(size))
        monkeypatch.setattr(objects, "MAX_PASSING", 12)
        for number in range(12):
            made.put_if_absent(f"readers/{number}", b"")
        with pytest.raises(Failed, match="too much"):
            made.put_if_absent("readers/more", b"")


def test_who_administers_prunes_it_and_who_reads_is_not_disturbed(there: Site, tmp_path: Path) -> None:
    sender, reader, source = there.host("a", allow="send"), there.host("b", allow="read"), disk(tmp_path)
    admin = there.host("c", allow="administer")
    digests = []
    for _ in range(4):
        write(source, MIB, os.urandom(64 * KIB))
        engine.replicate(source, there.url(), history="log", state=sender)
        digests.append(digest(source))
    with pytest.raises(errors.Refused, match="may not"):
        engine.prune(there.url(), keep=1, state=reader)
    for call in (
        lambda: engine.replicate(source, there.url(), keep=1, state=sender),
        lambda: engine.prune(there.url(), keep=1, state=sender),
    ):  # fmt: skip
        with pytest.raises(errors.Refused, match="may not administer"):
            call()
    with engine.open_point(there.url(), at="2", state=reader) as point:
        done = engine.prune_report(there.url(), keep=1, grace=0, state=admin)
        assert (done.points, done.freed_bytes) == (3, 0) and done.condemned_bytes > 2 * 64 * KIB
        assert engine.prune_report(there.url(), grace=0, state=admin).freed_bytes == 0
        assert hashlib.sha256(point.read(0, point.size)).hexdigest() == digests[1]
    assert engine.prune_report(there.url(), grace=0, state=admin).freed_bytes == done.condemned_bytes
    write(source, 0, b"and on")
    assert engine.replicate(source, there.url(), state=sender).warnings == []
    assert restored(tmp_path, there.url(), reader, "4") == digests[3]
    with pytest.raises(errors.Refused, match="no point 2"):
        restored(tmp_path, there.url(), reader, "2")


def test_who_administers_keeps_so_many_points_and_nobody_asks_for_what_is_refused(
    there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was condemned an hour ago goes with a cycle of who may delete; the cycles of others do not try."""
    admin, sender, source = there.host("a", allow="send,read,administer"), there.host("b", allow="send"), disk(tmp_path)
    segments = there.root / "disk" / layout.SEGMENTS

    def cycle(state: Path, **more: int) -> engine.Replicated:
        write(source, MIB, os.urandom(64 * KIB))
        return engine.replicate(source, there.url(), history="log", state=state, **more)

    with pytest.raises(errors.Refused, match="may not administer"):
        cycle(sender, keep=1)
    assert not list((there.root / "disk").glob("*.json"))
    pruned = [cycle(admin, keep=2).pruned for _ in range(4)]
    assert pruned == [0, 0, 1, 1] and len(engine.points(there.url(), state=admin)) == 2
    before = {path.name for path in segments.rglob("*") if path.is_file()}
    monkeypatch.setattr(prune.Pruning.sweep, "__defaults__", (0,))  # the hour is over
    assert cycle(sender).warnings == [] and before <= {path.name for path in segments.rglob("*") if path.is_file()}
    assert cycle(admin).warnings == []
    assert not before <= {path.name for path in segments.rglob("*") if path.is_file()}
    assert not [name for name in parsed(there.agent.figures()) if "errors_total" in name]
    assert engine.verify(there.root / "disk").ok


def test_a_prune_of_no_log_at_an_agent_says_what_is_for_one(there: Site, tmp_path: Path) -> None:
    state, source = there.host(allow="send,read,administer"), disk(tmp_path)
    engine.replicate(source, there.url(), state=state)
    with pytest.raises(errors.Usage, match="for a replica in a store"):
        engine.prune_report(there.url(), keep=1, grace=5, state=state)
    with pytest.raises(errors.Usage, match="give either"):
        engine.prune_report(there.url(), state=state)


def test_heads_that_were_replaced_stay_a_while(there: Site, tmp_path: Path) -> None:
    """A sender who writes a head without points cannot take back what yesterday's head said."""
    state, source = there.host(allow="send,read"), disk(tmp_path)
    engine.replicate(source, there.url(), history="log", state=state)
    kept = there.root / "disk" / OWN / "kept"
    for day in range(1, 41):
        (kept / f"head-2001-01-{day:02}.json").write_bytes(b"")
    write(source, 0, b"other")
    os.unlink(max(kept.iterdir()))  # today's
    good = engine.points(there.url(), state=state)
    with store(there, state) as made:
        made.replace(layout.HEAD, b"{}", made.get(layout.HEAD).etag)
        made.replace(layout.HEAD, b"{} ", made.get(layout.HEAD).etag)
    assert len(list(kept.iterdir())) == 32
    with pytest.raises(errors.Damaged):
        engine.points(there.url(), state=state)
    (there.root / "disk" / layout.HEAD).write_bytes(max(kept.iterdir()).read_bytes())
    assert engine.points(there.url(), state=state) == good and engine.verify(there.url(), state=state).ok


def test_who_is_revoked_ends_in_the_middle_of_an_object(there: Site) -> None:
    state = there.host(allow="send")
    with there.connect(state) as connection, connection.call(objects.OPERATION, objects.Store("disk")) as call:
        call.receive(5)
        call.send(objects.Put("segments/1", 10 * MIB, {}), bytes(1000))
        new = there.root / "disk" / OWN / "new"
        assert soon(lambda: new.is_dir() and bool(list(new.iterdir())))
        hosts.revoke("source", state=there.there)
        with pytest.raises(errors.Refused):
            call.receive(5)
    assert soon(lambda: not list(new.iterdir()))
    assert list(FolderStore(str(there.root / "disk")).list()) == []


# -- hostile peers ---------------------------------------------------------------------------------------------

WILD: list[Any] = [
    objects.Put("../x", 1, {}), objects.Put("/etc/x", 1, {}), objects.Put(f"{OWN}/lock", 1, {}),
    objects.Put("x" * 600, 1, {}), objects.Put("", 1, {}), objects.Put("a\0b", 1, {}), objects.Put("a", -1, {}),
    objects.Put("a", 1 << 50, {}), objects.Put("a", 1, {"much": "x" * 900}), objects.Put("a", 0, {}),
    objects.Replace("../head.json", 1, {}, ""), objects.Replace(layout.HEAD, 1, {}, "x" * 1000),
    objects.Get("../../etc/passwd", 0, 10), objects.Get("a", -1, 10), objects.Get("a", 0, 1 << 40),
    objects.Get("a", 1 << 62, 10), objects.Stat("../x"), objects.Below("../"), objects.Below("a/../../"),
    objects.Delete("../outside"), objects.Delete(""), objects.Made("x"), objects.Found([]),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WILD)))
def test_wild_questions_do_no_harm(there: Site, number: int) -> None:
    (there.root / "outside").write_bytes(b"stays")
    (there.root / "x").write_bytes(b"stays")
    state = there.host(allow="send,read,administer")
    with there.connect(state) as connection, connection.call(objects.OPERATION, objects.Store("disk")) as call:
        call.receive(5)
        try:
            call.send(WILD[number], b"more than was said" if number % 2 else b"")
            for _ in range(2):
                answer = protocol.decode(call.receive(1).control, objects.No | objects.Found | objects.Made, "")
                assert answer in (objects.No("absent"), objects.No("changed"), objects.Found([])) or number == 9
        except errors.Error:
            pass
    with store(there, state) as made:
        made.put_if_absent("still/works", b"1")
        assert made.get("still/works").data == b"1"
    assert sorted(path.name for path in there.root.iterdir()) == ["disk", "outside", "x"]
    names = {path.name for path in (there.root / "disk").iterdir()}
    assert names <= {OWN, "still", "a"} and not list((there.root / "disk" / OWN / "new").iterdir())


LIES: list[Any] = [
    objects.Found([("other", 1, "", 0.0)]), objects.Found([("a", -1, "", 0.0)]), objects.Found([("a", 1, "", 0.0)] * 2),
    objects.Found([], more=True), objects.Content(-1, "", {}), objects.Content(1 << 62, "", {}), objects.Made("x"),
    objects.Content(10, "", {}), objects.No("changed"), objects.Ready(0.0),
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=repr)
def test_an_agent_that_lies_is_not_believed(there: Site, monkeypatch: pytest.MonkeyPatch, lie: Any) -> None:
    """Each answer is another than to what was asked; the caller gets an error of ours, and waits for nothing."""
    state, body = there.host(allow="send,read"), b"12345" if isinstance(lie, objects.Content) else b""
    monkeypatch.setattr(stored._Channel, "_answer", lambda self, asked, part: self.call.send(lie, body))
    with store(there, state) as made:
        calls = [lambda: made.get("a", 0, 7), lambda: made.get("a"), lambda: made.stat("a")]
        calls.append(lambda: list(made.list("a/")))
        if not isinstance(lie, objects.Made):
            calls.append(lambda: made.put_if_absent("a", b"1"))
        for call in calls:
            try:
                found = call()
            except errors.Error:
                continue
            assert lie == objects.Found([("a", 1, "", 0.0)]) or found in (None, []), found


def test_an_agent_without_it_says_so(there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = there.host(allow="send,read")
    monkeypatch.delitem(operations.OPERATIONS, objects.OPERATION)
    with pytest.raises(errors.Refused, match="is it older than this program"):
        engine.replicate(disk(tmp_path), there.url(), history="log", state=state)


def test_an_agent_that_is_not_there_is_told_at_once(there: Site, tmp_path: Path) -> None:
    state = there.host(allow="send,read")
    there.agent.close()
    with pytest.raises(errors.Unreachable, match="refused"):
        engine.replicate(disk(tmp_path), there.url(), history="log", state=state)


# -- what the agent does by itself -----------------------------------------------------------------------------


def test_the_agent_counts_it(there: Site, tmp_path: Path) -> None:
    state = there.host(allow="send,read")
    engine.replicate(disk(tmp_path), there.url(), history="log", state=state)
    counts = there.agent.meter.of("disk")
    assert counts.cycles == 1 and 3 * MIB < counts.received < 4 * MIB
    counts.last_done = None
    (age,) = re.findall(r'secondsite_\w*age\w*\{replica="disk"\} (\S+)', there.agent.figures())
    assert 0 <= float(age) < 60


def test_the_agent_verifies_what_it_can_read_itself(there: Site, tmp_path: Path) -> None:
    """Little goes over the link; the key of an encrypted one never does, so that all of it must."""
    state, source, key = there.host("a", "disk", "sealed", allow="send,read"), disk(tmp_path), tmp_path / "vm.key"
    engine.new_key_file(key)
    engine.replicate(source, there.url(), history="log", state=state)
    with engine.using_key(engine.Key(str(key))):
        engine.replicate(source, there.url("sealed"), encrypt=True, state=state)
    proxy, replica = through(there, state)
    try:
        assert engine.verify(replica, state=state).ok and sum(proxy.passed) < MIB // 10
        before = sum(proxy.passed)
        found = engine.verify(replica.replace("/disk", "/sealed"), state=state)
        assert found.ok and found.objects and sum(proxy.passed) - before > 3 * MIB
        for folder in ("disk", "sealed"):
            name = max((there.root / folder).glob("segments/*/*"), key=lambda path: path.stat().st_size)
            raw = bytearray(name.read_bytes())
            raw[len(raw) // 2] ^= 1
            name.write_bytes(raw)
            assert not engine.verify(replica.replace("/disk", f"/{folder}"), state=state).ok
    finally:
        proxy.close()


def test_from_the_command_line(tmp_path: Path) -> None:
    with service(tmp_path) as agent:
        state, source = paired(tmp_path, agent, "vm"), disk(tmp_path)
        run = [*SECONDSITE, "replicate", "--history", "log", str(source), agent.url("vm"), "--state", str(state)]
        assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.startswith("initial: point 1")
        run = [*SECONDSITE, "points", agent.url("vm"), "--state", str(state)]
        assert " log " in subprocess.run(run, check=True, capture_output=True, text=True).stdout


def test_an_encrypted_replica_at_an_agent(there: Site, tmp_path: Path) -> None:
    """Who may only send goes on with it; the agent holds nothing that reads as the disk."""
    sender, reader, source = there.host("a", allow="send"), there.host("b", allow="read,send"), disk(tmp_path)
    write(source, 0, b"a word that is easy to find" * 10_000)
    key = tmp_path / "vm.key"
    engine.new_key_file(key)
    with engine.using_key(engine.Key(str(key))):
        engine.replicate(source, there.url(), encrypt=True, state=sender)
        write(source, MIB, b"changed")
        done = engine.replicate(source, there.url(), state=sender)
        assert (done.kind, done.changed_bytes) == ("delta", 64 * KIB)
        assert restored(tmp_path, there.url(), reader) == digest(source)
        assert engine.verify(there.url(), state=reader).ok
        assert [found.slot for found in engine.replica_keys(there.url(), state=reader)] == [1]
    for path in (there.root / "disk").rglob("*"):
        assert path.is_dir() or b"easy to find" not in path.read_bytes()
    with pytest.raises(errors.Error):
        engine.restore(there.url(), tmp_path / "out.raw", state=reader)
    assert engine.verify(there.url(), state=reader, sealed=True).ok


def test_with_a_key_no_plain_replica_passes(there: Site, tmp_path: Path) -> None:
    """Neither an ordinary one at an agent nor a log."""
    state, source, key = there.host("a", "disk", "log", allow="send,read"), disk(tmp_path), tmp_path / "vm.key"
    engine.replicate(source, there.url(), state=state)
    engine.replicate(source, there.url("log"), history="log", state=state)
    engine.new_key_file(key)
    with engine.using_key(engine.Key(str(key))):
        for name, told in (("disk", "something else"), ("log", "not encrypted, and a key was given")):
            for call in (engine.points, engine.info, engine.verify):
                with pytest.raises(errors.Refused, match=told):
                    call(there.url(name), state=state)
            with pytest.raises(errors.Refused, match=told):
                engine.restore(there.url(name), tmp_path / "out.raw", state=state)
            with pytest.raises(errors.Refused, match=told):
                engine.replicate(source, there.url(name), state=state)


def test_a_watch_that_was_told_that_it_is_a_log_keeps_its_connection(
    there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says so on the command line: only the first cycle asks the agent."""
    from secondsite.engine.remote import dial

    state, source = there.host(allow="send,read"), disk(tmp_path)
    engine.replicate(source, there.url(), history="log", state=state)
    made: list[int] = []
    connect = dial.connect
    monkeypatch.setattr(dial, "connect", lambda *given, **more: made.append(1) or connect(*given, **more))
    seen: list[int] = []

    def observe(status: engine.Status) -> None:
        if status.last is not None:
            seen.append(len(made))
            write(source, len(seen) * 256 * KIB, bytes([len(seen)]) * KIB)

    with pytest.raises(errors.Cancelled):
        engine.watch(source, there.url(), every=1, state=state, observe=observe, cancel=lambda: len(seen) >= 4)
    assert seen[0] == 2 and seen[1:] == [3, 3, 3]
    assert restored(tmp_path, there.url(), state) and engine.info(there.url(), state=state).generation == 4  # type: ignore[union-attr]
