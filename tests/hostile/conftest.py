"""Replicas in memory to be damaged: at rest with undo deltas, cut short in the middle of a cycle, and of clones.

A specimen is the bytes of every file of a replica, and what each of its points must restore to. A trial damages one
file of a copy, uses the replica in every way there is, and judges what came of it: the right bytes, or one
`errors.Error` that names a file of the replica. Nothing else, whatever the damage.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.failing import Crash, Faults
from secondsite.engine.images.memory import MemoryImage

ROOT = "/vault/r"
OUT = "/out/image"
UNFINISHED = f"{ROOT}/points/000000000004.undo"
BLOCK = 4096
# Thirteen blocks and an odd tail: small enough for thousands of trials, large enough for runs, zeros and a tail.
SIZE = 12 * BLOCK + 777


@dataclass
class Specimen:
    """`names`: the files. `contents`: what each point restores to. `source`: what the next cycle reads."""

    names: dict[str, bytes]
    contents: dict[int, bytes]
    source: bytes
    clones: bool = False
    foreign: dict[str, bytes] = field(default_factory=dict)

    def files(self) -> MemoryFiles:
        """A copy to damage."""
        made = MemoryFiles(clones=self.clones)
        made.names = {name: MemoryImage(data, path=name) for name, data in self.names.items()}
        made._folders |= {ROOT, f"{ROOT}/points"}
        return made


def put(files: MemoryFiles, path: str, data: bytes | None) -> None:
    """Replace a file's bytes behind everybody's back; None removes it."""
    if data is None:
        files.names.pop(path, None)
    else:
        files.names[path] = MemoryImage(data, path=path)


def held(files: MemoryFiles) -> dict[str, bytes]:
    return {name: bytes(image.read(0, image.size)) for name, image in files.names.items()}


def replicate(files: MemoryFiles | FailingFiles, data: bytes, **options: Any) -> engine.Replicated:
    options = {"workers": 1, "codec": "lz4", **options}
    return engine.replicate(MemoryImage(data, path="disk"), ROOT, files=files, **options)


def histories(chance: random.Random) -> Iterator[bytes]:
    """One content after another: text that packs, noise that does not, zeros that come and go, another size."""
    data = bytearray(chance.randbytes(SIZE))
    data[3 * BLOCK : 5 * BLOCK] = bytes(2 * BLOCK)
    data[6 * BLOCK : 8 * BLOCK] = (b"a row of text " * 800)[: 2 * BLOCK]
    while True:
        yield bytes(data)
        for _ in range(3):
            at = chance.randrange(len(data) - 50)
            data[at : at + 50] = chance.randbytes(50)
        zero = chance.randrange(8) * BLOCK
        data[zero : zero + BLOCK] = bytes(BLOCK)
        size = SIZE + chance.choice((-5000, 0, 5000))
        data = data[:size] + bytearray(max(0, size - len(data)))
        data[-1] |= 1


def build(seed: int, *, clones: bool = False, interrupt: str = "") -> Specimen:
    """Four points. `interrupt`: the kind of call at which the process dies in the fifth cycle."""
    files = MemoryFiles(clones=clones)
    source = histories(random.Random(seed))
    contents = {}
    for generation in range(1, 5):
        contents[generation] = next(source)
        replicate(files, contents[generation], block_size=BLOCK, history="auto" if clones else "undo")
    coming = next(source)
    if interrupt:
        faults = Faults(1, crash=True, kinds=frozenset({interrupt}))
        if interrupt == "write":  # after the undo delta's header, inside the first frame
            faults.at = 3
        with pytest.raises(Crash):
            replicate(FailingFiles(files, faults), coming, history="undo")  # type: ignore[arg-type]
    return Specimen(held(files), contents, coming, clones)


class Trial:
    """One damaged copy of a specimen. `attempt` judges the sort of an outcome, `restored` its bytes."""

    def __init__(self, specimen: Specimen, victim: str, data: bytes | None, label: str) -> None:
        self.specimen, self.victim, self.label = specimen, victim, f"{victim}: {label}"
        self.files = specimen.files()
        put(self.files, victim, data)

    def attempt(self, call: Callable[[], Any]) -> Any:
        """The result, or the one error that there may be; it must name a file of the replica."""
        try:
            return call()
        except errors.Error as error:
            assert ROOT in str(error), (self.label, error)
            return error
        except Exception as error:
            raise AssertionError(f"{self.label}: {type(error).__name__}: {error}") from error

    def restored(self, at: str, content: bytes) -> bool:
        """Does it restore? Then to exactly this content."""
        result = self.attempt(lambda: engine.restore(ROOT, OUT, at=at, files=self.files, workers=1))
        if isinstance(result, errors.Error):
            assert OUT not in self.files.names, self.label
            return False
        image = self.files.names.pop(OUT)
        assert bytes(image.read(0, image.size)) == content, (self.label, at)
        return True

    def verify(self) -> Any:
        return self.attempt(lambda: engine.verify(ROOT, files=self.files, workers=1))

    def read_everything(self) -> set[int]:
        """Use it in every way that reads; the points that restore."""
        self.attempt(lambda: engine.info(ROOT, files=self.files))
        listed = self.attempt(lambda: engine.points(ROOT, files=self.files))
        contents = self.specimen.contents
        whole = {
            generation for generation in contents if self.restored(str(generation), contents[generation])
        }
        self.restored("latest", contents[max(contents)])
        verified = self.verify()
        if not isinstance(verified, errors.Error):
            self.judge_verdict(verified, whole)
        if not isinstance(listed, errors.Error):
            damaged = {point.generation for point in listed if point.damaged}
            assert damaged.isdisjoint(whole) or "longer" in self.label, self.label
        return whole

    def judge_verdict(self, verified: engine.Verified, whole: set[int]) -> None:
        """What verify calls whole restores. What it calls damaged does not, with exceptions that cost nobody
        anything: what is bad may be past the end, or where a point has zeros, or in an unfinished cycle."""
        called_whole = self.listed() - {int(name) for name in verified.damaged}
        assert called_whole <= whole, (self.label, verified)
        if self.at_rest and "longer" not in self.label and "head.raw" not in self.victim:
            assert called_whole == whole, (self.label, verified)
            assert verified.ok == (whole == self.listed() and not verified.bad), (self.label, verified)

    @property
    def at_rest(self) -> bool:
        return UNFINISHED not in self.specimen.names

    def listed(self) -> set[int]:
        """Points that have a record: without one, an older point was dropped."""
        return {g for g in self.specimen.contents if f"{ROOT}/points/{g:012}.json" in self.files.names}

    def judge_cycle(self, **options: Any) -> bool:
        """After a cycle: the newest point is the source, and each older one restores or says why not."""
        source = self.specimen.source
        result = self.attempt(lambda: replicate(self.files, source, **options))
        if isinstance(result, errors.Error):
            return False
        verified = engine.verify(ROOT, files=self.files, workers=1)
        whole = {
            g for g in self.listed() - {result.generation} if self.restored(str(g), self.specimen.contents[g])
        }
        if self.restored("latest", source):
            whole.add(result.generation)
            assert held(self.files)[f"{ROOT}/head.raw"] == source or verified.bad, self.label
        else:  # a bad byte in the head, in a block that did not change: who asks is told
            assert self.victim.endswith("head.raw") and not options.get("resync"), (self.label, verified)
        called_whole = ({result.generation} | self.listed()) - {int(name) for name in verified.damaged}
        assert called_whole <= whole, (self.label, verified)
        if self.at_rest and "longer" not in self.label and "head.raw" not in self.victim:
            assert called_whole == whole, (self.label, verified)
        return True

    def put_back(self) -> None:
        """The file as it was: then everything is as it was. (Not where the unfinished cycle was taken back all the
        same, which changes these three files.)"""
        part = self.victim.endswith(("head.raw", "head.map")) or self.victim == UNFINISHED
        if part and not self.at_rest and UNFINISHED not in self.files.names and self.victim != UNFINISHED:
            assert self.read_everything() == set(self.specimen.contents), self.label
            return
        put(self.files, self.victim, self.specimen.names.get(self.victim))
        self.verify()  # what an earlier one noted of the damage goes
        assert self.read_everything() == set(self.specimen.contents), self.label


def damages(
    data: bytes, chance: random.Random, count: int, foreign: bytes | None
) -> Iterator[tuple[str, bytes | None]]:
    """Labelled ways to damage a file; `count` cuts and as many flipped bits, or all there are."""
    size = len(data)
    cuts = (
        range(size)
        if size <= count
        else sorted({0, 1, size - 1, *chance.sample(range(size), count)})
    )
    for length in cuts:
        yield f"cut to {length}", data[:length]
    spots = range(size) if size <= count else chance.sample(range(size), count)
    if data.count(0) > size // 2:  # sparse files: aim at what is there
        spots = chance.sample([at for at, byte in enumerate(data) if byte], min(count, size - data.count(0)))
    for at in spots:
        bit = 1 << chance.randrange(8)
        yield f"bit {bit} at {at}", data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
    yield "noise", chance.randbytes(size)
    yield "short noise", chance.randbytes(100)
    yield "zeros", bytes(size)
    yield "longer", data + bytes(1000)
    yield "another replica's", foreign
    yield "gone", None


@pytest.fixture(scope="session")
def specimens() -> dict[str, Specimen]:
    """By name: undo, clone, early (cut short in the first frame), late (cut short just before the commit)."""
    made = {
        "undo": build(1),
        "clone": build(2, clones=True),
        "early": build(3, interrupt="write"),
        "late": build(4, interrupt="replace"),
    }
    for name, specimen in made.items():
        interrupt = {"early": "write", "late": "replace"}.get(name, "")
        specimen.foreign = build(9, clones=name == "clone", interrupt=interrupt).names
    return made


@pytest.fixture(scope="session")
def trial() -> type[Trial]:
    return Trial


@pytest.fixture(scope="session")
def ways() -> Callable[..., Iterator[tuple[str, bytes | None]]]:
    return damages


@pytest.fixture(scope="session")
def in_memory() -> Callable[..., engine.Replicated]:
    return replicate
