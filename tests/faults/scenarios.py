"""What is interrupted: the calls that change a replica or write an image, each with the state before it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from rig import BLOCK, Expected, Place, replicate

from secondsite import engine
from secondsite.engine.files import Files

KIB = 1024


def _contents() -> dict[str, bytes]:
    """One disk over time. Sizes end in the middle of a block on purpose: 512 bytes are a sector."""
    chance = random.Random("contents")
    first = bytearray(chance.randbytes(96 * KIB)) + bytearray(200 * KIB) + chance.randbytes(176 * KIB + 512)
    changed = bytearray(first)
    changed[8 * KIB : 40 * KIB] = chance.randbytes(32 * KIB)
    changed[48 * KIB : 88 * KIB] = bytes(40 * KIB)
    changed[200 * KIB : 230 * KIB] = chance.randbytes(30 * KIB)
    changed[-700:] = chance.randbytes(700)
    grown = bytearray(changed) + bytes(60 * KIB) + chance.randbytes(70 * KIB + 1024)
    grown[100 * KIB : 110 * KIB] = chance.randbytes(10 * KIB)
    grown[300 * KIB : 320 * KIB] = bytes(20 * KIB)
    shrunk = bytearray(grown[: 250 * KIB + 512])
    shrunk[20 * KIB : 24 * KIB] = chance.randbytes(4 * KIB)
    after = bytearray(shrunk) + chance.randbytes(100 * KIB)
    after[: 12 * KIB] = chance.randbytes(12 * KIB)
    return {
        "first": bytes(first), "changed": bytes(changed), "grown": bytes(grown), "shrunk": bytes(shrunk),
        "after": bytes(after), "cut": bytes(first[: 90 * KIB]),
    }  # fmt: skip


CONTENTS = _contents()
Act = Callable[[Place, Files], object]


@dataclass(frozen=True)
class Scenario:
    """`before`: the contents whose points exist. `act`: what is interrupted. `new`: the content that it may add.
    `drops`: points that it may remove. `in_place`: it rewrites `place.out`, which holds this content before.
    """

    name: str
    before: tuple[str, ...]
    act: Act
    new: str | None = None
    drops: tuple[int, ...] = ()
    output: str | None = None
    wanted: str | None = None

    def states(self) -> list[bytes]:
        return [CONTENTS[name] for name in self.before]

    def expected(self, label: str) -> Expected:
        points = {str(number): data for number, data in enumerate(self.states(), 1)}
        must = set(points) - {str(number) for number in self.drops}
        heads: list[bytes | None] = [points[str(len(points))]] if points else [None]
        if self.new:
            points[str(len(points) + 1)] = CONTENTS[self.new]
            heads.append(CONTENTS[self.new])
        return Expected(points, must, heads, CONTENTS["after"], label)


def _replicate(name: str, **options: object) -> Act:
    return lambda place, files: replicate(place, files, CONTENTS[name], **options)


def _prune(**options: object) -> Act:
    return lambda place, files: engine.prune(place.root, files=files, **options)  # type: ignore[arg-type]


def _restore(at: str, *, in_place: bool = False) -> Act:
    return lambda place, files: engine.restore(
        place.root, place.out, at=at, in_place=in_place, files=files, workers=place.workers
    )


FOUR = ("first", "changed", "grown", "shrunk")
ALL = [
    Scenario("initial", (), _replicate("first"), new="first"),
    Scenario("changed", ("first",), _replicate("changed"), new="changed"),
    Scenario("grown", ("first", "changed"), _replicate("grown"), new="grown"),
    Scenario("grown-only", ("cut",), _replicate("first"), new="first"),
    Scenario("shrunk", ("changed", "grown"), _replicate("shrunk"), new="shrunk"),
    Scenario("shrunk-only", ("first",), _replicate("cut"), new="cut"),
    Scenario("keep", ("first", "changed", "grown"), _replicate("shrunk", keep=2), new="shrunk", drops=(1, 2)),
    Scenario("resync", ("first", "changed"), _replicate("grown", resync=True), new="grown"),
    Scenario("prune-oldest", FOUR, _prune(keep=3), drops=(1,)),
    Scenario("prune-middle", FOUR, _prune(drop=["2", "3"]), drops=(2, 3)),
    Scenario("restore", FOUR, _restore("2"), wanted="changed"),
    Scenario("restore-latest", FOUR, _restore("latest"), wanted="shrunk"),
    Scenario("restore-in-place", FOUR, _restore("1", in_place=True), wanted="first", output="grown"),
]
assert all(len(CONTENTS[name]) % BLOCK for name in FOUR)
BY_NAME = {scenario.name: scenario for scenario in ALL}
CYCLES = [scenario for scenario in ALL if scenario.wanted is None]
