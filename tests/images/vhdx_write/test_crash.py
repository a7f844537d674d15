"""The process ends, the power goes, or the disk answers with an error, at each call in turn that has an effect.

Afterwards the file opens, its log is replayed, and each byte of the disk is the one that was flushed or one that was
written since; then it is written again, closed, and read once more.
"""

from __future__ import annotations

import errno
import random
from contextlib import suppress
from uuid import UUID

import pytest
from vhdx_rig import CHILD, DISK, Model, Stage, play

from secondsite.engine import errors
from secondsite.engine.images.failing import Crash, FailingImage, Faults
from secondsite.engine.images.vhdx.journal import Headers, Journal
from secondsite.engine.images.vhdx.space import Space
from secondsite.engine.images.vhdx.writer import VhdxWriter

KINDS = ["dynamic", "fixed", "differencing"]
SEEDS = 12
stages: dict[str, Stage] = {}


def stage(kind: str) -> Stage:
    if kind not in stages:
        stages[kind] = Stage(kind)
    stages[kind].reset()
    return stages[kind]


def count_calls(kind: str, seed: int, **how: bool) -> int:
    place, faults = stage(kind), Faults()
    with place.open(FailingImage(place.files.open(CHILD, "rw"), faults)) as image:
        play(image, Model(place.first()), seed, **how)
    return faults.count


def crash(kind: str, seed: int, at: int, **how: bool) -> None:
    """One run: the crash, the power loss, and what is found."""
    place, model = stage(kind), Model(stage(kind).first())
    with suppress(Crash), place.open(FailingImage(place.files.open(CHILD, "rw"), Faults(at, crash=True))) as image:
        play(image, model, seed, **how)
    for again in range(3):
        # Whoever opens it may lose power too, and must lose nothing by it.
        place.files.names[CHILD].power_loss(random.Random(f"{seed} {at} {again}"))
        faults = Faults(0 if again == 2 else again + 1, crash=True)
        with suppress(Crash):
            place.open(FailingImage(place.files.open(CHILD, "rw"), faults)).file.close()
    go_on(place, model, seed)


def go_on(place: Stage, model: Model, seed: int) -> None:
    """The file is as good as any: it is read, written and closed, and has what it should."""
    with place.open() as image:
        model.check(image)
        model.data = image.read(0, image.size)
        model.flushed()
        if image.size == DISK:
            play(image, model, seed + 1, count=6)
        else:
            image.write(512, b"some more")
            model.write(512, b"some more")
    with place.open() as image:
        assert image.read(0, image.size) == model.data


def points(total: int, sweep: bool, seed: int, sample: int) -> list[int]:
    everything = list(range(1, total + 2))
    some = random.Random(seed).sample(everything, min(sample, total + 1))
    return everything if sweep else sorted(some)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_at_any_call_leaves_what_was_flushed(kind: str, sweep: bool) -> None:
    for seed in range(SEEDS if sweep else 2):
        how = {"whole": seed % 3 == 1, "resize": seed % 3 == 0 and kind != "differencing"}
        for at in points(count_calls(kind, seed, **how), sweep, seed, 12):
            crash(kind, seed, at, **how)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_call_leaves_what_was_flushed(kind: str, error: int, sweep: bool) -> None:
    for seed in range(SEEDS if sweep else 1):
        for at in points(count_calls(kind, seed, resize=kind != "differencing"), sweep, seed, 6):
            place, model = stage(kind), Model(stage(kind).first())
            faults = Faults(at, error=error, sticky=at % 2 == 0)
            with suppress(errors.Unreachable):
                image = place.open(FailingImage(place.files.open(CHILD, "rw"), faults))
                try:
                    play(image, model, seed, resize=kind != "differencing", ignore=True)
                finally:
                    image.close()
            if at % 3:
                place.files.names[CHILD].power_loss(random.Random(at))
            go_on(place, model, seed)


def find_bad(whole: bool) -> bool:
    """Does any of some crashes find something wrong?"""
    for seed in range(3):
        for at in points(count_calls("dynamic", seed, whole=whole), False, seed, 40):
            try:
                crash("dynamic", seed, at, whole=whole)
            except (AssertionError, errors.Damaged):
                return True
    return False


@pytest.mark.parametrize("forgotten", [0, 1])
def test_a_writer_that_forgets_a_flush_is_caught(forgotten: int, monkeypatch: pytest.MonkeyPatch) -> None:
    flush, commit = VhdxWriter._flush_file, VhdxWriter.commit
    calls = [0]

    def counting(self: VhdxWriter) -> None:
        calls[0] = 0
        commit(self)

    def skipping(self: VhdxWriter) -> None:
        calls[0] += 1
        if calls[0] != forgotten + 1:
            flush(self)

    monkeypatch.setattr(VhdxWriter, "commit", counting)
    monkeypatch.setattr(VhdxWriter, "_flush_file", skipping)
    assert find_bad(whole=False)


def test_a_writer_that_uses_space_too_early_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(self: Space, offset: int, length: int) -> None:
        self._runs.append((offset, length))

    monkeypatch.setattr(Space, "release", release)
    assert find_bad(whole=True)


def test_a_writer_without_a_log_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Journal.write
    monkeypatch.setattr(Journal, "write", lambda self, pages, size: write(self, (), size))
    assert find_bad(whole=False)


def test_a_writer_that_cuts_the_file_before_the_log_ended_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(FailingImage):
        def flush(self) -> None:
            return None

    update = Headers.update

    def lazy(self: Headers, log: UUID) -> None:
        file, self._file = self._file, Lazy(self._file, Faults())
        update(self, log)
        self._file = file

    place = stage("dynamic")
    for chance in range(100):
        place.reset()
        with place.open() as image:
            image.write(0, b"x")
            image.flush()
            monkeypatch.setattr(Headers, "update", lazy)
        monkeypatch.undo()
        place.files.names[CHILD].power_loss(random.Random(chance))
        try:
            place.open().close()
        except errors.Damaged:
            return
    raise AssertionError("no power loss found what the flush of the headers is for")
