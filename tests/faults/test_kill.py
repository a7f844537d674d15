"""`kill -9` of a real process at a random instant, and Ctrl-C of one whose workers are busy."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rig
from replicator import content

from secondsite import engine
from secondsite.engine.files import LocalFiles
from secondsite.engine.replica.directory import Replica

HERE = str(Path(__file__).parent)
ROUNDS, ROUNDS_IN_SWEEP = 15, 150


class Life:
    """One replica that is replicated into by process after process, all of them killed."""

    def __init__(self, folder: Path, history: str) -> None:
        self.folder, self.history, self.root = folder, history, str(folder / "replica")
        self.newest, self.listed = 0, []  # type: tuple[int, list[str]]
        self.caught = 0

    def round(self, chance: random.Random) -> None:
        workers = chance.choice((1, 2))
        call = f"replicator.main({str(self.folder)!r}, {self.history!r}, {self.newest + 1}, {workers})"
        code = f"import sys; sys.path.insert(0, {HERE!r}); import replicator; {call}"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        time.sleep(chance.random() ** 2 * 0.5)
        child.kill()
        lines += child.stdout.read().splitlines()
        child.wait()
        self.judge([line.split() for line in lines if line.strip()])

    def judge(self, told: list[list[str]]) -> None:
        """What the process said that it had done is done; what it was about to do, it did or not."""
        assert told, "the process died by itself"
        begun, droppable = self.newest, set()  # type: tuple[int, set[str]]
        for word, number, *names in told:
            if word == "done":
                self.newest, self.listed, droppable = int(number), names, set()
            else:
                begun, droppable = int(number), set(names)
        if not Path(self.root, "replica.json").exists():
            assert self.newest == 0
            return
        replica = Replica.open(self.root)
        self.caught += replica.interrupted()
        with replica.writing():
            pass
        names = [point.point for point in engine.points(self.root)]
        assert set(self.listed) - droppable <= set(names) <= {*self.listed, str(begun)}, (told[-1], names)
        if names:
            assert names[-1] in (str(self.newest), str(begun))
            self.newest = int(names[-1])
            expected = rig.Expected(
                {name: content(int(name)) for name in names}, set(names), [content(self.newest)], b"", f"{told[-1]}"
            )
            place = rig.DiskPlace(self.folder, self.history)
            rig.check_listed(place, LocalFiles(), expected, restoring=False)
            rig.check_tidy(place, LocalFiles(), expected.label)
            engine.restore(self.root, place.out, at=names[0])
            assert Path(place.out).read_bytes() == content(int(names[0]))
            Path(place.out).unlink()
        self.listed = names


def lives(folder: Path, history: str, rounds: int) -> None:
    (folder / "out").mkdir(parents=True)
    life, chance = Life(folder, history), random.Random(history)
    for number in range(rounds):
        try:
            life.round(chance)
        except Exception as error:
            raise AssertionError(f"{history}, round {number}: {error!r}") from error
    assert life.newest > 3, "it was always killed before it had done anything"
    assert life.caught >= rounds // 10, f"only {life.caught} of {rounds} kills hit a cycle in the middle"
    shutil.rmtree(folder)


def test_killed_at_any_instant(tmp_path: Path, small_pieces: None, sweep_all: bool) -> None:
    lives(tmp_path / "life", "undo", ROUNDS_IN_SWEEP if sweep_all else ROUNDS)


@pytest.mark.needs("xfs")
def test_killed_at_any_instant_with_clones(xfs_dir: Path, small_pieces: None, sweep_all: bool) -> None:
    lives(xfs_dir / "killed", "clone", ROUNDS_IN_SWEEP if sweep_all else ROUNDS)


# -- interrupts ------------------------------------------------------------------------------------------------

INTERRUPTED = """
import sys
from secondsite import engine
from secondsite.engine.replica.directory import Replica
source, root, history = sys.argv[1:]
said = []
def say(progress):
    if progress.done and not said:
        said.append(print("busy", flush=True))
try:
    engine.replicate(source, root, block_size=4096, history=history, workers=2, limit=4 << 20, progress=say)
except KeyboardInterrupt:
    print("interrupted", Replica.open(root).interrupted(), flush=True)
"""


def interrupt(source: Path, root: Path, history: str, times: int) -> str:
    """What a process says whose scan of `source` gets that many SIGINTs."""
    command = [sys.executable, "-c", INTERRUPTED, str(source), str(root), history]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "busy\n"
    for _ in range(times):
        time.sleep(0.05)
        child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    return out


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[Path, Path, bytes]]:
    """A source, a replica with the point before it, and that point's content."""
    source, root = tmp_path / "source", tmp_path / "replica"
    old = random.Random(1).randbytes(100 * 1024)
    source.write_bytes(old)
    engine.replicate(source, root, block_size=4096, history="undo")
    # Zeros between, since a span of data is one piece of work and an interrupt waits for its end.
    with source.open("r+b") as file:
        for at in range(0, 96 << 20, 3 << 20):
            file.seek(at)
            file.write(random.Random(at).randbytes(1 << 20))
    yield source, root, old


def test_interrupted_once(busy: tuple[Path, Path, bytes]) -> None:
    """The workers end, the cycle is taken back, and only then the interrupt is raised."""
    source, root, old = busy
    assert interrupt(source, root, "undo", 1) == "interrupted False\n"
    assert (root / "head.raw").read_bytes() == old
    assert engine.verify(root).ok
    assert engine.replicate(source, root).kind == "delta"
    assert engine.verify(root, source=source).ok


def test_interrupted_again_and_again(busy: tuple[Path, Path, bytes]) -> None:
    """An impatient user loses nothing; what could not be taken back at once is taken back by the next opening."""
    source, root, old = busy
    assert not interrupt(source, root, "undo", 5).startswith("done")
    with engine.open_point(root) as view:
        assert view.read(0, view.size) == old
    assert engine.verify(root).ok
    assert engine.replicate(source, root).kind == "delta"
    assert engine.verify(root, source=source).ok
