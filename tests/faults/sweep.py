"""Run a scenario once for each call with an effect, with a fault at that call."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass

from rig import Place, Snapshot, build, check, check_listed, open_files, parent
from scenarios import CONTENTS, Scenario

from secondsite.engine import errors
from secondsite.engine.files import Files
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.failing import Crash, Faults


@dataclass(frozen=True)
class Fault:
    """How the n-th call goes wrong."""

    name: str
    crash: bool = False
    error: int = errno.ENOSPC
    sticky: bool = False

    def at(self, n: int) -> Faults:
        return Faults(n, crash=self.crash, error=self.error, sticky=self.sticky)


CRASH = Fault("crash", crash=True)
KINDS = [
    CRASH,
    Fault("full-once"),
    Fault("full", sticky=True),
    Fault("broken-once", error=errno.EIO),
    Fault("broken", error=errno.EIO, sticky=True),
]


def prepare(place: Place, scenario: Scenario) -> Snapshot:
    """The files before the call."""
    snapshot = place.dump(build(place, scenario.states())) if scenario.before else {}
    if scenario.output:
        snapshot[place.out] = CONTENTS[scenario.output]
    return snapshot


def attempt(place: Place, scenario: Scenario, files: Files, faults: Faults) -> BaseException | None:
    """The call, under a plan of faults; how it ended."""
    try:
        scenario.act(place, FailingFiles(files, faults))
    except (Crash, errors.Error) as error:
        return error
    return None


def count(place: Place, scenario: Scenario, snapshot: Snapshot) -> int:
    """How many calls with an effect the whole of it makes."""
    faults = Faults()
    ended = attempt(place, scenario, fresh(place, scenario, snapshot), faults)
    assert ended is None, ended
    return faults.count


def fresh(place: Place, scenario: Scenario, snapshot: Snapshot) -> Files:
    """The file system before the call; no folder of the replica where there is none yet."""
    if snapshot:
        return place.load(snapshot)
    files = place.empty()
    files.mkdir(parent(place.out))
    return files


def sample(place: Place, scenario: Scenario, size: int, seed: object) -> list[int]:
    """Some of its calls, the same ones for the same seed."""
    calls = count(place, scenario, prepare(place, scenario))
    return sorted(random.Random(f"{scenario.name} {seed}").sample(range(1, calls + 1), min(size, calls)))


def run(place: Place, scenario: Scenario, fault: Fault, chosen: Iterable[int] | None = None) -> int:
    """A fault at each call in turn until one run ends without it, or at the chosen ones; how many there were.

    Raises AssertionError with the place.
    """
    snapshot = prepare(place, scenario)
    done = 0
    for n in itertools.count(1) if chosen is None else chosen:
        files = fresh(place, scenario, snapshot)
        faults = fault.at(n)
        opened = open_files()
        ended = attempt(place, scenario, files, faults)
        if faults.count < n:
            assert ended is None, f"{scenario.name} without a fault: {ended!r}"
            if chosen is None:
                break
            continue
        done += 1
        label = f"{scenario.name}, {fault.name} at call {n} {faults.log[n - 1]}, ended by {ended!r}"
        still = open_files()  # fewer are what an earlier test left, and was let go of just now
        assert still <= opened, f"{label}: files were left open, {still} of {opened}"
        judge(place, scenario, fault, files, ended, label)
    return done


def judge(
    place: Place, scenario: Scenario, fault: Fault, files: Files, ended: BaseException | None, label: str
) -> None:
    """Is the error the right one, and is everything there?"""
    if not fault.crash and ended is not None:
        wanted = errors.Full if fault.error == errno.ENOSPC else errors.Unreachable
        assert isinstance(ended, wanted), f"{label}: not {wanted.__name__}"
    elif fault.crash:
        assert isinstance(ended, Crash), label
    try:
        if scenario.wanted:
            check_output(place, scenario, fault, files, ended, label)
        elif ended is not None and not fault.crash and not fault.sticky:
            check_at_rest(place, files, label)
        check(place, files, scenario.expected(label))
    except errors.Error as error:
        raise AssertionError(f"{label}: then {error!r}") from error


def check_at_rest(place: Place, files: Files, label: str) -> None:
    """An error that passed was cleaned up after by the call itself: the head is whole without anybody's repair."""
    from secondsite.engine.replica.directory import Replica

    if files.size(f"{place.root}/replica.json") >= 0:
        assert not Replica.open(place.root, files).interrupted(), f"{label}: left for the next opening to repair"


def check_output(
    place: Place, scenario: Scenario, fault: Fault, files: Files, ended: BaseException | None, label: str
) -> None:
    """A new file is there whole or not at all; one that is rewritten in place is made good by the same call."""
    assert scenario.wanted is not None
    want = CONTENTS[scenario.wanted]
    folder, name = place.out.rsplit("/", 1)
    there = files.size(place.out) >= 0
    if there and not scenario.output:
        assert files.read_bytes(place.out, 1 << 30) == want, f"{label}: half an image"
    if not fault.crash and not fault.sticky:
        assert not [name for name in files.listdir(folder) if name.startswith(".")], f"{label}: left over"
    if ended is None or (there and not scenario.output):
        return
    scenario.act(place, files)
    assert files.read_bytes(place.out, 1 << 30) == want, f"{label}: restored again"
    assert files.listdir(folder) == [name], f"{label}: {files.listdir(folder)}"
    check_listed(place, files, scenario.expected(label), restoring=False)


def lose_power(place: Place, scenario: Scenario, snapshot: Snapshot, n: int, chance: random.Random) -> MemoryFiles:
    """The files after a crash at the n-th call and a loss of power."""
    files = fresh(place, scenario, snapshot)
    assert isinstance(files, MemoryFiles)
    ended = attempt(place, scenario, files, CRASH.at(n))
    assert ended is None or isinstance(ended, Crash), ended
    files.power_loss(chance)
    return files
