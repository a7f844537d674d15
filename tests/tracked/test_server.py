"""`secondsite track` as a process: killed under load, ended, started twice; and the file of its map."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images.nbd import NbdImage
from secondsite.engine.tracked import mapfile, wire
from secondsite.engine.tracked.mapfile import SLOT, State, beside
from secondsite.engine.trackers.base import Have
from secondsite.engine.trackers.served import ServedCut, ServedTracker
from secondsite.engine.watching import Status

pytest.importorskip("secondsite.engine._nbd", reason="the native kernels are not built")

MIB = 1 << 20
SIZE = 256 * MIB
HAVE = Have("ab" * 16, 7, "cd" * 32)


class Server:
    """A tracking server of one image, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.image, self.socket = folder / "disk.raw", folder / "s"
        if not self.image.exists():
            with self.image.open("wb") as file:
                file.truncate(SIZE)
        command = [sys.executable, "-m", "secondsite.orchestration", "track", self.image, "--socket", self.socket]
        code = "import sys; from secondsite.orchestration.cli import run; sys.exit(run(sys.argv[1:]))"
        command[1:3] = ["-c", code]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]

    def end(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(30)
        self.process.stdout.close()  # type: ignore[union-attr]
        return status


@pytest.fixture
def folder(short_path: Path) -> Path:
    return short_path


@pytest.fixture
def servers(folder: Path) -> Iterator[list[Server]]:
    made = [Server(folder)]
    yield made
    for one in made:
        one.end(signal.SIGKILL)


def load(url: str, seed: float, window: int) -> None:
    """Write until the server is gone, in `window` bytes somewhere."""
    chance = random.Random(seed)
    base = chance.randrange(0, SIZE - window, 4096)
    try:
        with NbdImage(url, "rw", connections=1, timeout=10) as disk:
            while True:
                at, length = base + chance.randrange(0, window - 65536, 512), chance.choice([512, 4096, 65536])
                if chance.random() < 0.1:
                    disk.zero(at, length, punch=chance.random() < 0.5)
                else:
                    disk.write(at, chance.randbytes(length))
                if chance.random() < 0.02:
                    disk.flush()
    except errors.Error:
        pass


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("part", range(20))
def test_killed_at_random_instants(folder: Path, servers: list[Server], part: int) -> None:
    """After each restart a cycle reads little more than the regions in use, and the replica is the source."""
    chance, root = random.Random(f"{os.environ.get('SECONDSITE_SEED', '1')} {part}"), folder / "replica"
    engine.replicate(servers[0].image, root)
    for _ in range(10):
        server = servers[-1]
        writers = [threading.Thread(target=load, args=(server.url, chance.random(), 2 * MIB)) for _ in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(chance.random() * 0.4)
        in_cycle = chance.random() < 0.5
        if in_cycle:
            # Then it may not have kept that the point is there, or kept it and not said so: a scan is allowed.
            killer = threading.Timer(chance.random() * 0.1, server.process.kill)
            killer.start()
            with contextlib.suppress(errors.Error):
                engine.replicate(server.image, root)
            killer.join()
        server.end(signal.SIGKILL)
        for writer in writers:
            writer.join()
        servers.append(Server(folder))
        known = engine.tracking_status(server.image)["known"]
        done = engine.replicate(server.image, root)
        assert known and done.tracker == "nbd" and (in_cycle or not done.scanned)
        # Two windows, each in two regions at most; and as much again, of the round before: what was acknowledged less
        # than a save ago is still marked in the file.
        assert done.scanned or done.read_bytes <= 2 * 4 * 16 * MIB
        assert (root / "head.raw").read_bytes() == server.image.read_bytes()
    assert engine.verify(root, source=servers[-1].image).ok


def test_a_clean_end_keeps_the_map_and_another_writer_voids_it(folder: Path, servers: list[Server]) -> None:
    root = folder / "replica"
    engine.replicate(servers[0].image, root)
    with NbdImage(servers[0].url, "rw") as disk:
        disk.write(77 * 65536, b"x" * 512)
    assert servers[-1].end() == 0
    servers.append(Server(folder))
    done = engine.replicate(servers[0].image, root)
    assert (done.read_bytes, done.scanned) == (65536, False)
    assert servers[-1].end() == 0
    with servers[0].image.open("r+b") as file:
        file.write(b"somebody else")
    servers.append(Server(folder))
    assert engine.replicate(servers[0].image, root).scanned
    assert (root / "head.raw").read_bytes() == servers[0].image.read_bytes()


def test_one_server_an_image(folder: Path, servers: list[Server]) -> None:
    with pytest.raises(errors.Busy, match="another tracking server"):
        engine.track([servers[0].image], socket=str(folder / "other"))
    os.kill(servers[0].process.pid, 0)


def test_images_have_one_format_for_all_or_one_each(folder: Path) -> None:
    raw, vhdx, socket = folder / "a.raw", folder / "b.vhdx", str(folder / "s")
    raw.write_bytes(bytes(MIB))
    engine.convert(raw, vhdx, format="vhdx")
    with engine.track([raw, vhdx], socket=socket, source_format=("raw", "vhdx")) as tracking:
        assert [one["size"] for one in tracking.status()] == [MIB, MIB]
    with engine.track([raw, vhdx], socket=socket, source_format="raw") as tracking:
        assert [one["size"] for one in tracking.status()] == [MIB, vhdx.stat().st_size]
    with pytest.raises(engine.errors.Usage, match="one each; 3 were given"):
        engine.track([raw, vhdx], socket=socket, source_format=["raw"] * 3)


def test_a_name_that_is_not_utf8_needs_another(folder: Path) -> None:
    """NBD's names are UTF-8; a file's need not be."""
    odd = folder / os.fsdecode(b"odd\xff")
    odd.write_bytes(bytes(4096))
    socket = str(folder / os.fsdecode(b"s\xff"))
    with pytest.raises(engine.errors.Usage, match="--name"):
        engine.track([odd], socket=socket)
    with engine.track([odd], socket=socket, names=["odd"]) as tracking:
        assert tracking.urls[0].endswith("s%FF")
        assert engine.replicate(odd, folder / "odd-replica").tracker == "nbd"


def test_a_server_that_is_silent_is_not_taken_for_a_file_at_rest(folder: Path, servers: list[Server]) -> None:
    Path(beside(servers[0].image, "control")).unlink()
    with pytest.raises(errors.Unreachable, match="control socket does not answer"):
        engine.replicate(servers[0].image, folder / "replica")
    servers[0].end()
    assert engine.replicate(servers[0].image, folder / "replica").tracker != "nbd"


def test_a_full_area_costs_the_cut_and_the_next_cycle_recovers(folder: Path) -> None:
    image, root = folder / "disk.raw", folder / "replica"
    image.write_bytes(os.urandom(MIB))
    with engine.track([image], socket=str(folder / "s"), area_limit=65536) as tracking:
        engine.replicate(image, root)
        served = tracking.images[0]
        served.disk.write(0, b"a" * MIB)
        found = engine.info(root)
        assert isinstance(found, engine.ReplicaInfo) and served.have is not None
        with ServedTracker(image) as tracker:
            cut = tracker.begin(served.have)
            served.disk.write(0, b"b" * MIB)
            with pytest.raises(errors.Error):
                cut.image.read(0, MIB)
            cut.give_back()
        told = engine.tracking_status(image)
        assert told["resync_required"] and "could not be kept" in told["lost"] and told["marked_bytes"] == MIB
        assert image.read_bytes() == b"b" * MIB
        done = engine.replicate(image, root)
        assert (done.scanned, done.changed_bytes) == (False, MIB)
        assert not engine.tracking_status(image)["resync_required"]


def test_a_lost_cut_is_told_by_the_cycle_and_by_the_watch(folder: Path) -> None:
    image, root = folder / "disk.raw", folder / "replica"
    image.write_bytes(os.urandom(MIB))
    with engine.track([image], socket=str(folder / "s"), area_limit=65536) as tracking:
        disk = tracking.images[0].disk
        engine.replicate(image, root)

        class Busy(ServedTracker):
            """Its guest writes over all of the disk right after the first cut."""

            times = 0

            def begin(self, have: Have | None, sample: Sequence[tuple[int, int]] = ()) -> ServedCut:
                cut = super().begin(have, sample)
                if not self.times:
                    disk.write(0, b"b" * MIB)
                self.times += 1
                return cut

        disk.write(0, b"a" * MIB)
        sentence = (
            rf"disk.raw: the cut was lost: .* could not be kept in {folder} \(the limit, at 64.0 KiB of "
            r"at most 64.0 KiB\); the guest's writes go on; resync required: the next cycle reads what changed again"
        )
        with Busy(image) as tracker, pytest.raises(errors.CutLost, match=sentence):
            engine.replicate(image, root, tracker=tracker)
        disk.write(0, b"a" * MIB)
        seen: list[Status] = []
        with Busy(image) as tracker, pytest.raises(errors.Cancelled):
            engine.watch(
                image, root, every=1, tracker=tracker, observe=seen.append,
                cancel=lambda: any(one.last for one in seen) or len(seen) > 500,
            )  # fmt: skip
        told = [one.error for one in seen if one.state == "resync required" and one.error]
        assert told and "the cut was lost" in told[0] and any(one.last for one in seen)
        assert (root / "head.raw").read_bytes() == image.read_bytes() == b"b" * MIB
        # What fails later for another reason is not taken for a lost cut.
        assert not engine.tracking_status(image)["lost"]


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"[1]\n", b'{"v":2,"do":"status"}\n', b"\xff\xfe\n", b"x" * 100_000])
def test_garbage_on_the_control_channel(folder: Path, line: bytes) -> None:
    image = folder / "disk.raw"
    image.write_bytes(bytes(MIB))
    with engine.track([image], socket=str(folder / "s")):
        lines = wire.connect(beside(image, "control"), 5)
        lines.sock.sendall(line)
        lines.sock.shutdown(1)
        assert lines.receive() is None
        lines.close()
        bad = [{"do": "begin"}, {"do": "x"}, {"do": "begin", "block": 3, "disks": []}, {"do": "read", "token": 5},
               {"do": "begin", "block": 4096, "disks": [{"image": str(image), "have": [1], "sample": []}]},
               {"do": "begin", "block": 4096, "disks": [{"image": str(image), "have": None, "sample": [[-1, 5]]}]},
               {"do": "acknowledge", "image": str(image), "have": ["", 1, ""]}]  # fmt: skip
        for asked in bad:
            lines = wire.connect(beside(image, "control"), 5)
            lines.send(asked)
            answer = lines.receive()
            assert answer is not None and "error" in answer
            lines.close()
        assert not engine.tracking_status(image)["cut_open"]


# -- the file ------------------------------------------------------------------------------------------------------


def test_the_header_is_what_the_format_says() -> None:
    slot = mapfile.pack(State(1 << 30, 65536, 16 * MIB, "inode 5", HAVE, ""), 3)
    assert len(slot) == SLOT and slot[:28].hex() == "736563736d61700a01000000d300000003000000000000008fac5912"
    assert slot[28:].rstrip(b"\0") == (
        b'{"granule": 65536, "have": ["' + b"ab" * 16 + b'", 7, "' + b"cd" * 32 + b'"], "identity": "inode 5", '
        b'"region": 16777216, "size": 1073741824, "stamp": ""}'
    )
    assert mapfile.unpack(slot) == (3, State(1 << 30, 65536, 16 * MIB, "inode 5", HAVE, ""))


def test_no_flipped_bit_is_believed() -> None:
    slot = mapfile.pack(State(1 << 30, 65536, 16 * MIB, "inode 5", HAVE, ""), 3)
    end = len(slot.rstrip(b"\0"))
    for bit in range(end * 8):
        broken = bytearray(slot)
        broken[bit // 8] ^= 1 << bit % 8
        assert mapfile.unpack(bytes(broken)) is None
    for length in (0, 5, SLOT - 1):
        assert mapfile.unpack(slot[:length]) is None
