"""A seed on a medium, and what is sent before it has come."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hosting import Site
from seedkit import BLOCK, SIZE, head, killed, make, replica, write

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.replica.directory import Replica
from secondsite.engine.seeding.medium import Medium, Seed
from secondsite.engine.units import MIB

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make(tmp_path / "disk.img")


@pytest.fixture
def usb(tmp_path: Path) -> Path:
    return tmp_path / "usb"


# -- R5.4: the medium, and what comes before it ----------------------------------------------------------------


def test_what_comes_before_the_medium_is_held_and_follows_it(there: Site, disk: Path, usb: Path) -> None:
    """R5.4, R5.9: used blocks alone on the medium, changes alone over the network, and every cycle with its point."""
    state = there.host(allow="send,read")
    done = engine.export_seed(disk, usb, replica=there.url(), state=state)
    assert (done.kind, done.replica) == ("exported", there.url())
    assert SIZE // 2 < done.stored_bytes < SIZE // 2 * 1.02
    kept = {1: disk.read_bytes()}
    for generation in (2, 3, 4):
        write(disk, generation, generation)
        if generation == 3:
            os.truncate(disk, SIZE + BLOCK // 2)
        sent = engine.replicate(disk, there.url(), state=state)
        assert (sent.kind, sent.generation, sent.sent_bytes) == ("held", generation, BLOCK)
        assert sent.over_bytes < 1.1 * BLOCK
        kept[generation] = disk.read_bytes()
    assert engine.replicate(disk, there.url(), state=state).kind == "unchanged"
    brought = engine.import_seed(usb, replica(there))
    assert (brought.kind, brought.point, brought.held, brought.warnings) == ("imported", "4", 3, [])
    assert [point.changed_bytes for point in engine.points(replica(there))] == [SIZE // 2, BLOCK, BLOCK, BLOCK]
    assert head(there) == disk.read_bytes() and engine.verify(replica(there), source=disk).ok
    for generation, data in kept.items():
        out = there.folder / f"out{generation}"
        engine.restore(there.url(), out, at=str(generation), state=state)
        assert out.read_bytes() == data
    write(disk, 20)
    sent = engine.replicate(disk, there.url(), state=state)
    assert (sent.kind, sent.generation, sent.sent_bytes) == ("delta", 5, BLOCK) and head(there) == disk.read_bytes()


def test_points_and_info_say_that_it_waits(there: Site, disk: Path, usb: Path) -> None:
    state = there.host(allow="send,read,administer")
    engine.export_seed(disk, usb, replica=there.url(), state=state)
    write(disk, 1)
    engine.replicate(disk, there.url(), state=state)
    for where in (there.url(), replica(there)):
        listed = engine.points(where, state=state)
        assert [(point.generation, point.history, point.damaged) for point in listed] == [
            (1, "seed", False), (2, "held", False)
        ]  # fmt: skip
        told = engine.info(where, state=state)
        assert isinstance(told, engine.ReplicaInfo)
        assert (told.waits, told.held, told.head, told.points) == (True, 1, None, 0) and told.held_bytes > BLOCK
        with pytest.raises(errors.Refused, match="waits for its seed"):
            engine.restore(where, there.folder / "out", state=state)
    with pytest.raises(errors.Refused, match="waits for its seed, which import-seed brings"):
        engine.replicate(disk, replica(there))
    engine.import_seed(usb, replica(there))
    told = engine.info(there.url(), state=state)
    assert isinstance(told, engine.ReplicaInfo) and (told.waits, told.held, told.points) == (False, 0, 2)


def test_a_host_that_lost_its_notes_asks_the_placeholder(there: Site, disk: Path, usb: Path) -> None:
    """The agent has the map of what it holds, so a lost cache, or a lost answer, costs no more than the map."""
    state = there.host()
    engine.export_seed(disk, usb, replica=there.url(), state=state)
    for number in range(3):
        write(disk, number, number)
        shutil.rmtree(state / "maps")
        sent = engine.replicate(disk, there.url(), state=state)
        assert (sent.kind, sent.sent_bytes) == ("held", BLOCK)
        (replica(there) / "waiting.map").unlink()
    assert engine.import_seed(usb, replica(there)).held == 3 and head(there) == disk.read_bytes()


def test_a_seed_without_a_replica_that_waits(there: Site, disk: Path, usb: Path) -> None:
    """No network until the medium is there: then only what changed since goes over."""
    state = there.host()
    engine.export_seed(disk, usb, state=state)
    engine.import_seed(usb, replica(there))
    write(disk, 3)
    sent = engine.replicate(disk, there.url(), state=state)
    assert (sent.kind, sent.generation, sent.sent_bytes) == ("delta", 2, BLOCK) and head(there) == disk.read_bytes()


def test_the_import_beside_an_agent_and_its_sender(there: Site, disk: Path, usb: Path) -> None:
    """The import takes its turn between two transfers."""
    state = there.host()
    engine.export_seed(disk, usb, replica=there.url(), state=state)
    over, failed = threading.Event(), []

    def send() -> None:
        number = 0
        while not over.is_set():
            number += 1
            write(disk, number % 90, number)
            try:
                engine.replicate(disk, there.url(), state=state)
            except errors.Busy:
                time.sleep(0.05)
            except errors.Error as error:
                failed.append(error)
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        time.sleep(0.3)
        engine.import_seed(usb, replica(there))
        time.sleep(0.3)
    finally:
        over.set()
        thread.join()
    assert not failed
    engine.replicate(disk, there.url(), state=state)
    assert head(there) == disk.read_bytes() and engine.verify(replica(there)).ok


# -- trackers --------------------------------------------------------------------------------------------------


@pytest.mark.needs("xfs")
def test_a_disk_in_use_is_exported_by_clone_and_tracked_from_there(there: Site, xfs_dir: Path) -> None:
    """The seed is of one instant, while the disk is written, and the next cycle reads what changed since."""
    folder = xfs_dir / "seed"
    folder.mkdir()
    disk, usb, state = make(folder / "disk.img"), folder / "usb", there.host()
    over = threading.Event()

    def scribble() -> None:
        number = 0
        while not over.is_set():
            number += 1
            for block in (0, 40):  # both of a round or neither are in one instant
                write(disk, block, number)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        done = engine.export_seed(disk, usb, replica=there.url(), state=state)
    finally:
        over.set()
        thread.join()
    assert done.tracker == "clone"
    sent = engine.replicate(disk, there.url(), state=state)
    assert (sent.kind, sent.tracker, sent.scanned) == ("held", "clone", False) and sent.read_bytes <= 8 * BLOCK
    engine.import_seed(usb, replica(there))
    assert head(there) == disk.read_bytes() and engine.verify(replica(there)).ok


def test_the_change_map_of_a_tracking_server_begins_at_the_seed(there: Site, disk: Path, usb: Path) -> None:
    state = there.host()
    with engine.track([disk], socket=str(there.folder / "track.sock")):
        done = engine.export_seed(disk, usb, replica=there.url(), state=state)
        assert done.tracker == "nbd"
        sent = engine.replicate(disk, there.url(), state=state)
        assert (sent.kind, sent.tracker, sent.scanned, sent.read_bytes) == ("unchanged", "nbd", False, 0)


def test_a_disk_that_is_written_while_it_is_exported_is_refused(disk: Path, usb: Path, tmp_path: Path) -> None:
    """As for `replicate`: without a frozen view it has to stand still. What was written goes on the next time."""
    over = threading.Event()

    def scribble() -> None:
        while not over.is_set():
            write(disk, 5, random.randrange(1000))

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        with pytest.raises(errors.SourceChanged):
            engine.export_seed(disk, usb, tracker="scan", state=tmp_path / "state")
    finally:
        over.set()
        thread.join()
    with pytest.raises(errors.Refused, match="its export was not finished; export-seed goes on with it"):
        engine.import_seed(usb, tmp_path / "r")
    engine.export_seed(disk, usb, state=tmp_path / "state")
    engine.import_seed(usb, tmp_path / "r")
    assert (tmp_path / "r" / "head.raw").read_bytes() == disk.read_bytes()


# -- cut short, and gone on with -------------------------------------------------------------------------------


def test_an_export_that_is_killed_goes_on(disk: Path, usb: Path, tmp_path: Path, sweep: bool) -> None:
    """At any instant, while the disk changes between two attempts; what lies there twice counts as it was last."""
    chance = random.Random(4)
    given = f"{str(disk)!r}, {str(usb)!r}, state={str(tmp_path / 'state')!r}"
    call = f"export_seed({given}, workers=1, codec='none', part_bytes={4 * BLOCK})"
    cut = 0
    for number in range(20 if sweep else 4):
        cut += not killed(call, 0.25 + chance.random() * 0.2)
        write(disk, chance.randrange(48), number)
        with disk.open("r+b") as file:
            file.seek(chance.randrange(48) * BLOCK)
            file.write(bytes(BLOCK))
    done = engine.export_seed(disk, usb, state=tmp_path / "state", anew=cut == 0)
    if done.kind == "whole":  # one of the four came to its end: what changed since is not its
        done = engine.export_seed(disk, usb, state=tmp_path / "state", anew=True)
    brought = engine.import_seed(usb, tmp_path / "r")
    assert brought.kind == "imported" and (tmp_path / "r" / "head.raw").read_bytes() == disk.read_bytes()


def test_whole_parts_stay_and_are_not_written_again(disk: Path, usb: Path, tmp_path: Path) -> None:
    """Of a seed that is not whole: a part with a bad byte is written anew, what changed goes into another one."""
    state = tmp_path / "state"
    engine.export_seed(disk, usb, state=state, workers=1, codec="none", part_bytes=BLOCK * 20)
    medium = Medium(str(usb), LocalFiles())
    whole, found = medium.read(), sorted(path.name for path in usb.glob("part-*.delta"))
    assert whole is not None and len(found) > 2
    medium.write(Seed(whole.identity, whole.size))  # as it is before all of it is there
    (usb / found[-1]).unlink()
    bad = usb / found[0]
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 1
    bad.write_bytes(bytes(data))
    write(disk, 12, 99)
    done = engine.export_seed(disk, usb, state=state, codec="none")
    assert 0 < done.written_bytes < 44 * BLOCK and done.parts == 2 and not list(usb.glob("*.tmp"))
    made = medium.read()
    assert made is not None and made.point is not None
    assert made.point.changed_bytes == made.point.sent_bytes == SIZE // 2
    engine.import_seed(usb, tmp_path / "r")
    assert (tmp_path / "r" / "head.raw").read_bytes() == disk.read_bytes()


def test_an_import_that_is_killed_is_repeated(there: Site, disk: Path, usb: Path, sweep: bool) -> None:
    state, chance = there.host(), random.Random(9)
    engine.export_seed(disk, usb, replica=there.url(), state=state)
    for generation in range(2, 8):
        write(disk, generation, generation)
        assert engine.replicate(disk, there.url(), state=state).kind == "held"
    call = f"import_seed({str(usb)!r}, {str(replica(there))!r})"
    for _ in range(15 if sweep else 2):
        killed(call, 0.25 + chance.random() * 0.25)
        opened = Replica.open(str(replica(there)))
        if generation := opened.head_generation():
            assert engine.verify(replica(there)).ok and generation <= 7
    # Whoever comes next brings it to an end: the import, or a sender.
    try:
        engine.import_seed(usb, replica(there))
    except errors.Refused as error:
        assert "imported before" in str(error)
    write(disk, 60)
    assert engine.replicate(disk, there.url(), state=state).generation == 8
    assert head(there) == disk.read_bytes() and engine.verify(replica(there)).ok


def test_a_sender_brings_to_an_end_what_an_import_left(there: Site, disk: Path, usb: Path) -> None:
    """The seed is there, and the process died before what was held for it followed."""
    state = there.host()
    engine.export_seed(disk, usb, replica=there.url(), state=state)
    write(disk, 1)
    engine.replicate(disk, there.url(), state=state)
    beside = there.folder / "beside"
    beside.mkdir()
    for name in ("waiting.json", "held-000000000002.json", "held-000000000002.delta"):
        shutil.copy(replica(there) / name, beside)
    for path in replica(there).glob("held-*"):
        path.unlink()
    engine.import_seed(usb, replica(there))
    for path in beside.iterdir():
        shutil.copy(path, replica(there))
    write(disk, 2)
    sent = engine.replicate(disk, there.url(), state=state)
    assert (sent.generation, sent.sent_bytes) == (3, BLOCK) and head(there) == disk.read_bytes()
    assert not list(replica(there).glob("waiting*")) and not list(replica(there).glob("held*"))


# -- what does not belong together -----------------------------------------------------------------------------


def test_media_and_replicas_that_do_not_belong_together(there: Site, disk: Path, usb: Path, tmp_path: Path) -> None:
    """One clear line each, and nothing is lost: afterwards the right one is imported."""
    state = there.host("source", "disk", "other", allow="send,read")
    engine.export_seed(disk, usb, replica=there.url(), state=state)
    write(disk, 1)
    engine.replicate(disk, there.url(), state=state)
    other = make(tmp_path / "other.img", 2)
    # A medium with another image's seed, and a second seed of the same image.
    with pytest.raises(errors.Refused, match=r"holds the seed of another image, .*disk.img \(--anew overwrites it\)"):
        engine.export_seed(other, usb, state=state)
    with pytest.raises(errors.Refused, match=r"waits for the seed of another image, .*disk.img"):
        engine.export_seed(other, tmp_path / "usb2", replica=there.url(), state=state)
    with pytest.raises(errors.Refused, match=r"waits for another seed \(export-seed --anew sends it this one\)"):
        engine.export_seed(disk, tmp_path / "usb3", replica=there.url(), state=state)
    engine.export_seed(other, tmp_path / "usb2", state=state)
    engine.export_seed(disk, tmp_path / "usb3", state=state)
    for wrong, whose in (("usb2", "other"), ("usb3", "disk")):
        told = rf"waits for another seed, of .*disk.img, than the one of .*{whose}.img"
        with pytest.raises(errors.Refused, match=told):
            engine.import_seed(tmp_path / wrong, replica(there))
    # Another source at the replica that waits.
    with pytest.raises(errors.Refused, match="follows another image"):
        engine.replicate(other, there.url(), state=state)
    # A replica with points: it neither waits, nor takes a seed, nor is a medium older than it.
    engine.replicate(other, there.url("other"), state=state)
    with pytest.raises(errors.Refused, match="has point 1 already: a seed is for a replica without any"):
        engine.export_seed(other, tmp_path / "usb2", replica=there.url("other"), state=state)
    with pytest.raises(errors.Refused, match=r"has point 1 already: it is another replica, of .*other.img"):
        engine.import_seed(usb, there.root / "other")
    assert engine.import_seed(usb, replica(there)).held == 1
    with pytest.raises(errors.Refused, match="has point 2 already: its seed was imported before"):
        engine.import_seed(usb, replica(there))
    assert head(there) == disk.read_bytes() and engine.verify(there.root / "other", source=other).ok


def test_another_seed_in_the_place_of_one_that_was_lost(there: Site, disk: Path, usb: Path, tmp_path: Path) -> None:
    """What is held for the one that was lost goes: who may only send drops nothing."""
    state = there.host()
    engine.export_seed(disk, usb, replica=there.url(), state=state)
    write(disk, 1)
    engine.replicate(disk, there.url(), state=state)
    with pytest.raises(errors.Refused, match="source may not administer disk"):
        engine.export_seed(disk, tmp_path / "usb2", replica=there.url(), state=state, anew=True)
    assert engine.info(replica(there)).held == 1  # type: ignore[union-attr]
    state = there.host("owner", allow="send,administer")
    engine.export_seed(disk, tmp_path / "usb2", replica=there.url(), state=state, anew=True)
    write(disk, 2)
    assert engine.replicate(disk, there.url(), state=state).sent_bytes == BLOCK
    with pytest.raises(errors.Refused, match="waits for another seed"):
        engine.import_seed(usb, replica(there))
    assert engine.import_seed(tmp_path / "usb2", replica(there)).generation == 2 and head(there) == disk.read_bytes()


def test_a_whole_seed_is_proved_and_announced_again(there: Site, disk: Path, usb: Path) -> None:
    """Also where the agent could not be reached the first time. What is held by then stays."""
    state = there.host()
    engine.export_seed(disk, usb, state=state)
    write(disk, 1)
    assert engine.export_seed(disk, usb, replica=there.url(), state=state).kind == "whole"
    assert engine.replicate(disk, there.url(), state=state).kind == "held"
    assert engine.export_seed(disk, usb, replica=there.url(), state=state).kind == "whole"
    (part,) = usb.glob("part-*.delta")
    good = part.read_bytes()
    part.write_bytes(good[:-1])
    with pytest.raises(errors.Damaged, match=r"part-000001\.delta: at byte"):
        engine.export_seed(disk, usb, replica=there.url(), state=state)
    part.unlink()
    with pytest.raises(errors.Damaged, match="a part of the seed is missing"):
        engine.import_seed(usb, replica(there))
    part.write_bytes(good)
    assert engine.import_seed(usb, replica(there)).held == 1 and head(there) == disk.read_bytes()


def test_a_full_disk_at_the_import(there: Site, disk: Path, usb: Path, tmp_path: Path) -> None:
    """R5.8: the room that it takes is that of the data. A limit on the size of files stands for the end of a disk."""
    state = there.host()
    engine.export_seed(disk, usb, replica=there.url(), state=state)
    code = (
        "import resource, signal, sys\nfrom secondsite import engine\nfrom secondsite.engine import errors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({MIB}, {MIB}))\n"
        f"try:\n    engine.import_seed({str(usb)!r}, {str(replica(there))!r})\n"
        "except errors.Full as error:\n    sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
    assert engine.info(replica(there)).waits and not list(replica(there).glob("next-*"))  # type: ignore[union-attr]
    engine.import_seed(usb, replica(there))
    assert head(there) == disk.read_bytes()
