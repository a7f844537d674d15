"""The QEMU tracker where a machine does not stand still for it: full disks, ends, other servers, other nodes."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from qemukit import GRAIN, MIB, Daemon, ScriptedAgent, first_point, have, named, whole

from secondsite.engine import errors
from secondsite.engine.qemu.machine import Qemu
from secondsite.engine.trackers.base import Have
from secondsite.engine.trackers.qemu import QemuTracker, begin_together

pytestmark = pytest.mark.needs("qemu-storage-daemon")
Start = Callable[..., Daemon]


def test_a_machine_that_writes_too_much_costs_the_cycle_and_not_the_machine(daemon: Start) -> None:
    made = daemon(64 * MIB)
    tracker, disk = made.tracker(copy_limit=5 * MIB), made.writer()
    for at in range(64):
        disk.write(at * MIB, b"a" * MIB)
    known = first_point(tracker)
    cut = tracker.begin(known)
    for at in range(64):
        disk.write(at * MIB, b"b" * MIB)
    disk.flush()
    with pytest.raises(errors.SourceChanged, match=r"written more than its old contents could be kept \(No space"):
        cut.image.read(63 * MIB, MIB)
    with pytest.raises(errors.SourceChanged, match="the machine goes on"):
        cut.changed()
    cut.give_back()
    assert not cut.warnings
    assert disk.read(0, 64 * MIB) == b"b" * (64 * MIB)
    assert made.added() == []
    again = tracker.begin(known)
    assert named(again) == [(0, 64 * MIB)]
    assert again.image.read(MIB, 4) == b"bbbb"
    again.give_back()


def test_no_room_at_all_is_said(daemon: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    made = daemon()
    monkeypatch.setattr("secondsite.engine.qemu.fleece._LEAVE", 1 << 62)
    with pytest.raises(errors.Full, match="no room to keep what is overwritten"):
        made.tracker().begin(None)
    assert made.added() == []
    assert made.bitmaps() == []


def test_a_limit_below_the_tables_is_not_called_a_full_disk(daemon: Start) -> None:
    made = daemon()
    with pytest.raises(errors.Usage, match="a copy limit of 1048576 bytes"):
        made.tracker(copy_limit=MIB).begin(None)
    assert made.added() == []
    assert made.bitmaps() == []


KILLED = """
import sys, time
from secondsite.engine.qemu.machine import Qemu
from secondsite.engine.trackers.base import Have
from secondsite.engine.trackers.qemu import QemuTracker
path, replica, qmp, seal = sys.argv[1:]
cut = QemuTracker(path, replica, Qemu(qmp)).begin(Have(replica, 1, seal))
list(cut.changed())
print("open", flush=True)
time.sleep(60)
"""


def test_what_a_killed_cycle_left_is_cleaned_up_and_nothing_is_forgotten(daemon: Start) -> None:
    made = daemon()
    tracker, disk = made.tracker(), made.writer()
    disk.write(0, b"a" * MIB)
    known = first_point(tracker)
    disk.write(MIB, b"b")
    arguments = [str(made.paths[0]), tracker.replica_id, str(made.socket), known.seal]
    child = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    disk.write(2 * MIB, b"c")
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    disk.write(4 * MIB, b"d")
    assert made.added()
    cut = tracker.begin(known)
    assert named(cut) == [(MIB, GRAIN), (2 * MIB, GRAIN), (4 * MIB, GRAIN)]
    cut.acknowledge(have(2))
    assert made.added() == []
    assert len(made.bitmaps()) == 1
    assert [path.name for path in made.folder.iterdir() if "copy" in path.name] == []


@pytest.mark.parametrize("when", ["reading", "acknowledging"])
def test_a_qemu_that_ends_in_the_middle(daemon: Start, when: str) -> None:
    made = daemon()
    tracker = made.tracker()
    known = first_point(tracker)
    cut = tracker.begin(known)
    made.kill()
    if when == "reading":
        with pytest.raises(errors.Unreachable) as caught:
            cut.image.read(0, MIB)
        assert caught.value.retryable
        with pytest.raises(errors.Unreachable):
            cut.changed()
        cut.give_back()
    else:
        cut.acknowledge(have(2))
    made.restart()
    again = tracker.begin(known)
    assert again.changed() is None
    again.give_back()


def test_two_disks_are_cut_at_one_instant(daemon: Start) -> None:
    """One writer counts up on the first disk, then on the second: a cut sees one number, or one more on the first."""
    made = daemon(MIB, MIB)
    disks, trackers = (made.writer(0), made.writer(1)), (made.tracker(0), made.tracker(1))
    stop, written = threading.Event(), 0

    def count() -> None:
        nonlocal written
        while not stop.is_set():
            written += 1
            for disk in disks:
                disk.write(0, struct.pack("<Q", written).ljust(512, b"\0"))

    thread = threading.Thread(target=count)
    thread.start()
    known: list[Have | None] = [None, None]
    seen = []
    try:
        for number in range(1, 16):
            cuts = begin_together(list(zip(trackers, known, strict=True)))
            first, second = (struct.unpack("<Q", cut.image.read(0, 8))[0] for cut in cuts)
            assert first - second in (0, 1)
            seen.append(first)
            for cut in cuts:
                assert (cut.changed() is None) == (number == 1)
                cut.acknowledge(have(number))
            known = [have(number)] * 2
    finally:
        stop.set()
        thread.join()
    assert seen == sorted(set(seen))  # the writer went on all the time
    assert made.added() == []


def test_cuts_begin_together_or_not_at_all(daemon: Start) -> None:
    made = daemon(MIB, MIB)
    one, two = made.tracker(0), made.tracker(1, node="nothing")
    with pytest.raises(errors.Refused, match="no block node 'nothing'"):
        begin_together([(one, None), (two, None)])
    assert made.added() == []
    assert made.bitmaps(0) == []
    one.begin(None).give_back()


def test_the_agent_freezes_around_the_cut(daemon: Start, agent: Callable[..., ScriptedAgent]) -> None:
    made, guest = daemon(), agent()
    cut = made.tracker(agent=str(guest.path)).begin(None)
    assert cut.application
    assert not cut.warnings
    assert guest.log == ["sync-delimited", "freeze", "status", "sync-delimited", "thaw"]
    cut.give_back()
    refused = agent(answers={"guest-fsfreeze-freeze": Exception("no")})
    cut = made.tracker(agent=str(refused.path)).begin(None)
    assert not cut.application
    assert "were not frozen" in cut.warnings[0]
    assert len(whole(cut.image)) == made.sizes[0]
    cut.give_back()


def test_our_own_server_runs_for_a_cut(daemon: Start) -> None:
    made = daemon(server=False)
    cut = made.tracker(node="disk0").begin(None)
    assert made.front.exists()
    assert whole(cut.image) == bytes(made.sizes[0])
    cut.give_back()
    assert not made.front.exists()
    assert made.other.try_run("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(made.front)}}})


def test_a_server_of_somebody_else_has_to_be_named(daemon: Start) -> None:
    made = daemon(foreign=True)
    with pytest.raises(errors.Refused, match=r"an NBD server of somebody else runs in this QEMU.*--qmp-nbd"):
        made.tracker().begin(None)
    assert made.added() == []
    cut = made.tracker(nbd=f"nbd+unix:///?socket={made.front}").begin(None)
    assert whole(cut.image) == bytes(made.sizes[0])
    cut.give_back()
    made.writer().close()  # it still runs


def test_which_node_is_the_disk(daemon: Start, tmp_path: Path) -> None:
    made = daemon(MIB)
    link = tmp_path / "link.raw"
    link.symlink_to(made.paths[0])
    tracker = QemuTracker(str(link), "ab" * 16, Qemu(str(made.socket)))
    tracker.begin(None).give_back()
    elsewhere = tmp_path / "elsewhere.raw"
    elsewhere.write_bytes(b"")
    with pytest.raises(errors.Refused, match=r"this QEMU does not have .*elsewhere\.raw open"):
        QemuTracker(str(elsewhere), "ab" * 16, Qemu(str(made.socket))).begin(None)
    made.other.run("block-export-del", {"id": "front0", "mode": "hard"})
    with pytest.raises(errors.Refused, match="no device of this machine writes to this file: disk0, file0"):
        made.tracker().begin(None)
    made.tracker(node="disk0").begin(None).give_back()


def test_a_file_that_became_a_backing_file_is_not_followed(daemon: Start, tmp_path: Path) -> None:
    """A snapshot makes the machine write elsewhere: following the old file would copy a disk that stands still."""
    made = daemon(MIB)
    tracker = made.tracker()
    known = first_point(tracker)
    overlay = tmp_path / "overlay.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", overlay, str(MIB)], check=True)
    options = {"driver": "qcow2", "node-name": "over", "file": {"driver": "file", "filename": str(overlay)}}
    made.other.run("blockdev-add", {**options, "backing": None})
    made.other.run("blockdev-snapshot", {"node": "disk0", "overlay": "over"})
    with pytest.raises(errors.Refused, match="no device of this machine writes to this file"):
        tracker.begin(known)
